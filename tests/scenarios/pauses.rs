//! What an endpoint that asks for a pause gets.

use std::time::{Duration, Instant};

use qcc_proto::v1::{Cause, HealthState};
use qcc_tests::{Answer, Testbed, eventually};

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
