use std::{future::pending, net::Ipv4Addr, time::Instant};

use tokio::{io::DuplexStream, net::TcpStream};

use super::*;
use crate::proxy::{Counters, Limit, Settings, presence::Crowd};

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

#[tokio::test]
async fn an_answer_that_stays_in_a_layer_below_is_not_waited_for_either() {
    let (mut io, counters) = watched(Stuck, Duration::from_millis(10));
    let mut connection = Connection::new(&mut io);
    let response = Response::new(Body::own("ok".into()));
    let answered = connection.answer(response, Asked::ANYTHING, true);
    assert!(matches!(soon(answered).await, Err(Ended::Io(_))));
    assert_eq!(counters.hits(Limit::ClientStallTime), 1);
}

#[tokio::test]
async fn a_connection_that_cannot_be_shut_down_ends_all_the_same() {
    let mut io = impatient(Stuck);
    soon(Connection::new(&mut io).close()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_was_not_told_to_continue_is_told_that_its_connection_ends() {
    let (ours, mut client) = tokio::io::duplex(1024);
    let mut io = impatient(ours);
    let mut connection = Connection::new(&mut io);
    let (_body, feeder) = RequestBody::coming(None); // Somebody may still ask for it.
    connection.upload = Some(upload(feeder, true));
    let response = Response::new(Body::own("ok".into()));
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
