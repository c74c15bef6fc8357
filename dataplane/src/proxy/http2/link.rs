//! One HTTP/2 connection.
//!
//! ```text
//!            PING answered            GOAWAY, idle, doubted in vain, broken
//!   Opening ---------------> Open ------------------------------------------> Retired
//!      |                                        (takes no more; what runs, runs on)
//!      +--> Failed: no connection, or not HTTP/2
//!      +--> Declined: the endpoint chose HTTP/1.1
//! ```

pub(super) mod driver;

use std::{
    future::poll_fn,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{Method, Request, request};
use qcc_proto::v1::OutcomeClass;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{Pool, STREAMS_MAX};
use crate::proxy::{
    upload::{self, Upload},
    upstream::{Failed, describe},
};

/// Time without an answer after which one who gives up puts the connection in doubt.
const DOUBTED_AFTER: Duration = Duration::from_secs(1);

/// A connection, as those see it who use it.
pub(super) struct Link {
    state: watch::Sender<State>,
    /// Streams at a time; before it is open, as many as the one before took.
    limit: AtomicUsize,
    /// Places taken.
    streams: AtomicUsize,
    /// Places ever taken.
    taken: AtomicUsize,
    /// Whoever is on it wants nobody beside.
    alone: AtomicBool,
    answered: AtomicBool,
    /// Its end has been told of.
    blamed: AtomicBool,
    /// Somebody has waited in vain: it has to answer a PING before it gets more to do.
    doubted: AtomicBool,
    doubt: Notify,
    /// Why we ended it ourselves.
    verdict: OnceLock<String>,
}

/// How far a connection is.
#[derive(Clone)]
pub(super) enum State {
    Opening,
    Open(SendRequest<Bytes>),
    /// It is not for new requests.
    Retired,
    Declined,
    Failed(Arc<Failure>),
}

/// Why there is no connection.
pub(super) struct Failure {
    class: OutcomeClass,
    detail: String,
}

/// Why a request has no answer.
pub(super) enum Broke {
    /// The endpoint has not looked at it.
    Untaken(String),
    /// It wants HTTP/1.1.
    Declined,
    Failed(Failed),
}

/// A request's place on a connection.
pub(super) struct Place {
    link: Arc<Link>,
    pool: Arc<Pool>,
    alone: bool,
    since: Instant,
    answered: bool,
}

/// A stream that has been opened: its request's head is on the wire.
pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) response: ResponseFuture,
    /// Its answer has no body, whatever its head says.
    pub(super) is_of_head: bool,
    /// Where the body goes, if there is one.
    pub(super) body: Option<SendStream<Bytes>>,
}

impl Link {
    pub(super) fn new(expected: usize) -> Self {
        Self {
            state: watch::Sender::new(State::Opening),
            limit: AtomicUsize::new(expected),
            streams: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            alone: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            blamed: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            doubt: Notify::new(),
            verdict: OnceLock::new(),
        }
    }

    /// Whether whoever asks is the first to tell of its end.
    pub(super) fn blame(&self) -> bool {
        !self.blamed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Waits until it is known what has become of its opening.
    pub(super) async fn opened(&self) -> State {
        let mut state = self.state.subscribe();
        let opened = state.wait_for(|state| !matches!(state, State::Opening));
        opened.await.map_or(State::Retired, |state| state.clone())
    }

    /// Whether it is of no use to new requests.
    pub(super) fn is_over(&self) -> bool {
        match &*self.state.borrow() {
            State::Opening | State::Open(_) => false,
            State::Retired | State::Declined | State::Failed(_) => true,
        }
    }

    /// Whether one more request may go there. Asked under the pool's lock, so that places
    /// only become more meanwhile.
    pub(super) fn has_place(&self, alone: bool) -> bool {
        let streams = self.streams();
        if self.alone.load(Ordering::Relaxed)
            || self.doubted.load(Ordering::Relaxed)
            || streams >= self.limit()
            || (alone && streams > 0)
        {
            return false;
        }
        let is_usable = match &*self.state.borrow() {
            State::Opening => true,
            State::Open(sender) => {
                // The endpoint may have changed its mind.
                let limit = limit_of(sender);
                self.limit.store(limit, Ordering::Relaxed);
                if is_closed(sender) {
                    false
                } else {
                    return streams < limit;
                }
            }
            State::Retired | State::Declined | State::Failed(_) => return false,
        };
        if !is_usable {
            self.retire();
        }
        is_usable
    }

    /// Gives it no more requests.
    pub(super) fn retire(&self) {
        self.state.send_replace(State::Retired);
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Finds out what an error on a stream is evidence of, before there is a head. A stream
    /// that is reset says that somebody is there. The end of a connection says what it says
    /// in [HTTP/1.1](crate::proxy::upstream), but only once: and of one that carried several
    /// requests it is not known whether one of them has broken it.
    pub(super) fn broke(&self, error: &h2::Error, upload: upload::State) -> Broke {
        let detail = self.detail(error);
        let reason = error.reason();
        if (error.is_go_away() && error.is_remote())
            || (error.is_reset() && error.is_remote() && reason == Some(Reason::REFUSED_STREAM))
        {
            return Broke::Untaken(detail);
        }
        if error.is_reset() && error.is_remote() {
            return match reason {
                Some(Reason::HTTP_1_1_REQUIRED) => Broke::Declined,
                _ => Broke::Failed(Failed {
                    class: OutcomeClass::StreamBroken,
                    detail,
                    was_reused: false,
                    is_kill: true, // As a connection's end would be.
                }),
            };
        }
        if error.is_reset() {
            return Broke::Failed(Failed::malformed(&detail));
        }
        let has_answered = self.answered.load(Ordering::Relaxed);
        let was_shared = self.streams() > 1;
        if !self.blame() {
            let told = Failed::of_nobody(format!("as others on it: {detail}"));
            return Broke::Failed(Failed {
                is_kill: true, // It may be this one all the same.
                ..told
            });
        }
        if error.is_go_away() && reason != Some(Reason::ENHANCE_YOUR_CALM) {
            return Broke::Failed(Failed::malformed(&detail));
        }
        let (class, prefix) = if has_answered {
            (OutcomeClass::StreamBroken, "reused connection: ")
        } else if was_shared {
            (OutcomeClass::StreamBroken, "shared connection: ")
        } else if !matches!(upload, upload::State::Sent(_)) {
            (
                OutcomeClass::StreamBroken,
                "while the body was being sent: ",
            )
        } else {
            (OutcomeClass::Connect, "")
        };
        Broke::Failed(Failed {
            class,
            detail: format!("{prefix}{detail}"),
            was_reused: has_answered || was_shared,
            is_kill: true,
        })
    }

    pub(super) fn detail(&self, error: &h2::Error) -> String {
        match self.verdict.get() {
            Some(verdict) if !error.is_reset() => verdict.clone(),
            _ => describe(error),
        }
    }
}

/// Whether an error ends a connection with all that is on it.
pub(super) fn is_shared(error: &h2::Error) -> bool {
    !error.is_reset()
}

fn limit_of(sender: &SendRequest<Bytes>) -> usize {
    sender.current_max_send_streams().clamp(1, STREAMS_MAX)
}

/// Whether the peer has said good-bye, or is gone.
fn is_closed(sender: &SendRequest<Bytes>) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    matches!(sender.clone().poll_ready(&mut cx), Poll::Ready(Err(_)))
}

impl Failure {
    fn new(class: OutcomeClass, detail: String) -> Self {
        Self { class, detail }
    }

    fn of(error: &h2::Error) -> Self {
        match error.is_go_away() {
            true => Self::new(
                OutcomeClass::ServerError,
                format!("malformed response: no HTTP/2: {}", describe(error)),
            ),
            false => Self::new(OutcomeClass::Connect, describe(error)),
        }
    }

    /// What it is to one of those who wanted that connection.
    pub(super) fn told_by(&self, link: &Link) -> Failed {
        if !link.blame() {
            return Failed::of_nobody(format!("as others: {}", self.detail));
        }
        Failed {
            class: self.class,
            detail: self.detail.clone(),
            was_reused: false,
            is_kill: false,
        }
    }
}

impl Place {
    /// Takes one, under the pool's lock, and says how many there were before.
    pub(super) fn take(link: &Arc<Link>, pool: &Arc<Pool>, alone: bool) -> (Self, usize) {
        let rank = link.streams.fetch_add(1, Ordering::Relaxed);
        link.taken.fetch_add(1, Ordering::Relaxed);
        if alone {
            link.alone.store(true, Ordering::Relaxed);
        }
        let place = Self {
            link: Arc::clone(link),
            pool: Arc::clone(pool),
            alone,
            since: Instant::now(),
            answered: true, // Nothing was asked yet.
        };
        (place, rank)
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Takes note that an answer has come.
    pub(super) fn answer(&mut self) {
        self.answered = true;
        self.link.answered.store(true, Ordering::Relaxed);
    }

    /// Opens a stream. `None`: the connection takes none any more, and nothing was sent.
    /// Fails for a request that cannot be said in HTTP/2.
    pub(super) async fn open(
        mut self,
        head: &request::Parts,
        body: &Upload,
        patience: Duration,
    ) -> Result<Option<Opened>, Failed> {
        let mut sender = match &*self.link.state.borrow() {
            State::Open(sender) => sender.clone(),
            _ => return Ok(None),
        };
        let request = Request::from_parts(head.clone(), ());
        let ends = body.is_nothing();
        let (response, body) = match sender.send_request(request, ends) {
            Ok(opened) => opened,
            Err(error) if error.is_io() || error.is_go_away() => {
                self.link.retire();
                return Ok(None);
            }
            Err(error) => {
                let mut failed = Failed::of_nobody(describe(&error));
                failed.class = OutcomeClass::Request;
                return Err(failed);
            }
        };
        // Where the endpoint has lowered its limit, or not heard of a stream's end yet. What
        // is wrong with the connection the response will tell.
        let waiting = timeout(patience, poll_fn(|cx| sender.poll_ready(cx)));
        if waiting.await.is_err() {
            self.link.retire();
            return Ok(None);
        }
        (self.answered, self.since) = (false, Instant::now());
        Ok(Some(Opened {
            place: self,
            response,
            is_of_head: head.method == Method::HEAD,
            body: (!ends).then_some(body),
        }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.alone {
            self.link.alone.store(false, Ordering::Relaxed);
        }
        let before = self.link.streams.fetch_sub(1, Ordering::Relaxed);
        if !self.answered && self.since.elapsed() >= DOUBTED_AFTER {
            self.link.doubted.store(true, Ordering::Relaxed);
            self.link.doubt.notify_one();
        }
        self.pool.left(self.alone, before == 1);
    }
}
