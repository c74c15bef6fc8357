//! Whether an endpoint may be tried now, and within which limit. The one place that
//! decides; what people are shown comes from here too.

use std::time::{Duration, Instant};

use qcc_proto::v1::AdminState;

use super::{
    Policy, Reason,
    endpoint::{Health, Routed},
    live::Limit,
    mark::{Block, Mark},
    pace::Age,
    table::{Entry, Table},
};
use crate::seeded::{Bug, seeded};

/// What an attempt has to respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Admission {
    /// The mark's number: what the attempt's success can clear.
    pub number: u64,
    /// How many attempts may be in flight.
    pub limit: Limit,
}

/// Who wants to try an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// A request that nothing has happened to.
    Bystander,
    /// A request that may be to blame for how it failed. Held evidence does not keep it
    /// away: two such requests at two endpoints would wait for each other.
    Suspect,
}

impl Entry {
    /// Returns why a new request could not go here now, as this view and the mark
    /// say.
    pub(crate) fn selectable(&self, policy: &Policy, now: Instant) -> Result<(), Reason> {
        self.standing(now)?;
        self.admit(policy, now, Party::Bystander)?;
        Ok(())
    }

    /// Returns how busy it is, for comparison. Failures count; see [`pace`](super::pace).
    #[inline(always)]
    pub(super) fn busy_score(&self, age: impl FnOnce() -> Age) -> u64 {
        u64::from(self.live.in_flight()) + u64::from(self.live.pace().debt(age))
    }

    /// Returns how long a request would take, for comparison.
    #[inline(always)]
    pub(super) fn latency_score(&self, age: Age) -> u64 {
        let latency = u64::from(self.live.pace().latency(age));
        (self.busy_score(|| age) + 1).saturating_mul(latency + 1)
    }

    /// Decides whether the view lets the endpoint through.
    #[inline(always)]
    pub(super) fn standing(&self, now: Instant) -> Result<(), Reason> {
        if let (AdminState::Enabled, Health::Unknown | Health::Healthy) =
            (self.routed.admin, self.routed.health)
        {
            return Ok(());
        }
        standing(&self.routed, now).map_err(|reason| match reason {
            Reason::Unhealthy { cause, .. } => Reason::Unhealthy {
                cause,
                check_in: self.live.check_in(now),
            },
            other => other,
        })
    }

    /// Decides whether the mark and the limits let one more attempt through.
    #[inline(always)]
    pub(super) fn admit(
        &self,
        policy: &Policy,
        now: Instant,
        party: Party,
    ) -> Result<Admission, Reason> {
        let is_proven = self.live.proven() || seeded(Bug::UnprovenUnlimited);
        let usual = match is_proven {
            true => Limit::NONE,
            false => Limit::unproven(policy.unproven_concurrency),
        };
        if let Some(number) = self.live.unmarked() {
            return self.within(usual, number);
        }
        self.admit_marked(usual, now, party)
    }

    fn admit_marked(&self, usual: Limit, now: Instant, party: Party) -> Result<Admission, Reason> {
        let mark = self.live.mark();
        let ignored = seeded(Bug::OwnPauseIgnored);
        let limit = match mark.block {
            Block::Clear => usual,
            Block::Paused { until, .. } if left(until, now).is_none() || ignored => usual,
            Block::Paused {
                cause,
                until,
                trial,
            } => match left(until.min(trial), now) {
                Some(remaining) => return Err(Reason::Paused { cause, remaining }),
                None => usual.trial(),
            },
            Block::Suspended { cause, until, .. } => match left(until, now) {
                Some(remaining) => return Err(Reason::Suspended { cause, remaining }),
                None => usual.trial(),
            },
            Block::Rejected => return Err(Reason::Rejected),
        };
        if self.is_withheld(&mark, party) {
            return Err(Reason::Held);
        }
        self.within(limit, mark.number)
    }

    #[inline(always)]
    fn within(&self, limit: Limit, number: u64) -> Result<Admission, Reason> {
        if self.live.has_room(limit) {
            return Ok(Admission { number, limit });
        }
        Err(match limit.is_trial() {
            true => Reason::Trial,
            false => Reason::Unproven,
        })
    }

    /// Returns whether nothing bad has been seen since the mark had that number, and nothing
    /// is held that keeps a request away.
    pub(super) fn is_unmarked(&self, number: u64, party: Party) -> bool {
        let mark = self.live.mark();
        mark.number == number && !self.is_withheld(&mark, party)
    }

    /// Returns whether held evidence keeps a request away. What adds up to it are the failures
    /// that this view counts: only the newest is to be asked.
    pub(super) fn is_withheld(&self, mark: &Mark, party: Party) -> bool {
        let routed = &self.routed;
        party == Party::Bystander && mark.is_withheld(routed.failures, routed.failures_max)
    }
}

/// Decides what the newest table says of an endpoint that a request has from the
/// table it pinned. Returns what the newest has of it.
#[inline(always)]
pub(super) fn still_standing<'a>(
    newest: &'a Table,
    pinned: &Table,
    entry: &'a Entry,
    now: Instant,
) -> Result<&'a Entry, Reason> {
    if std::ptr::eq(newest, pinned) || seeded(Bug::PinnedTableRules) {
        return Ok(entry);
    }
    let counterpart = newest.counterpart(pinned, entry);
    let counterpart = counterpart.ok_or(Reason::Superseded)?;
    counterpart.standing(now)?;
    Ok(counterpart)
}

fn standing(routed: &Routed, now: Instant) -> Result<(), Reason> {
    match routed.admin {
        AdminState::Enabled => {}
        AdminState::Draining => return Err(Reason::Draining),
        AdminState::Disabled | AdminState::Unspecified => return Err(Reason::Disabled),
    }
    match routed.health {
        Health::Unknown | Health::Healthy => Ok(()),
        Health::Degraded { cause, until } => match left(until, now) {
            Some(_) if seeded(Bug::ViewPauseIgnored) => Ok(()),
            Some(remaining) => Err(Reason::Degraded { cause, remaining }),
            None => Ok(()),
        },
        Health::Unhealthy { cause } => Err(Reason::Unhealthy {
            cause,
            check_in: None,
        }),
    }
}

/// Returns the time left until a deadline; `None` once it has passed.
fn left(until: Instant, now: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(now);
    (!left.is_zero()).then_some(left)
}
