//! What clients are bounded by, and what happens there.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::harness::*;
use crate::proxy::Limit;

/// Soon enough for a test; it may pass while nobody looks.
const MOMENT: Duration = Duration::from_millis(50);

const HEALTH: &str = "GET /__qcc__/health HTTP/1.1\r\nhost: a\r\n\r\n";

async fn limited(change: impl FnOnce(&mut Options)) -> (Upstream, Proxy) {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::with(&[&upstream], change).await;
    (upstream, proxy)
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_the_others_go_on() {
    for (limit, total, of_address) in [
        (Limit::Connections, 2, None),
        (Limit::ConnectionsPerAddress, 100, Some(2)),
    ] {
        let (_upstream, proxy) = limited(|options| {
            options.settings.connections_max = total;
            options.settings.connections_per_address_max = of_address;
        })
        .await;
        let mut clients = [proxy.connect().await, proxy.connect().await];
        eventually(|| proxy.counters.connections.load(Relaxed) == 2).await;
        assert!(proxy.connect().await.is_closed().await);
        assert_eq!(proxy.counters.hits(limit), 1);
        for client in &mut clients {
            client.write(POST).await;
            assert_eq!(client.answer().await.status(), 200);
        }
        drop(clients);
        eventually(|| proxy.counters.connections.load(Relaxed) == 0).await;
        assert_eq!(proxy.post().await.status(), 200);
    }
}

#[tokio::test]
async fn limits_that_are_set_anew_count_for_those_who_come_next() {
    let gate = Gate::new();
    let first = gate.clone();
    let upstream = Upstream::start(move |number| {
        let mut steps = answer(200, "", "fine");
        if number == 0 {
            steps.insert(0, Step::Gate(first.clone()));
        }
        steps
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.proven = false;
        options.policy.unproven_concurrency = 1;
        options.policy.queue_timeout = Duration::from_secs(60);
        options.settings.waiting_max = 0;
    })
    .await;
    let mut busy = proxy.connect().await;
    busy.write(POST).await;
    eventually(|| upstream.requests().len() == 1).await;
    assert_eq!(proxy.post().await.status(), 503); // It would have to wait.
    assert_eq!(proxy.counters.hits(Limit::Waiting), 1);
    proxy.set(|settings| settings.body_max_bytes = Some(3));
    assert_eq!(proxy.post().await.status(), 413);
    proxy.set(|settings| {
        settings.body_max_bytes = None;
        settings.waiting_max = 1;
    });
    let mut waiting = proxy.connect().await;
    waiting.write(POST).await;
    eventually(|| proxy.counters.active.load(Relaxed) == 2).await;
    gate.open();
    for client in [&mut busy, &mut waiting] {
        assert_eq!(client.answer().await.status(), 200);
    }
    proxy.set(|settings| settings.replay_total_bytes = 0);
    assert_eq!(proxy.post().await.status(), 200); // Not kept, but sent.
    assert_eq!(proxy.counters.hits(Limit::BufferedBytes), 1);
}

#[tokio::test]
async fn a_request_too_many_is_told_to_come_back() {
    let gate = Gate::new();
    let first = gate.clone();
    let upstream = Upstream::start(move |_| {
        let mut steps = answer(200, "", "fine");
        steps.insert(0, Step::Gate(first.clone()));
        steps
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| options.settings.requests_max = 1).await;
    let mut busy = proxy.connect().await;
    busy.write(POST).await;
    eventually(|| upstream.requests().len() == 1).await;
    for (path, status, shape) in [
        ("/v1/messages", 529, r#""type":"overloaded_error""#),
        ("/v1/chat/completions", 503, r#""code":"overloaded""#),
        ("/else", 503, r#""reason":"overloaded""#),
    ] {
        let got = proxy
            .send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n"))
            .await;
        assert_eq!(got.status(), status, "{path}");
        assert!(got.text().contains(shape), "{}", got.text());
        assert_eq!(got.header("retry-after"), Some("1"));
        assert_eq!(got.header("x-qcc-error"), Some("overloaded"));
    }
    assert_eq!(proxy.counters.hits(Limit::Requests), 3);
    let health = proxy.send(HEALTH).await;
    assert_eq!(health.status(), 200); // Whoever asks for us is no load.
    gate.open();
    assert_eq!(busy.answer().await.status(), 200);
    eventually(|| proxy.counters.active.load(Relaxed) == 0).await;
    assert_eq!(proxy.post().await.status(), 200);
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_ends_its_connection() {
    let (_upstream, proxy) = limited(|options| {
        options.settings.header_read_timeout = MOMENT;
    })
    .await;
    let head = "GET /v1/models HTTP/1.1\r\nhost: a\r\n";
    for start in ["", "G", head, "\r\n", "PRI * HTTP/2.0\r\n\r\n"] {
        let mut client = proxy.connect().await;
        client.write(start).await;
        assert!(client.is_closed().await, "{start:?}");
    }
    assert_eq!(proxy.counters.hits(Limit::HeaderReadTime), 5);
    // Neither does one behind a request, however long it was silent between the two.
    let mut client = proxy.connect().await;
    client.write([POST, head].concat()).await;
    assert_eq!(client.answer().await.status(), 200);
    assert!(client.is_closed().await);
    assert_eq!(proxy.counters.hits(Limit::HeaderReadTime), 6);
}

#[tokio::test]
async fn a_connection_without_a_request_is_kept_for_a_time() {
    let (_upstream, proxy) = limited(|options| {
        options.settings.client_idle_timeout = MOMENT;
    })
    .await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    assert_eq!(client.answer().await.status(), 200);
    assert!(client.is_closed().await);
    assert_eq!(proxy.counters.hits(Limit::IdleTime), 1);
    assert_eq!(proxy.counters.hits(Limit::HeaderReadTime), 0);
}

#[tokio::test]
async fn a_request_takes_as_long_as_it_takes() {
    let gate = Gate::new();
    let steps = vec![send(EVENTS), Step::Gate(gate.clone()), send("0\r\n\r\n")];
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.client_idle_timeout = MOMENT;
        options.settings.header_read_timeout = MOMENT;
    })
    .await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads("text/event-stream").await;
    // Meanwhile another one is waited for twice as long as the limits allow.
    for _ in 0..2 {
        assert!(proxy.connect().await.is_closed().await);
    }
    gate.open();
    assert!(client.answer().await.whole);
}

#[tokio::test]
async fn with_enough_idle_connections_an_answer_closes_its_own() {
    let (_upstream, proxy) = limited(|options| {
        options.settings.idle_connections_max = 1;
    })
    .await;
    let mut first = proxy.connect().await;
    first.write(POST).await;
    assert_eq!(first.answer().await.header("connection"), None);
    eventually(|| proxy.counters.connections_busy.load(Relaxed) == 0).await;
    let mut second = proxy.connect().await;
    second.write(POST).await;
    let got = second.answer().await;
    assert_eq!(
        (got.status(), got.header("connection")),
        (200, Some("close"))
    );
    assert!(second.is_closed().await);
    assert_eq!(proxy.counters.hits(Limit::IdleConnections), 1);
    first.write(POST).await;
    assert_eq!(first.answer().await.status(), 200);
}
