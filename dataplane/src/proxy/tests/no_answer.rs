//! Endpoints that do not answer, or not as they should.

use std::time::Duration;

use qcc_proto::v1::OutcomeClass as Class;

use super::{bodies::post, harness::*};

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
