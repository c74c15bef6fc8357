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

use super::{inbound::Inbound, prompt::Edit};

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

/// Bytes that are handed over at a time, so that progress shows.
const SLICE_BYTES: usize = 256 << 10;

/// A body on its way, over whichever protocol.
#[derive(Debug)]
pub(super) struct Upload {
    /// What we hold of it, one after the other.
    held: [Bytes; 3],
    /// What the client is still sending.
    rest: Option<Box<Streamed>>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Streamed {
    body: Inbound,
    bytes: u64,
    bytes_max: Option<u64>,
}

/// How an upload stands: shared with those who wait for the answer to it.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

/// One state of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It has not begun: there is no connection for it yet.
    Queued,
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
    /// A body that is whole, and how it is getting on. An edit changes no kept byte.
    pub(super) fn whole(bytes: Bytes, edit: Option<&Edit>, now: Instant) -> (Self, Arc<Progress>) {
        let held = match edit {
            None => [bytes, Bytes::new(), Bytes::new()],
            Some(Edit { place, text }) => [
                bytes.slice(..place.start),
                text.clone(),
                bytes.slice(place.end..),
            ],
        };
        Self::new(held, None, now)
    }

    /// A body that is still coming, and how it is getting on.
    pub(super) fn streamed(
        start: Bytes,
        rest: Inbound,
        bytes_max: Option<u64>,
        now: Instant,
    ) -> (Self, Arc<Progress>) {
        let streamed = Box::new(Streamed {
            body: rest,
            bytes: start.len() as u64,
            bytes_max,
        });
        let held = [start, Bytes::new(), Bytes::new()];
        Self::new(held, Some(streamed), now)
    }

    fn new(held: [Bytes; 3], rest: Option<Box<Streamed>>, now: Instant) -> (Self, Arc<Progress>) {
        let state = match held.iter().all(Bytes::is_empty) && rest.is_none() {
            true => State::Sent(now),
            false => State::Sending(now),
        };
        let progress = Arc::new(Progress(Mutex::new(state)));
        let upload = Self {
            held,
            rest,
            progress: Arc::clone(&progress),
        };
        (upload, progress)
    }

    /// The same body, while nothing has been taken of it. `None`: there is no second one.
    pub(super) fn again(&self) -> Option<Self> {
        self.rest.is_none().then(|| Self {
            held: self.held.clone(),
            rest: None,
            progress: Arc::clone(&self.progress),
        })
    }

    /// Whether there is no body at all.
    pub(super) fn is_nothing(&self) -> bool {
        self.rest.is_none() && self.held.iter().all(Bytes::is_empty)
    }

    /// Takes note that the endpoint has taken what there was.
    pub(super) fn advance(&self) {
        let now = Instant::now();
        self.progress.set(match self.is_end_stream() {
            true => State::Sent(now),
            false => State::Sending(now),
        });
    }

    fn fail(&self, fault: Fault) -> Option<Result<Frame<Bytes>, Fault>> {
        self.progress.set(State::Failed(fault));
        Some(Err(fault))
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
            State::Queued | State::Sending(_) | State::Waiting(_) | State::Sent(_) => None,
        }
    }

    /// Says that it waits for a connection, which is nobody's time.
    pub(super) fn queue(&self) {
        self.set(State::Queued);
    }

    /// Says that it begins now; without a body that is all of it.
    pub(super) fn begin(&self, is_all: bool) {
        let now = Instant::now();
        self.set(match is_all {
            true => State::Sent(now),
            false => State::Sending(now),
        });
    }

    fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let Some(data) = ready!(self.body.poll_data(cx)) else {
            return Poll::Ready(None);
        };
        let Ok(data) = data else {
            return Poll::Ready(Some(Err(Fault::Broken)));
        };
        self.bytes += data.len() as u64;
        if self.bytes_max.is_some_and(|max| self.bytes > max) {
            return Poll::Ready(Some(Err(Fault::TooLarge)));
        }
        Poll::Ready(Some(Ok(data)))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(piece) = self.held.iter_mut().find(|piece| !piece.is_empty()) {
            let slice = piece.split_to(piece.len().min(SLICE_BYTES));
            self.advance();
            return Poll::Ready(Some(Ok(Frame::data(slice))));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        Poll::Ready(match rest.poll(cx) {
            Poll::Pending => {
                if !matches!(self.progress.state(), State::Waiting(_)) {
                    self.progress.set(State::Waiting(Instant::now()));
                }
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(data))) => {
                self.advance();
                Some(Ok(Frame::data(data)))
            }
            Poll::Ready(Some(Err(fault))) => self.fail(fault),
            Poll::Ready(None) => {
                self.progress.set(State::Sent(Instant::now()));
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let rest_ended = |rest: &Streamed| rest.body.is_end();
        self.held.iter().all(Bytes::is_empty) && self.rest.as_deref().is_none_or(rest_ended)
    }

    fn size_hint(&self) -> SizeHint {
        let held: u64 = self.held.iter().map(|piece| piece.len() as u64).sum();
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
