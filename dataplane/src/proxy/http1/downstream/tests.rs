use std::{future::pending, net::Ipv4Addr, time::Instant};

use tokio::net::TcpStream;

use super::*;
use crate::proxy::{Settings, presence::Crowd};

impl Reset for TcpStream {
    fn reset(&self) {
        self.set_zero_linger().unwrap();
    }
}

/// A chunked body that comes over a connection, which a task reads.
pub(in super::super) fn chunked_body(stream: TcpStream) -> RequestBody {
    let crowd = Crowd::new(Settings::default().into(), Arc::default());
    let place = crowd.place(Ipv4Addr::LOCALHOST.into()).unwrap();
    let presence = Presence::new(place, Instant::now());
    let mut io = Impatient::new(stream, Duration::from_secs(60), presence);
    let (body, feeder) = RequestBody::coming(None);
    tokio::spawn(async move {
        let mut connection = Connection::new(&mut io);
        connection.upload = Some(Upload {
            decoder: Decoder::chunked(),
            feeder,
            waits: false,
        });
        poll_fn(|cx| connection.poll_upload(cx)).await.unwrap();
        pending::<()>().await // It stays open.
    });
    body
}
