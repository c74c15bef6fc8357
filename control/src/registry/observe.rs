//! What a reported outcome does to the endpoint that it names.
//!
//! Three questions, in this order: is it about this generation, is it newer than
//! what is known, and who is to blame.

use std::time::Duration;

use super::{
    Blame, Clock, Evidence, Facts, Health, Moment, Policy, View, Witness,
    endpoint::{Endpoint, Turn},
};
use crate::seeded::{Bug, seeded};

/// One attempt's outcome, or that of several alike which succeeded.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The endpoint, as the proxy named it.
    pub endpoint: String,
    /// The generation that the attempt used.
    pub generation: super::Generation,
    /// The view under which it chose the endpoint.
    pub view: View,
    /// How many attempts this stands for; at least 1.
    pub count: u32,
    /// What it came to.
    pub facts: Facts,
    /// How long ago that was when the report left.
    pub age: Duration,
}

/// What became of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// It counted.
    Applied,
    /// It belongs to an incident that is known: observed, not counted.
    Suppressed,
    /// It was older than what is known.
    Stale,
}

impl Outcome {
    /// Takes the facts out, as evidence of a witness.
    pub(super) fn evidence(&mut self, witness: &Witness, observed: Moment) -> Evidence {
        let nothing = Facts::of(self.facts.outcome);
        Evidence {
            facts: std::mem::replace(&mut self.facts, nothing).bounded(),
            witness: witness.clone(),
            view: self.view,
            generation: self.generation,
            observed,
        }
    }
}

impl Endpoint {
    /// Applies an outcome, of which `evidence` holds the facts. `alone` says that no
    /// other proxy could agree with its reporter.
    pub(super) fn observe(
        &mut self,
        outcome: Outcome,
        alone: bool,
        evidence: &Evidence,
        policy: &Policy,
        turn: Turn,
    ) -> Observation {
        let count = u64::from(outcome.count);
        let void = outcome.generation != self.generation;
        if void
            && !(seeded(Bug::StaleFailureCounts) && outcome.facts.outcome.blame() != Blame::Success)
        {
            self.stats.stale += count;
            return Observation::Stale;
        }
        self.stats.attempts += count;
        let blame = evidence.facts.outcome.blame();
        match blame {
            Blame::Success => self.stats.successes += count,
            Blame::Credential(_) | Blame::Reporter(_) | Blame::Endpoint(_) => {
                self.stats.failures += count;
                self.checks.contradict();
            }
            Blame::Pause(_) => self.stats.throttled += count,
            Blame::Nobody => return Observation::Applied,
        }
        let was = self.health.clone();
        let health = was.clone();
        let older_than_success = outcome.view < self.mark.cleared;
        let health = match blame {
            Blame::Success
                if !self.answers(outcome.view) && !seeded(Bug::SuccessLiftsUnhealthy) =>
            {
                return Observation::Stale;
            }
            Blame::Success => {
                self.prove(turn);
                self.absolve(|doubt| doubt.witness == evidence.witness, turn);
                if health.failures() > 0 || matches!(health, Health::Degraded { .. }) {
                    self.mark.cleared = turn.view;
                }
                health.succeed()
            }
            Blame::Credential(_) if seeded(Bug::RejectionUnheard) => health,
            Blame::Credential(cause) => health.eject(cause, turn.now),
            Blame::Endpoint(_) | Blame::Pause(_) if older_than_success => {
                return Observation::Stale;
            }
            Blame::Endpoint(cause) => {
                self.mark.failed_under = self.mark.failed_under.max(outcome.view);
                health.fail(cause, self.ejecting(policy), turn.now)
            }
            Blame::Pause(cause) => {
                let until = self.pause_end(&evidence.facts, outcome.age, policy, turn);
                health.pause(cause, until, outcome.view >= self.mark.view)
            }
            Blame::Reporter(cause) => {
                // With nobody to disagree, the reporter's word is all there is.
                if was.incident().is_some()
                    || self.doubted(evidence, policy, turn)
                    || (alone && !seeded(Bug::LoneReporterUnheard))
                    || seeded(Bug::OneReporterEjects)
                {
                    health.eject(cause, turn.now)
                } else {
                    self.checks.hasten(turn.now.clock);
                    health
                }
            }
            Blame::Nobody => health,
        };
        let known = was.incident().is_some();
        let ejected = !known && health.incident().is_some();
        // A failure inside of a pause or after it leaves the check where it is: whoever is
        // sent to fail there would put it off again and again.
        let pause_end = |health: &Health| match health {
            Health::Degraded { until, .. } => Some(*until),
            Health::Unknown { .. } | Health::Healthy { .. } | Health::Unhealthy(_) => None,
        };
        let pause_changed = pause_end(&health) != pause_end(&was)
            || (pause_end(&was).is_some() && count > 0 && seeded(Bug::CheckPutOff));
        self.set_health(health, Some(evidence), turn);
        if ejected {
            self.doubts.clear();
            self.checks.failed = 0;
        }
        if ejected || pause_changed {
            self.plan_check(policy, turn.now.clock);
        }
        if known && blame != Blame::Success {
            Observation::Suppressed
        } else {
            Observation::Applied
        }
    }

    /// Whether a success chosen under `view` is newer than what is held against the
    /// endpoint.
    fn answers(&self, view: View) -> bool {
        match self.health {
            Health::Unknown { failures } | Health::Healthy { failures } if failures > 0 => {
                view >= self.mark.failed_under
            }
            Health::Unknown { .. }
            | Health::Healthy { .. }
            | Health::Degraded { .. }
            | Health::Unhealthy(_) => view >= self.mark.view,
        }
    }

    fn prove(&mut self, turn: Turn) {
        if !self.proven {
            self.proven = true;
            self.changed = turn.view;
        }
    }

    /// Notes local-origin evidence. Returns whether that makes two witnesses within
    /// the window.
    pub(super) fn doubted(&mut self, evidence: &Evidence, policy: &Policy, turn: Turn) -> bool {
        self.forget_old_doubts(policy, turn.now.clock);
        match self
            .doubts
            .iter_mut()
            .find(|doubt| doubt.witness == evidence.witness)
        {
            Some(known) => *known = evidence.clone(),
            None => {
                self.doubts.push(evidence.clone());
                self.changed = turn.view;
            }
        }
        self.doubts.len() >= 2 && !seeded(Bug::WitnessesUnheard)
    }

    /// Drops the doubts that nobody has shared within the window.
    pub(super) fn forget_old_doubts(&mut self, policy: &Policy, now: Clock) {
        let window = policy.corroboration_window;
        self.doubts
            .retain(|doubt| now.since(doubt.observed.clock) <= window);
    }

    /// Drops the doubts that `answered` says are answered.
    pub(super) fn absolve(&mut self, answered: impl Fn(&Evidence) -> bool, turn: Turn) {
        let before = self.doubts.len();
        self.doubts.retain(|doubt| !answered(doubt));
        if self.doubts.len() < before {
            self.changed = turn.view;
        }
    }

    /// Returns the failures in a row that eject.
    pub fn failures_max(&self, policy: &Policy) -> u32 {
        self.spec.max_failures.unwrap_or(policy.max_failures)
    }

    /// Returns how many of them do, whatever is said.
    pub(super) fn ejecting(&self, policy: &Policy) -> u32 {
        if seeded(Bug::FirstFailureEjects) {
            return 1;
        }
        if seeded(Bug::FailuresNeverEject) {
            return u32::MAX;
        }
        self.failures_max(policy)
    }

    /// Returns when a pause ends: as the provider asked, capped, or as the policy
    /// says. `age` is how long ago it asked.
    pub(super) fn pause_end(
        &self,
        facts: &Facts,
        age: Duration,
        policy: &Policy,
        turn: Turn,
    ) -> Clock {
        let cool_downs = &policy.cool_downs;
        let pause = match (facts.retry_after, facts.outcome) {
            (Some(asked), _) => asked.min(cool_downs.max),
            (None, super::OutcomeClass::RateLimited) => cool_downs.rate_limited,
            (None, _) => cool_downs.overloaded,
        };
        turn.now.clock.after(pause.saturating_sub(age))
    }
}
