//! What crosses, and what does not.

mod answers;
mod frames;
mod requests;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::harness::*;

#[tokio::test]
async fn a_request_crosses_as_it_came_but_for_credentials_and_hops() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| options.base_path = "/base").await;
    let request = "POST //v1/%7Emessages;p?beta=true&x=%20+&&a[]=#no HTTP/1.1\r\n\
        Host: proxy.example:7860\r\n\
        Connection: X-Api-Key, x-hop\r\n\
        x-hop: 1\r\n\
        AUTHORIZATION: Bearer client-token\r\n\
        X-API-KEY: client-key\r\n\
        Proxy-Authorization: Basic client\r\n\
        anthropic-version: 2026-10-21\r\n\
        anthropic-beta: a\r\n\
        anthropic-beta: b\r\n\
        user-agent: test/1\r\n\
        accept-encoding: gzip, br\r\n\
        te: trailers\r\n\
        expect: 100-continue\r\n\
        content-length: 4\r\n\r\n{ok}";
    assert_eq!(proxy.send(request).await.status(), 200);
    let got = String::from_utf8(upstream.requests().remove(0)).unwrap();
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.lines().collect();
    assert_eq!(
        lines.remove(0),
        "POST /base//v1/%7Emessages;p?beta=true&x=%20+&&a[]= HTTP/1.1"
    );
    let host = lines
        .iter()
        .position(|line| line.starts_with("host: 127.0.0.1:"));
    lines.remove(host.unwrap());
    lines.sort_unstable();
    let expected = [
        "accept-encoding: gzip, br",
        "anthropic-beta: a",
        "anthropic-beta: b",
        "anthropic-version: 2026-10-21",
        "content-length: 4",
        "user-agent: test/1",
        "x-api-key: sk-e0",
    ];
    assert_eq!(lines, expected);
    assert_eq!(body, "{ok}");
}

#[tokio::test]
async fn the_next_endpoint_gets_its_own_credential() {
    let bad = Upstream::always(answer(401, "", "")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&bad, &good]).await;
    proxy.post().await;
    let request = String::from_utf8(good.requests().remove(0)).unwrap();
    assert!(request.contains("x-api-key: sk-e1\r\n"));
    assert!(!request.contains("sk-e0") && !request.contains("client"));
}

#[tokio::test]
async fn an_answer_crosses_as_it_came_but_for_hops_and_cookies() {
    let gzip = "\u{1f}\u{8}\u{0}binary";
    let fields = "content-encoding: gzip\r\nrequest-id: r\r\nanthropic-ratelimit-tokens-reset: x\r\n\
        set-cookie: a=b\r\nkeep-alive: timeout=5\r\nconnection: x-secret\r\nx-secret: 1\r\n\
        vary: a\r\nvary: b\r\n";
    let upstream = Upstream::always(answer(200, fields, gzip)).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.post().await;
    assert_eq!(got.text(), gzip);
    assert_eq!(got.header("content-encoding"), Some("gzip"));
    assert_eq!(got.header("request-id"), Some("r"));
    assert_eq!(got.head.matches("vary: ").count(), 2);
    for gone in ["set-cookie", "keep-alive", "x-secret", "connection"] {
        assert_eq!(got.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_length_and_a_transfer_coding_at_once_do_not_cost_the_client_its_answer() {
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let upstream = Upstream::always(vec![send(both)]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    assert_eq!(got.header("content-length"), None);
}

#[tokio::test]
async fn an_answer_of_http_1_0_becomes_http_1_1() {
    let old = "HTTP/1.0 200 OK\r\n\r\nold";
    let upstream = Upstream::always(vec![send(old), Step::Close]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.post().await;
    assert!(got.head.starts_with("HTTP/1.1 200 "));
    assert_eq!((got.text(), got.whole), ("old", true));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let upstream = Upstream::always(answer(307, "location: http://127.0.0.1:1/\r\n", "")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy.post().await;
    assert_eq!(
        (got.status(), got.header("location")),
        (307, Some("http://127.0.0.1:1/"))
    );
}

#[tokio::test]
async fn a_head_request_is_answered_with_its_length_and_no_body() {
    let upstream =
        Upstream::always(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n")]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client
        .write("HEAD /v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    client.reads("content-length: 77\r\n").await;
    let request = String::from_utf8(upstream.requests().remove(0)).unwrap();
    assert!(!request.contains("content-length") && !request.contains("transfer-encoding"));
    assert_eq!(
        proxy.reported(1).await[0].1,
        qcc_proto::v1::OutcomeClass::Success
    );
}

#[tokio::test]
async fn connections_to_an_endpoint_are_used_again() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    for _ in 0..10 {
        client.write(POST).await;
        assert_eq!(client.answer().await.text(), "ok");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_may_speak_http_2() {
    let upstream = Upstream::always(answer(200, "connection: keep-alive\r\n", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let io = TokioIo::new(tokio::net::TcpStream::connect(proxy.address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://proxy/v1/messages?beta=true")
        .header("x-api-key", "client")
        .body(Full::new(Bytes::from("{ok}")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "ok"
    );
    let request = String::from_utf8(upstream.requests().remove(0)).unwrap();
    assert!(request.starts_with("POST /v1/messages?beta=true HTTP/1.1\r\n"));
    assert!(request.contains("content-length: 4\r\n") && request.ends_with("{ok}"));
}
