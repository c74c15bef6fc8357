use std::{future::pending, net::Ipv4Addr, sync::Mutex, time::Instant};

use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    net::TcpStream,
};

use super::*;
use crate::proxy::{Counters, Limit, Settings, message::ResponseHead, presence::Crowd};

fn impatient<S>(io: S) -> Impatient<S> {
    watched(io, Duration::from_secs(60)).0
}

/// A connection whose writes fail after so long, and where that is counted.
fn watched<S>(io: S, limit: Duration) -> (Impatient<S>, Arc<Counters>) {
    let counters = Arc::<Counters>::default();
    let crowd = Crowd::new(Settings::default().into(), Arc::clone(&counters));
    let place = crowd.place(Ipv4Addr::LOCALHOST.into()).unwrap();
    let presence = Presence::new(place, Instant::now());
    (Impatient::new(io, limit, presence), counters)
}

impl Reset for TcpStream {
    fn reset(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Reset for DuplexStream {
    fn reset(&self) {} // Nobody looks how it ends.
}

/// A chunked body that comes over a connection, which a task reads.
pub(in super::super) fn chunked_body(stream: TcpStream) -> RequestBody {
    let mut io = impatient(stream);
    let (body, feeder) = RequestBody::coming(None);
    tokio::spawn(async move {
        let mut connection = Connection::new(&mut io);
        connection.upload = Some(upload(feeder, false));
        poll_fn(|cx| connection.poll_upload(cx)).await.unwrap();
        pending::<()>().await // It stays open.
    });
    body
}

fn upload(feeder: Feeder, waits: bool) -> Upload {
    Upload {
        decoder: Decoder::chunked(),
        feeder,
        waits,
    }
}

/// What cannot wait for ever in a test.
async fn soon<T>(happening: impl Future<Output = T>) -> T {
    let happened = timeout(Duration::from_secs(10), happening).await;
    happened.expect("it to happen in time")
}

/// Reads until these bytes have come.
async fn reads(client: &mut DuplexStream, wanted: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(wanted) {
        let count = soon(client.read_buf(&mut read)).await.unwrap();
        assert_ne!(count, 0, "closed before {wanted:?}");
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn an_answer_of_another_length_than_was_said_ends_its_connection() {
    for (said, body) in [(1, "ok"), (3, "ok"), (1, "")] {
        let (ours, _client) = tokio::io::duplex(64);
        let mut io = impatient(ours);
        let mut connection = Connection::new(&mut io);
        let (mut body, mut framing) = (Body::own(body.into()), Framing::Length(said));
        let answered = poll_fn(|cx| connection.poll_answer(&mut body, &mut framing, cx));
        let ended = soon(answered).await.unwrap_err();
        assert!(matches!(ended, Ended::Broken), "{said}: {ended:?}");
    }
}

/// What takes all that is written, and passes nothing on: a peer that does not read, over TLS.
struct Stuck;

impl Reset for Stuck {
    fn reset(&self) {}
}

impl AsyncRead for Stuck {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

fn answer_of(text: &'static str) -> Response<Body> {
    Response {
        head: ResponseHead::of(http::StatusCode::OK),
        body: Body::own(text.into()),
    }
}

#[tokio::test]
async fn an_answer_that_stays_in_a_layer_below_is_not_waited_for_either() {
    let (mut io, counters) = watched(Stuck, Duration::from_millis(10));
    let mut connection = Connection::new(&mut io);
    let response = answer_of("ok");
    let answered = connection.answer(response, Asked::ANYTHING, true);
    assert!(matches!(soon(answered).await, Err(Ended::Io(_))));
    assert_eq!(counters.hits(Limit::ClientStallTime), 1);
}

#[tokio::test]
async fn a_connection_that_cannot_be_shut_down_ends_all_the_same() {
    let mut io = impatient(Stuck);
    soon(Connection::new(&mut io).close(false)).await.unwrap();
}

#[tokio::test]
async fn a_client_that_was_not_told_to_continue_is_told_that_its_connection_ends() {
    let (ours, mut client) = tokio::io::duplex(1024);
    let mut io = impatient(ours);
    let mut connection = Connection::new(&mut io);
    let (_body, feeder) = RequestBody::coming(None); // Somebody may still ask for it.
    connection.upload = Some(upload(feeder, true));
    let response = answer_of("ok");
    tokio::select! {
        answered = connection.answer(response, Asked::ANYTHING, true) => panic!("{answered:?}"),
        read = reads(&mut client, "\r\n\r\nok") => {
            assert!(read.contains("\r\nconnection: close\r\n"), "{read}");
        }
    }
}

/// A connection on which this has come, of which the first is a chunked body.
async fn skims(sent: &[u8], waits: bool) -> (bool, Vec<u8>) {
    let (ours, mut client) = tokio::io::duplex(1 << 20);
    client.write_all(sent).await.unwrap();
    let mut io = impatient(ours);
    let mut connection = Connection::new(&mut io);
    let (body, feeder) = RequestBody::coming(None);
    drop(body);
    connection.upload = Some(upload(feeder, waits));
    let goes_on = poll_fn(|cx| Poll::Ready(connection.skim(cx))).await;
    (goes_on.unwrap(), connection.buffer.to_vec())
}

#[tokio::test]
async fn what_nobody_wants_is_passed_over_if_it_is_there_and_not_too_long() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let next = "GET / HTTP/1.1\r\n";
    let (goes_on, rest) = skims(&[body, next].concat().into_bytes(), false).await;
    assert!(goes_on);
    assert_eq!(rest, next.as_bytes());
    let long = |bytes: usize| format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
    assert!(skims(long(SKIMMED_BYTES_MAX).as_bytes(), false).await.0);
    for (what, sent, waits) in [
        ("it has not come whole", &body[..12], false),
        ("none of it has come", "", false),
        ("it is none", "5\r\nhello\r\nx\r\n", false),
        ("it is long", &long(2 * SKIMMED_BYTES_MAX), false),
        ("its client waits to be told, or does not", body, true),
    ] {
        assert!(!skims(sent.as_bytes(), waits).await.0, "{what}");
    }
}

/// A request as somebody else reads it.
#[derive(Debug, PartialEq)]
struct Heard {
    method: Method,
    target: http::Uri,
    version: Version,
    fields: http::HeaderMap,
    body: Vec<u8>,
}

/// What hyper reads, if it reads all of it.
async fn read_by_hyper(bytes: &[u8]) -> Option<Heard> {
    let (ours, mut its) = tokio::io::duplex(64 << 10);
    let heard = Arc::new(Mutex::new(None));
    let service = service_fn(|request: http::Request<Incoming>| {
        let heard = Arc::clone(&heard);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes().to_vec();
            heard.lock().unwrap().get_or_insert(Heard {
                method: head.method,
                target: head.uri,
                version: head.version,
                fields: head.headers,
                body,
            });
            Ok::<_, hyper::Error>(http::Response::new(String::new()))
        }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    let serving = server
        .half_close(true)
        .serve_connection(TokioIo::new(ours), service);
    let talking = async {
        its.write_all(bytes).await.unwrap();
        its.shutdown().await.unwrap();
        let _ = its.read_to_end(&mut Vec::new()).await;
    };
    let _ = tokio::join!(serving, talking);
    heard.lock().unwrap().take()
}

/// Lines that heads are made of, in all their variety.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("content-length: 5\r\n".to_owned()),
        Just("Content-Length: 005 \r\n".to_owned()),
        Just("transfer-encoding: chunked\r\n".to_owned()),
        Just("Transfer-Encoding: \tChunked\r\n".to_owned()),
        Just("connection: close\r\n".to_owned()),
        Just("expect: 100-continue\r\n".to_owned()),
        Just("x: y\n".to_owned()),
        "[a-z-]{1,8}:[ \t]{0,2}[ -~]{0,12}\r\n",
        "(content-length|transfer-encoding):[ -~]{0,6}\r\n",
        "[ -~]{0,12}\r?\n",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Whatever is taken for a whole request is the same request to somebody else.
    #[test]
    fn hyper_reads_the_same(
        first in prop_oneof![9 => Just("POST /v1/messages?a=b HTTP/1.1\r\nhost: a\r\n".to_owned()), 1 => "[\r\n]{0,3}[A-Za-z]{1,4} {1,2}(/|\\*|http://a|b)[!-~]{0,9} HTTP/1.[01]\r?\nhost: a\r\n"],
        lines in prop::collection::vec(line(), 0..5),
        body in prop_oneof!["5\r\nhello\r\n0\r\n\r\n", "[0-5][ ;\r\n][a-f\r\n]{0,9}0\r\n(x: y\r\n)?\r\n", "[a-f0-9\r\n]{0,12}"],
    ) {
        let bytes = [&*first, &lines.concat(), "\r\n", &body].concat().into_bytes();
        let ours = reading::read([&*bytes]).ok().flatten().filter(|it| it.is_whole);
        if let Some(ours) = ours {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let its = runtime.block_on(read_by_hyper(&bytes));
            let ours = Heard {
                method: ours.head.method,
                target: ours.head.target,
                version: ours.head.version,
                fields: ours.head.fields.to_map(|_| true),
                body: ours.body,
            };
            prop_assert_eq!(its, Some(ours), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
