//! Who is blamed for what, where it is not the endpoint that fails.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use qcc_proto::v1::OutcomeClass as Class;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use super::{bodies::post, harness::*};
use crate::routing::{Next, Outcome};

/// More than the kernel takes of a connection that nobody reads.
const LONG: usize = 20 << 20;

#[tokio::test]
async fn an_early_answer_to_a_long_body_is_the_answer() {
    const REFUSED: &str =
        "HTTP/1.1 413 X\r\nconnection: close\r\ncontent-length: 8\r\n\r\ntoo long";
    for replay_max_bytes in [LONG, 10] {
        let one = Upstream::early(REFUSED).await;
        let two = Upstream::early(REFUSED).await;
        let proxy = Proxy::with(&[&one, &two], |options| {
            options.settings.replay_max_bytes = replay_max_bytes;
        })
        .await;
        for _ in 0..5 {
            let mut client = proxy.connect().await;
            let (mut reading, mut writing) = client.stream.split();
            let body = post(&vec![b'x'; LONG]);
            // Not all of a streamed body is taken.
            let sending = async { drop(writing.write_all(&body).await) };
            let mut got = vec![0; 12];
            let receiving = reading.read_exact(&mut got);
            let (_, received) = tokio::join!(timeout(Duration::from_secs(2), sending), receiving);
            received.unwrap();
            assert_eq!(got, b"HTTP/1.1 413");
        }
        assert_eq!(two.connections(), 0);
        assert_eq!(proxy.reports(), []);
    }
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_long_body_does_not_eject() {
    let one = Upstream::early("").await;
    let two = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    let got = proxy.send(post(&vec![b'x'; LONG])).await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    let reports = proxy.reported(2).await;
    assert_eq!(reports[0], ("e0".into(), Class::StreamBroken));
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_short_body_ejects() {
    let one = Upstream::always(vec![Step::Reset]).await;
    let two = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&one, &two]).await;
    assert_eq!(proxy.post().await.status(), 200);
    let reports = proxy.reported(2).await;
    assert_eq!(reports[0], ("e0".into(), Class::Connect));
}

fn no_retries(options: &mut Options) {
    options.policy.retry_budget.percent = 0;
    options.policy.retry_budget.min_per_second = 0;
}

#[tokio::test]
async fn a_request_that_breaks_connections_is_found_out_without_a_retry_budget() {
    let one = Upstream::always(vec![Step::Reset]).await;
    let two = Upstream::always(vec![Step::Reset]).await;
    let proxy = Proxy::with(&[&one, &two], no_retries).await;
    for round in 1..=5 {
        let got = proxy.post().await;
        assert_eq!(
            (got.status(), got.header("x-qcc-attempts")),
            (502, Some("2"))
        );
        assert_eq!((one.requests().len(), two.requests().len()), (round, round));
    }
    assert_eq!(proxy.reports(), []);
}

#[tokio::test]
async fn an_endpoint_that_breaks_connections_is_found_out_without_a_retry_budget() {
    let one = Upstream::always(vec![Step::Reset]).await;
    let two = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&one, &two], no_retries).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    let reports = proxy.reported(2).await;
    assert_eq!(reports[0], ("e0".into(), Class::Connect));
}

#[tokio::test]
async fn the_total_time_ends_a_running_answer_without_blame() {
    let first = vec![send(EVENTS), send(chunk("data: 1\n\n"))];
    for rest in [
        vec![Step::Silence],
        vec![send(chunk(&": ping\n".repeat(1_000_000))); 50],
    ] {
        let upstream = Upstream::always([first.clone(), rest].concat()).await;
        let proxy = Proxy::with(&[&upstream], |options| {
            options.policy.timeouts.total = Duration::from_millis(150);
        })
        .await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (200, false));
        upstream.sees_the_peer_leave().await;
        assert_eq!(proxy.reports(), []);
    }
}

#[tokio::test]
async fn an_answer_that_its_client_held_up_says_nothing_if_it_breaks() {
    let upstream = Upstream::raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1000]).await;
        let head = "HTTP/1.1 200 X\r\ncontent-length: 100000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let body = vec![b'x'; 100_000_000];
        let sending = stream.write_all(&body);
        let _ = timeout(Duration::from_millis(1500), sending).await; // It loses patience.
    })
    .await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    sleep(Duration::from_secs(2)).await;
    assert!(!client.answer().await.whole);
    assert_eq!(proxy.reports(), []);
}

#[tokio::test]
async fn a_body_may_take_longer_than_the_wait_for_the_answer() {
    let slow = Upstream::raw(|mut stream| async move {
        let mut left = 16 << 20;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            sleep(Duration::from_millis(4)).await;
            left -= stream.read(&mut buffer).await.unwrap().min(left);
        }
        let answer = b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
        let _ = stream.read(&mut buffer).await;
    })
    .await;
    let proxy = Proxy::with(&[&slow], |options| {
        options.first_byte_timeout = Duration::from_millis(700);
    })
    .await;
    let start = Instant::now();
    let got = proxy.send(post(&vec![b'x'; 16 << 20])).await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    assert!(start.elapsed() > Duration::from_millis(700));
}

#[tokio::test]
async fn an_endpoint_that_stops_taking_a_body_has_timed_out() {
    let stuck = Upstream::raw(|mut stream| async move {
        let _ = stream.read(&mut [0; 1000]).await;
        sleep(Duration::from_secs(60)).await;
    })
    .await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&stuck, &good], |options| {
        options.first_byte_timeout = Duration::from_millis(700);
    })
    .await;
    let got = proxy.send(post(&vec![b'x'; LONG])).await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    let reports = proxy.reported(2).await;
    assert_eq!(reports[0], ("e0".into(), Class::Timeout));
}

#[tokio::test]
async fn a_verdict_acts_at_once_and_outlives_its_client() {
    let rejected = "HTTP/1.1 401 X\r\ntransfer-encoding: chunked\r\n\r\n";
    let upstream = Upstream::always(vec![send(rejected), Step::Silence]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let is_marked = || {
        let mut routing = proxy.router.begin().unwrap();
        matches!(routing.next(Instant::now()), Next::Unavailable(_))
    };
    let mut client = proxy.connect().await;
    client.write(POST).await;
    eventually(is_marked).await;
    drop(client);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Auth)]);

    let proxy = Proxy::start(&[&upstream]).await;
    let mut routing = proxy.router.begin().unwrap();
    let Next::Attempt(attempt) = routing.next(Instant::now()) else {
        panic!("no attempt");
    };
    let judged = attempt.judge(Outcome::of(Class::Auth), Instant::now());
    let mut routing = proxy.router.begin().unwrap();
    let next = routing.next(Instant::now());
    assert!(matches!(next, Next::Unavailable(_)));
    assert_eq!(proxy.reports(), []);
    drop(judged);
    assert_eq!(proxy.reports(), [("e0".into(), Class::Auth)]);
}

#[tokio::test]
async fn a_client_that_does_not_read_gives_its_place_up() {
    let steps = [
        vec![send("HTTP/1.1 200 X\r\ncontent-length: 100000000\r\n\r\n")],
        vec![send(vec![b'x'; 1_000_000]); 100],
    ];
    let upstream = Upstream::always(steps.concat()).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.client_stall_timeout = Duration::from_millis(200);
    })
    .await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    upstream.sees_the_peer_leave().await;
    eventually(|| proxy.counters.cancelled.load(Relaxed) == 1).await;
    assert_eq!(proxy.reports(), []);
    assert!(!client.answer().await.whole);
}
