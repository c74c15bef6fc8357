//! Where no endpoint can be had at once.

use std::time::Duration;

use super::harness::*;
use crate::proxy::Limit;

#[tokio::test]
async fn a_request_waits_for_an_unproven_endpoint_that_is_busy() {
    let gate = Gate::new();
    let first = vec![
        Step::Gate(gate.clone()),
        send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ];
    let upstream = Upstream::start(move |number| match number {
        0 => first.clone(),
        _ => answer(200, "", "ok"),
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.proven = false;
        options.policy.unproven_concurrency = 1;
        options.policy.queue_timeout = Duration::from_millis(300);
    })
    .await;
    let mut one = proxy.connect().await;
    one.write(POST).await;
    eventually(|| upstream.requests().len() == 1).await;

    let refused = proxy.post().await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.header("x-qcc-error"), Some("endpoints_busy"));
    assert_eq!(refused.header("retry-after"), Some("1"));

    let mut two = proxy.connect().await;
    two.write(POST).await;
    tokio::task::yield_now().await;
    gate.open();
    assert_eq!(two.answer().await.status(), 200);
    assert_eq!(one.answer().await.status(), 200);
}

#[tokio::test]
async fn no_more_requests_wait_than_may() {
    let gate = Gate::new();
    let mut steps = vec![Step::Gate(gate.clone())];
    steps.extend(answer(200, "", "ok"));
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.proven = false;
        options.settings.waiting_max = 1;
        options.policy.unproven_concurrency = 1;
        options.policy.queue_timeout = Duration::from_secs(60); // Longer than the test.
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        client.write(POST).await;
        clients.push(client);
    }
    // One runs, one waits, and the third hears so at once: whichever it is.
    eventually(|| proxy.counters.hits(Limit::Waiting) == 1).await;
    gate.open();
    let mut answers = Vec::new();
    for client in &mut clients {
        let got = client.answer().await;
        let error = got.header("x-qcc-error").map(str::to_owned);
        answers.push((got.status(), error, got.header("retry-after").is_some()));
    }
    answers.sort();
    let refused = (503, Some("endpoints_busy".to_owned()), true);
    let served = (200, None, false);
    assert_eq!(answers, [served.clone(), served, refused]);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_request_waits_for_a_pause_that_ends_in_time() {
    let upstream = Upstream::start(|number| match number {
        0 => answer(429, "retry-after-ms: 200\r\n", ""),
        _ => answer(200, "", "ok"),
    })
    .await;
    let proxy = Proxy::start(&[&upstream]).await;
    assert_eq!(proxy.post().await.status(), 429); // It has caused the pause.
    assert_eq!(proxy.post().await.text(), "ok");
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn where_there_is_no_endpoint_at_all_the_client_is_told_that() {
    let proxy = Proxy::start(&[]).await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 503);
    assert_eq!(got.header("retry-after"), Some("30")); // Somebody has to add one.
    assert!(
        got.text().contains("cluster has no endpoints"),
        "{}",
        got.text()
    );
}

#[tokio::test]
async fn where_nothing_is_left_the_client_is_told_why_of_each_and_when_to_come_back() {
    let paused = Upstream::always(answer(429, "retry-after: 60\r\n", "")).await;
    let rejected = Upstream::always(answer(401, "", "")).await;
    let proxy = Proxy::start(&[&paused, &rejected]).await;
    assert_eq!(proxy.post().await.status(), 429);
    let got = proxy.post().await;
    assert_eq!(got.status(), 503);
    assert_eq!(got.header("x-qcc-error"), Some("no_endpoint_available"));
    assert_eq!(got.header("retry-after"), Some("5")); // A key is checked before that pause ends.
    for reason in [
        "`e0`: rate limited here, next try in ",
        "`e1`: credential rejected here",
    ] {
        assert!(got.text().contains(reason), "{}", got.text());
    }
    for upstream in [&paused, &rejected] {
        assert_eq!(upstream.requests().len(), 1);
    }
}

#[tokio::test]
async fn of_100_requests_at_once_few_reach_a_bad_endpoint_and_all_are_answered() {
    let bad = Upstream::always(answer(401, "", "")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&bad, &good], |options| options.proven = false).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(proxy.connect().await);
    }
    for client in &mut clients {
        client.write(POST).await;
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status(), 200);
    }
    assert!(bad.requests().len() <= 4, "{}", bad.requests().len());
}
