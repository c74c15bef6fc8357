use std::{future::pending, net::Ipv4Addr, time::Instant};

use tokio::{io::DuplexStream, net::TcpStream};

use super::*;
use crate::proxy::{Settings, presence::Crowd};

fn impatient<S>(io: S) -> Impatient<S> {
    let crowd = Crowd::new(Settings::default().into(), Arc::default());
    let place = crowd.place(Ipv4Addr::LOCALHOST.into()).unwrap();
    let presence = Presence::new(place, Instant::now());
    Impatient::new(io, Duration::from_secs(60), presence)
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
