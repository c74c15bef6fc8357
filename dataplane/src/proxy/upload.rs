//! The request body on its way to an endpoint.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::inbound::Inbound;

/// What is wrong with a client's body. Never an endpoint's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It broke off or is badly framed.
    Broken,
    /// It is longer than is taken.
    TooLarge,
    /// Its sender fell silent.
    Stalled,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken => "the request body broke off or is badly framed",
            Self::TooLarge => "the request body is too long",
            Self::Stalled => "the rest of the request body did not come in time",
        })
    }
}

impl std::error::Error for Fault {}

/// A body that hyper's client sends.
#[derive(Debug)]
pub(super) struct Upload {
    /// What we hold of it.
    held: Option<Bytes>,
    /// What the client is still sending.
    rest: Option<Streamed>,
}

#[derive(Debug)]
struct Streamed {
    body: Inbound,
    bytes: u64,
    bytes_max: Option<u64>,
    progress: Arc<Progress>,
}

/// How a streamed upload stands: shared with those who wait for the answer to it.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

/// One state of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The endpoint has not taken what is there, since then.
    Sending(Instant),
    /// The client has not sent more, since then.
    Waiting(Instant),
    /// The endpoint has all of it, since then.
    Sent(Instant),
    /// The client is at fault.
    Failed(Fault),
}

impl Upload {
    /// A body that is whole.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self {
            held: Some(bytes).filter(|bytes| !bytes.is_empty()),
            rest: None,
        }
    }

    /// A body that is still coming, and how it is getting on.
    pub(super) fn streamed(
        start: Bytes,
        rest: Inbound,
        bytes_max: Option<u64>,
        now: Instant,
    ) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress(Mutex::new(State::Sending(now))));
        let streamed = Streamed {
            body: rest,
            bytes: start.len() as u64,
            bytes_max,
            progress: Arc::clone(&progress),
        };
        let upload = Self {
            held: Some(start).filter(|bytes| !bytes.is_empty()),
            rest: Some(streamed),
        };
        (upload, progress)
    }
}

impl Progress {
    pub(super) fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's fault, if it is one.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.state() {
            State::Failed(fault) => Some(fault),
            State::Sending(_) | State::Waiting(_) | State::Sent(_) => None,
        }
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let data = match self.body.poll_data(cx) {
            Poll::Ready(data) => data,
            Poll::Pending => {
                if !matches!(self.progress.state(), State::Waiting(_)) {
                    self.progress.set(State::Waiting(Instant::now()));
                }
                return Poll::Pending;
            }
        };
        let Some(data) = data else {
            self.progress.set(State::Sent(Instant::now()));
            return Poll::Ready(None);
        };
        let Ok(data) = data else {
            return self.fail(Fault::Broken);
        };
        self.bytes += data.len() as u64;
        if self.bytes_max.is_some_and(|max| self.bytes > max) {
            return self.fail(Fault::TooLarge);
        }
        let now = Instant::now();
        self.progress.set(match self.body.is_end() {
            true => State::Sent(now),
            false => State::Sending(now),
        });
        Poll::Ready(Some(Ok(data)))
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Bytes, Fault>>> {
        self.progress.set(State::Failed(fault));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(Some(Ok(Frame::data(held))));
        }
        match &mut self.rest {
            Some(rest) => {
                let data = ready!(rest.poll(cx));
                Poll::Ready(data.map(|data| data.map(Frame::data)))
            }
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest_ended = |rest: &Streamed| rest.body.is_end();
        self.held.is_none() && self.rest.as_ref().is_none_or(rest_ended)
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, |held| held.len() as u64);
        let rest = match &self.rest {
            Some(rest) => rest.body.left(),
            None => Some(0),
        };
        match rest {
            Some(rest) => SizeHint::with_exact(held + rest),
            None => SizeHint::default(),
        }
    }
}
