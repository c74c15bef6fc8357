//! The response body on its way to the client.
//!
//! Frames pass as they arrive. The attempt lives in here: a proper end makes it a
//! success (or what an error inside of the stream says), a cut or silence breaks it,
//! and being dropped means that the client has gone: then the upstream connection is
//! closed, and nobody is blamed. Nor is anybody where the total time is up or the proxy
//! stops, which are our own limits, or where the client held the answer up before it was
//! cut.
//!
//! A broken stream never looks like a whole one. The body ends in an error, which the
//! client sees as a missing last chunk, a short body or a stream reset; a stream of
//! events first gets an error event in the caller's shape, for clients that would mistake
//! silence for an end.
//!
//! A frame costs no allocation and, while frames keep coming, one look at the clock.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use qcc_proto::{upstream::class_of_error_type, v1::OutcomeClass};
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::{
    clock::{Break, Clock},
    failure::{Rest, text_of},
    inbound::{Cut, Inbound},
    reply::Shape,
    service::InFlight,
    sse::Scanner,
    upload::Progress,
};
use crate::routing::{Attempt, Outcome};

/// Time for what came last to leave before the connection is broken: an error discards
/// what has not been written yet, be it the head.
const FAREWELL: Duration = Duration::from_millis(20);

/// A response body: one of ours, or an endpoint's.
pub(super) enum Body {
    /// All of it.
    Own(Option<Bytes>),
    /// As it comes.
    Relayed(Box<Relay>),
}

/// An endpoint's body.
pub(super) struct Relay {
    /// What was read of it before it was known that it would be relayed.
    start: Option<Bytes>,
    /// `None` once it has ended or broken.
    upstream: Option<Inbound>,
    /// The attempt, unless it was finished before.
    attempt: Option<Pending>,
    /// Present for a readable stream of events.
    events: Option<Events>,
    clock: Clock,
    /// Runs between the last bytes and the break.
    farewell: Option<Pin<Box<Sleep>>>,
    in_flight: InFlight,
}

/// An attempt that the end of the body decides.
pub(super) struct Pending {
    pub(super) attempt: Attempt,
    /// What it comes to if the body ends properly.
    pub(super) class: OutcomeClass,
    pub(super) http_status: u16,
    /// The provider's id of the request.
    pub(super) request_id: Option<Bytes>,
    /// How the client's body stands.
    pub(super) upload: Arc<Progress>,
}

/// How a stream of events is watched, and what a last event looks like.
pub(super) struct Events {
    pub(super) scanner: Scanner,
    pub(super) shape: Shape,
}

/// The end of a body that has broken.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the endpoint's answer broke off")
    }
}

impl std::error::Error for Broken {}

impl Body {
    /// An answer of ours.
    pub(super) fn own(bytes: Bytes) -> Self {
        Self::Own(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// An endpoint's answer, whose end decides its attempt. `start` has been read of it.
    pub(super) fn of_answer(
        start: Bytes,
        upstream: Inbound,
        attempt: Pending,
        events: Option<Events>,
        clock: Clock,
        in_flight: InFlight,
    ) -> Self {
        Self::relayed(Relay {
            start: Some(start).filter(|start| !start.is_empty()),
            upstream: Some(upstream),
            attempt: Some(attempt),
            events,
            clock,
            farewell: None,
            in_flight,
        })
    }

    /// An endpoint's error, of which a part has been read.
    pub(super) fn of_failure(start: Bytes, rest: Rest, clock: Clock, in_flight: InFlight) -> Self {
        let (upstream, farewell) = match rest {
            Rest::End => (None, None),
            Rest::More(upstream) => (Some(upstream), None),
            Rest::Broken => (None, Some(Box::pin(sleep(FAREWELL)))),
        };
        Self::relayed(Relay {
            start: Some(start).filter(|start| !start.is_empty()),
            upstream,
            attempt: None,
            events: None,
            clock,
            farewell,
            in_flight,
        })
    }

    fn relayed(mut relay: Relay) -> Self {
        relay.settle_if_ended(); // There may be no body at all.
        Self::Relayed(Box::new(relay))
    }
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(start) = self.start.take() {
            self.settle_if_ended();
            return Poll::Ready(Some(Ok(Frame::data(start))));
        }
        if let Some(farewell) = &mut self.farewell {
            ready!(farewell.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Broken)));
        }
        let Some(upstream) = &mut self.upstream else {
            return Poll::Ready(None);
        };
        if let Some(reason) = self.clock.is_over() {
            return self.break_off(&reason, cx);
        }
        match upstream.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => {
                self.clock.advance();
                if let Some(events) = &mut self.events {
                    events.scanner.scan(&data);
                }
                self.settle_if_ended();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(None) => {
                self.settle(Instant::now());
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(Cut(reason)))) => self.break_off(&Break::Cut(reason), cx),
            Poll::Pending => {
                let reason = ready!(self.clock.poll(cx));
                self.break_off(&reason, cx)
            }
        }
    }

    /// The proper end, known with the last frame or after it.
    fn settle_if_ended(&mut self) {
        if self.start.is_none() && self.upstream.as_ref().is_none_or(Inbound::is_end) {
            self.settle(self.clock.last());
        }
    }

    fn settle(&mut self, now: Instant) {
        self.upstream = None;
        self.in_flight.relayed();
        if let Some(pending) = self.attempt.take() {
            let error_type = self.error_in_band();
            let class = error_type
                .as_deref()
                .map_or(pending.class, class_of_error_type);
            pending.finish(class, error_type.unwrap_or_default(), "", now);
        }
    }

    fn break_off(
        &mut self,
        reason: &Break,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        debug!(%reason, "answer broke off");
        // Taking it closes the connection, or resets the stream.
        let upstream = self.upstream.take();
        let left = upstream.as_ref().and_then(Inbound::left);
        self.in_flight.relayed();
        let error_type = self.error_in_band();
        let last_word = match (&self.events, &error_type) {
            // Within a promised length, an event of ours could complete the body.
            (Some(events), None) if left.is_none() => {
                let message = format!("the answer broke off: {reason}");
                let at_boundary = events.scanner.at_boundary();
                events.shape.stream_error(&message, at_boundary)
            }
            // The provider has said itself what is wrong, or the bytes are not for us to add to.
            (Some(_) | None, _) => None,
        };
        let now = Instant::now();
        if let Some(pending) = self.attempt.take() {
            let by_client = pending.upload.fault().is_some() // Its own body broke off.
                || (self.clock.is_held_up() && matches!(reason, Break::Cut(_)));
            let by_us = matches!(reason, Break::OutOfTime | Break::Stopping);
            match error_type {
                _ if by_client || by_us => drop(pending), // Nobody is blamed.
                None if upstream.as_ref().is_some_and(Inbound::is_told) => drop(pending),
                Some(error_type) => {
                    let class = class_of_error_type(&error_type);
                    pending.finish(class, error_type, &reason.to_string(), now);
                }
                None => {
                    let class = OutcomeClass::StreamBroken;
                    pending.finish(class, String::new(), &reason.to_string(), now);
                }
            }
        }
        self.farewell = Some(Box::pin(sleep(FAREWELL)));
        match last_word {
            Some(event) => Poll::Ready(Some(Ok(Frame::data(event)))),
            None => self.poll(cx),
        }
    }

    fn error_in_band(&self) -> Option<String> {
        let error = self.events.as_ref()?.scanner.error()?;
        Some(error.to_owned())
    }
}

impl Pending {
    fn finish(self, class: OutcomeClass, error_type: String, detail: &str, now: Instant) {
        let request_id = match class {
            OutcomeClass::Success => String::new(), // Successes are merged into a number.
            _ => text_of(self.request_id.as_ref()),
        };
        let outcome = Outcome {
            class,
            http_status: self.http_status,
            error_type,
            retry_after: None,
            detail: detail.to_owned(),
            upstream_request_id: request_id,
        };
        self.attempt.finish(outcome, now.into());
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relayed(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Relayed(relay) => {
                relay.start.is_none() && relay.upstream.is_none() && relay.farewell.is_none()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relayed(relay) => {
                let start = relay.start.as_ref().map_or(0, |start| start.len() as u64);
                let rest = match &relay.upstream {
                    Some(upstream) => upstream.left(),
                    None if relay.farewell.is_some() => None, // More than will ever come.
                    None => Some(0),
                };
                rest.map_or_else(SizeHint::default, |rest| SizeHint::with_exact(start + rest))
            }
        }
    }
}
