//! What clients may send over HTTP/2, frame by frame, and what becomes of it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::super::harness::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What the proxy says to a stream, or to the connection.
#[derive(Debug, PartialEq)]
enum Said {
    /// The first of its answer's fields, `:status`.
    Status(u16),
    Reset(u32),
    GoAway(u32),
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A block of fields, none of them compressed. Names and values are shorter than 127 bytes.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/v1/messages"),
    (":authority", "a"),
];

/// A whole request without a body.
fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(fields))
}

/// The usual request with these fields beside.
fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    request(stream, &[&POST[..], more].concat())
}

struct Connection(TcpStream);

impl Connection {
    async fn open(proxy: &Proxy) -> Self {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(preface).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Writes as much as the peer takes.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    async fn frame(&mut self) -> (u8, u8, Vec<u8>) {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.expect("all of it");
        (head[3], head[4], payload)
    }

    /// Waits for the next thing said of a request, or of them all.
    async fn said(&mut self) -> Said {
        let number =
            |payload: &[u8], at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        let reading = async {
            loop {
                let (kind, _, payload) = self.frame().await;
                match kind {
                    HEADERS => return Said::Status(status(&payload)),
                    RST_STREAM => return Said::Reset(number(&payload, 0)),
                    GOAWAY => return Said::GoAway(number(&payload, 4)),
                    _ => {}
                }
            }
        };
        soon(reading).await
    }
}

/// The status is an index into a static table, or stands behind one in a Huffman code,
/// where digits are 5 or 6 bits: `0`, `1` and `2` are 0, 1 and 2, the others 0x19 and up.
fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8e, ..] => {
            [200, 204, 206, 304, 400, 404, 500][*indexed as usize - 0x88]
        }
        [0x48, _, rest @ ..] => {
            let bits = |at: usize| rest.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
            let take =
                |at, count| (at..at + count).fold(0, |all, at| all << 1 | u16::from(bits(at)));
            let (mut at, mut status) = (0, 0);
            for _ in 0..3 {
                let (digit, length) = match take(at, 5) {
                    short @ 0..=2 => (short, 5),
                    _ => (take(at, 6) - 0x19 + 3, 6),
                };
                (at, status) = (at + length, status * 10 + digit);
            }
            status
        }
        other => panic!("no status: {other:x?}"),
    }
}

async fn endpoint() -> (Upstream, Proxy) {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    (upstream, proxy)
}

#[tokio::test]
async fn every_head_has_its_row() {
    let (upstream, proxy) = endpoint().await;
    let reset = Said::Reset(PROTOCOL_ERROR);
    let gone = Said::GoAway(PROTOCOL_ERROR);
    let long = "b".repeat(120);
    let many = vec![("x", &*long); 500];
    for (name, frames, expected, requests) in [
        ("a plain one", post(1, &[]), Said::Status(200), 1),
        (
            "`connection`",
            post(1, &[("connection", "close")]),
            reset,
            0,
        ),
        (
            "`transfer-encoding`",
            post(1, &[("transfer-encoding", "chunked")]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "`te`",
            post(1, &[("te", "gzip")]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "`te: trailers`",
            post(1, &[("te", "trailers")]),
            Said::Status(200),
            1,
        ),
        (
            "no path",
            request(1, &[POST[0], POST[1], POST[3]]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "a path without a slash",
            request(1, &[POST[0], POST[1], (":path", "v1"), POST[3]]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "an absolute path",
            request(1, &[POST[0], POST[1], (":path", "http://a/v1"), POST[3]]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "a way out",
            request(1, &[POST[0], POST[1], (":path", "/v1/%2e%2e/a"), POST[3]]),
            Said::Status(400),
            0,
        ),
        (
            "a field twice",
            post(1, &[(":path", "/v2")]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "out of order",
            request(1, &[POST[0], ("x", "y"), POST[1], POST[2], POST[3]]),
            Said::Reset(PROTOCOL_ERROR),
            0,
        ),
        (
            "CONNECT",
            request(1, &[(":method", "CONNECT"), POST[3]]),
            Said::Status(405),
            0,
        ),
        (
            "TRACE",
            request(1, &[(":method", "TRACE"), POST[1], POST[2], POST[3]]),
            Said::Status(405),
            0,
        ),
        (
            "another host",
            post(1, &[("host", "evil.example")]),
            Said::Status(200),
            1,
        ),
        (
            "two hosts",
            post(1, &[("host", "a"), ("host", "b")]),
            Said::Status(400),
            0,
        ),
        (
            "a name and password",
            request(
                1,
                &[
                    POST[0],
                    POST[1],
                    POST[2],
                    (":authority", "user:secret@evil.example"),
                ],
            ),
            Said::Status(200),
            1,
        ),
        (
            "credentials",
            post(
                1,
                &[
                    ("x-api-key", "secret"),
                    ("cookie", "a=secret"),
                    ("cookie", "b=secret"),
                ],
            ),
            Said::Status(200),
            1,
        ),
        (
            "another expectation",
            post(1, &[("expect", "secret")]),
            Said::Status(417),
            0,
        ),
        ("upper case", post(1, &[("X-Upper", "a")]), gone, 0),
        (
            "CR",
            post(1, &[("x", "a\rb")]),
            Said::GoAway(PROTOCOL_ERROR),
            0,
        ),
        (
            "LF",
            post(1, &[("x", "a\nb")]),
            Said::GoAway(PROTOCOL_ERROR),
            0,
        ),
        (
            "NUL",
            post(1, &[("x", "a\0b")]),
            Said::GoAway(PROTOCOL_ERROR),
            0,
        ),
        (
            "more fields than are allowed",
            post(1, &[("x", "y"); 129]),
            Said::Status(431),
            0,
        ),
        (
            "a longer head than is allowed",
            [
                frame(HEADERS, END_STREAM, 1, &block(&POST)),
                many.chunks(100)
                    .flat_map(|some| frame(CONTINUATION, 0, 1, &block(some)))
                    .collect(),
                frame(CONTINUATION, END_HEADERS, 1, &[]),
            ]
            .concat(),
            Said::Status(431),
            0,
        ),
    ] {
        let before = upstream.requests().len();
        let mut connection = Connection::open(&proxy).await;
        connection.write(&frames).await;
        assert_eq!(connection.said().await, expected, "{name}");
        let seen = upstream.requests().split_off(before);
        assert_eq!(seen.len(), requests, "{name}");
        for request in seen {
            let request = String::from_utf8(request).unwrap();
            assert!(
                request.starts_with("POST /v1/messages HTTP/1.1\r\n"),
                "{request}"
            );
            assert!(request.contains("host: 127.0.0.1:"), "{name}: {request}");
            for unwanted in ["evil", "secret", "te:", "cookie"] {
                assert!(!request.contains(unwanted), "{name}: {request}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_of_another_length_than_promised_reaches_nobody() {
    let (upstream, proxy) = endpoint().await;
    for (promised, sent) in [("3", "{ok}"), ("5", "{ok}")] {
        let fields = block(&[&POST[..], &[("content-length", promised)]].concat());
        let mut connection = Connection::open(&proxy).await;
        connection
            .write(&frame(HEADERS, END_HEADERS, 1, &fields))
            .await;
        connection
            .write(&frame(DATA, END_STREAM, 1, sent.as_bytes()))
            .await;
        let said = connection.said().await;
        let refused = [Said::Reset(PROTOCOL_ERROR), Said::Status(400)];
        assert!(refused.contains(&said), "{said:?}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn floods_end_their_own_connection_only() {
    let (upstream, proxy) = endpoint().await;
    let mut bystander = Connection::open(&proxy).await;
    let resets = (0..2000).flat_map(|n| {
        let stream = 2 * n + 1;
        [
            post(stream, &[]),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    });
    let start = frame(HEADERS, END_STREAM, 1, &block(&POST));
    let continuations = std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[]), 2000).flatten();
    let window = 0x7fff_ffff_u32.to_be_bytes();
    let windows = [
        frame(WINDOW_UPDATE, 0, 0, &window),
        frame(WINDOW_UPDATE, 0, 0, &window),
    ];
    for (name, flood, code) in [
        ("resets", resets.collect(), ENHANCE_YOUR_CALM),
        (
            "continuations",
            start.into_iter().chain(continuations).collect(),
            ENHANCE_YOUR_CALM,
        ),
        ("windows", windows.concat(), FLOW_CONTROL_ERROR),
    ] {
        let flood: Vec<u8> = flood;
        let connection = Connection::open(&proxy).await;
        let (mut read, mut write) = connection.0.into_split();
        let writing = tokio::spawn(async move {
            let _ = write.write_all(&flood).await; // It may be cut short.
            write
        });
        let mut heard = Vec::new();
        soon(async { while read.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {} }).await;
        let wanted = code.to_be_bytes();
        let mut at = 0;
        let mut went_away = false;
        while let Some(head) = heard.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let payload = heard.get(at + 9..at + 9 + length).unwrap_or_default();
            went_away |= head[3] == GOAWAY && payload.get(4..8) == Some(&wanted[..]);
            at += 9 + length;
        }
        assert!(went_away, "{name}: {heard:x?}");
        drop(writing.await);
    }
    let before = upstream.requests().len();
    bystander.write(&post(1, &[])).await;
    assert_eq!(bystander.said().await, Said::Status(200));
    assert_eq!(upstream.requests().len(), before + 1);
}

#[tokio::test]
async fn pings_are_answered_and_hold_nobody_up() {
    let (_upstream, proxy) = endpoint().await;
    let pinging = Connection::open(&proxy).await;
    let (mut read, mut write) = pinging.0.into_split();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(20_000);
    let flood = tokio::spawn(async move {
        write.write_all(&pings).await.unwrap();
        write
    });
    assert_eq!(proxy.post().await.status(), 200);
    let mut heard = vec![];
    soon(async {
        let pong = frame(PING, ACK, 0, &[7; 8]);
        while heard.len() < 20_000 * pong.len() {
            assert_ne!(read.read_buf(&mut heard).await.unwrap(), 0);
        }
    })
    .await;
    drop(flood.await);
}

#[tokio::test]
async fn a_connection_of_a_proxy_that_stops_says_so_and_ends_with_what_has_begun() {
    let gate = Gate::new();
    let mut steps = vec![Step::Gate(gate.clone())];
    steps.extend(answer(200, "", "ok"));
    let upstream = Upstream::always(steps).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = Connection::open(&proxy).await;
    client.write(&post(1, &[])).await;
    eventually(|| upstream.requests().len() == 1).await;
    proxy.stop.cancel();
    assert_eq!(client.said().await, Said::GoAway(0));
    gate.open();
    assert_eq!(client.said().await, Said::Status(200));
}
