//! Request bodies: replayed, streamed through, broken.

use std::{convert::Infallible, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use qcc_proto::v1::OutcomeClass as Class;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_stream::wrappers::ReceiverStream;

use super::harness::*;
use crate::proxy::Limit;

pub(super) fn post(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: proxy\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Bytes in which a lost or moved piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

#[tokio::test]
async fn a_20_mib_body_is_sent_again_byte_for_byte() {
    let bad = Upstream::always(answer(529, "", "")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&bad, &good]).await;
    let body = pattern(20 << 20);
    let got = proxy.send(post(&body)).await;
    assert_eq!(
        (got.status(), got.header("x-qcc-attempts")),
        (200, Some("2"))
    );
    for upstream in [&bad, &good] {
        let request = &upstream.requests()[0];
        assert!(request.ends_with(&body));
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_streams_through_with_one_try() {
    let bad = Upstream::start(|number| match number {
        0 => answer(200, "", "ok"),
        _ => answer(500, "", "bad"),
    })
    .await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&bad, &good]).await;
    let body = pattern(33 << 20);
    let got = proxy.send(post(&body)).await;
    assert_eq!(
        (got.status(), got.header("x-qcc-attempts")),
        (200, Some("1"))
    );
    let request = &bad.requests()[0];
    assert!(request.ends_with(&body));
    let got = proxy.send(post(&body)).await;
    assert_eq!((got.status(), got.text()), (500, "bad"));
    assert_eq!(good.requests().len(), 0);
    assert_eq!(proxy.counters.hits(Limit::KeptBodyBytes), 2);
    assert_eq!(proxy.counters.buffered_bytes.load(Relaxed), 0);
}

#[tokio::test]
async fn a_body_without_a_length_is_kept_up_to_the_limit_and_streams_beyond_it() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.replay_max_bytes = 100_000
    })
    .await;
    for (pieces, framing) in [
        (1, "content-length: 50000\r\n"),
        (5, "transfer-encoding: chunked\r\n"),
    ] {
        let mut client = proxy.connect().await;
        let head = "POST /v1/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write(head).await;
        for _ in 0..pieces {
            client.write(chunk(&"#".repeat(50_000))).await;
        }
        client.write("0\r\n\r\n").await;
        assert_eq!(client.answer().await.status(), 200);
        let request = upstream.requests().pop().unwrap();
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains(framing), "{}", &request[..200]);
        assert_eq!(request.matches('#').count(), pieces * 50_000);
    }
}

/// Sends back what it is sent, piece by piece and framed as it came.
async fn echo() -> Upstream {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    Upstream::raw(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(OK).await.unwrap();
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

#[tokio::test]
async fn an_answer_may_begin_before_the_end_of_a_long_body() {
    let upstream = echo().await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.replay_max_bytes = 1000
    })
    .await;
    for connections in 1..3 {
        let mut client = proxy.connect().await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.write(head).await;
        let first = "#".repeat(2000);
        client.write(chunk(&first)).await;
        client.reads(&first).await;
        for piece in ["second", "third"] {
            client.write(chunk(piece)).await;
            client.reads(piece).await; // Before there is more.
        }
        client.write("0\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(answer.whole);
        assert_eq!(answer.text(), format!("{first}secondthird"));
        // One that has been talked over in both directions is not used again.
        assert_eq!(upstream.connections(), connections);
    }
    let reports = proxy.reported(1).await;
    assert!(
        reports.iter().all(|(_, class)| *class == Class::Success),
        "{reports:?}"
    );
}

#[tokio::test]
async fn a_long_body_and_its_long_answer_do_not_wait_for_each_other() {
    let upstream = echo().await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.replay_max_bytes = 1000
    })
    .await;
    let mut client = proxy.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
        transfer-encoding: chunked\r\n\r\n";
    client.write(head).await;
    const PIECES: usize = 256; // More than all buffers on the way hold.
    let piece = chunk(&"#".repeat(64 << 10));
    let (mut from, mut to) = client.stream.split();
    let writing = async {
        for _ in 0..PIECES {
            to.write_all(piece.as_bytes()).await.unwrap();
        }
        to.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let mut answer = Vec::new();
    let ((), read) = soon(async { tokio::join!(writing, from.read_to_end(&mut answer)) }).await;
    read.unwrap();
    assert!(answer.ends_with(b"0\r\n\r\n"));
    let back = answer.iter().filter(|byte| **byte == b'#').count();
    assert_eq!(back, PIECES * (64 << 10));
}

#[tokio::test]
async fn when_the_budget_is_used_up_bodies_stream_through() {
    let bad = Upstream::always(answer(500, "", "bad")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&bad, &good], |options| {
        options.settings.replay_total_bytes = 10
    })
    .await;
    let got = proxy.send(post(b"12345678901")).await;
    assert_eq!((got.status(), got.text()), (500, "bad"));
    assert_eq!(proxy.counters.hits(Limit::BufferedBytes), 1);
    let got = proxy.send(post(b"1234567890")).await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    assert_eq!(proxy.counters.hits(Limit::BufferedBytes), 1);
    eventually(|| proxy.counters.buffered_bytes.load(Relaxed) == 0).await; // Given back.
}

#[tokio::test]
async fn a_badly_framed_body_never_reaches_an_endpoint() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let head = "POST /v1/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in [
        "5\r\nhello\r\nnonsense\r\n",
        "0x2\r\nab\r\n0\r\n\r\n",
        "-2\r\n",
    ] {
        let got = proxy.send(format!("{head}{body}")).await;
        assert_eq!(
            (got.status(), got.header("connection")),
            (400, Some("close")),
            "{body}"
        );
    }
    let mut client = proxy.connect().await;
    client.write(format!("{head}5\r\nhel")).await;
    client.stream.shutdown().await.unwrap();
    let got = client.answer().await;
    assert!(got.head.is_empty() || got.status() == 400);
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn a_streamed_body_that_breaks_or_stalls_blames_no_endpoint() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.replay_max_bytes = 10;
        options.settings.body_idle_timeout = Duration::from_millis(200);
        options.first_byte_timeout = Duration::from_millis(100);
    })
    .await;
    let head = "POST /v1/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = chunk(&"x".repeat(100));
    let got = proxy.send(format!("{head}{long}nonsense\r\n")).await;
    assert_eq!(got.status(), 400);
    let got = proxy.send(format!("{head}{long}")).await;
    assert_eq!(got.status(), 408);
    assert_eq!(proxy.counters.hits(Limit::BodyIdleTime), 1);
    let blamed = proxy.reports().into_iter();
    let blamed = blamed.filter(|(_, class)| *class != Class::Cancelled);
    assert_eq!(blamed.count(), 0);
    assert_eq!(proxy.post().await.status(), 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.body_max_bytes = Some(100);
        options.settings.replay_max_bytes = 50;
    })
    .await;
    let got = proxy.send(post(&[b'x'; 101])).await;
    assert_eq!(
        (got.status(), got.header("connection")),
        (413, Some("close"))
    );
    let head = "POST /v1/messages HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = chunk(&"x".repeat(101));
    let got = proxy.send(format!("{head}{long}0\r\n\r\n")).await;
    assert_eq!(got.status(), 413);
    assert_eq!(proxy.counters.hits(Limit::BodyBytes), 2);
    assert_eq!(proxy.send(post(&[b'x'; 100])).await.status(), 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_its_client_cancels_over_http_2_never_reaches_an_endpoint() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    for _ in 0..20 {
        let io = TokioIo::new(TcpStream::connect(proxy.address).await.unwrap());
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let (pieces, body) = tokio::sync::mpsc::channel(1);
        let body = ReceiverStream::new(body);
        let request = Request::post("http://proxy/v1/messages").body(StreamBody::new(body));
        let sending = tokio::spawn(sender.send_request(request.unwrap()));
        pieces
            .send(Ok::<_, Infallible>(Frame::data(Bytes::from("half"))))
            .await
            .unwrap();
        eventually(|| proxy.counters.active.load(Relaxed) == 1).await;
        tokio::time::sleep(Duration::from_millis(5)).await; // Let the piece arrive.
        sending.abort(); // Resets the stream, with CANCEL.
        drop(pieces);
        eventually(|| proxy.counters.active.load(Relaxed) == 0).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.counters.attempts.load(Relaxed), 0);
}

#[tokio::test]
async fn a_body_that_is_reset_without_an_error_is_not_taken_for_a_whole_one() {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
        [head.as_slice(), payload].concat()
    };
    let path = b"/v1/messages";
    let head = [b"\x83\x86\x44\x0c".as_slice(), path, b"\x41\x05proxy"].concat(); // POST, http
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, b""),     // SETTINGS
        frame(1, 4, 1, &head),   // HEADERS, END_HEADERS
        frame(0, 0, 1, b"half"), // DATA
        frame(3, 0, 1, &[0; 4]), // RST_STREAM, NO_ERROR
    ];
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client.write(request[..4].concat()).await;
    eventually(|| proxy.counters.active.load(Relaxed) == 1).await;
    client.write(&request[4]).await;
    eventually(|| proxy.counters.active.load(Relaxed) == 0).await;
    assert_eq!(proxy.counters.attempts.load(Relaxed), 0);
    assert_eq!(upstream.requests().len(), 0);
}
