//! One connection to an endpoint.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::unconstrained,
};
use tokio_util::io::poll_read_buf;

use super::{
    Broke, Limits,
    decoder::Decoder,
    head::{self, Head},
    sending::Sending,
    spare,
};
use crate::proxy::{connector::Wire, inbound::Cut};

/// Bytes that are read at a time: as many at first, and more of what comes faster.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 64 << 10;

/// A connection that nobody else uses.
pub(super) struct Connection {
    pub(super) wire: Wire,
    /// What has been read, and is nobody's yet.
    buffer: BytesMut,
    /// Of these, how many have been searched for a head's end.
    seen: usize,
    read_bytes: usize,
    /// Something of the present answer has come, or of what comes before one.
    has_begun: bool,
    /// It has carried an answer. Such a connection may have been closed by its peer, for
    /// being idle, at the moment when the next request was on its way.
    pub(super) has_answered: bool,
}

impl Connection {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            buffer: BytesMut::new(),
            seen: 0,
            read_bytes: READ_BYTES_MIN,
            has_begun: false,
            has_answered: false,
        }
    }

    /// Sends a request and reads until the head of its answer, which may come before all
    /// of the request has gone.
    pub(super) fn poll_exchange(
        &mut self,
        sending: &mut Sending,
        is_of_head: bool,
        limits: Limits,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Broke>> {
        let is_next = !self.wire.was_written() && self.has_answered;
        if is_next && !self.wire.is_quiet() && !self.is_silent(cx) {
            return Poll::Ready(Err(Broke::Closed));
        }
        if !sending.is_sent()
            && let Poll::Ready(Err(broke)) = sending.poll(&mut self.wire, cx)
        {
            return Poll::Ready(Err(broke));
        }
        loop {
            let head = head::read(&mut self.buffer, &mut self.seen, is_of_head, limits);
            if let Some(head) = head.map_err(Broke::Malformed)? {
                self.has_answered = true;
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(Broke::Closed)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Broke::Io(error))),
            }
        }
    }

    /// Reads the next piece of an answer's body; `None` at its end.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Decoder,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            match body.decode(&mut self.buffer) {
                Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(None) if body.is_end() => return Poll::Ready(None),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Some(Err(Cut(malformed.to_string())))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if body.close() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(Cut(Broke::Closed.to_string())))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Cut(error.to_string())))),
            }
        }
    }

    /// Whether an answer has begun to come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Makes it ready for another request. `false`: it is not.
    pub(super) fn rest(&mut self) -> bool {
        let is_clean = self.buffer.is_empty() && !self.wire.is_deaf();
        spare::give(std::mem::take(&mut self.buffer));
        self.read_bytes = READ_BYTES_MIN;
        self.has_begun = false;
        self.wire.rest();
        is_clean && self.is_open()
    }

    /// Looks whether its peer has closed it, or sends what nobody has asked for. Whoever was
    /// waiting for it is woken no more.
    pub(super) fn is_open(&mut self) -> bool {
        self.is_silent(&mut Context::from_waker(Waker::noop()))
    }

    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let read = poll_fn(|cx| Pin::new(&mut self.wire).poll_read(cx, &mut buffer));
        // Whoever has had their turn is told of nothing, which is not silence.
        pin!(unconstrained(read)).poll(cx).is_pending()
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            self.buffer = spare::take(self.read_bytes);
        }
        self.buffer.reserve(self.read_bytes);
        let room = self.buffer.capacity() - self.buffer.len();
        let count = ready!(poll_read_buf(
            Pin::new(&mut self.wire),
            cx,
            &mut self.buffer
        ))?;
        self.has_begun |= count > 0;
        if count == room {
            self.read_bytes = READ_BYTES_MAX.min(2 * self.read_bytes);
        }
        Poll::Ready(Ok(count))
    }
}
