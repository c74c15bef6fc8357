//! Blame is scoped: the request, the caller and the reporter can be at fault too.

use qcc_proto::v1::{Cause, HealthState};
use qcc_tests::{Answer, Gate, Piece, Testbed, client::Volley, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_is_tried_once_and_blames_nobody() {
    a_request_error_blames_nobody(400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_model_is_tried_once_and_blames_nobody() {
    a_request_error_blames_nobody(404).await;
}

async fn a_request_error_blames_nobody(status: u16) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b", "c"])
        .proxies(1)
        .await;
    let all = ["a", "b", "c"];
    let upstream_requests = || {
        all.iter()
            .map(|name| testbed.upstream(name).client_requests())
            .sum::<usize>()
    };
    for name in all {
        testbed.upstream(name).respond(status);
    }
    let response = testbed.proxy(0).message().await.expect_status(status);
    assert!(
        response.text().contains(&format!("scripted {status}")),
        "{response:?}"
    );
    assert_eq!(upstream_requests(), 1);
    testbed.proxy(0).messages(20).expect_all(status).await;
    assert_eq!(upstream_requests(), 21);

    testbed.settled().await;
    expect_blameless(&testbed, &all).await;
    for name in all {
        testbed.upstream(name).respond(200);
    }
    testbed.proxy(0).messages(20).expect_all(200).await;
}

/// `a` is preferred to `b`, and no check comes between.
async fn two_endpoints(proxies: usize) -> Testbed {
    Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(proxies)
        .await
}

/// Fails the test if anything is held against one of the endpoints.
pub(crate) async fn expect_blameless(testbed: &Testbed, endpoints: &[&str]) {
    for name in endpoints {
        let endpoint = testbed.control().endpoint(name).await;
        let health = endpoint.health.unwrap_or_default();
        assert_eq!(health.state(), HealthState::Healthy, "{name}: {health:?}");
        assert_eq!(health.consecutive_failures, 0, "{name}: {health:?}");
        assert_eq!(health.suspecting_proxies, [""; 0], "{name}: {health:?}");
        for proxy in testbed.proxies() {
            let seen = proxy.endpoint(name).await.expect("the proxy answers");
            assert!(
                seen.selectable && seen.local_mark.is_none(),
                "{name}: {seen:?}"
            );
        }
    }
    assert_eq!(testbed.control().queue_stats().await.total_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_blames_nobody_and_disturbs_nobody() {
    let testbed = two_endpoints(1).await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    let gate = Gate::new();
    upstream.respond(Answer::stream([
        "data: first\n\n".into(),
        Piece::Wait(gate.clone()),
        "data: last\n\n".into(),
    ]));
    let mut leaver = proxy.message().open().await.expect("an answer");
    let mut bystander = proxy.message().open().await.expect("an answer");
    leaver.expect("data: first\n\n").await;
    bystander.expect("data: first\n\n").await;
    gate.reached_by(2).await;

    drop(leaver);
    eventually(
        "the upstream saw the client leave",
        async || match upstream.disconnects() {
            1 => Ok(()),
            count => Err(count),
        },
    )
    .await;
    gate.open();
    bystander.expect("data: last\n\n").await;
    bystander
        .finish()
        .await
        .expect("the bystander's stream ends properly");
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
    assert_eq!(upstream.client_requests(), 2);
    assert_eq!(testbed.upstream("b").client_requests(), 0);
    let counters = proxy
        .status()
        .await
        .expect("the proxy answers")
        .counters
        .unwrap_or_default();
    assert_eq!((counters.cancelled, counters.retries), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_before_the_answer_blames_nobody() {
    let testbed = two_endpoints(1).await;
    let upstream = testbed.upstream("a");
    upstream.respond_once(Answer::hang());
    let leaver = Volley::fire([testbed.proxy(0).message()]);
    upstream.received(1).await;
    drop(leaver);
    eventually(
        "the upstream saw the client leave",
        async || match upstream.disconnects() {
            1 => Ok(()),
            count => Err(count),
        },
    )
    .await;
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
    assert_eq!(testbed.upstream("b").client_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_connection_repeats_its_own_request_only() {
    one_lost_connection_repeats_its_own_request_only(Answer::reset()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_repeats_its_own_request_only() {
    one_lost_connection_repeats_its_own_request_only(Answer::close()).await;
}

async fn one_lost_connection_repeats_its_own_request_only(loss: Answer) {
    let testbed = two_endpoints(1).await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    proxy.message().await.expect_status(200);
    proxy
        .eventually_sees("a", "proven", |endpoint| !endpoint.unproven)
        .await;
    let gate = Gate::new();
    upstream.respond(Answer::status(200).behind(&gate));
    let bystanders = proxy.messages(10);
    gate.reached_by(10).await;

    upstream.respond_once(loss);
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    gate.open();
    for response in bystanders.expect_all(200).await {
        assert_eq!(
            (response.served_by(), response.header("x-qcc-attempts")),
            ("a", Some("1"))
        );
    }
    assert_eq!(upstream.client_requests(), 12);
    assert_eq!(testbed.upstream("b").client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_has_gone_is_not_used() {
    let testbed = two_endpoints(1).await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    upstream.respond(Answer::status(200).then_close());
    for _ in 0..50 {
        let before = upstream.departures();
        assert_eq!(proxy.message().await.expect_status(200).served_by(), "a");
        eventually("the upstream has left", async || {
            match upstream.departures() {
                count if count > before => Ok(()),
                count => Err(count),
            }
        })
        .await;
    }
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
    assert_eq!(testbed.upstream("b").client_requests(), 0);
}

/// Whether the end is seen before the next request goes, or crosses it, is chance.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_goes_is_nobody_s_failure() {
    let testbed = two_endpoints(1).await;
    let proxy = testbed.proxy(0);
    testbed
        .upstream("a")
        .respond(Answer::status(200).then_close());
    for _ in 0..50 {
        proxy.message().await.expect_status(200);
    }
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_endpoint_is_left_after_its_own_timeout() {
    let builder = Testbed::start().patient_checks().endpoint("a", |endpoint| {
        endpoint.timeout = Some(prost_types::Duration {
            seconds: 0,
            nanos: 300_000_000,
        });
    });
    let testbed = builder.endpoints(["b"]).proxies(1).await;
    testbed.upstream("a").respond(Answer::hang());
    // The cluster's own timeout is longer than the client waits.
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    assert_eq!(testbed.upstream("a").client_requests(), 1);
    // Checks are silent too, so the control plane soon agrees.
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Timeout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_left_by_its_reporter_and_then_by_all() {
    let testbed = two_endpoints(2).await;
    testbed.upstream("a").shut();
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    testbed.proxy(0).eventually_avoids("a").await;
    // The control plane looks for itself before it tells the others.
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Connect);
    testbed.proxy(1).eventually_avoids("a").await;
    assert_eq!(
        testbed
            .proxy(1)
            .message()
            .await
            .expect_status(200)
            .header("x-qcc-attempts"),
        Some("1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn server_errors_eject_only_in_a_row() {
    let testbed = two_endpoints(1).await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    for _ in 0..2 {
        upstream.respond_once(500);
        assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    }
    testbed.settled().await; // Else the success would be one from before the failures.
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "a");
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;

    upstream.respond(500);
    for _ in 0..5 {
        assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    }
    assert_eq!(upstream.client_requests(), 6); // The last two did not try it.
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(
        endpoint.health.unwrap_or_default().cause(),
        Cause::ServerError
    );
    assert_eq!(testbed.control().queue_stats().await.total_failed, 1);
}
