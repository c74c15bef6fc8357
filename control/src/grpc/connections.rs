//! Connections to the control plane: how they are accepted, and how many.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use qcc_proto::tls::{Door, Inbound};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::{debug, warn};

/// Connections that may be open at a time. Further ones are closed at once.
pub(super) const CONNECTIONS_MAX: usize = 16_384;

/// A pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that are accepted before those that are there already get their turn:
/// a call must not wait until a whole fleet has been greeted.
const ACCEPTED_IN_A_ROW: u32 = 8;

/// An accepted connection; it holds its place while it lives.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Inbound,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections, of which at most `max` are open at a time.
pub(super) fn accept(
    listener: TcpListener,
    door: Door,
    max: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    // An update is one small packet: it must not wait for the last one's receipt.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let places = Arc::new(Semaphore::new(max));
    let mut in_a_row = 0;
    let incoming = incoming.then(move |accepted| {
        in_a_row += 1;
        let is_enough = in_a_row == ACCEPTED_IN_A_ROW;
        in_a_row %= ACCEPTED_IN_A_ROW;
        let place = Arc::clone(&places).try_acquire_owned();
        let door = door.clone();
        async move {
            if let Err(error) = &accepted {
                // Out of file descriptors, most likely: trying again at once would spin.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            } else if is_enough {
                tokio::task::yield_now().await;
            }
            let Ok(place) = place else {
                debug!(max, "too many connections: closing one");
                return None;
            };
            Some(accepted.map(|stream| Connection {
                stream: door.accept(stream),
                _place: place,
            }))
        }
    });
    incoming.filter_map(|admitted| admitted)
}

impl Connected for Connection {
    type ConnectInfo = <Inbound as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpStream};

    use super::*;

    #[tokio::test]
    async fn one_too_many_is_closed_until_another_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let incoming = accept(listener, Door::plain("test"), 1);
        tokio::pin!(incoming);
        let connect = || async { TcpStream::connect(address).await.expect("it listens") };

        let _first = connect().await;
        let admitted = incoming.next().await.expect("it goes on").expect("a place");
        let mut second = connect().await;
        let mut byte = [0];
        tokio::select! {
            end = second.read(&mut byte) => assert_eq!(end.unwrap_or(0), 0),
            _ = incoming.next() => panic!("there is no place for it"),
        }
        drop(admitted);
        let _third = connect().await;
        let admitted = incoming.next().await.expect("it goes on");
        admitted.expect("there is a place again");
    }
}
