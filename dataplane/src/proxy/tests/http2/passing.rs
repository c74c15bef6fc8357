//! What passes, and what does not.

use std::{future::poll_fn, sync::Arc};

use http::Method;

use super::*;
use crate::proxy::tests::bodies::post;

#[tokio::test]
async fn a_request_goes_out_as_in_http_1() {
    let upstream = each(|(request, mut respond): Asked| async move {
        let (head, mut body) = request.into_parts();
        let key = head.headers.get("x-api-key").unwrap().to_str().unwrap();
        let text = format!(
            "{} {} {key}",
            head.method,
            head.uri.path_and_query().unwrap()
        );
        for gone in ["host", "authorization", "connection"] {
            assert!(!head.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(head.headers["content-length"], "4");
        assert_eq!(body.data().await.unwrap().unwrap(), "{ok}");
        let mut sink = respond.send_response(Response::new(()), false).unwrap();
        sink.send_data(text.into(), false).unwrap();
        let trailers = [("x-last".parse().unwrap(), "1".parse().unwrap())];
        sink.send_trailers(trailers.into_iter().collect()).unwrap();
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    for _ in 0..3 {
        let got = proxy
            .send(POST.replace("messages", "messages?a=%20b"))
            .await;
        assert_eq!((got.status(), got.whole), (200, true));
        assert_eq!(got.text(), "POST /v1/messages?a=%20b sk-e0");
    }
    assert_eq!(upstream.connections(), 1);
    assert_eq!(of_first(proxy.reported(1).await)[0], Class::Success);
}

#[tokio::test]
async fn events_pass_as_they_arrive() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = each(move |(_, mut respond): Asked| {
        let held = held.clone();
        async move {
            let mut body = events(&mut respond);
            body.send_data("data: {\"caf\u{e9}\":1}\r\n\r\n: ping\n".into(), false)
                .unwrap();
            held.opened().await;
            body.send_data("\ndata: [DONE]\n\n".into(), true).unwrap();
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads(": ping\n").await; // While the upstream holds the rest back.
    gate.open();
    let got = client.answer().await;
    assert!(got.whole);
    let expected = "data: {\"caf\u{e9}\":1}\r\n\r\n: ping\n\ndata: [DONE]\n\n";
    assert_eq!(got.text(), expected);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
}

#[tokio::test]
async fn a_long_body_arrives_whole_and_an_early_answer_is_the_answer() {
    const LONG: usize = 20 << 20;
    let upstream = each(|(request, mut respond): Asked| async move {
        if request.uri().path() == "/v1/early" {
            let head = Response::builder().status(413).body(()).unwrap();
            let mut sink = respond.send_response(head, false).unwrap();
            sink.send_data("too long".into(), true).unwrap();
            return; // What nobody reads is reset with NO_ERROR.
        }
        let mut body = request.into_body();
        let mut size = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            size += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let mut sink = respond.send_response(Response::new(()), false).unwrap();
        sink.send_data(size.to_string().into(), true).unwrap();
    })
    .await;
    for replay_max_bytes in [LONG, 10] {
        let proxy = Proxy::with(&[&upstream], |options| {
            http2(options);
            options.settings.replay_max_bytes = replay_max_bytes;
        })
        .await;
        let request = post(&vec![b'x'; LONG]);
        let got = proxy.send(&request).await;
        assert_eq!((got.status(), got.text()), (200, &*LONG.to_string()));
        let text = String::from_utf8(request).unwrap();
        let mut client = proxy.connect().await;
        client
            .try_write(text.replacen("/v1/messages", "/v1/early", 1))
            .await;
        let got = client.answer().await;
        assert_eq!((got.status(), got.text()), (413, "too long"));
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_long_as_it_says_is_broken() {
    let upstream = each(|(_, mut respond): Asked| async move {
        let head = Response::builder().header("content-length", "5");
        let mut sink = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        sink.send_data("abc".into(), true).unwrap();
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    assert!(!proxy.post().await.whole);
    assert_eq!(of_first(proxy.reported(1).await), [Class::StreamBroken]);
}

#[tokio::test]
async fn an_answer_has_come_once_its_length_has() {
    let gate = Gate::new();
    let (held, resets) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&resets);
    let upstream = each(move |(request, mut respond): Asked| {
        let (held, counted) = (held.clone(), Arc::clone(&counted));
        async move {
            let (head, body) = match (request.method(), request.uri().path()) {
                (&Method::HEAD, _) => (Response::builder().header("content-length", "5"), ""),
                (_, "/v1/204") => (Response::builder().status(204), ""),
                (_, "/v1/304") => (Response::builder().status(304), ""),
                (_, "/v1/0") => (Response::builder().header("content-length", "0"), ""),
                (_, _) => (Response::builder().header("content-length", "2"), "ok"),
            };
            let head = head.body(()).unwrap();
            let mut sink = respond.send_response(head, false).unwrap();
            if !body.is_empty() {
                sink.send_data(body.into(), false).unwrap();
            }
            let reset = poll_fn(|cx| sink.poll_reset(cx));
            tokio::select! {
                _ = reset => drop(counted.fetch_add(1, SeqCst)),
                () = held.opened() => drop(sink.send_data("".into(), true)),
            }
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    for (path, wanted) in [
        ("HEAD", "content-length: 5\r\n"),
        ("204", "HTTP/1.1 204 "),
        ("304", "HTTP/1.1 304 "),
        ("0", "content-length: 0\r\n"),
        ("2", "\r\n\r\nok"),
    ] {
        let request = match path {
            "HEAD" => POST.replace("POST", "HEAD"),
            path => POST.replace("messages", path),
        };
        let mut client = proxy.connect().await;
        client.write(request).await;
        client.reads(wanted).await;
    }
    eventually(|| proxy.router.outcomes(Class::Success) == 5).await;
    gate.open();
    assert_eq!(proxy.post().await.text(), "ok");
    assert_eq!(resets.load(SeqCst), 0);
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn heads_that_nobody_should_get_are_the_endpoints_fault() {
    let upstream = each(|(request, mut respond): Asked| async move {
        let early = Response::builder().status(103).body(()).unwrap();
        respond.send_informational(early).unwrap();
        let mut head = Response::builder();
        match request.uri().path() {
            "/v1/messages" => {}
            "/v1/999" => head = head.status(999),
            _ => {
                for number in 0..200 {
                    head = head.header(format!("x-{number}"), "1");
                }
            }
        }
        let head = head.body(()).unwrap();
        let mut sink = respond.send_response(head, false).unwrap();
        let _ = sink.send_data("ok".into(), true);
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    assert_eq!(proxy.post().await.text(), "ok");
    for path in ["999", "fields"] {
        let got = proxy.send(POST.replace("messages", path)).await;
        assert_eq!(got.status(), 502, "{path}");
    }
    let reports = of_first(proxy.reported(3).await);
    let expected = [Class::Success, Class::ServerError, Class::ServerError];
    assert_eq!(reports, expected);
    assert_eq!(upstream.connections(), 1);
}
