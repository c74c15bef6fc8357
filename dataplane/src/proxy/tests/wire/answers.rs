//! What endpoints may answer, and what becomes of it: a row each.

use qcc_proto::v1::OutcomeClass;

use super::super::harness::*;

/// One answer, byte for byte, after which the endpoint closes the connection.
struct Row {
    name: &'static str,
    sent: Vec<u8>,
    /// What the client must see. 0: no answer, but the connection's end.
    status: u16,
    has: Vec<&'static str>,
    lacks: Vec<&'static str>,
    whole: bool,
    /// What is reported.
    class: OutcomeClass,
}

impl Row {
    fn passes(name: &'static str, status: u16, sent: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            sent: sent.into(),
            status,
            has: vec![],
            lacks: vec![],
            whole: true,
            class: OutcomeClass::Success,
        }
    }

    /// An answer that no client gets to see.
    fn fails(name: &'static str, sent: impl Into<Vec<u8>>) -> Self {
        Self {
            has: vec!["x-qcc-error: endpoints_unreachable"],
            lacks: vec!["poison"],
            class: OutcomeClass::ServerError,
            ..Self::passes(name, 502, sent)
        }
    }

    /// The connection's end instead of an answer, which leaves nobody to ask.
    fn dies(name: &'static str, sent: impl Into<Vec<u8>>) -> Self {
        Self {
            has: vec!["x-qcc-error: no_endpoint_available"],
            class: OutcomeClass::Connect,
            ..Self::passes(name, 503, sent)
        }
    }

    /// An answer that breaks off, and must not look like a whole one.
    fn breaks(name: &'static str, sent: impl Into<Vec<u8>>) -> Self {
        Self {
            whole: false,
            class: OutcomeClass::StreamBroken,
            ..Self::passes(name, 200, sent)
        }
    }

    fn has(mut self, has: impl IntoIterator<Item = &'static str>) -> Self {
        self.has.extend(has);
        self
    }

    fn lacks(mut self, lacks: impl IntoIterator<Item = &'static str>) -> Self {
        self.lacks.extend(lacks);
        self
    }
}

fn with(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok")
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

fn rows() -> Vec<Row> {
    let mut rows = vec![
        // No HTTP, or not one that can be read in one way only.
        Row::fails("two lengths", with("content-length: 3\r\n")),
        Row::fails("a list of lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok"),
        Row::fails("garbage", "poison\r\n\r\n"),
        Row::fails("no colon", with("nonsense\r\n")),
        Row::fails("NUL", with("x: a\0b\r\n")),
        Row::fails("a folded line", with("x: a\r\n b\r\n")),
        Row::fails("a thousand fields", with(&"a: b\r\n".repeat(1000))),
        Row::fails("a head of 2 MB", with(&format!("a: {}\r\n", "b".repeat(2 << 20)))),
        Row::fails("status 099", "HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n"),
        Row::fails("status 600", "HTTP/1.1 600 X\r\ncontent-length: 6\r\n\r\npoison"),
        Row::fails("status 999", "HTTP/1.1 999 X\r\ncontent-length: 6\r\n\r\npoison"),
        Row::fails("HTTP/2", *b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"),
        Row::fails("another protocol than asked for", "HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\npoison"),
        Row::fails("a coding", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\npoison"),
        Row::fails("a coding and chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        Row::fails("chunks twice", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        Row::dies("nothing", ""),
        Row::dies("half a head", "HTTP/1.1 200 OK\r\nx: "),
        // What can be read, but must not pass as it is.
        Row::passes("the same length twice", 200, with("content-length: 2\r\n")).has(["content-length: 2\r\n", "ok"]),
        Row::passes("a length and chunks", 200, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .has(["transfer-encoding: chunked"])
            .lacks(["content-length"]),
        Row::passes("HTTP/1.0", 200, "HTTP/1.0 200 OK\r\n\r\nok").has(["HTTP/1.1 200", "ok"]),
        Row::passes("early hints", 200, "HTTP/1.1 103 X\r\nlink: </poison>\r\n\r\n".repeat(200) + &with(""))
            .has(["HTTP/1.1 200", "ok"])
            .lacks(["103", "link"]),
        Row::passes("hops", 200, with("connection: x-secret, keep-alive\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authenticate: Basic\r\nupgrade: h2c\r\ntrailer: x\r\n"))
            .lacks(["x-secret", "keep-alive", "proxy-", "upgrade", "trailer", "connection"]),
        Row::passes("cookies", 200, with("set-cookie: session=1\r\nSet-Cookie: other=2\r\n")).lacks(["session", "other", "cookie"]),
        Row::passes("trailers", 200, [CHUNKED, "2\r\nok\r\n0\r\nx-t: 1\r\n\r\n"].concat()).lacks(["x-t"]),
        Row::passes("bytes after the body", 200, with("") + "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").lacks(["poison"]),
        Row::passes("a body where there is none", 204, "HTTP/1.1 204 X\r\n\r\npoison").lacks(["poison"]),
        Row::passes("a strange reason", 200, *b"HTTP/1.1 200 \xfc\xe9\r\ncontent-length: 2\r\n\r\nok"),
        // What passes.
        Row::passes("somewhere else", 307, "HTTP/1.1 307 X\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n")
            .has(["location: http://evil.example/"]),
        Row::passes("status 299", 299, "HTTP/1.1 299 X\r\ncontent-length: 0\r\n\r\n"),
        Row::passes("compressed", 200, with("content-encoding: gzip\r\n")).has(["content-encoding: gzip", "ok"]),
        // What breaks off.
        Row::breaks("a body that is too short", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
        Row::breaks("a chunk that is cut", [CHUNKED, "9\r\nok"].concat()),
        Row::breaks("no last chunk", [CHUNKED, "2\r\nok\r\n"].concat()),
    ];
    for size in ["x", "0x2", "-2", "fffffffffffffffff"] {
        let sent = format!("{CHUNKED}{size}\r\npoison\r\n0\r\n\r\n");
        let row = Row::breaks("a chunk that has no size, right after the head", sent);
        rows.push(Row { status: 0, ..row }.lacks(["poison"]));
    }
    rows
}

#[tokio::test]
async fn every_answer_has_its_row() {
    for row in rows() {
        let what = row.name;
        let upstream = Upstream::always(vec![send(&row.sent), Step::Close]).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let got = proxy.post().await;
        assert_eq!(got.whole, row.whole, "{what}: {got:?}");
        match row.status {
            0 if got.head.is_empty() => {}
            0 => assert_eq!(got.status(), 200, "{what}: {got:?}"),
            status => assert_eq!(got.status(), status, "{what}: {got:?}"),
        }
        let text = format!("{}\r\n\r\n{}", got.head, String::from_utf8_lossy(&got.body));
        for wanted in &row.has {
            assert!(text.contains(wanted), "{what}: no {wanted:?} in {text}");
        }
        for unwanted in &row.lacks {
            assert!(!text.contains(unwanted), "{what}: {unwanted:?} in {text}");
        }
        let reported = proxy.reported(1).await;
        assert_eq!(reported, [("e0".to_owned(), row.class)], "{what}");
        assert_eq!(upstream.requests().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn whoever_does_not_speak_http_is_left_for_the_next() {
    for row in rows().into_iter().filter(|row| row.status >= 500) {
        let bad = Upstream::always(vec![send(&row.sent), Step::Close]).await;
        let good = Upstream::always(answer(200, "", "fine")).await;
        let proxy = Proxy::start(&[&bad, &good]).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.text()), (200, "fine"), "{}", row.name);
    }
}

#[tokio::test]
async fn nobody_gets_what_came_after_the_answer_to_somebody_else() {
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let good = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    for first in [good, chunked] {
        let sent = [first, poison].concat();
        let upstream = Upstream::always(vec![send(sent)]).await;
        let proxy = Proxy::start(&[&upstream]).await;
        let mut client = proxy.connect().await;
        for _ in 0..20 {
            client.write(POST).await;
            let got = client.answer().await;
            assert_eq!((got.status(), got.text()), (200, "ok"));
        }
        // Each answer was the first of its connection: none was used again.
        assert_eq!(upstream.connections(), 20);
    }
}
