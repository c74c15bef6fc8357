//! Streams of events whose head waits for what comes first.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use qcc_proto::v1::OutcomeClass as Class;

use super::harness::*;

const OPENING: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n\
    : a comment\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n";

const CONTENT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";

const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";

fn error(error_type: &str) -> String {
    format!(
        "event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"{error_type}\",\"message\":\"m\"}}}}\n\n"
    )
}

/// A stream of these events, in one chunk each, that ends properly.
fn stream(events: &[&str]) -> Vec<Step> {
    let chunks = events.iter().map(|event| send(chunk(event)));
    let steps = [send(EVENTS)].into_iter().chain(chunks);
    steps.chain([send("0\r\n\r\n")]).collect()
}

#[tokio::test]
async fn an_error_before_content_fails_over_as_the_status_it_stands_for() {
    for (error_type, class) in [
        ("overloaded_error", Class::Overloaded),
        ("rate_limit_error", Class::RateLimited),
        ("authentication_error", Class::Auth),
        ("api_error", Class::ServerError),
    ] {
        let bad = Upstream::always(stream(&[OPENING, &error(error_type)])).await;
        let good = Upstream::always(stream(&[OPENING, CONTENT])).await;
        let proxy = Proxy::with(&[&bad, &good], |options| options.proven = false).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (200, true), "{error_type}");
        assert_eq!(got.text(), format!("{OPENING}{CONTENT}"));
        assert_eq!(got.header("x-qcc-endpoint"), Some("e1"));
        assert_eq!(got.header("x-qcc-attempts"), Some("2"));
        let reports = proxy.reported(2).await;
        assert_eq!(
            reports,
            [("e0".into(), class), ("e1".into(), Class::Success)]
        );
        // A head that an error follows has proven nothing.
        let table = proxy.router.table().unwrap();
        let proven: Vec<_> = table.by_name().map(|it| it.live.proven()).collect();
        assert_eq!(proven, [false, true]);
    }
}

#[tokio::test]
async fn an_error_in_the_shape_of_openai_fails_over_too() {
    let failed =
        "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"code\":null}}\n\n";
    let bad = Upstream::always(stream(&[ROLE, failed])).await;
    let words = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}]}\n\n";
    let good = Upstream::always(stream(&[ROLE, words, "data: [DONE]\n\n"])).await;
    let proxy = Proxy::start(&[&bad, &good]).await;
    let got = proxy
        .send(POST.replace("/v1/messages", "/v1/chat/completions"))
        .await;
    assert_eq!(got.text(), format!("{ROLE}{words}data: [DONE]\n\n"));
    assert_eq!(
        proxy.reported(2).await[0],
        ("e0".into(), Class::ServerError)
    );
}

#[tokio::test]
async fn a_stream_that_breaks_before_content_fails_over() {
    for (last, idle) in [
        (Step::Close, 60_000),
        (Step::Reset, 60_000),
        (Step::Silence, 100),
    ] {
        let steps = vec![send(EVENTS), send(chunk(OPENING)), last];
        let bad = Upstream::always(steps).await;
        let good = Upstream::always(stream(&[OPENING, CONTENT])).await;
        let proxy = Proxy::with(&[&bad, &good], |options| {
            options.policy.timeouts.idle = Duration::from_millis(idle);
        })
        .await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (200, true));
        assert_eq!(got.text(), format!("{OPENING}{CONTENT}"));
        let reports = proxy.reported(2).await;
        assert!(reports.contains(&("e0".into(), Class::StreamBroken)));
    }
}

#[tokio::test]
async fn a_request_that_breaks_every_stream_before_content_is_suspect() {
    let steps = vec![send(EVENTS), send(chunk(OPENING)), Step::Close];
    let one = Upstream::always(steps.clone()).await;
    let two = Upstream::always(steps).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 502);
    assert_eq!(proxy.counters.suspects.load(Relaxed), 1);
    assert_eq!(proxy.reports(), []);
}

#[tokio::test]
async fn when_every_stream_begins_with_an_error_the_last_one_is_relayed_as_it_came() {
    let one = Upstream::always(stream(&[&error("api_error")])).await;
    let events = error("overloaded_error");
    let two = Upstream::always(stream(&[OPENING, &events])).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.whole), (200, true));
    assert_eq!(got.text(), format!("{OPENING}{events}"));
    assert_eq!(got.header("x-qcc-endpoint"), Some("e1"));
}

#[tokio::test]
async fn a_rejected_credential_is_not_relayed_from_a_stream_either() {
    let only = Upstream::always(stream(&[&error("permission_error")])).await;
    let proxy = Proxy::with(&[&only], |options| options.policy.attempts_max = 1).await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 502);
    assert_eq!(got.header("x-qcc-error"), Some("credentials_rejected"));
    assert!(!got.text().contains("permission_error"));
}

#[tokio::test]
async fn an_error_of_the_requests_own_is_relayed_and_nobody_is_blamed() {
    let event = error("invalid_request_error");
    let one = Upstream::always(stream(&[&event])).await;
    let two = Upstream::always(stream(&[CONTENT])).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!((got.whole, got.text()), (true, &*event));
    assert_eq!(two.requests().len(), 0);
    assert_eq!(proxy.reports(), []);
}

#[tokio::test]
async fn an_error_after_content_passes() {
    let event = error("overloaded_error");
    let one = Upstream::always(stream(&[CONTENT, &event])).await;
    let two = Upstream::always(stream(&[CONTENT])).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.post().await;
    assert_eq!(
        (got.whole, got.text()),
        (true, &*format!("{CONTENT}{event}"))
    );
    assert_eq!(two.requests().len(), 0);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Overloaded)]);
}

#[tokio::test]
async fn a_head_is_held_for_so_long_and_no_longer() {
    let gate = Gate::new();
    let steps = vec![
        send(EVENTS),
        send(chunk(OPENING)),
        Step::Gate(gate.clone()),
        send(chunk(CONTENT)),
        send("0\r\n\r\n"),
    ];
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.hold_timeout = Duration::from_millis(100);
    })
    .await;
    let start = Instant::now();
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads("event: ping").await; // Though no content has come.
    assert!(start.elapsed() >= Duration::from_millis(100));
    gate.open();
    let got = client.answer().await;
    assert_eq!(
        (got.whole, got.text()),
        (true, &*format!("{OPENING}{CONTENT}"))
    );
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
}

#[tokio::test]
async fn without_a_hold_time_nothing_is_held() {
    let event = error("overloaded_error");
    let one = Upstream::always(stream(&[&event])).await;
    let two = Upstream::always(stream(&[CONTENT])).await;
    let proxy = Proxy::with(&[&one, &two], |options| {
        options.policy.hold_timeout = Duration::ZERO;
    })
    .await;
    let got = proxy.post().await;
    assert_eq!((got.whole, got.text()), (true, &*event));
    assert_eq!(two.requests().len(), 0);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Overloaded)]);
}

#[tokio::test]
async fn so_many_bytes_are_held_and_no_more() {
    let comment = format!(": {}\n", "x".repeat(1000));
    let steps = vec![
        send(EVENTS),
        send(chunk(&comment.repeat(100))),
        Step::Silence,
    ];
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let start = Instant::now();
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads(&comment).await;
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_client_that_goes_while_the_head_is_held_cancels_and_nobody_is_blamed() {
    let steps = vec![send(EVENTS), send(chunk(OPENING)), Step::Silence];
    let one = Upstream::always(steps).await;
    let two = Upstream::always(stream(&[CONTENT])).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    eventually(|| one.requests().len() == 1).await;
    drop(client);
    one.sees_the_peer_leave().await;
    eventually(|| proxy.counters.cancelled.load(Relaxed) == 1).await;
    assert_eq!((two.requests().len(), proxy.reports()), (0, vec![]));
}

#[tokio::test]
async fn the_total_time_goes_on_while_a_head_is_held() {
    let steps = vec![send(EVENTS), send(chunk(OPENING)), Step::Silence];
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.timeouts.total = Duration::from_millis(150);
    })
    .await;
    let got = proxy.post().await;
    assert_eq!(got.status(), 504);
    upstream.sees_the_peer_leave().await;
    assert_eq!(proxy.reports(), []);
}

#[tokio::test]
async fn a_stream_without_content_that_ends_properly_is_passed_on() {
    for events in [&[][..], &[OPENING]] {
        let upstream = Upstream::always(stream(events)).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let got = proxy.post().await;
        assert_eq!((got.whole, got.text()), (true, &*events.concat()));
        assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
    }
}
