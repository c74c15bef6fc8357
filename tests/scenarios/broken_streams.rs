//! What becomes of an answer that breaks after its head has gone out, and who is blamed.

use qcc_proto::v1::{Cause, HealthState, Timeouts};
use qcc_tests::{Answer, Gate, Piece, Testbed};

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
