//! Blame is scoped: the request, the caller and the reporter can be at fault too.

use std::time::{Duration, Instant};

use qcc_proto::v1::{Cause, HealthState, Timeouts};
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

/// Fails the test if anything is held against one of the endpoints.
async fn expect_blameless(testbed: &Testbed, endpoints: &[&str]) {
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
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
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
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
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
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
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
async fn a_pooled_connection_that_has_gone_is_nobody_s_failure() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed
        .upstream("a")
        .respond(Answer::status(200).then_close());
    for _ in 0..50 {
        assert_eq!(
            testbed
                .proxy(0)
                .message()
                .await
                .expect_status(200)
                .served_by(),
            "a"
        );
    }
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
    assert_eq!(testbed.upstream("b").client_requests(), 0);
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
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
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
async fn a_request_that_resets_every_connection_blames_nobody() {
    a_poison_request_blames_nobody(Answer::reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_closes_every_connection_blames_nobody() {
    a_poison_request_blames_nobody(Answer::close).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_denied_alike_everywhere_blames_nobody() {
    a_poison_request_blames_nobody(|| denied("permission_error")).await;
}

/// Endpoints do this to one kind of request, and serve all others.
async fn a_poison_request_blames_nobody(poisoned: fn() -> Answer) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    let bystanders_are_served = async || {
        for proxy in testbed.proxies() {
            let response = proxy.message().await.expect_status(200);
            assert_eq!(
                (response.served_by(), response.header("x-qcc-attempts")),
                ("a", Some("1"))
            );
        }
    };
    for name in ["a", "b"] {
        let respond = move |target: &str| match target.contains("poison") {
            true => poisoned(),
            false => Answer::status(200),
        };
        (testbed.upstream(name)).respond_by(move |request| respond(&request.target));
    }
    bystanders_are_served().await; // Their connections stay, for the poison to meet.
    for proxy in testbed.proxies() {
        let poison = || proxy.post("/v1/messages?poison").message(false);
        for _ in 0..5 {
            let response = poison().await.expect_status(502);
            assert!(response.text().contains("`b`"), "{}", response.text());
            bystanders_are_served().await;
        }
        // Few enough for the retry budget: who may not go on leaves nobody to compare with.
        let many = Volley::fire((0..10).map(|_| poison()));
        many.expect_all(502).await;
        bystanders_are_served().await;
    }
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
    for proxy in testbed.proxies() {
        let status = proxy.status().await.expect("the proxy answers");
        let counters = status.counters.unwrap_or_default();
        assert_eq!(counters.suspect_requests, 15);
    }
}

/// A 403 with an error type.
fn denied(error_type: &str) -> Answer {
    let body = format!(r#"{{"type":"error","error":{{"type":"{error_type}","message":"no"}}}}"#);
    Answer::bytes(403, "application/json", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_in_different_words_count_against_each_endpoint() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(denied("permission_error"));
    testbed.upstream("b").respond(denied("billing_error"));
    for status in [502, 502, 503] {
        testbed.proxy(0).message().await.expect_status(status);
    }
    for name in ["a", "b"] {
        let endpoint = (testbed.control())
            .eventually_is(name, HealthState::Unhealthy)
            .await;
        let health = endpoint.health.unwrap_or_default();
        assert_eq!(health.cause(), Cause::Forbidden, "{health:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_every_connection_is_left() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(Answer::close());
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    testbed.proxy(0).eventually_avoids("a").await;
    let endpoint = (testbed.control())
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Connect);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_break_whatever_they_are_sent_are_left_for_one_that_works() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b", "c"])
        .policy(|policy| policy.attempts_max = Some(2))
        .proxies(1)
        .await;
    for name in ["a", "b"] {
        testbed.upstream(name).respond(Answer::close());
    }
    // Two requests might be at fault themselves; not one after the other.
    for number in 0..3 {
        let target = format!("/v1/messages?{number}");
        let request = testbed.proxy(0).post(&target).message(false);
        request.await.expect_status(502);
    }
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(
        (response.served_by(), response.header("x-qcc-attempts")),
        ("c", Some("1"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_endpoint_is_back_when_it_said() {
    let testbed = Testbed::start().endpoints(["a", "b"]).proxies(1).await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    upstream.respond_once(Answer::status(429).header("retry-after", "1"));
    let start = Instant::now();
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    let degraded = testbed
        .control()
        .eventually("a", "rate limited", |endpoint| {
            let health = endpoint.health.clone().unwrap_or_default();
            health.state() == HealthState::Degraded && health.cause() == Cause::RateLimited
        });
    degraded.await;
    eventually("`a` serves again", async || {
        match proxy.message().await.expect_status(200).served_by() {
            "a" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    assert!(
        start.elapsed() >= Duration::from_millis(950),
        "after {:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "after {:?}",
        start.elapsed()
    );
    testbed
        .control()
        .eventually_is("a", HealthState::Healthy)
        .await;
    assert_eq!(testbed.control().queue_stats().await.total_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_provider_can_ask_for_a_pause_beyond_the_cap() {
    let testbed = Testbed::start().endpoints(["a", "b"]).proxies(1).await;
    testbed
        .upstream("a")
        .respond(Answer::status(429).header("retry-after", "86400"));
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    let degraded = testbed
        .control()
        .eventually_is("a", HealthState::Degraded)
        .await;
    let health = degraded.health.unwrap_or_default();
    let until = health.until_time.unwrap_or_default().seconds;
    let since = health.since_time.unwrap_or_default().seconds;
    assert!((500..=601).contains(&(until - since)), "{health:?}");
    let asked = health
        .evidence
        .unwrap_or_default()
        .retry_after
        .unwrap_or_default();
    assert_eq!(asked.seconds, 86_400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overload_is_a_short_pause_for_one_endpoint() {
    let testbed = Testbed::start().endpoints(["a", "b"]).proxies(2).await;
    testbed.upstream("a").respond(529);
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    let degraded = testbed
        .control()
        .eventually_is("a", HealthState::Degraded)
        .await;
    assert_eq!(
        degraded.health.unwrap_or_default().cause(),
        Cause::Overloaded
    );
    testbed.proxy(1).eventually_avoids("a").await;
    assert_eq!(
        testbed
            .proxy(1)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    assert_eq!(testbed.upstream("a").client_requests(), 1);
    assert_eq!(testbed.control().queue_stats().await.total_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_errors_eject_only_in_a_row() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_ends_visibly_and_counts_against_the_endpoint() {
    a_broken_stream_ends_visibly(Answer::cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_stream_ends_visibly_and_counts_against_the_endpoint() {
    a_broken_stream_ends_visibly(Answer::then_reset).await;
}

async fn a_broken_stream_ends_visibly(broken: impl Fn(Answer) -> Answer) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    // A reset also takes what was sent and not yet read, so each waits until the client has read.
    for _ in 0..3 {
        let gate = Gate::new();
        let half = ["data: half\n\n".into(), Piece::Wait(gate.clone())];
        upstream.respond(broken(Answer::stream(half)));
        let mut stream = proxy.message().open().await.expect("an answer");
        stream.expect("data: half\n\n").await;
        gate.open();
        match stream.finish().await {
            Err(_) => {}
            Ok(rest) => assert!(
                rest.text().contains("event: error"),
                "a clean end: {rest:?}"
            ),
        }
    }
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(
        endpoint.health.unwrap_or_default().cause(),
        Cause::StreamBroken
    );
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    assert_eq!(testbed.upstream("b").client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_falls_silent_ends_after_the_idle_timeout() {
    let builder = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .policy(|policy| {
            let idle = Some(prost_types::Duration {
                seconds: 0,
                nanos: 300_000_000,
            });
            policy.timeouts = Some(Timeouts {
                idle,
                ..Default::default()
            });
        });
    let testbed = builder.proxies(1).await;
    let half = Answer::stream(["data: half\n\n".into()]).then_hang();
    testbed.upstream("a").respond(half);
    let mut stream = testbed.proxy(0).message().open().await.expect("an answer");
    stream.expect("data: half\n\n").await;
    match stream.finish().await {
        Err(error) => assert_ne!(error, "silence"),
        Ok(rest) => assert!(
            rest.text().contains("event: error"),
            "a clean end: {rest:?}"
        ),
    }
    testbed.settled().await;
    let stats = testbed
        .control()
        .endpoint("a")
        .await
        .stats
        .unwrap_or_default();
    assert_eq!((stats.successes, stats.failures), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_stream_counts_as_the_status_it_stands_for() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    let start = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n";
    let delta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":\
                 {\"type\":\"overloaded_error\",\"message\":\"later\"}}\n\n";
    testbed
        .upstream("a")
        .respond(Answer::stream([start.into(), delta.into(), error.into()]));
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(response.text(), [start, delta, error].concat());
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Degraded)
        .await;
    assert_eq!(
        endpoint.health.unwrap_or_default().cause(),
        Cause::Overloaded
    );
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    assert_eq!(testbed.control().queue_stats().await.total_failed, 0);
}
