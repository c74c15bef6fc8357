//! A data plane's stream of updates.
//!
//! Its transport asks it for the next message, so there is no task and no queue between
//! the [`Feed`](crate::feed::Feed) and the connection. It is written out as a state
//! machine because it is what an update costs, once for each data plane: whatever may
//! wake it is asked to once, and not again for each message.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::yield_now,
    time::{Instant, Sleep, sleep},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{
    error::stopping,
    updates::{Follower, Messages, Place},
};
use crate::subscribers::Subscription;

/// A data plane that hears nothing for three of these opens a new stream.
const BOOKMARK: Duration = Duration::from_secs(5);

/// The stream. `registration` is dropped with it.
pub(super) struct Following<R> {
    /// What is still to be sent of the last step.
    messages: Messages,
    follower: Follower,
    /// When something was last said; nothing for a stream that is to begin.
    said: Option<Instant>,
    turn: Turn,
    news: Subscription,
    /// Ends when it is worth a look whether a bookmark is due.
    bookmark: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The two above will wake whoever listens to the news.
    is_armed: bool,
    /// Nobody can have woken it yet: it has just said something.
    has_just_said: bool,
    has_ended: bool,
    _registration: R,
}

/// Where it stands among those to whom snapshots go out.
enum Turn {
    /// It has nothing to send that takes one.
    None,
    Waiting(Pin<Box<dyn Future<Output = Place> + Send>>),
    /// It sends a snapshot, a chunk at a time. Between two of them sockets and timers are
    /// looked at: to write so much takes long, and where all who hold a place are busy with
    /// it nobody else would be heard for some 60 chunks.
    Held {
        _place: Place,
        pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    },
}

impl<R> Following<R> {
    pub(super) fn new(
        follower: Follower,
        news: Subscription,
        stop: CancellationToken,
        registration: R,
    ) -> Self {
        Self {
            messages: Messages::default(),
            follower,
            said: None,
            turn: Turn::None,
            news,
            bookmark: Box::pin(sleep(BOOKMARK)),
            stop: Box::pin(stop.cancelled_owned()),
            is_armed: false,
            has_just_said: false,
            has_ended: false,
            _registration: registration,
        }
    }

    /// Waits until there is something to say: news, or that there are none.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(said) = self.said else {
            return Poll::Ready(Ok(()));
        };
        // Listens first, looks second: what comes in between wakes it.
        let is_armed = self.news.listen(context.waker()) && self.is_armed;
        if self.follower.is_behind() {
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut self.has_just_said) && is_armed {
            return Poll::Pending;
        }
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(stopping()));
        }
        self.is_armed = false;
        while self.bookmark.as_mut().poll(context).is_ready() {
            let (now, due) = (Instant::now(), said + BOOKMARK);
            // It is set again only here: an update need not touch a timer.
            if due <= now {
                self.bookmark.as_mut().reset(now + BOOKMARK);
                return Poll::Ready(Ok(()));
            }
            self.bookmark.as_mut().reset(due);
        }
        self.is_armed = true;
        Poll::Pending
    }

    /// Waits for its turn, if what it has to say takes one.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if let Turn::None = self.turn {
            if !self.follower.needs_chunks() {
                return Poll::Ready(Ok(()));
            }
            // What it sends when its turn has come is the news of then.
            self.news.leave();
            self.turn = Turn::Waiting(Box::pin(self.follower.place()));
        }
        if let Turn::Waiting(place) = &mut self.turn {
            if self.stop.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(stopping()));
            }
            let place = ready!(place.as_mut().poll(context));
            self.turn = Turn::Held {
                _place: place,
                pause: None,
            };
        }
        Poll::Ready(Ok(()))
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        loop {
            if let Turn::Held { pause, .. } = &mut self.turn
                && let Some(pausing) = pause
            {
                ready!(pausing.as_mut().poll(context));
                *pause = None;
            }
            if let Some(message) = self.messages.next() {
                if let Turn::Held { pause, .. } = &mut self.turn {
                    *pause = Some(Box::pin(yield_now()));
                }
                return Poll::Ready(Ok(message));
            }
            if let Turn::Held { .. } = self.turn {
                self.turn = Turn::None;
            }
            if let Turn::None = self.turn {
                ready!(self.poll_due(context))?;
            }
            ready!(self.poll_turn(context))?;
            self.messages = self.follower.next();
            self.said = Some(Instant::now());
            self.has_just_said = true;
        }
    }
}

impl<R: Unpin> Stream for Following<R> {
    type Item = Result<Bytes, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let message = ready!(self.poll_message(context));
        self.has_ended = message.is_err();
        Poll::Ready(Some(message))
    }
}

impl<R> fmt::Debug for Following<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}
