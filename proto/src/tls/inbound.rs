//! What a listener makes of an accepted connection.
//!
//! The handshake happens when the connection is first read or written, in whatever task
//! serves it: the accept loop never waits for a stranger. Whoever speaks plaintext to a
//! listener with TLS is told so in its own language and let go; it is not served.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::warn;

use super::{Identity, explain};
use crate::rarely::Rarely;

/// Time for a client to get through its handshake, its first byte included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Records about handshakes that did not come about: one of each kind in a while.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How every TLS connection begins.
const HANDSHAKE_BYTE: u8 = 22;

/// How an HTTP/2 connection begins.
const HTTP2_START: &[u8] = b"PRI";

/// What both of the following say.
pub(super) const REFUSAL: &str = "this port speaks TLS";

/// For HTTP/2: settings, and a farewell (INADEQUATE_SECURITY) that says why.
const HTTP2_REFUSAL: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x2a\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port speaks TLS: use https://";

/// For HTTP/1, and for whatever else.
const HTTP1_REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\n\
    content-length: 36\r\nconnection: close\r\n\r\nthis port speaks TLS: use https://\r\n";

/// What is still read of somebody who is not served, so that the refusal is not lost.
const DISCARD_MAX: usize = 64 << 10;

/// How a listener speaks. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Door(Arc<Ways>);

struct Ways {
    name: &'static str,
    tls: Option<(Identity, TlsAcceptor)>,
    patience: Duration,
    failures: AtomicU64,
    plaintext: Rarely,
    unexpected_tls: Rarely,
    broken: Rarely,
}

/// An accepted connection.
pub struct Inbound {
    state: State,
    door: Door,
    /// The end of the handshake's time.
    deadline: Option<Pin<Box<Sleep>>>,
}

enum State {
    /// In the clear; nothing was read yet.
    Fresh(TcpStream),
    /// In the clear.
    Plain(TcpStream),
    /// TLS; nothing was seen yet.
    Waiting(TcpStream),
    Shaking(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    /// Hears why it is not served.
    Refused {
        stream: TcpStream,
        left: &'static [u8],
        discarded: usize,
    },
    /// There was no handshake.
    Broken,
}

impl Door {
    /// Returns a door that speaks `protocols` behind TLS, or in the clear without an
    /// identity. `name` is for the log.
    pub fn new(name: &'static str, identity: Option<Identity>, protocols: &[&[u8]]) -> Self {
        let tls = identity.map(|identity| {
            let acceptor = TlsAcceptor::from(identity.server_config(protocols));
            (identity, acceptor)
        });
        Self(Arc::new(Ways {
            name,
            tls,
            patience: HANDSHAKE_TIMEOUT,
            failures: AtomicU64::new(0),
            plaintext: Rarely::new(LOG_INTERVAL),
            unexpected_tls: Rarely::new(LOG_INTERVAL),
            broken: Rarely::new(LOG_INTERVAL),
        }))
    }

    #[cfg(test)]
    pub(super) fn impatient(mut self) -> Self {
        let ways = Arc::get_mut(&mut self.0).unwrap();
        ways.patience = Duration::from_millis(10);
        self
    }

    /// A door without TLS.
    pub fn plain(name: &'static str) -> Self {
        Self::new(name, None, &[])
    }

    /// What is shown here; `None` without TLS.
    pub fn identity(&self) -> Option<&Identity> {
        self.0.tls.as_ref().map(|(identity, _)| identity)
    }

    /// Handshakes that did not come about, plaintext to TLS and the reverse included.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Takes a connection in.
    pub fn accept(&self, stream: TcpStream) -> Inbound {
        let is_encrypted = self.0.tls.is_some();
        Inbound {
            state: match is_encrypted {
                true => State::Waiting(stream),
                false => State::Fresh(stream),
            },
            door: self.clone(),
            deadline: is_encrypted.then(|| Box::pin(sleep(self.0.patience))),
        }
    }

    fn failed(&self, rarely: &Rarely, reason: &str) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        if let Some(suppressed) = rarely.pass(Instant::now()) {
            let listener = self.0.name;
            warn!(listener, reason, suppressed, "connection not served");
        }
    }

    fn met_plaintext(&self) {
        let reason = "it speaks plaintext; this port speaks TLS: clients have to use https://";
        self.failed(&self.0.plaintext, reason);
    }

    fn met_tls(&self) {
        let reason = "it speaks TLS; this port does not: clients have to use http://, \
            or this listener needs a certificate and a key";
        self.failed(&self.0.unexpected_tls, reason);
    }
}

impl Inbound {
    /// The connection below.
    fn tcp(&self) -> Option<&TcpStream> {
        match &self.state {
            State::Fresh(stream)
            | State::Plain(stream)
            | State::Waiting(stream)
            | State::Refused { stream, .. } => Some(stream),
            State::Shaking(accept) => accept.get_ref(),
            State::Tls(stream) => Some(stream.get_ref().0),
            State::Broken => None,
        }
    }

    /// Has the connection end in a reset when it is dropped, which nobody takes for a proper
    /// end. TLS has an end of its own, without which nobody takes it for one either.
    pub fn reset(&self) {
        if let State::Fresh(stream) | State::Plain(stream) = &self.state {
            let _ = stream.set_zero_linger(); // Fails where it has ended already.
        }
    }

    /// Brings the handshake to its end. Afterwards the connection can be used.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Ready(Ok(()));
        };
        if deadline.as_mut().poll(cx).is_ready() {
            if matches!(self.state, State::Shaking(_)) {
                let reason = "the handshake took longer than 10 s";
                self.door.failed(&self.door.0.broken, reason);
            }
            return Poll::Ready(Err(self.broken(io::ErrorKind::TimedOut.into())));
        }
        loop {
            match &mut self.state {
                State::Fresh(_) | State::Plain(_) | State::Tls(_) => {
                    self.deadline = None;
                    return Poll::Ready(Ok(()));
                }
                State::Waiting(stream) => {
                    let mut bytes = [0; HTTP2_START.len()];
                    let mut seen = ReadBuf::new(&mut bytes);
                    let peeked = ready!(stream.poll_peek(cx, &mut seen));
                    if let Err(error) = peeked {
                        return Poll::Ready(Err(self.broken(error)));
                    }
                    let State::Waiting(stream) = std::mem::replace(&mut self.state, State::Broken)
                    else {
                        continue;
                    };
                    self.state = match seen.filled() {
                        // It left, or only looked whether somebody listens.
                        [] => State::Broken,
                        [HANDSHAKE_BYTE, ..] => match &self.door.0.tls {
                            Some((_, acceptor)) => {
                                State::Shaking(Box::new(acceptor.accept(stream)))
                            }
                            None => State::Plain(stream),
                        },
                        start => {
                            let is_http2 = start == HTTP2_START;
                            self.door.met_plaintext();
                            let left = match is_http2 {
                                true => HTTP2_REFUSAL,
                                false => HTTP1_REFUSAL,
                            };
                            State::Refused {
                                stream,
                                left,
                                discarded: 0,
                            }
                        }
                    };
                }
                State::Shaking(accept) => match ready!(Pin::new(accept.as_mut()).poll(cx)) {
                    Ok(stream) => self.state = State::Tls(Box::new(stream)),
                    Err(error) => {
                        self.door.failed(&self.door.0.broken, &explain(&error));
                        return Poll::Ready(Err(self.broken(error)));
                    }
                },
                State::Refused {
                    stream,
                    left,
                    discarded,
                } => {
                    let ended = ready!(poll_refuse(stream, left, discarded, cx));
                    let error = ended.err().unwrap_or_else(|| {
                        let reason = "it speaks plaintext; this port speaks TLS";
                        io::Error::new(io::ErrorKind::InvalidData, reason)
                    });
                    return Poll::Ready(Err(self.broken(error)));
                }
                State::Broken => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            }
        }
    }

    fn broken(&mut self, error: io::Error) -> io::Error {
        self.state = State::Broken;
        error
    }
}

/// Says why, and reads what else comes until the peer has gone, or has said enough.
fn poll_refuse(
    stream: &mut TcpStream,
    left: &mut &'static [u8],
    discarded: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !left.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, left))?;
        *left = &left[written..];
    }
    ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
    let mut bytes = [0; 4096];
    while *discarded < DISCARD_MAX {
        let mut buffer = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        match buffer.filled().len() {
            0 => break,
            length => *discarded += length,
        }
    }
    Poll::Ready(Ok(()))
}

fn not_open() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Inbound {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        match &mut this.state {
            State::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            State::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            State::Fresh(stream) => {
                let before = buffer.filled().len();
                ready!(Pin::new(&mut *stream).poll_read(cx, buffer))?;
                if buffer.filled().get(before) == Some(&HANDSHAKE_BYTE) {
                    this.door.met_tls(); // It gets an answer that is not TLS, and understands.
                }
                if let State::Fresh(stream) = std::mem::replace(&mut this.state, State::Broken) {
                    this.state = State::Plain(stream);
                }
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err(not_open())),
        }
    }
}

impl AsyncWrite for Inbound {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        match &mut this.state {
            State::Fresh(stream) | State::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            State::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            _ => Poll::Ready(Err(not_open())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        match &mut this.state {
            State::Fresh(stream) | State::Plain(stream) => {
                Pin::new(stream).poll_write_vectored(cx, slices)
            }
            State::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            _ => Poll::Ready(Err(not_open())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.state {
            State::Fresh(stream) | State::Plain(stream) => Pin::new(stream).poll_flush(cx),
            State::Tls(stream) => Pin::new(stream).poll_flush(cx),
            _ => Poll::Ready(Ok(())), // Nothing was written.
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.state {
            State::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            State::Fresh(stream)
            | State::Plain(stream)
            | State::Waiting(stream)
            | State::Refused { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            State::Shaking(_) | State::Broken => Poll::Ready(Ok(())),
        }
    }
}

impl Connected for Inbound {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo {
            local_addr: self.tcp().and_then(|tcp| tcp.local_addr().ok()),
            remote_addr: self.tcp().and_then(|tcp| tcp.peer_addr().ok()),
        }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("name", &self.0.name)
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("door", &self.door)
            .finish_non_exhaustive()
    }
}
