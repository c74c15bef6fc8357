//! What clients may send over HTTP/1, and what becomes of it: a row each.

use super::super::harness::*;

/// One request, byte for byte.
struct Row {
    name: &'static str,
    sent: Vec<u8>,
    /// What the client must see.
    status: u16,
    answer: Vec<&'static str>,
    /// Whether the connection serves another request.
    open: bool,
    /// What the endpoint must see, and must not; `None`: no request at all.
    seen: Option<(Vec<&'static str>, Vec<&'static str>)>,
}

impl Row {
    /// A request that is answered with 200, after an endpoint saw these.
    fn passes(name: &'static str, sent: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            sent: sent.into(),
            status: 200,
            answer: vec![],
            open: true,
            seen: Some((vec![], vec![])),
        }
    }

    /// A request that ends its connection and reaches nobody.
    fn refused(name: &'static str, status: u16, sent: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            sent: sent.into(),
            status,
            answer: vec![],
            open: false,
            seen: None,
        }
    }

    fn has(mut self, has: impl IntoIterator<Item = &'static str>) -> Self {
        self.seen.as_mut().unwrap().0.extend(has);
        self
    }

    fn lacks(mut self, lacks: impl IntoIterator<Item = &'static str>) -> Self {
        self.seen.as_mut().unwrap().1.extend(lacks);
        self
    }

    fn answered(mut self, answer: impl IntoIterator<Item = &'static str>) -> Self {
        self.answer.extend(answer);
        self
    }

    fn closes(mut self) -> Self {
        self.open = false;
        self
    }
}

/// `POST /v1/messages` with these fields, each with its line end, and this body.
fn post(fields: &str, body: &str) -> String {
    format!("POST /v1/messages HTTP/1.1\r\nhost: a\r\n{fields}\r\n{body}")
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n";
const LENGTH: &str = "content-length: 4\r\n";
const CHUNKS: &str = "4\r\n{ok}\r\n0\r\n\r\n";

/// Answers of ours that say what is wrong in the caller's shape.
const MALFORMED: [&str; 2] = ["x-qcc-error: malformed_request", r#""type":"error""#];
const BAD_BODY: [&str; 2] = ["x-qcc-error: malformed_body", r#""type":"error""#];

/// Two ways to tell a body's length, which two servers may read as two different requests.
fn smuggling() -> Vec<Row> {
    let mut rows = vec![
        Row::refused(
            "a length, then a coding",
            400,
            post(&[LENGTH, CHUNKED].concat(), CHUNKS),
        )
        .answered(MALFORMED),
        Row::refused(
            "a coding, then a length",
            400,
            post(&[CHUNKED, LENGTH].concat(), CHUNKS),
        )
        .answered(MALFORMED),
        Row::refused(
            "far apart",
            400,
            post(&[CHUNKED, "a: b\r\nc: d\r\n", LENGTH].concat(), CHUNKS),
        )
        .answered(MALFORMED),
        Row::refused(
            "the same length twice",
            400,
            post(&[LENGTH, LENGTH].concat(), "{ok}"),
        )
        .answered(MALFORMED),
        Row::refused(
            "chunked twice",
            400,
            post(&[CHUNKED, CHUNKED].concat(), CHUNKS),
        )
        .answered(MALFORMED),
        Row::refused(
            "two lengths",
            400,
            post("content-length: 4\r\ncontent-length: 5\r\n", "{ok}"),
        ),
        Row::refused(
            "a coding of HTTP/1.0",
            400,
            format!("POST /v1/messages HTTP/1.0\r\n{CHUNKED}\r\n{CHUNKS}"),
        ),
    ];
    for coding in ["identity, chunked", "gzip, chunked", "chunked, chunked"] {
        let fields = format!("transfer-encoding: {coding}\r\n");
        rows.push(
            Row::refused("more than one coding", 400, post(&fields, CHUNKS)).answered(MALFORMED),
        );
    }
    for field in [
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding : chunked",
        "transfer-encoding:\u{b}chunked",
        "content-length: 4, 4",
        "content-length: +4",
        "content-length: -4",
        "content-length: 0x4",
        "content-length: 99999999999999999999",
        "content-length:",
    ] {
        rows.push(Row::refused(
            "no framing at all",
            400,
            post(&format!("{field}\r\n"), "{ok}"),
        ));
    }
    rows
}

/// Bodies that are not what their head says: no endpoint may see a request that its
/// client never sent.
fn broken_bodies() -> Vec<Row> {
    let broken = [
        "4\n{ok}\r\n0\r\n\r\n",
        "0x4\r\n{ok}\r\n0\r\n\r\n",
        "-4\r\n{ok}\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n{ok}\r\n0\r\n\r\n",
        "4;a\nb\r\n{ok}\r\n0\r\n\r\n",
        "4\r\n{ok}GET / HTTP/1.1\r\n\r\n",
        "4\r\n{ok}\r\n0\r\n\rX",
        "\r\n4\r\n{ok}\r\n0\r\n\r\n",
    ];
    let row = |body| Row::refused("broken chunks", 400, post(CHUNKED, body)).answered(BAD_BODY);
    broken.map(row).into()
}

fn heads() -> Vec<Row> {
    let mut rows = vec![
        Row::refused("no host", 400, "GET /v1/messages HTTP/1.1\r\n\r\n").answered(MALFORMED),
        Row::refused(
            "two hosts",
            400,
            "GET /v1/messages HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        )
        .answered(MALFORMED),
        Row::passes("no host in HTTP/1.0", "GET /v1/models HTTP/1.0\r\n\r\n").closes(),
        Row::passes(
            "bare line feeds",
            "POST /v1/messages HTTP/1.1\nhost: a\ncontent-length: 4\nx: y\n\n{ok}",
        )
        .has(["x: y\r\n", "content-length: 4\r\n", "\r\n\r\n{ok}"]),
        Row::passes(
            "blank lines first",
            ["\r\n\r\n", &get("/v1/models")].concat(),
        ),
        Row::passes(
            "chunk extensions, trailers, spaces",
            post(CHUNKED, "4 ;a=\"b\"\r\n{ok}\r\n0\r\nx-t: 1\r\n\r\n"),
        )
        .has(["content-length: 4\r\n", "\r\n\r\n{ok}"])
        .lacks(["transfer-encoding", "x-t"]),
        Row::refused(
            "another expectation",
            417,
            post("expect: 200-ok\r\ncontent-length: 4\r\n", "{ok}"),
        )
        .answered(["x-qcc-error: expectation_failed"]),
        Row::passes(
            "100-continue",
            post("expect: 100-Continue\r\ncontent-length: 4\r\n", "{ok}"),
        )
        .has(["\r\n\r\n{ok}"])
        .lacks(["expect"]),
        Row::refused(
            "CONNECT",
            405,
            "CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        )
        .answered(["allow: GET, HEAD"]),
        Row::refused("TRACE", 405, "TRACE / HTTP/1.1\r\nhost: a\r\n\r\n")
            .answered(["allow: GET, HEAD"]),
        Row::refused("POST *", 400, "POST * HTTP/1.1\r\nhost: a\r\n\r\n"),
        Row {
            open: true,
            ..Row::refused("OPTIONS *", 200, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n")
        },
        Row::passes(
            "a method in lower case",
            "get /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
        )
        .has(["get /v1/models HTTP/1.1\r\n"]),
        Row::passes(
            "another host in the target",
            get("http://user:secret@evil.example/v1/models?a=b"),
        )
        .has(["GET /v1/models?a=b HTTP/1.1\r\n", "host: 127.0.0.1:"])
        .lacks(["evil", "secret"]),
        Row::refused(
            "TLS",
            400,
            *b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03\n\r\n\r\n",
        ),
        Row::refused("a folded line", 400, post("x: a\r\n b\r\n", "")),
        Row::refused("no colon", 400, post("nonsense\r\n", "")),
        Row::refused("NUL", 400, post("x: a\0b\r\n", "")),
        Row::refused("a lone CR", 400, post("x: a\rb\r\n", "")),
        Row::refused("a space in the path", 400, get("/v1/mod els")),
        Row::refused(
            "HTTP/1.2",
            400,
            "GET /v1/models HTTP/1.2\r\nhost: a\r\n\r\n",
        ),
        Row::refused(
            "HTTP/2.0",
            400,
            "GET /v1/models HTTP/2.0\r\nhost: a\r\n\r\n",
        ),
        Row::refused("HTTP/0.9", 400, "GET /v1/models\r\n\r\n"),
    ];
    for target in [
        "/../../etc/passwd",
        "/v1/..",
        "/.",
        "/a/%2e%2e/b",
        "/a/.%2E/b",
        "/a%2f..%2fb",
        "/a\\..\\b",
        "/..;x/a",
    ] {
        rows.push(Row::refused("a way out of the base path", 400, get(target)));
    }
    for (target, line) in [
        ("//v1//models", "GET //v1//models HTTP/1.1\r\n"),
        (
            "/v1/a%2Fb;c=d?e=%2e%2e/../",
            "GET /v1/a%2Fb;c=d?e=%2e%2e/../ HTTP/1.1\r\n",
        ),
        ("/v1/a\\b", "GET /v1/a\\b HTTP/1.1\r\n"),
        ("/v1/\u{e9}?\u{fc}", "GET /v1/\u{e9}?\u{fc} HTTP/1.1\r\n"),
    ] {
        rows.push(Row::passes("a target passes as it is", get(target)).has([line]));
    }
    rows
}

fn limits() -> Vec<Row> {
    let fields = |count| post(&"a: b\r\n".repeat(count), "");
    let long = |bytes| post(&format!("a: {}\r\n", "b".repeat(bytes)), "");
    let target = |bytes| get(&format!("/v1/messages?{}", "a".repeat(bytes)));
    let shaped = ["x-qcc-error: head_too_large", r#""type":"error""#];
    vec![
        Row::passes("as many fields as are allowed", fields(127)),
        Row::refused("more", 431, fields(128)).answered(shaped),
        Row::refused("far more", 431, fields(300)),
        Row::passes("as long a head as is allowed", long(65_000)),
        Row::refused("longer", 431, long(66_000)).answered(shaped),
        Row::refused("far longer", 431, long(200_000)),
        Row::passes("as long a target as is allowed", target(32_000)),
        Row::refused("longer", 414, target(40_000)).answered(["x-qcc-error: target_too_long"]),
        Row::refused("far longer", 414, target(66_000)),
    ]
}

/// What is about one hop, or about the client, stays here.
fn hops() -> Vec<Row> {
    let ours = "x-api-key: sk-e0\r\n";
    let mut rows = vec![
        Row::passes("a hop that names the credential's field", post("connection: close, x-api-key\r\n", ""))
            .has([ours])
            .lacks(["connection"])
            .closes(),
        Row::passes("named fields", post("connection: x-hop , ,content-type\r\nx-hop: 1\r\ncontent-type: a/b\r\n", ""))
            .lacks(["x-hop", "content-type", "connection"]),
        Row::passes("hops that nobody named", post("keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nte: trailers\r\ntrailer: x\r\n", ""))
            .lacks(["keep-alive", "proxy-connection", "te:", "trailer"]),
        Row::passes("an upgrade to HTTP/2", post("connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n", ""))
            .lacks(["upgrade", "http2-settings"]),
        Row::passes("an upgrade to a web socket", "GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\r\n")
            .lacks(["\r\nupgrade"]),
        Row::passes("a way here", post("x-forwarded-for: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nx-forwarded-anything: 1\r\nforwarded: for=10.0.0.1\r\nvia: 1.1 a\r\nx-real-ip: 10.0.0.1\r\n", ""))
            .lacks(["forwarded", "via", "x-real-ip"]),
        Row::passes("what we do not know", post("x-unknown: 1\r\nx-unknown: 2\r\nanthropic-new: \u{fc}\r\n", ""))
            .has(["x-unknown: 1\r\n", "x-unknown: 2\r\n", "anthropic-new: \u{fc}\r\n"]),
    ];
    for field in [
        "authorization: Bearer client-secret",
        "AUTHORIZATION: client-secret",
        "x-api-key: client-secret",
        "api-key: client-secret",
        "x-goog-api-key: client-secret",
        "proxy-authorization: Basic client-secret",
        "cookie: session=client-secret",
    ] {
        let row = Row::passes("a client's credential", post(&format!("{field}\r\n"), ""));
        rows.push(row.has([ours]).lacks(["client-secret"]));
    }
    rows
}

/// Bodies are nobody's business on the way.
fn bodies() -> Vec<Row> {
    let deep = "[".repeat(10_000);
    let sized = |body: &str| post(&format!("content-length: {}\r\n", body.len()), body);
    let mut rows = vec![
        Row::passes("nested too deeply", sized(&deep)).has(["[[[[[[[["]),
        Row::passes(
            "a key twice",
            sized(r#"{"model":"a","model":"b","n":1e999}"#),
        )
        .has([r#"{"model":"a","model":"b","n":1e999}"#]),
        Row::passes("half a surrogate", sized(r#"{"a":"\ud800"}"#)).has([r#"{"a":"\ud800"}"#]),
    ];
    let mut bytes = post("content-encoding: gzip\r\ncontent-length: 6\r\n", "").into_bytes();
    bytes.extend(b"\x1f\x8b\xff\xfe\0\n");
    rows.push(Row::passes("bytes that are no text", bytes).has(["content-encoding: gzip\r\n"]));
    rows
}

#[tokio::test]
async fn every_request_has_its_row() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut seen = 0;
    let groups = [
        smuggling(),
        broken_bodies(),
        heads(),
        limits(),
        hops(),
        bodies(),
    ];
    for row in groups.into_iter().flatten() {
        let start = String::from_utf8_lossy(&row.sent[..row.sent.len().min(300)]);
        let what = format!("{}: {start:?}", row.name);
        let mut client = proxy.connect().await;
        client.try_write(&row.sent).await;
        let got = client.answer().await;
        assert!(got.whole, "{what}: {got:?}");
        assert_eq!(got.status(), row.status, "{what}: {got:?}");
        let text = format!("{}\r\n\r\n{}", got.head, String::from_utf8_lossy(&got.body));
        for wanted in &row.answer {
            assert!(text.contains(wanted), "{what}: no {wanted:?} in {text}");
        }
        match row.open {
            true => {
                client.write(get("/v1/models")).await;
                assert_eq!(client.answer().await.status(), 200, "{what}: again");
            }
            false => assert!(client.is_closed().await, "{what}: still open"),
        }

        let requests = upstream.requests();
        let expected = usize::from(row.seen.is_some()) + usize::from(row.open);
        // `OPTIONS *` is the one that is open and seen by nobody.
        assert_eq!(requests.len() - seen, expected, "{what}");
        if let Some((has, lacks)) = &row.seen {
            let request = String::from_utf8_lossy(&requests[seen]);
            let (head, _) = request.split_once("\r\n\r\n").unwrap();
            let lines = head.matches('\n').count();
            assert_eq!(head.matches("\r\n").count(), lines, "{what}: {head}");
            for wanted in has {
                assert!(
                    request.contains(wanted),
                    "{what}: no {wanted:?} in {request}"
                );
            }
            for unwanted in lacks {
                assert!(
                    !head.contains(unwanted),
                    "{what}: {unwanted:?} in {request}"
                );
            }
        }
        seen = requests.len();
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_reaches_nobody() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    for (fields, body) in [
        (LENGTH, "{o"),
        (CHUNKED, "4\r\n{o"),
        (CHUNKED, "4\r\n{ok}\r\n"),
    ] {
        let mut client = proxy.connect().await;
        client.write(post(fields, body)).await;
        client.hang_up().await;
        assert!(client.is_closed().await);
    }
    assert_eq!(proxy.post().await.status(), 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_their_order() {
    let upstream = Upstream::start(|n| answer(200, "", &n.to_string())).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let requests = [
        post(CHUNKED, CHUNKS),
        get("/v1/models"),
        post(LENGTH, "{ok}"),
        get("/__qcc__/health"),
    ];
    client.write(requests.concat()).await;
    for body in ["0", "1", "2", ""] {
        assert_eq!(client.answer().await.text(), body);
    }
    // More than is served in one go, most of them answered at once.
    let many = [get("/__qcc__/health").repeat(99), post(LENGTH, "{ok}")].concat();
    for _ in 0..3 {
        client.write(&many).await;
        for _ in 0..99 {
            assert_eq!(client.answer().await.text(), "");
        }
        assert_eq!(client.answer().await.status(), 200);
    }
    // Byte by byte it is the same.
    for byte in [post(CHUNKED, CHUNKS), get("/v1/models")].concat().bytes() {
        client.write([byte]).await;
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        assert_eq!(client.answer().await.status(), 200);
    }
}

#[tokio::test]
async fn what_is_smuggled_behind_good_requests_is_refused_and_they_are_not() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let smuggled = post(
        &[LENGTH, CHUNKED].concat(),
        "0\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    let requests = [post(CHUNKED, CHUNKS), post(LENGTH, "{ok}"), smuggled];
    client.write(requests.concat()).await;
    for status in [200, 200, 400] {
        assert_eq!(client.answer().await.status(), status);
    }
    assert!(client.is_closed().await);
    assert_eq!(upstream.requests().len(), 2);
}
