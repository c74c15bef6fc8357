//! A client connection that tells what its client speaks, and that does not wait for ever
//! for it to read.
//!
//! The limits of an answer are looked at when there is room for more of it, and there is
//! none while the client has not taken what there is. So the connection has a limit of
//! its own: a write that gets nowhere for too long ends it, with all of its requests, and
//! with them the connections to endpoints that they hold. An HTTP/2 client that reads its
//! connection but lets one of its streams wait is not noticed: there is nothing to write.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use qcc_proto::tls::Inbound;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_util::io::poll_read_buf;

use super::{Limit, presence::Presence};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that are read to see what a client speaks: mostly all of its first request.
const READ_BYTES: usize = 8 << 10;

/// A connection that can end in a way that nobody takes for a proper end.
pub(super) trait Reset {
    /// Has it do so when it is dropped.
    fn reset(&self);
}

impl Reset for Inbound {
    fn reset(&self) {
        Self::reset(self);
    }
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection that fails where a write makes no progress.
pub(super) struct Impatient<S> {
    io: S,
    limit: Duration,
    presence: Arc<Presence>,
    /// What has been read to see what it is, and is still to be given out.
    ahead: BytesMut,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S: Reset> Reset for Impatient<S> {
    fn reset(&self) {
        self.io.reset();
    }
}

impl<S> Impatient<S> {
    pub(super) fn new(io: S, limit: Duration, presence: Arc<Presence>) -> Self {
        Self {
            io,
            limit,
            presence,
            ahead: BytesMut::new(),
            timer: None,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        self.presence.hit(Limit::ClientStallTime);
        let error = io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + Unpin> Impatient<S> {
    /// Waits until the client sends something, and tells by it what it speaks. What has
    /// come is given to whoever reads next. Fails where nothing more will come.
    pub(super) async fn protocol(&mut self) -> io::Result<Protocol> {
        loop {
            poll_fn(|cx| self.poll_ahead(cx)).await?;
            if self.ahead.starts_with(PREFACE) {
                self.presence.set_in_head(false); // These are told apart by streams.
                return Ok(Protocol::Http2);
            }
            if !PREFACE.starts_with(&self.ahead) {
                return Ok(Protocol::Http1);
            }
            self.presence.set_in_head(true);
        }
    }

    /// Takes what has been read and not been given out.
    pub(super) fn take_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.ahead)
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.reserve(READ_BYTES);
        match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.ahead) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Pending if self.ahead.is_empty() => {
                self.ahead = BytesMut::new(); // Whoever says nothing gets none.
                Poll::Pending
            }
            read => read.map_ok(|_| ()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What a layer below has taken, TLS that is, its peer need not have.
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.watch(cx, written)
    }
}
