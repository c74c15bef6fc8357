//! What this process has seen of an endpoint and acts on before the control plane
//! has spoken.
//!
//! ```text
//!                 429, 529, 503 + retry-after
//!        +-----------------------------------------+
//!        |                                         v
//!      Clear <--- success, chosen after it --- Paused (until)
//!      |   ^                                       |
//!      |   | success, chosen after it              | no head, no connection,
//!      |   | (a 2xx head, if it was for want       | or max_failures reached
//!      |   |  of a head)                           v
//!      |   +----------------------------- Suspended (until, then one trial at a time)
//!      |                                           |  trial fails: twice as long,
//!      |  no head, no connection,                  |  5 s to 60 s
//!      +-- or max_failures reached --------------> +
//!
//!      any --- 401 ---> Rejected: final in this generation
//! ```
//!
//! Beside that a mark counts evidence that is *held*: what a request saw that may be its
//! own fault. It keeps other requests away as it would if it stood, until it stands or
//! is withdrawn; see [`suspicion`](super::suspicion).
//!
//! An outcome is tied to the attempt it came from by the mark's `number`: it grows
//! with every piece of bad evidence, and an attempt remembers the number at which
//! it was chosen. A success lifts a block only if nothing bad has been seen since its
//! attempt was chosen, and ends a row of counted failures only if it was chosen no
//! earlier than they were; a parked success that arrives late changes nothing. Bad
//! evidence always counts, for it is news about now; but only the trial itself
//! prolongs a suspension, because whatever else fails belongs to the same incident.
//! Of a pause and a suspension that meet, the one that lasts longer stands. A pause that
//! only this process knows of has a trial each minute: what ended it may have crossed it.

use std::time::{Duration, Instant};

use qcc_proto::v1::{Cause, OutcomeClass};

use super::{
    CoolDowns,
    held::{Held, Suspects},
};
use crate::seeded::{Bug, seeded};

/// First suspension. Long enough for the control plane's own check (first due
/// after 5 s) to have a say.
const SUSPENSION_FIRST: Duration = Duration::from_secs(5);
/// Longest suspension: an endpoint that nobody else doubts is tried every minute.
const SUSPENSION_MAX: Duration = Duration::from_secs(60);

/// How often a pause that the fleet does not know of is tried inside, as the control plane
/// checks inside of those that it knows. The fleet may have seen its end while the word of
/// its beginning was on the way here, and nobody else will tell.
const TRIAL_INTERVAL: Duration = Duration::from_secs(60);

/// What this process knows of one endpoint in one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Counts changes of any kind.
    pub changes: u64,
    /// Counts pieces of bad evidence.
    pub number: u64,
    /// Failures in a row, those of the view included.
    pub failures: u32,
    /// The view's count that a success has answered; 0 for none. The view goes on to
    /// show it until the control plane has heard of the success, and for as long as
    /// the control plane is away.
    pub forgiven: u32,
    /// The newest number at which a counted failure was chosen.
    pub counted_at: u64,
    /// Whether and how the endpoint is kept out of selection.
    pub block: Block,
    /// Evidence that neither stands nor is withdrawn.
    pub held: Held,
    /// Requests that were blamed in the endpoint's place since it last answered well.
    pub suspects: Suspects,
}

/// Whether and how an endpoint is kept out of selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// It is not.
    Clear,
    /// It asked for a pause. Inside of a long one, from `trial` on, one attempt at a time
    /// finds out whether it has relented.
    Paused {
        /// Why.
        cause: Cause,
        /// End of the pause.
        until: Instant,
        /// When it may be tried, if the pause lasts that long.
        trial: Instant,
    },
    /// It failed. After `until` one attempt at a time finds out.
    Suspended {
        /// Why.
        cause: Cause,
        /// End of the suspension.
        until: Instant,
        /// How often it has been prolonged.
        step: u32,
    },
    /// The credential was rejected. Nothing but a new generation helps.
    Rejected,
}

/// The evidence of one finished attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// What it came to.
    pub class: OutcomeClass,
    /// What the provider asked for.
    pub retry_after: Option<Duration>,
    /// The mark's number when the attempt was chosen.
    pub chosen_at: u64,
}

/// What the newest view says, as far as marks depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Failures in a row.
    pub failures: u32,
    /// Failures in a row that eject.
    pub failures_max: u32,
    /// Pauses after back-pressure.
    pub cool_downs: &'a CoolDowns,
}

impl Mark {
    /// Nothing seen yet.
    pub(crate) const CLEAR: Self = Self {
        changes: 0,
        number: 0,
        failures: 0,
        forgiven: 0,
        counted_at: 0,
        block: Block::Clear,
        held: Held::NONE,
        suspects: Suspects::NONE,
    };

    /// Returns whether it keeps nobody away, whatever a view says.
    pub(super) fn is_open(&self) -> bool {
        self.block == Block::Clear && self.held == Held::NONE
    }

    /// Returns the mark after the credential was rejected.
    pub(crate) fn rejected(&self) -> Self {
        self.blocked(Block::Rejected)
    }

    /// Returns the mark after an attempt has finished, or `None` if it stays as it
    /// is.
    pub(crate) fn finished(&self, seen: Seen, known: Known<'_>, now: Instant) -> Option<Self> {
        use OutcomeClass as C;
        if self.block == Block::Rejected {
            return None; // Rule 10: nothing that this generation does is news any more.
        }
        match seen.class {
            C::Success => self.succeeded(seen.chosen_at, known),
            C::Auth if seeded(Bug::RejectionIgnored) => None,
            C::Auth => Some(self.rejected()),
            C::RateLimited => {
                let wait = wait(seen.retry_after, known.cool_downs.rate_limited, known);
                Some(self.paused(Cause::RateLimited, wait, seen.chosen_at, now))
            }
            C::Overloaded => {
                let wait = wait(seen.retry_after, known.cool_downs.overloaded, known);
                Some(self.paused(Cause::Overloaded, wait, seen.chosen_at, now))
            }
            C::Timeout => Some(self.suspended(Cause::Timeout, seen.chosen_at, now)),
            C::Connect => Some(self.suspended(Cause::Connect, seen.chosen_at, now)),
            C::Forbidden => Some(self.counted(Cause::Forbidden, seen.chosen_at, known, now)),
            C::ServerError => Some(self.counted(Cause::ServerError, seen.chosen_at, known, now)),
            C::StreamBroken => Some(self.counted(Cause::StreamBroken, seen.chosen_at, known, now)),
            // The request's fault, the client's wish, or a class that we do not know.
            C::Request | C::Cancelled | C::Unspecified => None,
        }
    }

    /// Returns the mark after a 2xx head, or `None` if it stays as it is.
    ///
    /// A head disproves "no head", "no connection" and "not now" at once. Waiting for the
    /// end of a stream of minutes would keep an endpoint at one request at a time.
    ///
    /// It also shows that others are served: failures that were put down to their
    /// requests were so rightly, and the next ones are judged afresh.
    pub(crate) fn answered(&self, chosen_at: u64) -> Option<Self> {
        let block = match self.block {
            Block::Suspended {
                cause: Cause::Timeout | Cause::Connect,
                ..
            }
            | Block::Paused { .. }
                if chosen_at == self.number =>
            {
                Block::Clear
            }
            Block::Clear | Block::Paused { .. } | Block::Suspended { .. } | Block::Rejected => {
                self.block
            }
        };
        let next = Self {
            block,
            suspects: Suspects::NONE,
            ..*self
        };
        (next != *self).then_some(next)
    }

    /// Returns the mark with one more piece of evidence that is held.
    pub(crate) fn holding(&self, class: OutcomeClass) -> Self {
        Self {
            held: self.held.with(class, |count| count.saturating_add(1)),
            ..*self
        }
    }

    /// Returns the mark with one piece less of evidence that is held.
    pub(crate) fn released(&self, class: OutcomeClass) -> Self {
        Self {
            held: self.held.with(class, |count| count.saturating_sub(1)),
            ..*self
        }
    }

    /// Returns the mark after a piece of held evidence was put down to its request, or
    /// `None` if too many other requests have been blamed already.
    pub(crate) fn excused(&self, class: OutcomeClass, request: u64) -> Option<Self> {
        Some(Self {
            suspects: self.suspects.with(request)?,
            ..self.released(class)
        })
    }

    /// Returns whether held evidence keeps other requests away: as it would if it stood.
    pub(crate) fn is_withheld(&self, failures: u32, failures_max: u32) -> bool {
        let Held {
            suspending,
            counted,
        } = self.held;
        let is_trial = matches!(self.block, Block::Suspended { .. });
        let known = self.failures.max(self.elsewhere(failures));
        suspending > 0
            || (counted > 0 && (is_trial || known.saturating_add(counted) >= failures_max))
    }

    /// Returns the failures that the view knows of and no success has answered.
    fn elsewhere(&self, failures: u32) -> u32 {
        if failures == self.forgiven {
            0
        } else {
            failures
        }
    }

    /// Returns the mark after the view's count of failures has changed, or `None` if it
    /// stays as it is.
    pub(crate) fn recounted(&self) -> Option<Self> {
        (self.forgiven != 0).then_some(Self {
            forgiven: 0,
            ..*self
        })
    }

    /// Returns the mark after the view has lifted a pause, or `None` if it stays as it
    /// is: what was seen here was seen under an older view than that success.
    pub(crate) fn relented(&self) -> Option<Self> {
        matches!(self.block, Block::Paused { .. }).then_some(Self {
            block: Block::Clear,
            ..*self
        })
    }

    fn succeeded(&self, chosen_at: u64, known: Known<'_>) -> Option<Self> {
        let newest = chosen_at == self.number;
        // Of attempts that run side by side, failures must not count more than successes.
        let ends_row = self.block == Block::Clear && chosen_at >= self.counted_at;
        let is_forgiven = self.failures == 0 && self.forgiven == known.failures;
        let spotless = is_forgiven && self.block == Block::Clear && self.suspects == Suspects::NONE;
        ((newest || ends_row) && !spotless).then_some(Self {
            failures: 0,
            forgiven: known.failures,
            block: Block::Clear,
            suspects: Suspects::NONE,
            ..*self
        })
    }

    fn paused(&self, cause: Cause, wait: Duration, chosen_at: u64, now: Instant) -> Self {
        let (until, trial) = (now + wait, self.next_trial(now));
        self.blocked(match self.block {
            Block::Paused {
                cause, until: old, ..
            } if old >= until => Block::Paused {
                cause,
                until: old,
                trial,
            },
            // The trial was answered: it is back-pressure now, not silence.
            Block::Suspended { until: old, .. } if chosen_at == self.number => Block::Paused {
                cause,
                until: until.max(old),
                trial,
            },
            // The longer of both, as what it is: the fleet may lift a pause early.
            Block::Suspended { until: old, .. } if old >= until => self.block,
            Block::Clear | Block::Paused { .. } | Block::Suspended { .. } => Block::Paused {
                cause,
                until,
                trial,
            },
            Block::Rejected => Block::Rejected,
        })
    }

    fn suspended(&self, cause: Cause, chosen_at: u64, now: Instant) -> Self {
        self.blocked(match self.block {
            Block::Clear => Block::Suspended {
                cause,
                until: now + first_suspension(),
                step: 0,
            },
            Block::Paused { until, .. } if until >= now + SUSPENSION_FIRST => self.tried(now),
            Block::Paused { .. } => Block::Suspended {
                cause,
                until: now + SUSPENSION_FIRST,
                step: 0,
            },
            Block::Suspended { until, step, .. } if chosen_at == self.number => {
                let step = step.saturating_add(1);
                Block::Suspended {
                    cause,
                    until: until.max(now + suspension(step)),
                    step,
                }
            }
            Block::Suspended { .. } => self.block, // The same incident.
            Block::Rejected => Block::Rejected,
        })
    }

    /// Counts a failure that does not eject by itself.
    ///
    /// The view's count includes what we reported ourselves, so the larger of both
    /// is what is known to have happened in a row; their sum would count twice. A count
    /// that a success has answered is over.
    fn counted(&self, cause: Cause, chosen_at: u64, known: Known<'_>, now: Instant) -> Self {
        let elsewhere = self.elsewhere(known.failures);
        let failures = self.failures.max(elsewhere).saturating_add(1);
        let trial = matches!(self.block, Block::Suspended { .. });
        let next = if failures >= known.failures_max || trial {
            self.suspended(cause, chosen_at, now)
        } else {
            self.blocked(self.tried(now))
        };
        Self {
            failures,
            counted_at: self.counted_at.max(chosen_at),
            ..next
        }
    }

    /// Returns the block after another attempt has failed: a pause is not tried at once again.
    fn tried(&self, now: Instant) -> Block {
        match self.block {
            Block::Paused { cause, until, .. } => Block::Paused {
                cause,
                until,
                trial: self.next_trial(now),
            },
            Block::Clear | Block::Suspended { .. } | Block::Rejected => self.block,
        }
    }

    /// Returns when a pause is tried next. Evidence that was held comes as of when it was
    /// seen: it brings no trial forward.
    fn next_trial(&self, now: Instant) -> Instant {
        match self.block {
            Block::Paused { trial, .. } => trial.max(now + TRIAL_INTERVAL),
            Block::Clear | Block::Suspended { .. } | Block::Rejected => now + TRIAL_INTERVAL,
        }
    }

    fn blocked(&self, block: Block) -> Self {
        Self {
            number: self.number + 1,
            block,
            ..*self
        }
    }
}

/// Returns how long to stay away after back-pressure. Only what the provider asks
/// for is capped: the cool-downs are the operator's own words.
fn wait(asked: Option<Duration>, default: Duration, known: Known<'_>) -> Duration {
    asked.map_or(default, |asked| asked.min(known.cool_downs.max))
}

fn first_suspension() -> Duration {
    if seeded(Bug::MarkNeverExpires) {
        return Duration::from_secs(1 << 30);
    }
    if seeded(Bug::SuspendedTooLong) {
        return SUSPENSION_MAX;
    }
    SUSPENSION_FIRST
}

fn suspension(step: u32) -> Duration {
    SUSPENSION_FIRST
        .saturating_mul(1 << step.min(8))
        .min(SUSPENSION_MAX)
}
