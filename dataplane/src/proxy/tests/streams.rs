//! Answers that take their time, break, or are no longer wanted.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use qcc_proto::v1::OutcomeClass as Class;
use tokio::io::AsyncReadExt;

use super::harness::*;

#[tokio::test]
async fn events_pass_as_they_arrive_byte_for_byte() {
    let gate = Gate::new();
    let steps = vec![
        send(EVENTS),
        send(chunk(
            "event: delta\r\ndata: {\"caf\u{e9}\":1}\r\n\r\n: ping\n",
        )),
        Step::Gate(gate.clone()),
        send(chunk("\ndata: [DONE]\n\n")),
        send("0\r\n\r\n"),
    ];
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads(": ping\n").await; // While the upstream holds the rest back.
    gate.open();
    let got = client.answer().await;
    assert!(got.whole);
    let expected = "event: delta\r\ndata: {\"caf\u{e9}\":1}\r\n\r\n: ping\n\ndata: [DONE]\n\n";
    assert_eq!(got.text(), expected);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
}

#[tokio::test]
async fn a_cut_stream_of_events_ends_in_an_error_event_and_no_proper_end() {
    for last in [Step::Close, Step::Reset] {
        let upstream = Upstream::always(vec![send(EVENTS), send(chunk("data: 1\n\n")), last]).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (200, false));
        let body = String::from_utf8_lossy(&got.body);
        assert!(body.contains("event: error\ndata: {"), "{body}");
        assert!(body.contains("\"api_error\""));
        assert!(!body.ends_with("0\r\n\r\n"));
        assert_eq!(
            proxy.reported(1).await,
            [("e0".into(), Class::StreamBroken)]
        );
    }
}

#[tokio::test]
async fn the_error_event_has_the_shape_of_the_caller() {
    let upstream =
        Upstream::always(vec![send(EVENTS), send(chunk("data: 1\n\n")), Step::Close]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy
        .send(POST.replace("/v1/messages", "/v1/chat/completions"))
        .await;
    let body = String::from_utf8_lossy(&got.body);
    assert!(body.contains("data: {\"error\":{"), "{body}");
    assert!(!body.contains("event: error"));
}

#[tokio::test]
async fn a_cut_body_is_visibly_short() {
    let with_length = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n1234";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n1234\r\n";
    let gzip = EVENTS.replace(
        "\r\n\r\n",
        "\r\ncontent-encoding: gzip\r\n\r\n4\r\n\u{1f}234\r\n",
    );
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        content-length: 40\r\n\r\ndata: 1\n\n";
    for start in [with_length, chunked, gzip.as_str(), events] {
        let upstream = Upstream::always(vec![send(start), Step::Close]).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (200, false));
        assert!(!String::from_utf8_lossy(&got.body).contains("error"));
        assert_eq!(
            proxy.reported(1).await,
            [("e0".into(), Class::StreamBroken)]
        );
    }
}

#[tokio::test]
async fn a_stream_that_nobody_is_known_to_read_gets_no_event_of_ours() {
    let upstream =
        Upstream::always(vec![send(EVENTS), send(chunk("data: 1\n\n")), Step::Close]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.send(POST.replace("/v1/messages", "/events")).await;
    assert_eq!((got.status(), got.whole), (200, false));
    assert!(!String::from_utf8_lossy(&got.body).contains("error"));
}

#[tokio::test]
async fn an_answer_of_any_length_comes_out_as_it_went_in() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for length in [1, 8_000, 8_192, 8_193, 20_000, 70_000, 500_000] {
        let text: String = (b'a'..=b'z').cycle().take(length).map(char::from).collect();
        for pieces in [1, 3] {
            // Its end comes with its last piece.
            let answer = [head, &chunk(&text).repeat(pieces), "0\r\n\r\n"].concat();
            let upstream = Upstream::always(vec![send(answer)]).await;
            let proxy = Proxy::start(&[&upstream]).await;
            let got = proxy.post().await;
            assert!(got.whole && got.text() == text.repeat(pieces), "{length}");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_not_ended_by_a_break() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let asks = "GET /v1/models HTTP/1.0\r\n\r\n";
    for (last, is_whole) in [(send("0\r\n\r\n"), true), (Step::Close, false)] {
        let steps = vec![send(head), send(chunk("half")), last];
        let upstream = Upstream::always(steps).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let mut client = proxy.connect().await;
        client.write(asks).await;
        client.reads("half").await;
        let rest = client.stream.read(&mut [0; 8]).await;
        assert_eq!(matches!(rest, Ok(0)), is_whole, "{rest:?}");
    }
}

#[tokio::test]
async fn a_silent_stream_is_cut() {
    let upstream = Upstream::always(vec![
        send(EVENTS),
        send(chunk("data: 1\n\n")),
        Step::Silence,
    ])
    .await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.timeouts.idle = Duration::from_millis(100);
    })
    .await;
    let got = proxy.post().await;
    assert!(!got.whole);
    assert!(String::from_utf8_lossy(&got.body).contains("silent for too long"));
    upstream.sees_the_peer_leave().await;
    assert_eq!(
        proxy.reported(1).await,
        [("e0".into(), Class::StreamBroken)]
    );
}

#[tokio::test]
async fn an_error_inside_of_a_stream_passes_and_counts_as_what_it_says() {
    let event =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let (first, second) = event.split_at(30);
    let steps = vec![
        send(EVENTS),
        send(chunk(first)),
        send(chunk(second)),
        send("0\r\n\r\n"),
    ];
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.post().await;
    assert_eq!((got.whole, got.text()), (true, event));
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Overloaded)]);
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_attempt_and_nobody_is_blamed() {
    let streaming = vec![send(EVENTS), send(chunk("data: 1\n\n")), Step::Silence];
    for (steps, first_words) in [(vec![Step::Silence], None), (streaming, Some("data: 1"))] {
        let upstream = Upstream::always(steps).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let mut client = proxy.connect().await;
        client.write(POST).await;
        eventually(|| upstream.requests().len() == 1).await;
        if let Some(words) = first_words {
            client.reads(words).await;
        }
        drop(client);
        upstream.sees_the_peer_leave().await;
        eventually(|| proxy.counters.cancelled.load(Relaxed) == 1).await;
        assert_eq!(proxy.counters.active.load(Relaxed), 0);
        let blamed = proxy
            .reports()
            .into_iter()
            .filter(|(_, class)| *class != Class::Cancelled);
        assert_eq!(blamed.count(), 0);
    }
}

#[tokio::test]
async fn running_answers_finish_when_the_proxy_stops() {
    let gate = Gate::new();
    let steps = vec![
        send(EVENTS),
        send(chunk("data: 1\n\n")),
        Step::Gate(gate.clone()),
        send(chunk("data: 2\n\n")),
        send("0\r\n\r\n"),
    ];
    let upstream = Upstream::always(steps).await;
    let mut proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let mut idle = proxy.connect().await;
    client.write(POST).await;
    client.reads("data: 1").await;
    proxy.stop.cancel();
    eventually(|| std::net::TcpStream::connect(proxy.address).is_err()).await;
    assert_eq!(idle.answer().await.head, ""); // Closed.
    gate.open();
    let got = client.answer().await;
    assert_eq!((got.whole, got.text()), (true, "data: 1\n\ndata: 2\n\n"));
    (&mut proxy.serving).await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_ended() {
    let upstream = Upstream::always(vec![
        send(EVENTS),
        send(chunk("data: 1\n\n")),
        Step::Silence,
    ])
    .await;
    let mut proxy = Proxy::with(&[&upstream], |options| {
        options.settings.drain_timeout = Duration::from_millis(50);
    })
    .await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads("data: 1").await;
    proxy.stop.cancel();
    (&mut proxy.serving).await.unwrap();
    let got = client.answer().await;
    assert!(!got.whole);
    let body = String::from_utf8_lossy(&got.body);
    assert!(body.contains("event: error\ndata: {"), "{body}");
    assert!(body.contains("the proxy is stopping"));
    upstream.sees_the_peer_leave().await;
    assert_eq!(proxy.reports(), []); // Nobody is to blame.
}

#[tokio::test]
async fn who_waits_for_an_answer_when_the_time_is_over_is_told_that_there_is_none() {
    let upstream = Upstream::always(vec![Step::Silence]).await;
    let mut proxy = Proxy::with(&[&upstream], |options| {
        options.settings.drain_timeout = Duration::from_millis(50);
    })
    .await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    eventually(|| upstream.requests().len() == 1).await;
    let mut unfinished = proxy.connect().await; // Most of its body is missing.
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-length: 1000\r\n\r\n{";
    unfinished.write(head).await;
    eventually(|| proxy.counters.active.load(Relaxed) == 2).await;
    proxy.stop.cancel();
    (&mut proxy.serving).await.unwrap();
    for (client, shape) in [
        (&mut client, "/type"),            // Anthropic's.
        (&mut unfinished, "/error/param"), // OpenAI's.
    ] {
        let got = client.answer().await;
        assert_eq!((got.status(), got.whole), (503, true));
        assert_eq!(got.header("x-qcc-error"), Some("draining"));
        assert_eq!(got.header("connection"), Some("close"));
        assert!(got.header("retry-after").is_some());
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert!(body.pointer(shape).is_some(), "{body}");
        assert!(client.is_closed().await);
    }
    upstream.sees_the_peer_leave().await;
    assert_eq!(proxy.reports(), []); // Nobody is to blame.
    assert_eq!(proxy.counters.own_errors.load(Relaxed), 2);
}
