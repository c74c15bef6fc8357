//! Checks: when one is due, and that there is never a second.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ApiFlavor, ApiKey, Cause, Check, CheckKind, Clock, CredentialScheme, Effect, EndpointName,
    EventKind, Generation, Health, Policy, Registry,
    endpoint::{AdminState, Endpoint, Turn},
    policy::{LONG_PAUSE, VerificationSchedule},
};
use crate::seeded::{Bug, seeded};

/// Names one check in one life of the control plane.
pub type CheckId = u64;

/// A check to be done, with everything that doing it needs.
#[derive(Debug, Clone)]
pub struct CheckOrder {
    /// Comes back with the verdict.
    pub id: CheckId,
    /// The endpoint.
    pub endpoint: super::EndpointName,
    /// Where to ask.
    pub base_url: String,
    /// With which credential.
    pub api_key: Option<ApiKey>,
    /// And where to put it.
    pub credential_scheme: CredentialScheme,
    /// In which words.
    pub api: ApiFlavor,
    /// What to ask.
    pub check: Check,
}

/// An endpoint's planned and running checks, and what they have cost.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checks {
    /// When the next one is due; `None` while one runs or none is planned.
    pub due: Option<Clock>,
    /// Checks in a row, in this generation, that did not pass.
    pub failed: u32,
    /// The one in flight. It does not outlive the process.
    #[serde(skip)]
    pub running: Option<RunningCheck>,
    /// An operator asked for the next one: neither hold nor budget applies.
    #[serde(skip)]
    wanted: bool,
    /// None is planned before this.
    pub(super) held: Clock,
    budget: Budget,
}

/// A check in flight.
#[derive(Debug, Clone, Copy)]
pub struct RunningCheck {
    /// Its id.
    pub id: CheckId,
    /// When it began.
    pub started: Clock,
    /// A proxy doubted the endpoint when it began.
    pub(super) doubted: bool,
    /// A failure arrived meanwhile: it wins over a success of this check.
    pub(super) contradicted: bool,
    /// It asks with the key that waits.
    pub(super) staged: bool,
}

/// Checks in the present hour.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Budget {
    hour: Clock,
    spent: u32,
}

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

impl Checks {
    /// Drops plans, and gives up a running check.
    pub(super) fn forget(&mut self) {
        self.due = None;
        self.failed = 0;
        self.disown();
        self.wanted = false;
        self.held = Clock::default();
    }

    /// Gives up a running check: its verdict finds no taker.
    pub(super) fn disown(&mut self) {
        self.running = None;
    }

    /// Plans no check before `until`.
    pub(super) fn hold(&mut self, until: Clock) {
        self.held = self.held.max(until);
    }

    /// Notes that a failure arrived. It wins over the success of a running check.
    pub(super) fn contradict(&mut self) {
        if let Some(running) = &mut self.running {
            running.contradicted = true;
        }
    }

    /// Makes the next check due now.
    pub(super) fn hasten(&mut self, now: Clock) {
        if self.running.is_none() {
            self.due = Some(self.due.map_or(now, |due| due.min(now)));
        }
    }

    /// Makes the next check due now, whatever it costs.
    pub(super) fn demand(&mut self, now: Clock) {
        self.hasten(now);
        self.wanted = true;
    }
}

/// What came of a due check.
pub(super) enum Due {
    /// Do it.
    Run(Box<CheckOrder>),
    /// Nobody is asked: the time is up, and that is all there is to it.
    Elapsed,
    /// The budget for this hour is spent; it is done when the next hour begins.
    Refused,
    /// Not now.
    Later,
}

impl Endpoint {
    /// Returns the check in force.
    pub fn check<'a>(&'a self, policy: &'a Policy) -> &'a Check {
        self.spec.check.as_deref().unwrap_or(&policy.check)
    }

    /// Plans the next check, given that something relevant happened just now.
    pub(super) fn plan_check(&mut self, policy: &Policy, now: Clock) {
        if self.checks.running.is_some() && !seeded(Bug::SecondCheck) {
            return; // Its verdict plans the next.
        }
        self.forget_old_doubts(policy, now);
        self.checks.due = self.next_check(policy, now);
        let due = self.checks.due.into_iter().chain(self.staged_due(policy));
        self.checks.due = due.min();
    }

    /// Whether a check should be planned or under way, and is not.
    pub(super) fn lacks_check(&self, policy: &Policy, now: Clock) -> bool {
        self.checks.due.is_none()
            && self.checks.running.is_none()
            && (self.staged_due(policy).is_some() || self.next_check(policy, now).is_some())
    }

    /// Returns when the endpoint is to be checked with its present key.
    fn next_check(&self, policy: &Policy, now: Clock) -> Option<Clock> {
        let asks = self.check(policy).kind != CheckKind::None;
        let backoff = self.backoff(&policy.verification);
        let due = match (&self.health, self.spec.admin_state) {
            (_, AdminState::Disabled) => None,
            (Health::Unhealthy(_), _) if seeded(Bug::NoCheckPlanned) => None,
            (Health::Unhealthy(_), _) => Some(now.after(backoff)),
            (Health::Unknown { .. }, _) if asks && self.checks.failed == 0 => Some(now),
            (Health::Unknown { .. }, _) if asks => Some(now.after(backoff)),
            (Health::Healthy { .. }, _) if asks && !self.doubts.is_empty() => {
                Some(if self.checks.failed == 0 {
                    now
                } else {
                    now.after(backoff)
                })
            }
            (Health::Degraded { until, .. }, _) if asks && until.since(now) > LONG_PAUSE => {
                Some(now.after(LONG_PAUSE.max(policy.verification.max)))
            }
            // Requests find out at no cost, but none may come: those who work take the
            // load of one that is paused.
            (Health::Degraded { until, .. }, _) if asks => {
                Some(now.max(*until).after(policy.verification.max))
            }
            (Health::Unknown { .. } | Health::Healthy { .. } | Health::Degraded { .. }, _) => None,
        };
        due.map(|due| due.max(self.checks.held))
    }

    /// Plans the next check after the rules have changed: not later than it was.
    pub(super) fn replan_check(&mut self, policy: &Policy, now: Clock) {
        let before = self.checks.due;
        self.plan_check(policy, now);
        if let (Some(before), Some(planned)) = (before, self.checks.due) {
            self.checks.due = Some(before.min(planned));
        }
    }

    /// Plans a check at once if the answer may be another now, since what is asked, or
    /// how, has changed.
    pub(super) fn ask_anew(&mut self, policy: &Policy, now: Clock) {
        self.replan_check(policy, now);
        if self.checks.due.is_some() && self.check(policy).kind != CheckKind::None {
            self.checks.hasten(now.max(self.checks.held));
        }
    }

    /// Returns the wait before the next check: doubled for each that failed, a
    /// little less for some than for others so that a fleet's checks spread.
    fn backoff(&self, schedule: &VerificationSchedule) -> Duration {
        let longest = match self.health.cause() {
            Some(Cause::Auth) => schedule.auth_max, // A rejected key seldom comes back by itself.
            _ => schedule.max,
        };
        let doubled = schedule
            .first
            .saturating_mul(1 << self.checks.failed.min(20));
        let thousandths = 800 + jitter(self.generation, self.checks.failed) % 200;
        doubled.min(longest).mul_f64(thousandths as f64 / 1000.0)
    }

    /// Starts the check that is due.
    pub(super) fn start_check(&mut self, id: CheckId, policy: &Policy, turn: Turn) -> Due {
        let now = turn.now.clock;
        self.checks.due = self.staged_due(policy).filter(|due| *due > now);
        // A key that has waited long enough takes over first.
        if self.is_overdue(now) || self.spec.admin_state == AdminState::Disabled {
            return Due::Later;
        }
        let check = self.check(policy).clone();
        if check.kind == CheckKind::None && !seeded(Bug::NoneAsks) {
            return Due::Elapsed;
        }
        self.checks.due = None;
        let wanted = std::mem::take(&mut self.checks.wanted);
        let budget = &mut self.checks.budget;
        if budget.spent == 0 || now.since(budget.hour) >= HOUR {
            *budget = Budget {
                hour: now,
                spent: 0,
            };
        }
        let is_spent = budget.spent >= policy.verification.per_hour_max;
        if is_spent && !wanted && !seeded(Bug::BudgetIgnored) {
            let next_hour = budget.hour.after(HOUR);
            // Not the present key's turn to be asked with, but its time may be up.
            let up = self
                .staged
                .as_ref()
                .map(|staged| staged.until.max(now.after(MINUTE)));
            self.checks.due = Some(up.map_or(next_hour, |up| up.min(next_hour)));
            self.stats.checks_refused += 1;
            return Due::Refused;
        }
        budget.spent = budget.spent.saturating_add(1);
        let proves = self.key_to_prove(policy, now).cloned();
        self.checks.running = Some(RunningCheck {
            id,
            started: now,
            doubted: !self.doubts.is_empty(),
            contradicted: false,
            staged: proves.is_some(),
        });
        let api_key = proves.or_else(|| self.spec.api_key.clone());
        Due::Run(Box::new(CheckOrder {
            id,
            endpoint: self.spec.name.clone(),
            base_url: self.spec.base_url.clone(),
            api_key,
            credential_scheme: policy.credential_scheme,
            api: policy.api,
            check,
        }))
    }
}

impl Registry {
    pub(super) fn start_check(&mut self, name: &EndpointName, turn: Turn) {
        self.last_check += 1;
        let id = self.last_check;
        let due = self.touch(name, turn, |endpoint, policy, turn| {
            endpoint.start_check(id, policy, turn)
        });
        match due {
            Some(Due::Run(order)) => {
                self.check_counts.made += 1;
                self.effects.push(Effect::Check(order));
            }
            Some(Due::Elapsed) => self.elapse(name, turn),
            Some(Due::Refused) => {
                self.check_counts.refused += 1;
                self.log_repeated(EventKind::CheckRefused, name, 1, turn, |endpoint, event| {
                    event.cause = endpoint.health.cause();
                });
            }
            Some(Due::Later) | None => {}
        }
    }

    /// The check `none`: the time is up, and a few requests may find out.
    fn elapse(&mut self, name: &EndpointName, turn: Turn) {
        let queued = self
            .endpoints
            .get(name)
            .is_some_and(|e| e.health.incident().is_some());
        if queued {
            self.count_verdict(true);
            self.begin_generation(name, turn);
        }
    }
}

/// Returns a number that looks random but follows from its arguments, so that the
/// same commands give the same state.
fn jitter(generation: Generation, attempt: u32) -> u64 {
    let mut z = generation
        .0
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(u64::from(attempt));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
