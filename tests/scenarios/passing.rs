//! Whatever is not ours to change passes as it came.

use qcc_proto::v1::ApiFlavor;
use qcc_tests::{Answer, Gate, Piece, Testbed};

/// "hello" under gzip: opaque bytes to everybody between the two ends.
const GZIP: [u8; 25] = [
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x03, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x07,
    0x00, 0x86, 0xa6, 0x10, 0x36, 0x05, 0x00, 0x00, 0x00,
];

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_as_they_are_sent() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let events = [
        "event: content_block_delta\r\ndata: {\"text\": \"caf\u{e9}\"}\r\n\r\n",
        ": a comment\n\n",
        "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    ];
    let pieces = gates
        .iter()
        .zip(events)
        .flat_map(|(gate, event)| [Piece::from(event), Piece::Wait(gate.clone())]);
    testbed.upstream("a").respond(Answer::stream(pieces));
    let mut stream = testbed
        .proxy(0)
        .post("/v1/messages")
        .message(true)
        .open()
        .await
        .expect("a head");
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    for (gate, event) in gates.iter().zip(events) {
        stream.expect(event).await; // The upstream holds the rest back until this has arrived.
        gate.open();
    }
    let rest = stream.finish().await.expect("a proper end");
    assert_eq!(rest.text(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_at_a_time_is_still_the_same_stream() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let text = "data: {\"text\": \"\u{1f980} na\u{ef}ve\"}\n\ndata: [DONE]\n\n";
    let pieces = text
        .as_bytes()
        .chunks(1)
        .map(|byte| Piece::Data(byte.to_vec().into()));
    testbed.upstream("a").respond(Answer::stream(pieces));
    assert_eq!(
        testbed.proxy(0).message().await.expect_status(200).text(),
        text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways() {
    let testbed = Testbed::start().endpoints(["a", "b"]).proxies(1).await;
    let body: Vec<u8> = (0..3_000_000_u32)
        .map(|index| (index * 31 / 7) as u8)
        .collect();
    let answer = Answer::bytes(200, "application/octet-stream", body.clone());
    testbed.upstream("a").respond_once(503); // The body must survive being sent twice.
    testbed.upstream("b").respond(answer);
    let response = testbed
        .proxy(0)
        .post("/v1/files")
        .body(body.clone())
        .await
        .expect_status(200);
    assert_eq!(response.served_by(), "b");
    assert!(response.body == body, "the answer's body was changed");
    assert!(
        testbed.upstream("a").last_request().body == body,
        "the request's body was changed"
    );
    assert!(
        testbed.upstream("b").last_request().body == body,
        "the request's body was changed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn path_query_and_headers_pass_as_they_came() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let target = "/v1/messages//x/%2F%7e?beta=true&q=a%20b+c&empty=&empty&z=%C3%A9";
    let call = testbed
        .proxy(0)
        .post(target)
        .header("anthropic-version", "2026-10-21")
        .header("anthropic-beta", "one-2026,two-2026")
        .header("anthropic-beta", "three-2026")
        .header("accept-encoding", "gzip, br;q=0.5")
        .header("x-claude-code-session-id", "session")
        .header("user-agent", "claude-cli/2 (external, cli)")
        .message(false);
    call.await.expect_status(200);
    let request = testbed.upstream("a").last_request();
    assert_eq!(request.target, target);
    let values = |name: &str| {
        let named = request
            .headers
            .iter()
            .filter(|(present, _)| present == name);
        named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(values("anthropic-version"), ["2026-10-21"]);
    assert_eq!(
        values("anthropic-beta"),
        ["one-2026,two-2026", "three-2026"]
    );
    assert_eq!(values("accept-encoding"), ["gzip, br;q=0.5"]);
    assert_eq!(values("x-claude-code-session-id"), ["session"]);
    assert_eq!(values("user-agent"), ["claude-cli/2 (external, cli)"]);
    let host = testbed.upstream("a").url().replace("http://", "");
    assert_eq!(values("host"), [host]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_path_goes_before_the_path() {
    let mut testbed = Testbed::start().patient_checks().proxies(1).await;
    let url = format!("{}/proxy/anthropic/", testbed.add_upstream("a").await.url());
    let added = testbed
        .ctl(&["endpoints", "add", "a", "--base-url", &url])
        .await;
    added.expect_code(0);
    testbed
        .proxy(0)
        .eventually_sees("a", "selectable", |endpoint| endpoint.selectable)
        .await;
    testbed
        .proxy(0)
        .get("/v1/models?limit=1")
        .await
        .expect_status(200);
    assert_eq!(
        testbed.upstream("a").last_request().target,
        "/proxy/anthropic/v1/models?limit=1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_and_their_headers_pass_unchanged() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let answer = Answer::bytes(200, "application/json", GZIP.to_vec())
        .header("content-encoding", "gzip")
        .header("request-id", "req_1")
        .header("anthropic-ratelimit-requests-remaining", "9")
        .header("retry-after", "3")
        .header("x-should-retry", "false");
    testbed.upstream("a").respond(answer);
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(&response.body[..], GZIP);
    let headers = [
        ("content-encoding", "gzip"),
        ("content-length", "25"),
        ("request-id", "req_1"),
        ("anthropic-ratelimit-requests-remaining", "9"),
        ("retry-after", "3"),
        ("x-should-retry", "false"),
        ("x-qcc-endpoint", "a"),
        ("x-qcc-attempts", "1"),
    ];
    for (name, value) in headers {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
    let view = testbed.control().view().await;
    let shown = response.header("x-qcc-revision").unwrap_or_default();
    assert!(
        shown.starts_with(&format!("{}.", view.term)),
        "{shown} in term {}",
        view.term
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_s_credentials_stay_here_and_the_endpoint_s_own_are_sent() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let call = testbed
        .proxy(0)
        .message()
        .header("X-API-Key", "client-key")
        .header("Authorization", "Bearer client-key")
        .header("AUTHORIZATION", "Basic client-key")
        .header("api-key", "client-key")
        .header("Proxy-Authorization", "Basic client-key")
        .header("Connection", "x-private, x-api-key")
        .header("X-Private", "client-key")
        .header("TE", "trailers");
    call.await.expect_status(200);
    let request = testbed.upstream("a").last_request();
    let head = String::from_utf8_lossy(&request.head);
    assert!(!head.contains("client-key"), "{head}");
    assert_eq!(request.header("x-api-key"), Some("key-of-a"));
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.header("te"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_openai_shaped_cluster_gets_bearer_keys_and_checks_in_its_shape() {
    let builder = Testbed::start().policy(|policy| policy.set_api(ApiFlavor::Openai));
    let testbed = builder.endpoints(["a"]).proxies(1).await;
    let upstream = testbed.upstream("a");
    let checks = upstream.requests();
    assert_eq!(checks[0].target, "/v1/chat/completions");
    assert_eq!(checks[0].header("authorization"), Some("Bearer key-of-a"));
    let call = testbed
        .proxy(0)
        .post("/v1/chat/completions")
        .header("authorization", "Bearer mine");
    call.message(false).await.expect_status(200);
    assert_eq!(
        upstream.last_request().header("authorization"),
        Some("Bearer key-of-a")
    );
    assert_eq!(upstream.last_request().header("x-api-key"), None);

    upstream.respond(401);
    let call = testbed.proxy(0).post("/v1/chat/completions").message(false);
    call.clone().await;
    let refusal = call.await.expect_status(503);
    let body: serde_json::Value = serde_json::from_slice(&refusal.body).expect("the error is JSON");
    assert!(
        body["error"]["message"].is_string() && body.get("type").is_none(),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_pass() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let (proxy, upstream) = (testbed.proxy(0), testbed.upstream("a"));
    let head =
        qcc_tests::client::Call::new(proxy.http_address(), hyper::Method::HEAD, "/v1/models");
    let response = head.await.expect_status(200);
    assert_eq!(response.body.len(), 0);
    assert_eq!(upstream.last_request().method, "HEAD");
    upstream.respond(Answer::bytes(302, "text/plain", "").header("location", "http://elsewhere/"));
    let response = proxy.get("/moved").await.expect_status(302);
    assert_eq!(response.header("location"), Some("http://elsewhere/")); // Ours to pass on, not to follow.
}
