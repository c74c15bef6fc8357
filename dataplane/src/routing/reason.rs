//! Why an endpoint is not selected, for clients and for people.

use std::{fmt, sync::Arc, time::Duration};

use qcc_proto::v1::Cause;

use super::Policy;

/// When to come back if nothing but a verification can help and it is not known when the
/// next one is: the first check is due after 5 s.
const RETRY_UNHEALTHY: Duration = Duration::from_secs(5);
/// What a check takes until its verdict is known here: a model says a few words.
const CHECK_TAKES: Duration = Duration::from_secs(2);
/// When to come back if an operator has to act. Chosen by feel.
const RETRY_OPERATOR: Duration = Duration::from_secs(30);
/// When to come back if an attempt has to finish, and the least that is ever said:
/// `retry-after` counts whole seconds.
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Endpoints that are named where nothing can be selected; a client has no use for a
/// thousand.
pub(crate) const REASONS_MAX: usize = 20;

/// Why an endpoint is not selected now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// An operator disabled it.
    Disabled,
    /// An operator drains it.
    Draining,
    /// The view says that it failed.
    Unhealthy {
        /// Why.
        cause: Cause,
        /// Time left until its next check, zero while one is under way; `None` if that is
        /// not known.
        check_in: Option<Duration>,
    },
    /// The view says that it asked for a pause.
    Degraded {
        /// Why.
        cause: Cause,
        /// Time left.
        remaining: Duration,
    },
    /// It answered 401 to this proxy.
    Rejected,
    /// It asked this proxy for a pause.
    Paused {
        /// Why.
        cause: Cause,
        /// Time left until it is over, or is tried inside.
        remaining: Duration,
    },
    /// It failed this proxy.
    Suspended {
        /// Why.
        cause: Cause,
        /// Time left.
        remaining: Duration,
    },
    /// It has not yet succeeded, and as many attempts as allowed find out now.
    Unproven,
    /// It comes back from a suspension or a long pause, and one attempt finds out now.
    Trial,
    /// A request failed there, and whose fault that is shows in a moment.
    Held,
    /// It was deleted, or has a newer generation, since the request began.
    Superseded,
}

impl Reason {
    /// Returns when it may end by itself, if that is known.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        match *self {
            Self::Degraded { remaining, .. }
            | Self::Paused { remaining, .. }
            | Self::Suspended { remaining, .. } => Some(remaining),
            Self::Disabled
            | Self::Draining
            | Self::Unhealthy { .. } // A check may fail.
            | Self::Rejected
            | Self::Unproven
            | Self::Trial
            | Self::Held
            | Self::Superseded => None,
        }
    }

    /// Returns whether it ends when a request under way gets further.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Unproven | Self::Trial | Self::Held)
    }

    /// Returns whether nothing helps but somebody who changes the endpoint: gives it another
    /// key, or takes it in again.
    pub(crate) fn is_for_people(&self) -> bool {
        matches!(
            self,
            Self::Disabled
                | Self::Draining
                | Self::Rejected
                | Self::Unhealthy {
                    cause: Cause::Auth | Cause::Forbidden,
                    ..
                }
        )
    }

    /// Returns when it is looked at next, by a request or a check, if that is known.
    pub(crate) fn next_in(&self) -> Option<Duration> {
        match *self {
            Self::Unhealthy { check_in, .. } => check_in,
            _ => self.remaining(),
        }
    }

    /// Returns when a client had best come back. A check may be further off than policy
    /// has it (its budget is spent, an operator holds it), but who waits for somebody to
    /// change that need not wait longer.
    fn retry_after(&self, policy: &Policy) -> Duration {
        match *self {
            Self::Degraded { remaining, .. }
            | Self::Paused { remaining, .. }
            | Self::Suspended { remaining, .. } => remaining,
            Self::Unproven | Self::Trial | Self::Held | Self::Superseded => RETRY_MIN,
            Self::Unhealthy {
                cause,
                check_in: Some(check_in),
            } => {
                let longest = match cause {
                    Cause::Auth => policy.verification.auth_max,
                    _ => policy.verification.max,
                };
                check_in.saturating_add(CHECK_TAKES).min(longest)
            }
            Self::Unhealthy { check_in: None, .. } | Self::Rejected => RETRY_UNHEALTHY,
            Self::Disabled | Self::Draining => RETRY_OPERATOR,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Disabled => f.write_str("disabled"),
            Self::Draining => f.write_str("draining"),
            Self::Unhealthy { cause, check_in } => {
                write!(f, "unhealthy: {}", words(cause))?;
                match check_in {
                    Some(Duration::ZERO) => f.write_str(", checked now"),
                    Some(left) => write!(f, ", next check in {}", seconds(left)),
                    None => Ok(()),
                }
            }
            Self::Degraded { cause, remaining } => {
                write!(f, "{} for {}", words(cause), seconds(remaining))
            }
            Self::Rejected => f.write_str("credential rejected here"),
            Self::Paused { cause, remaining } | Self::Suspended { cause, remaining } => {
                write!(
                    f,
                    "{} here, next try in {}",
                    words(cause),
                    seconds(remaining)
                )
            }
            Self::Unproven => f.write_str("busy: unproven, first attempts in flight"),
            Self::Trial => f.write_str("busy: trial in flight"),
            Self::Held => f.write_str("busy: a request that failed there is tried elsewhere"),
            Self::Superseded => f.write_str("changed while the request ran"),
        }
    }
}

/// Why nothing can be selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// The endpoints' reasons in the order of names, at most [`REASONS_MAX`].
    pub reasons: Vec<(Arc<str>, Reason)>,
    /// How many more endpoints there are.
    pub others: usize,
    /// Nothing helps any of them but [people](Reason::is_for_people).
    pub is_for_people: bool,
    /// The earliest real chance, as far as this process can tell. At least 1 s.
    pub retry_after: Duration,
}

impl Unavailable {
    /// Goes through the reasons of all endpoints.
    pub(crate) fn new<'a>(
        all: impl IntoIterator<Item = (&'a Arc<str>, Reason)>,
        policy: &Policy,
    ) -> Self {
        let mut reasons = Vec::new();
        let (mut others, mut is_for_people) = (0, true);
        let mut earliest: Option<Duration> = None;
        for (name, reason) in all {
            let wait = reason.retry_after(policy);
            earliest = Some(earliest.map_or(wait, |other| other.min(wait)));
            is_for_people &= reason.is_for_people();
            if reasons.len() < REASONS_MAX {
                reasons.push((Arc::clone(name), reason));
            } else {
                others += 1;
            }
        }
        // No endpoint at all: somebody has to add one.
        let earliest = earliest.unwrap_or(RETRY_OPERATOR);
        Self {
            reasons,
            others,
            is_for_people,
            retry_after: earliest.max(RETRY_MIN),
        }
    }
}

fn words(cause: Cause) -> &'static str {
    match cause {
        Cause::Unspecified => "unknown cause",
        Cause::Auth => "auth",
        Cause::Forbidden => "forbidden",
        Cause::RateLimited => "rate limited",
        Cause::Overloaded => "overloaded",
        Cause::ServerError => "server errors",
        Cause::Timeout => "no answer in time",
        Cause::Connect => "no connection",
        Cause::StreamBroken => "broken streams",
        Cause::CheckFailed => "check failed",
        Cause::Operator => "ejected by an operator",
    }
}

/// Prints whole seconds, rounded up: "0s" would be a promise.
fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_millis().div_ceil(1000).max(1))
}
