//! Which endpoint is tried next, and what the client gets in the end.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use qcc_proto::v1::OutcomeClass as Class;

use super::{bodies::post, harness::*};
use crate::proxy::Limit;

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
async fn who_cannot_be_reached_or_does_not_answer_is_passed_over() {
    let mut gone = Upstream::always(vec![]).await;
    gone.stop().await;
    let silent = Upstream::always(vec![Step::Silence]).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&gone, &silent, &good], |options| {
        options.first_byte_timeout = Duration::from_millis(100);
    })
    .await;
    let got = proxy.post().await;
    assert_eq!(
        (got.status(), got.header("x-qcc-attempts")),
        (200, Some("3"))
    );
    silent.sees_the_peer_leave().await;
    let reports = proxy.reported(3).await;
    assert_eq!(
        reports[..2],
        [("e0".into(), Class::Connect), ("e1".into(), Class::Timeout)]
    );
}

#[tokio::test]
async fn when_nobody_answers_in_time_the_answer_says_so() {
    let silent = Upstream::always(vec![Step::Silence]).await;
    let proxy = Proxy::with(&[&silent], |options| {
        options.first_byte_timeout = Duration::from_millis(50);
        options.policy.attempts_max = 1;
    })
    .await;
    let got = proxy.post().await;
    assert!(matches!(got.status(), 503 | 504), "{}", got.head);
    assert!(got.text().contains("`e0`: no"), "{}", got.text());
}

#[tokio::test]
async fn a_reset_before_the_answer_is_tried_elsewhere_and_bystanders_do_not_notice() {
    let gate = Gate::new();
    let bystander = vec![
        Step::Gate(gate.clone()),
        send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nby"),
    ];
    let first = Upstream::start(move |number| match number {
        0 => bystander.clone(),
        _ => vec![Step::Reset],
    })
    .await;
    let second = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&first, &second]).await;
    let mut waiting = proxy.connect().await;
    waiting.write(POST).await;
    eventually(|| first.requests().len() == 1).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    gate.open();
    assert_eq!(waiting.answer().await.text(), "by");
    assert_eq!((first.requests().len(), second.requests().len()), (2, 1));
}

#[tokio::test]
async fn a_reused_connection_that_ends_as_a_request_is_on_its_way_is_nobodys_failure() {
    for ending in [Step::Reset, Step::Close] {
        let upstream = Upstream::start(move |number| match number {
            1 | 3 | 5 => vec![ending.clone()],
            _ => answer(200, "", "ok"),
        })
        .await;
        let proxy = Proxy::start(&[&upstream]).await;
        for _ in 0..4 {
            let got = proxy.post().await;
            assert_eq!((got.status(), got.text()), (200, "ok"));
        }
        assert_eq!(upstream.requests().len(), 7);
        eventually(|| proxy.router.outcomes(Class::Success) == 4).await;
        let reports = proxy.reports();
        assert!(
            reports.iter().all(|(_, class)| *class == Class::Success),
            "{reports:?}"
        );
    }
}

#[tokio::test]
async fn a_reused_connection_that_ends_long_after_a_request_was_sent_is_a_failure() {
    let gate = Gate::new();
    let late = vec![Step::Gate(gate.clone()), Step::Reset];
    let upstream = Upstream::start(move |number| match number {
        1 => late.clone(),
        _ => answer(200, "", "ok"),
    })
    .await;
    let proxy = Proxy::start(&[&upstream]).await;
    assert_eq!(proxy.post().await.status(), 200);
    let mut client = proxy.connect().await;
    client.write(POST).await;
    eventually(|| upstream.requests().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // Longer than any way to it and back.
    gate.open();
    assert_eq!(client.answer().await.status(), 200);
    let reports = proxy.reported(2).await;
    let broken = ("e0".to_owned(), Class::StreamBroken);
    assert!(reports.contains(&broken), "{reports:?}");
}

#[tokio::test]
async fn a_body_that_breaks_its_connection_is_not_sent_there_again() {
    let upstream = Upstream::early("").await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.send(post(&vec![b'x'; 8 << 20])).await;
    assert_eq!(
        (got.status(), got.header("x-qcc-attempts")),
        (502, Some("1"))
    );
}

#[tokio::test]
async fn answers_that_are_not_http_are_failures() {
    let chunked_twice = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    for bad in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "nonsense\r\n\r\n",
        chunked_twice,
    ] {
        let one = Upstream::always(vec![send(bad), Step::Close]).await;
        let two = Upstream::always(answer(200, "", "ok")).await;
        let proxy = Proxy::start(&[&one, &two]).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.text()), (200, "ok"), "{bad}");
        let reports = proxy.reported(2).await;
        assert_eq!(reports[0], ("e0".into(), Class::ServerError), "{bad}");
    }
}

#[tokio::test]
async fn an_error_whose_body_breaks_is_not_relayed_as_a_whole_one() {
    let chunked = "HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let with_length = "HTTP/1.1 500 X\r\ncontent-length: 9\r\n\r\nhello";
    for start in [chunked, with_length] {
        let upstream = Upstream::always(vec![send(start), Step::Close]).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (500, false));
        assert!(String::from_utf8_lossy(&got.body).contains("hello"));
    }
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

#[tokio::test]
async fn the_total_time_ends_a_request_without_blame() {
    let upstream = Upstream::always(vec![Step::Silence]).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.timeouts.total = Duration::from_millis(100);
    })
    .await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 504);
    upstream.sees_the_peer_leave().await;
    let blamed = proxy.reports().into_iter();
    assert_eq!(
        blamed
            .filter(|(_, class)| *class != Class::Cancelled)
            .count(),
        0
    );
}
