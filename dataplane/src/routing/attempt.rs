//! One try at one endpoint, from its choice to its outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use qcc_proto::v1::{OutcomeClass, View};

use super::{
    Endpoint, Entry, Router, Table,
    admission::Admission,
    live::Limit,
    mark::{Block, Known, Seen},
    router::Pinned,
    table::Place,
};
use crate::{
    reports::Report,
    seeded::{Bug, seeded},
};

/// An attempt in flight. Dropping it without [`Attempt::finish`] means that the
/// client went away: nobody is blamed.
#[derive(Debug)]
pub(crate) struct Attempt {
    pinned: Arc<Pinned>,
    taken: Taken,
    /// When it was chosen.
    since: Instant,
    /// The trial has been answered, and its place given back already.
    trial_over: AtomicBool,
    /// Its place has been given back already.
    has_left: bool,
}

/// A place that has been taken, for an attempt that gives it back.
///
/// An attempt is made of it last of all: it is larger, and each function that it comes
/// through moves it.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(super) struct Taken {
    place: Place,
    admission: Admission,
    /// Which of this process's attempts at the endpoint it is, from 1.
    ordinal: u64,
}

/// An attempt whose outcome has left its mark here. It is reported as this is dropped,
/// wherever that happens: a client that goes cannot take the evidence with it.
#[derive(Debug)]
pub(crate) struct Judged {
    attempt: Attempt,
    outcome: Outcome,
    at: Instant,
    stance: Stance,
}

/// What an outcome is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stance {
    /// It is evidence, and marked.
    Stands,
    /// It keeps others away, and becomes evidence unless it is excused.
    Held,
    /// It is its request's own fault: no mark, no report.
    Excused,
}

/// What was seen of an endpoint by one attempt, for people.
#[derive(Debug)]
pub(crate) struct Witness {
    /// What the attempt came to.
    pub outcome: Outcome,
    /// When.
    pub at: Instant,
    /// Which of this process's attempts at the endpoint it was, from 1.
    pub attempt: u64,
    /// The view under which it was chosen.
    pub view: View,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// By whom is to blame.
    pub class: OutcomeClass,
    /// HTTP status; 0 if there was none.
    pub http_status: u16,
    /// The provider's error type.
    pub error_type: String,
    /// What the provider asked for.
    pub retry_after: Option<Duration>,
    /// A short technical description, without credentials.
    pub detail: String,
    /// The provider's request id.
    pub upstream_request_id: String,
}

impl Outcome {
    /// Returns an outcome of which only the class is known.
    pub(crate) fn of(class: OutcomeClass) -> Self {
        Self {
            class,
            http_status: 0,
            error_type: String::new(),
            retry_after: None,
            detail: String::new(),
            upstream_request_id: String::new(),
        }
    }
}

impl Taken {
    /// Takes a place of an endpoint within the limit of its admission, if there is one, and
    /// keeps it if `is_right` says so of the endpoint once it has been taken.
    #[inline(always)]
    pub(super) fn within(
        pinned: &Pinned,
        place: Place,
        admission: Admission,
        is_right: impl FnOnce(&Entry) -> bool,
    ) -> Option<Self> {
        let entry = pinned.table.entry(place);
        if !entry.live.enter(admission.limit) {
            return None;
        }
        if !is_right(entry) {
            give_back(&pinned.router, entry, admission.limit, false);
            return None;
        }
        let attempts = &entry.live.totals().attempts;
        Some(Self {
            place,
            admission,
            ordinal: attempts.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }
}

impl Attempt {
    #[inline(always)]
    pub(super) fn new(pinned: Arc<Pinned>, taken: Taken, since: Instant) -> Self {
        Self {
            pinned,
            taken,
            since,
            trial_over: AtomicBool::new(false),
            has_left: false,
        }
    }

    /// Returns the endpoint to try.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.entry().routed.endpoint
    }

    /// Says that a 2xx head has arrived: in this process the endpoint counts as
    /// proven. The control plane learns of it at the end only.
    pub(crate) fn answered(&self) {
        let live = &self.entry().live;
        let proven = self.prove();
        let changed = live.change(|mark| mark.answered(self.taken.admission.number));
        let cleared = changed && live.mark().block == Block::Clear;
        if cleared && self.is_trial() && !self.trial_over.swap(true, Ordering::AcqRel) {
            live.end_trial();
        }
        if proven || cleared {
            self.router().wake();
        }
    }

    /// Says when a 2xx head arrived, for strategies that ask how soon an endpoint answers.
    pub(crate) fn timed(&self, now: Instant) {
        let took = now.saturating_duration_since(self.since);
        let age = self.router().age(now);
        self.entry().live.pace().answered(took, age);
    }

    /// Says what the attempt came to: marks the endpoint here, and reports it.
    pub(crate) fn finish(self, outcome: Outcome, now: Instant) {
        drop(self.judge(outcome, now));
    }

    /// Marks the endpoint here at once, and leaves time to find out details before it is
    /// reported.
    pub(crate) fn judge(self, outcome: Outcome, now: Instant) -> Judged {
        self.learn(&outcome, now);
        Judged {
            attempt: self,
            outcome,
            at: now,
            stance: Stance::Stands,
        }
    }

    /// The same, of an outcome that may be the request's own fault. Others keep away at
    /// once, but it is evidence only once it stands: as it is dropped, unless a
    /// [`Suspicion`](super::Suspicion) excuses it.
    pub(crate) fn hold(self, outcome: Outcome, now: Instant) -> Judged {
        (self.entry().live).change(|mark| Some(mark.holding(outcome.class)));
        Judged {
            attempt: self,
            outcome,
            at: now,
            stance: Stance::Held,
        }
    }

    /// Says that the endpoint has answered well, and returns whether that is news here. A view
    /// that was kept may have known it.
    fn prove(&self) -> bool {
        let Entry { routed, live } = self.entry();
        match routed.proven {
            true => live.confirm(),
            false => live.prove(),
        }
    }

    /// Marks the endpoint, in the attempt's own generation: a newer one has a state of
    /// its own.
    fn learn(&self, outcome: &Outcome, now: Instant) {
        self.router().count(outcome.class);
        let live = &self.entry().live;
        match outcome.class {
            OutcomeClass::Success => {
                self.prove();
                live.totals().successes.fetch_add(1, Ordering::Relaxed);
                live.pace().succeeded(|| self.router().age(now));
            }
            OutcomeClass::Request | OutcomeClass::Cancelled | OutcomeClass::Unspecified => {}
            OutcomeClass::Auth
            | OutcomeClass::Forbidden
            | OutcomeClass::RateLimited
            | OutcomeClass::Overloaded
            | OutcomeClass::ServerError
            | OutcomeClass::Timeout
            | OutcomeClass::Connect
            | OutcomeClass::StreamBroken => {
                let took = now.saturating_duration_since(self.since);
                live.pace().failed(took, self.router().age(now));
            }
        }
        let seen = Seen {
            class: outcome.class,
            retry_after: outcome.retry_after,
            chosen_at: self.taken.admission.number,
        };
        let changed = self.with_newest(|newest| {
            let view = &newest.unwrap_or(self.entry()).routed;
            let known = Known {
                failures: view.failures,
                failures_max: view.failures_max,
                cool_downs: &self.table().policy().cool_downs,
            };
            live.change(|mark| mark.finished(seen, known, now))
        });
        if changed && outcome.class == OutcomeClass::Auth {
            self.router().rejected();
        }
        if changed {
            self.router().wake();
        }
    }

    /// Keeps what speaks against the endpoint, for people who ask.
    fn bear_witness(&self, outcome: &Outcome, at: Instant) {
        if matches!(
            outcome.class,
            OutcomeClass::Success
                | OutcomeClass::Request
                | OutcomeClass::Cancelled
                | OutcomeClass::Unspecified
        ) {
            return;
        }
        self.entry().live.bear(Witness {
            outcome: outcome.clone(),
            at,
            attempt: self.taken.ordinal,
            view: self.table().view(),
        });
    }

    /// Reports under the generation and view of the attempt, whatever they are by
    /// now: what they are worth is the control plane's to judge.
    fn report(&self, mut outcome: Outcome, now: Instant) {
        let urgent = match outcome.class {
            // A success is in no hurry, unless the view holds something against the
            // endpoint.
            OutcomeClass::Success => {
                self.with_newest(|newest| newest.is_some_and(|newest| !newest.routed.is_clean()))
            }
            OutcomeClass::Auth
            | OutcomeClass::Forbidden
            | OutcomeClass::RateLimited
            | OutcomeClass::Overloaded
            | OutcomeClass::ServerError
            | OutcomeClass::Timeout
            | OutcomeClass::Connect
            | OutcomeClass::StreamBroken => true,
            // Evidence of nothing.
            OutcomeClass::Request | OutcomeClass::Cancelled | OutcomeClass::Unspecified => return,
        };
        if seeded(Bug::ReportBlursClass) && outcome.class == OutcomeClass::Forbidden {
            outcome.class = OutcomeClass::ServerError;
        }
        let view = match seeded(Bug::ReportNamesNewest) {
            true => self.pinned.with_newest(Table::view),
            false => self.table().view(),
        };
        let endpoint = self.endpoint();
        let report = Report {
            endpoint: Arc::clone(&endpoint.name),
            generation: endpoint.generation,
            life: self.table().life(),
            view,
            count: 1,
            at: now,
            outcome,
        };
        self.router().outbox().push(report, urgent);
    }

    /// Looks at what the newest table has of this endpoint in this generation.
    fn with_newest<T>(&self, look: impl FnOnce(Option<&Entry>) -> T) -> T {
        self.pinned.with_counterpart(self.entry(), look)
    }

    pub(super) fn entry(&self) -> &Entry {
        self.table().entry(self.taken.place)
    }

    fn router(&self) -> &Router {
        &self.pinned.router
    }

    fn table(&self) -> &Table {
        &self.pinned.table
    }

    /// Gives its place back.
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.has_left, true) {
            let is_trial_over = *self.trial_over.get_mut();
            let limit = self.taken.admission.limit;
            give_back(self.router(), self.entry(), limit, is_trial_over);
        }
    }

    fn is_trial(&self) -> bool {
        self.taken.admission.limit.is_trial()
    }
}

/// Gives a place back that was taken within a limit.
fn give_back(router: &Router, entry: &Entry, limit: Limit, is_trial_over: bool) {
    entry.live.leave(match is_trial_over {
        true => Limit::NONE,
        false => limit,
    });
    // Nobody waits for a place where places are not limited.
    if limit != Limit::NONE {
        router.wake();
    }
}

impl Judged {
    /// Returns the endpoint that was tried.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.attempt.endpoint()
    }

    /// Returns what the attempt came to.
    pub(crate) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Returns how long the attempt took, and when it ended.
    pub(super) fn times(&self) -> (Duration, Instant) {
        let took = self.at.saturating_duration_since(self.attempt.since);
        (took, self.at)
    }

    /// Adds the provider's error type to the report.
    pub(crate) fn set_error_type(&mut self, error_type: String) {
        self.outcome.error_type = error_type;
    }

    /// Puts held evidence down to its request, and returns whether it is excused now. It
    /// is not if too many requests were blamed in this endpoint's place already.
    pub(super) fn excuse(&mut self, request: u64) -> bool {
        let (class, live) = (self.outcome.class, &self.attempt.entry().live);
        if self.stance == Stance::Held && live.change(|mark| mark.excused(class, request)) {
            self.stance = Stance::Excused;
            self.attempt.leave(); // The request goes on; its place here is free.
            self.attempt.router().wake();
        }
        self.stance == Stance::Excused
    }

    /// Makes evidence of what was held, or excused too soon.
    fn stand(&mut self) {
        if self.stance == Stance::Held {
            let class = self.outcome.class;
            (self.attempt.entry().live).change(|mark| Some(mark.released(class)));
        }
        if self.stance != Stance::Stands {
            self.stance = Stance::Stands;
            self.attempt.learn(&self.outcome, self.at);
            self.attempt.router().wake();
        }
    }

    /// Reports it, whatever was thought of it before.
    pub(super) fn accuse(mut self) {
        self.stand();
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        if self.stance == Stance::Held {
            self.stand();
        }
        if self.stance == Stance::Stands {
            self.attempt.bear_witness(&self.outcome, self.at);
            let nothing = Outcome::of(OutcomeClass::Unspecified);
            let outcome = std::mem::replace(&mut self.outcome, nothing);
            self.attempt.report(outcome, self.at);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.leave();
    }
}
