//! The health of one endpoint: a state machine without a clock, a network or a
//! neighbour.
//!
//! ```text
//!                 success                     pause
//!   ┌─────────┐ ───────────▶ ┌─────────┐ ──────────────▶ ┌──────────┐
//!   │ Unknown │              │ Healthy │                 │ Degraded │
//!   └─────────┘ ◀─┐          └─────────┘ ◀────────────── └──────────┘
//!        │        │ restore    │     ▲       success           │
//!        │ eject  │            │eject│ verified                │ eject
//!        ▼        │            ▼     │                         ▼
//!      ┌──────────────────────────────────────────────────────────┐
//!      │                Unhealthy (= in the failure queue)        │
//!      └──────────────────────────────────────────────────────────┘
//! ```
//!
//! - `eject` happens at once for a rejected credential, and after `max_failures`
//!   counted failures in a row.
//! - No success leads out of `Unhealthy`; only `verified` and `restore` do, and both
//!   begin a new generation.
//! - The failure queue is not a second record: an endpoint is queued exactly while
//!   it is `Unhealthy`, and the queue's entry is the [`Incident`] inside.

use serde::{Deserialize, Serialize};

use super::{Cause, Clock, Moment};
use crate::seeded::{Bug, seeded};

/// An endpoint's observed health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Health {
    /// Nothing is known in this generation.
    Unknown {
        /// Counted failures in a row.
        failures: u32,
    },
    /// It works.
    Healthy {
        /// Counted failures in a row.
        failures: u32,
    },
    /// It asked for a pause.
    Degraded {
        /// Rate limited or overloaded.
        cause: Cause,
        /// End of the pause. It stays degraded until somebody succeeds, but may be
        /// tried from then on.
        until: Clock,
        /// Counted failures in a row: trials after a pause can fail too.
        failures: u32,
    },
    /// It failed and waits to be verified.
    Unhealthy(Incident),
}

/// The state without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum State {
    Unknown,
    Healthy,
    Degraded,
    Unhealthy,
}

/// One stay in the failure queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Why it was ejected, or why the last check failed.
    pub cause: Cause,
    /// When it began.
    pub first_failure: Moment,
    /// When the last failure of the same incident was reported.
    pub last_failure: Moment,
    /// Failures reported for it, the first included.
    pub observations: u64,
}

impl Health {
    /// Returns health after a success that is newer than the present mark.
    pub fn succeed(self) -> Self {
        match self {
            Self::Unknown { .. } | Self::Healthy { .. } | Self::Degraded { .. } => {
                Self::Healthy { failures: 0 }
            }
            Self::Unhealthy(_) if seeded(Bug::SuccessLiftsUnhealthy) => {
                Self::Healthy { failures: 0 }
            }
            // Traffic proves nothing here: it was chosen before the fall.
            Self::Unhealthy(incident) => Self::Unhealthy(incident),
        }
    }

    /// Counts a failure, and ejects once the limit is reached.
    pub fn fail(self, cause: Cause, failures_max: u32, now: Moment) -> Self {
        let failures = self.failures().saturating_add(1);
        match self {
            Self::Unknown { .. } | Self::Healthy { .. } | Self::Degraded { .. }
                if failures >= failures_max =>
            {
                self.eject(cause, now)
            }
            Self::Unknown { .. } => Self::Unknown { failures },
            Self::Healthy { .. } => Self::Healthy { failures },
            Self::Degraded { cause, until, .. } => Self::Degraded {
                cause,
                until,
                failures,
            },
            Self::Unhealthy(_) => self.eject(cause, now),
        }
    }

    /// Takes the endpoint out of rotation. A further failure belongs to the same
    /// incident: it is observed, not counted again.
    pub fn eject(self, cause: Cause, now: Moment) -> Self {
        match self {
            Self::Unknown { .. } | Self::Healthy { .. } | Self::Degraded { .. } => {
                Self::Unhealthy(Incident {
                    cause,
                    first_failure: now,
                    last_failure: now,
                    observations: 1,
                })
            }
            Self::Unhealthy(incident) => Self::Unhealthy(Incident {
                last_failure: now,
                observations: incident.observations.saturating_add(1),
                ..incident
            }),
        }
    }

    /// Pauses the endpoint. `newer` says that the request was made under the present
    /// mark: only then may it bring the end forward.
    pub fn pause(self, cause: Cause, until: Clock, newer: bool) -> Self {
        match self {
            Self::Unknown { failures } | Self::Healthy { failures } => Self::Degraded {
                cause,
                until,
                failures,
            },
            Self::Degraded { failures, .. } if newer || seeded(Bug::PauseShortened) => {
                Self::Degraded {
                    cause,
                    until,
                    failures,
                }
            }
            Self::Degraded {
                cause: present,
                until: end,
                failures,
            } => Self::Degraded {
                cause: present,
                // Requests of one burst are told ends that differ by their travel
                // time; not every one of them is news.
                until: if until.since(end) > SAME_END {
                    until
                } else {
                    end
                },
                failures,
            },
            // Worse is known already.
            Self::Unhealthy(incident) => Self::Unhealthy(incident),
        }
    }

    /// Returns the state alone.
    pub fn state(&self) -> State {
        match self {
            Self::Unknown { .. } => State::Unknown,
            Self::Healthy { .. } => State::Healthy,
            Self::Degraded { .. } => State::Degraded,
            Self::Unhealthy(_) => State::Unhealthy,
        }
    }

    /// Returns the counted failures in a row.
    pub fn failures(&self) -> u32 {
        match self {
            Self::Unknown { failures }
            | Self::Healthy { failures }
            | Self::Degraded { failures, .. } => *failures,
            Self::Unhealthy(_) => 0,
        }
    }

    /// Returns why it is not healthy.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Unknown { .. } | Self::Healthy { .. } => None,
            Self::Degraded { cause, .. } => Some(*cause),
            Self::Unhealthy(incident) => Some(incident.cause),
        }
    }

    /// Returns the stay in the failure queue, if there is one.
    pub fn incident(&self) -> Option<&Incident> {
        match self {
            Self::Unknown { .. } | Self::Healthy { .. } | Self::Degraded { .. } => None,
            Self::Unhealthy(incident) => Some(incident),
        }
    }

    /// Whether two healths are the same state for the same cause, so that `since`
    /// goes on.
    pub fn same_state(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.cause() == other.cause()
    }

    /// Whether they differ in anything that a proxy acts on. Observations do not
    /// count: a burst of late failures must not become a burst of views.
    pub fn acts_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unhealthy(one), Self::Unhealthy(two)) => one.cause == two.cause,
            _ => self == other,
        }
    }
}

/// Ends of a pause that are this close are the same.
const SAME_END: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment {
        clock: Clock(1_000),
        wall_ms: 0,
    };

    #[test]
    fn failures_in_a_row_eject() {
        let mut health = Health::Healthy { failures: 0 };
        for _ in 0..2 {
            health = health.fail(Cause::ServerError, 3, NOW);
            assert!(health.incident().is_none());
        }
        health = health.fail(Cause::ServerError, 3, NOW);
        assert_eq!(health.cause(), Some(Cause::ServerError));
    }

    #[test]
    fn a_success_between_them_starts_the_count_again() {
        let mut health = Health::Unknown { failures: 0 };
        for _ in 0..10 {
            health = health.fail(Cause::ServerError, 2, NOW).succeed();
        }
        assert_eq!(health, Health::Healthy { failures: 0 });
    }

    #[test]
    fn no_success_lifts_unhealthy() {
        let ejected = Health::Unknown { failures: 0 }.eject(Cause::Auth, NOW);
        assert_eq!(ejected.clone().succeed(), ejected);
    }

    #[test]
    fn later_failures_are_observations_of_the_same_incident() {
        let health = Health::Healthy { failures: 0 }
            .eject(Cause::Auth, NOW)
            .eject(Cause::Timeout, NOW)
            .fail(Cause::ServerError, 1, NOW);
        let incident = health.incident().expect("it was ejected");
        assert_eq!((incident.cause, incident.observations), (Cause::Auth, 3));
    }

    #[test]
    fn only_newer_evidence_brings_the_end_of_a_pause_forward() {
        let paused = Health::Healthy { failures: 0 }.pause(Cause::RateLimited, Clock(60_000), true);
        let older = paused
            .clone()
            .pause(Cause::Overloaded, Clock(10_000), false);
        assert_eq!(older, paused);
        let longer = paused
            .clone()
            .pause(Cause::Overloaded, Clock(90_000), false);
        assert_eq!(
            longer,
            Health::Degraded {
                cause: Cause::RateLimited,
                until: Clock(90_000),
                failures: 0
            }
        );
        let newer = paused.pause(Cause::Overloaded, Clock(10_000), true);
        assert_eq!(
            newer,
            Health::Degraded {
                cause: Cause::Overloaded,
                until: Clock(10_000),
                failures: 0
            }
        );
    }

    #[test]
    fn a_trial_after_a_pause_can_fail_for_good() {
        let health = Health::Healthy { failures: 0 }
            .pause(Cause::RateLimited, Clock(1), true)
            .fail(Cause::ServerError, 2, NOW)
            .fail(Cause::ServerError, 2, NOW);
        assert_eq!(health.cause(), Some(Cause::ServerError));
    }
}
