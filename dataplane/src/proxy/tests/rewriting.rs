//! Models that get another name on their way.

use std::time::Duration;

use super::{bodies::post, harness::*};

fn aliases(options: &mut Options) {
    let aliases = [("fast", "small-20261001"), ("é", "accented")];
    options.policy.model_aliases = aliases.map(|(from, to)| (from.into(), to.into())).into();
}

/// The body that an upstream got, which was as long as its head said.
fn body_of(request: &[u8]) -> &str {
    let request = std::str::from_utf8(request).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    body
}

#[tokio::test]
async fn a_model_is_sent_by_its_other_name_and_nothing_else_changes() {
    let bad = Upstream::always(answer(500, "", "")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&bad, &good], aliases).await;
    for (sent, expected) in [
        (
            "{ \"messages\" : [1,  2e0, {\"model\":\"fast\"}],\r\n\t\"model\" : \"fast\", \"x\": \"\\u00e9\"}",
            "{ \"messages\" : [1,  2e0, {\"model\":\"fast\"}],\r\n\t\"model\" : \"small-20261001\", \"x\": \"\\u00e9\"}",
        ),
        ("{\"model\":\"é\"}", "{\"model\":\"accented\"}"),
        ("{\"model\":\"\\u00e9\"}", "{\"model\":\"accented\"}"),
        ("{\"model\":\"unknown\"}", "{\"model\":\"unknown\"}"),
        ("no json", "no json"),
        ("{\"model\":\"fast", "{\"model\":\"fast"),
        ("", ""),
    ] {
        let got = proxy.send(post(sent.as_bytes())).await;
        assert_eq!(got.status(), 200, "{sent}");
        let request = good.requests().pop().unwrap();
        assert_eq!(body_of(&request), expected);
    }
    // Each try sends the same.
    assert!(body_of(&bad.requests()[0]).contains("small-20261001"));
}

#[tokio::test]
async fn every_path_gets_it_but_only_bodies_of_json() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.model_override = Some("big".into());
    })
    .await;
    let body = "{\"model\":\"any\"}";
    for (path, kind, expected) in [
        (
            "/v1/messages/count_tokens",
            "application/json",
            "{\"model\":\"big\"}",
        ),
        (
            "/v1/chat/completions",
            "application/json",
            "{\"model\":\"big\"}",
        ),
        ("/v1/files", "text/plain", body),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(proxy.send(request).await.status(), 200);
        assert_eq!(body_of(&upstream.requests().pop().unwrap()), expected);
    }
    let got = proxy
        .send("GET /v1/models?limit=1000 HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert_eq!(got.text(), "ok");
    let request = String::from_utf8(upstream.requests().pop().unwrap()).unwrap();
    assert!(request.starts_with("GET /v1/models?limit=1000 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_long_body_is_renamed_without_a_byte_lost() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], aliases).await;
    let filler = "0123456789abcdef".repeat(64 << 10);
    let body =
        |model: &str| format!("{{\"a\":\"{filler}\",\"model\":\"{model}\",\"b\":\"{filler}\"}}");
    assert_eq!(
        proxy.send(post(body("fast").as_bytes())).await.status(),
        200
    );
    let request = upstream.requests().pop().unwrap();
    assert!(body_of(&request) == body("small-20261001"));
}

#[tokio::test]
async fn where_models_are_renamed_a_body_that_is_not_kept_is_refused() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        aliases(options);
        options.settings.replay_max_bytes = 1000;
        options.settings.replay_total_bytes = 100;
    })
    .await;
    let got = proxy.send(post(&[b' '; 1001])).await;
    assert_eq!(
        (got.status(), got.header("x-qcc-error")),
        (413, Some("body_too_large"))
    );
    let got = proxy.send(post(&[b' '; 101])).await;
    assert_eq!(
        (got.status(), got.header("x-qcc-error")),
        (503, Some("endpoints_busy"))
    );
    assert_eq!(got.header("retry-after"), Some("1"));
    assert_eq!(upstream.requests().len(), 0);
    let upload = format!(
        "POST /v1/files HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=x\r\n\
         content-length: 1001\r\n\r\n{}",
        " ".repeat(1001)
    );
    assert_eq!(proxy.send(upload).await.status(), 200); // It has no model.
}

#[tokio::test]
async fn only_streams_that_are_looked_into_are_asked_for_as_they_are() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let looking = Proxy::start(&[&upstream]).await;
    let passing = Proxy::with(&[&upstream], |options| {
        options.policy.hold_timeout = Duration::ZERO;
    })
    .await;
    let request = |fields: &str, body: &str| {
        let length = body.len();
        format!(
            "POST /v1/messages HTTP/1.1\r\nhost: a\r\n{fields}content-length: {length}\r\n\r\n{body}"
        )
    };
    let coding = "accept-encoding: gzip, br, zstd\r\n";
    let accept = format!("accept: text/event-stream\r\n{coding}");
    for (proxy, fields, body, expected) in [
        (&looking, coding, "{\"stream\":true}", Some("identity")),
        (&looking, accept.as_str(), "{}", Some("identity")),
        (
            &looking,
            coding,
            "{\"stream\":false}",
            Some("gzip, br, zstd"),
        ),
        (&looking, "", "{\"stream\":true}", None),
        (
            &passing,
            coding,
            "{\"stream\":true}",
            Some("gzip, br, zstd"),
        ),
    ] {
        proxy.send(request(fields, body)).await;
        let request = String::from_utf8(upstream.requests().pop().unwrap()).unwrap();
        let sent = request
            .lines()
            .find_map(|line| line.strip_prefix("accept-encoding: "));
        assert_eq!(sent, expected, "{fields}{body}");
    }
}

#[tokio::test]
async fn compressed_answers_pass_untouched_and_unheld() {
    let bytes: Vec<u8> = (0..=255).collect();
    for coding in ["gzip", "br", "zstd"] {
        let head = EVENTS.replace(
            "\r\n\r\n",
            &format!("\r\ncontent-encoding: {coding}\r\n\r\n"),
        );
        let piece = [b"100\r\n".as_slice(), &bytes, b"\r\n"].concat();
        let gate = Gate::new();
        let steps = vec![
            send(head),
            send(piece),
            Step::Gate(gate.clone()),
            send("0\r\n\r\n"),
        ];
        let upstream = Upstream::always(steps).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let mut client = proxy.connect().await;
        client.write(POST).await;
        client.reads("\u{1}\u{2}\u{3}").await; // Nothing in it says that it has content.
        gate.open();
        let got = client.answer().await;
        assert_eq!(got.header("content-encoding"), Some(coding));
        assert!(got.whole && got.body == bytes);
    }
}

#[tokio::test]
async fn where_an_answer_comes_from_is_told_or_not() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.expose_headers = false
    })
    .await;
    let got = proxy.post().await;
    for name in ["x-qcc-endpoint", "x-qcc-attempts", "x-qcc-revision"] {
        assert_eq!(got.header(name), None, "{name}");
    }
}
