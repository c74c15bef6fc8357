//! Which endpoint is tried next, and what the client gets in the end.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use qcc_proto::v1::OutcomeClass as Class;

use super::harness::*;

#[tokio::test]
async fn a_401_is_tried_elsewhere_however_its_body_is_framed() {
    let chunked = "HTTP/1.1 401 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let events = format!(
        "{}{}",
        EVENTS.replace("200 OK", "401 X"),
        chunk("data: {}\n\n")
    );
    for steps in [
        answer(401, "", "{}"),
        vec![send(chunked)],
        vec![send(events), Step::Silence],
    ] {
        let bad = Upstream::always(steps).await;
        let good = Upstream::always(answer(200, "", "hello")).await;
        let proxy = Proxy::start(&[&bad, &good]).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.text()), (200, "hello"));
        assert_eq!(got.header("x-qcc-endpoint"), Some("e1"));
        assert_eq!(got.header("x-qcc-attempts"), Some("2"));
        assert_eq!(got.header("x-qcc-revision"), Some("3.14"));
        assert_eq!(proxy.post().await.status(), 200);
        assert_eq!(bad.requests().len(), 1); // The mark acts at once.
        let reports = proxy.reported(2).await;
        assert!(reports.contains(&("e0".into(), Class::Auth)), "{reports:?}");
        assert!(reports.contains(&("e1".into(), Class::Success)));
        assert_eq!(proxy.counters.retries.load(Relaxed), 1);
    }
}

#[tokio::test]
async fn an_answer_that_says_so_is_final() {
    let no = "x-should-retry: false\r\n";
    let one = Upstream::always(answer(500, no, "one")).await;
    let two = Upstream::always(answer(200, "", "two")).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (500, "one"));
    assert_eq!(got.header("x-qcc-attempts"), Some("1"));
    assert_eq!(got.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn the_last_resort_is_tried_where_the_policy_says_so_and_its_answer_counts() {
    let script = |number| match number {
        0 => vec![Step::Silence],
        _ => answer(200, "", "hello"),
    };
    let only = Upstream::start(script).await;
    let proxy = Proxy::with(&[&only], |options| {
        options.policy.last_resort = true;
        options.first_byte_timeout = Duration::from_millis(300);
    })
    .await;
    let got = proxy.post().await;
    assert!(got.status() >= 500); // Not twice for one request.
    assert_eq!((only.requests().len(), proxy.router.resorts()), (1, 0));
    let got = proxy.post().await; // It would be left alone for 5 s.
    assert_eq!((got.status(), got.text()), (200, "hello"));
    assert_eq!(proxy.router.resorts(), 1);
    let reports = proxy.reported(2).await;
    assert!(reports.contains(&("e0".into(), Class::Timeout)));
    assert!(reports.contains(&("e0".into(), Class::Success)));
}

#[tokio::test]
async fn a_rejected_key_is_never_final() {
    let no = "x-should-retry: false\r\n";
    let one = Upstream::always(answer(401, no, "{}")).await;
    let two = Upstream::always(answer(200, "", "two")).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (200, "two"));
}

#[tokio::test]
async fn without_a_retry_budget_the_answer_so_far_is_relayed() {
    let one = Upstream::always(answer(500, "", "one")).await;
    let two = Upstream::always(answer(200, "", "two")).await;
    let proxy = Proxy::with(&[&one, &two], |options| {
        options.policy.retry_budget.percent = 0;
        options.policy.retry_budget.min_per_second = 0;
    })
    .await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (500, "one"));
    assert_eq!(proxy.counters.retries.load(Relaxed), 0);
    assert_eq!(proxy.counters.over_budget.load(Relaxed), 1);
}

#[tokio::test]
async fn a_rejected_key_costs_no_retry_budget() {
    let one = Upstream::always(answer(401, "", "{}")).await;
    let two = Upstream::always(answer(200, "", "two")).await;
    let proxy = Proxy::with(&[&one, &two], |options| {
        options.policy.retry_budget.percent = 0;
        options.policy.retry_budget.min_per_second = 0;
    })
    .await;
    assert_eq!(proxy.post().await.text(), "two");
    assert_eq!(proxy.counters.over_budget.load(Relaxed), 0);
}

#[tokio::test]
async fn when_all_are_rejected_the_answer_says_so_and_then_a_fast_503_why() {
    let one = Upstream::always(answer(
        401,
        "",
        "{\"error\":{\"type\":\"authentication_error\"}}",
    ))
    .await;
    let two = Upstream::always(answer(401, "", "no")).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 502);
    assert_eq!(got.header("x-qcc-error"), Some("credentials_rejected"));
    assert_eq!(got.header("x-should-retry"), Some("false"));
    assert_eq!(got.header("x-qcc-attempts"), Some("2"));
    for attempts in ["0", "0"] {
        let start = Instant::now();
        let got = proxy.post().await;
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(got.status(), 503);
        assert!(got.header("retry-after").is_some());
        assert_eq!(got.header("x-qcc-error"), Some("no_endpoint_available"));
        assert_eq!(got.header("x-qcc-attempts"), Some(attempts));
        assert!(
            got.text().contains("`e0`: credential rejected"),
            "{}",
            got.text()
        );
        assert!(got.text().contains("`e1`: "));
    }
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_rejected_credential_of_ours_is_never_relayed() {
    let only = Upstream::always(answer(403, "", "secret reason")).await;
    let proxy = Proxy::with(&[&only], |options| options.policy.attempts_max = 2).await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 502);
    assert_eq!(got.header("x-qcc-error"), Some("credentials_rejected"));
    assert!(!got.text().contains("secret reason"));
    assert!(got.text().contains("`e0`: answered 403"));
}

#[tokio::test]
async fn a_request_of_its_own_fault_is_relayed_and_nobody_is_blamed() {
    for status in [400, 404, 413, 422] {
        let one =
            Upstream::always(answer(status, "request-id: r1\r\n", "{\"its\": \"fault\"}")).await;
        let two = Upstream::always(answer(200, "", "")).await;
        let proxy = Proxy::start(&[&one, &two]).await;
        for _ in 0..5 {
            let got = proxy.post().await;
            assert_eq!((got.status(), got.text()), (status, "{\"its\": \"fault\"}"));
            assert_eq!(got.header("request-id"), Some("r1"));
        }
        assert_eq!((one.requests().len(), two.requests().len()), (5, 0));
    }
}

#[tokio::test]
async fn when_attempts_are_used_up_the_last_error_is_relayed_as_it_came() {
    let overloaded = "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}";
    let one = Upstream::always(answer(500, "", "one")).await;
    let two = Upstream::always(answer(
        529,
        "retry-after: 7\r\nx-should-retry: true\r\n",
        overloaded,
    ))
    .await;
    let proxy = Proxy::with(&[&one, &two], |options| options.policy.attempts_max = 2).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (529, overloaded));
    assert_eq!(got.header("retry-after"), Some("7"));
    assert_eq!(got.header("x-should-retry"), Some("true"));
    assert_eq!(got.header("x-qcc-endpoint"), Some("e1"));
    let reports = proxy.reported(2).await;
    assert_eq!(
        reports,
        [
            ("e0".into(), Class::ServerError),
            ("e1".into(), Class::Overloaded)
        ]
    );
}

#[tokio::test]
async fn an_error_with_a_long_or_slow_body_is_relayed_whole() {
    let long = "x".repeat(300_000);
    let gate = Gate::new();
    let slow = vec![
        send("HTTP/1.1 500 X\r\ncontent-length: 8\r\n\r\nslow"),
        Step::Gate(gate.clone()),
        send("ness"),
    ];
    let upstream = Upstream::start(move |number| match number {
        0 => answer(500, "", &long),
        _ => slow.clone(),
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| options.policy.attempts_max = 1).await;
    let got = proxy.post().await;
    assert_eq!(
        (got.status(), got.body.len(), got.whole),
        (500, 300_000, true)
    );
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads("slow").await;
    gate.open();
    assert_eq!(client.answer().await.text(), "slowness");
}

#[tokio::test]
async fn a_body_that_was_not_kept_may_be_sent_again_by_its_client() {
    let bad = Upstream::always(answer(401, "", "")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&bad, &good], |options| {
        options.settings.replay_max_bytes = 1;
    })
    .await;
    let got = proxy.post().await;
    assert_eq!(got.header("x-qcc-error"), Some("credentials_rejected"));
    assert_eq!(got.header("x-should-retry"), None);
    assert_eq!(proxy.post().await.status(), 200);
}
