//! A client connection that is listened to, and that does not wait for ever for its
//! client to read.
//!
//! The limits of an answer are looked at when hyper asks for more of it, and hyper does
//! not ask while the client has not taken what there is. So the connection has a limit of
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

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{Limit, framing::Framing, presence::Presence};

/// What an HTTP/2 connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
    framing: Framing,
    presence: Arc<Presence>,
    /// What has been read to see what it is, and how much of it is still to be given out.
    first: [u8; PREFACE.len()],
    first_bytes: usize,
    protocol: Option<Protocol>,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    pub(super) fn new(io: S, limit: Duration, presence: Arc<Presence>) -> Self {
        Self {
            io,
            limit,
            framing: Framing::default(),
            presence,
            first: [0; PREFACE.len()],
            first_bytes: 0,
            protocol: None,
            timer: None,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.timer.take().is_some() {
                self.presence.set_writing(false);
            }
            return written;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        self.presence.set_writing(true);
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
            let first = &self.first[..self.first_bytes];
            let is_told = match self.protocol {
                Some(protocol) if !first.is_empty() => Some(protocol),
                Some(_) => None,
                None if first == PREFACE => Some(Protocol::Http2),
                None if PREFACE.starts_with(first) => None,
                None => Some(Protocol::Http1),
            };
            if is_told.is_some() {
                self.protocol = is_told;
            }
            if let Some(protocol) = is_told {
                return Ok(protocol);
            }
            poll_fn(|cx| self.poll_first(cx)).await?;
        }
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut buffer = ReadBuf::new(&mut self.first);
        buffer.set_filled(self.first_bytes);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        let heard = &buffer.filled()[self.first_bytes..];
        if heard.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.presence.hear(&mut self.framing, heard);
        self.first_bytes = buffer.filled().len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.first_bytes > 0 {
            let count = this.first_bytes.min(buffer.remaining());
            buffer.put_slice(&this.first[..count]);
            this.first.copy_within(count..this.first_bytes, 0);
            this.first_bytes -= count;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
        let heard = buffer.filled().get(before..).unwrap_or_default();
        this.presence.hear(&mut this.framing, heard);
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
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.presence.set_ending();
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
