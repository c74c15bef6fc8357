//! How long an answer's body may take.
//!
//! Two things bound it: silence, and the end of the time for the whole request. Time in which
//! nobody asks for more is the client's, and counts for neither but the latter. While pieces
//! keep coming there is one look at the clock for each, and no timer.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};

use super::curfew::Curfew;

/// Time for which a client may let us wait before an answer's break says nothing about
/// its endpoint, which may have lost patience with the client.
const HELD_UP: Duration = Duration::from_secs(1);

/// How long may pass between two frames, and until the end.
pub(super) struct Clock {
    idle: Duration,
    deadline: Instant,
    curfew: Curfew,
    /// When the last frame came or the next was asked for, whichever is later.
    last: Instant,
    /// A frame came, and the next has not been asked for.
    moved: bool,
    /// The next was asked for, and was not there.
    waiting: bool,
    /// The client has let us wait.
    held_up: bool,
    alarm: Option<Alarm>,
}

/// What wakes an answer that waits for its endpoint.
struct Alarm {
    timer: Pin<Box<Sleep>>,
    curfew: Pin<Box<OwnedNotified>>,
    /// Who is woken.
    waker: Waker,
}

/// Why an answer breaks off.
pub(super) enum Break {
    /// Its connection did.
    Cut(String),
    /// The endpoint fell silent.
    Silent,
    /// The time for the whole request is up. That is our own limit: nobody is to blame.
    OutOfTime,
    /// The proxy stops, and could not wait any longer.
    Stopping,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(reason) => f.write_str(reason),
            Self::Silent => f.write_str("it was silent for too long"),
            Self::OutOfTime => f.write_str("the total time is up"),
            Self::Stopping => f.write_str("the proxy is stopping"),
        }
    }
}

impl Clock {
    /// `last`: when the last piece came.
    pub(super) fn new(idle: Duration, deadline: Instant, curfew: Curfew, last: Instant) -> Self {
        Self {
            idle,
            deadline,
            curfew,
            last,
            moved: false,
            waiting: false,
            held_up: false,
            alarm: None,
        }
    }

    /// Whether the client has let us wait for so long that a break says nothing of its endpoint.
    pub(super) fn is_held_up(&self) -> bool {
        self.held_up
    }

    /// When the last frame came, if there is one and the next has not been asked for.
    pub(super) fn last(&self) -> Instant {
        self.last
    }

    /// Takes note of a frame. One that was there when it was asked for came at that time.
    pub(super) fn advance(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.last = Instant::now();
        }
        self.moved = true;
    }

    /// Takes note that the next frame is asked for, and says whether it is too late for
    /// it. What passes until then is the client's time: the endpoint was not listened to.
    pub(super) fn is_over(&mut self) -> Option<Break> {
        if std::mem::take(&mut self.moved) {
            let now = Instant::now();
            self.held_up |= now.saturating_duration_since(self.last) >= HELD_UP;
            self.last = now;
        }
        if self.curfew.is_called() {
            return Some(Break::Stopping);
        }
        (self.last >= self.deadline).then_some(Break::OutOfTime)
    }

    /// Completes with the limit that was reached. Called while there is no frame: nothing
    /// is set anew for each.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Break> {
        self.waiting = true;
        let limit = self.deadline.min(self.last + self.idle);
        let alarm = self.alarm.get_or_insert_with(|| Alarm {
            timer: Box::pin(sleep_until(limit)),
            curfew: Box::pin(self.curfew.called()),
            waker: Waker::noop().clone(),
        });
        if alarm.is_set(cx.waker()) {
            return Poll::Pending;
        }
        alarm.waker.clone_from(cx.waker());
        if alarm.curfew.as_mut().poll(cx).is_ready() || self.curfew.is_called() {
            return Poll::Ready(Break::Stopping);
        }
        loop {
            ready!(alarm.timer.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(Break::OutOfTime);
            }
            if now >= limit {
                return Poll::Ready(Break::Silent);
            }
            alarm.timer.as_mut().reset(limit);
        }
    }
}

impl Alarm {
    /// Whether it will wake this one, at the latest when it has to be set anew.
    fn is_set(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker) && !self.timer.is_elapsed()
    }
}
