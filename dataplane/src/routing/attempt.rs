//! One try at one endpoint, from its choice to its outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use qcc_proto::v1::OutcomeClass;

use super::{
    Endpoint, Entry, Router, Table,
    admission::Admission,
    live::Limit,
    mark::{Known, Seen},
};
use crate::reports::Report;

/// An attempt in flight. Dropping it without [`Attempt::finish`] means that the
/// client went away: nobody is blamed.
#[derive(Debug)]
pub(crate) struct Attempt {
    router: Router,
    table: Arc<Table>,
    index: usize,
    admission: Admission,
    /// The trial has been answered, and its place given back already.
    trial_over: AtomicBool,
}

/// An attempt whose outcome has left its mark here. It is reported as this is dropped,
/// wherever that happens: a client that goes cannot take the evidence with it.
#[derive(Debug)]
pub(crate) struct Judged {
    attempt: Attempt,
    /// `None` once it has been reported.
    outcome: Option<Outcome>,
    at: Instant,
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

impl Attempt {
    pub(super) fn new(
        router: Router,
        table: Arc<Table>,
        index: usize,
        admission: Admission,
    ) -> Self {
        Self {
            router,
            table,
            index,
            admission,
            trial_over: AtomicBool::new(false),
        }
    }

    /// Counts the attempt.
    pub(super) fn count(&self) {
        let totals = self.entry().live.totals();
        totals.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the endpoint to try.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.entry().routed.endpoint
    }

    /// Says that a 2xx head has arrived: in this process the endpoint counts as
    /// proven. The control plane learns of it at the end only.
    pub(crate) fn answered(&self) {
        let live = &self.entry().live;
        let proven = live.prove();
        let cleared = live.change(|mark| mark.answered(self.admission.number));
        if cleared && self.is_trial() && !self.trial_over.swap(true, Ordering::AcqRel) {
            live.end_trial();
        }
        if proven || cleared {
            self.router.wake();
        }
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
            outcome: Some(outcome),
            at: now,
        }
    }

    /// Marks the endpoint, in the attempt's own generation: a newer one has a state of
    /// its own.
    fn learn(&self, outcome: &Outcome, now: Instant) {
        let live = &self.entry().live;
        if outcome.class == OutcomeClass::Success {
            live.prove();
            live.totals().successes.fetch_add(1, Ordering::Relaxed);
        }
        let seen = Seen {
            class: outcome.class,
            retry_after: outcome.retry_after,
            chosen_at: self.admission.number,
        };
        let changed = self.with_newest(|newest| {
            let view = &newest.unwrap_or(self.entry()).routed;
            let known = Known {
                failures: view.failures,
                failures_max: view.failures_max,
                cool_downs: &self.table.policy().cool_downs,
            };
            live.change(|mark| mark.finished(seen, known, now))
        });
        if changed {
            self.router.wake();
        }
    }

    /// Reports under the generation and view of the attempt, whatever they are by
    /// now: what they are worth is the control plane's to judge.
    fn report(&self, outcome: Outcome, now: Instant) {
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
        let newest = self.router.newest();
        if newest
            .as_ref()
            .is_none_or(|newest| newest.life() != self.table.life())
        {
            return; // The registry that gave out this generation is gone.
        }
        let endpoint = self.endpoint();
        let report = Report {
            endpoint: Arc::clone(&endpoint.name),
            generation: endpoint.generation,
            view: self.table.view(),
            count: 1,
            at: now,
            outcome,
        };
        self.router.outbox().push(report, urgent);
    }

    /// Looks at what the newest table has of this endpoint in this generation.
    fn with_newest<T>(&self, look: impl FnOnce(Option<&Entry>) -> T) -> T {
        let newest = self.router.newest();
        let pinned = &*self.table;
        look(match newest.as_deref() {
            Some(newest) if std::ptr::eq(newest, pinned) => Some(self.entry()),
            Some(newest) => newest.counterpart(pinned, self.entry()),
            None => None,
        })
    }

    fn entry(&self) -> &Entry {
        &self.table.entries()[self.index]
    }

    fn is_trial(&self) -> bool {
        matches!(self.admission.limit, Limit::Trial(_))
    }
}

impl Judged {
    /// Adds the provider's error type to the report.
    pub(crate) fn set_error_type(&mut self, error_type: String) {
        if let Some(outcome) = &mut self.outcome {
            outcome.error_type = error_type;
        }
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            self.attempt.report(outcome, self.at);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let limit = match self.admission.limit {
            Limit::Trial(_) if *self.trial_over.get_mut() => Limit::None,
            limit => limit,
        };
        self.entry().live.leave(limit);
        // Nobody waits for a place where places are not limited.
        if self.admission.limit != Limit::None {
            self.router.wake();
        }
    }
}
