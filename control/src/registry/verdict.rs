//! What a check's verdict does.

use std::time::Duration;

use super::{
    Blame, Cause, CheckId, EndpointName, Evidence, Facts, Generation, Health, Moment, OutcomeClass,
    Policy, Registry, Witness,
    checks::RunningCheck,
    endpoint::{Endpoint, Turn},
};
use crate::seeded::{Bug, seeded};

/// What a check saw.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// It answered as it should.
    pub passed: bool,
    /// The facts.
    pub facts: Facts,
}

/// What a verdict did, for whoever asked for the check.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// The check passed and that counted.
    pub passed: bool,
    /// It asked with a key that waits to take over.
    pub of_new_key: bool,
    /// What it saw.
    pub evidence: Evidence,
}

impl Registry {
    /// Applies a check's verdict. Returns `None` if it is void, because the endpoint
    /// or its generation is gone.
    pub fn conclude(
        &mut self,
        endpoint: &EndpointName,
        check: CheckId,
        verdict: Verdict,
        now: Moment,
    ) -> Option<Conclusion> {
        let turn = self.turn(now);
        let queued = self.endpoints.get(endpoint)?.health.incident().is_some();
        let recovered = Generation(self.meta.generation.0 + 1);
        let conclusion = self.touch(endpoint, turn, |endpoint, policy, turn| {
            endpoint.conclude(check, verdict, policy, recovered, turn)
        })??;
        if self.endpoints.get(endpoint)?.generation == recovered {
            self.meta.generation = recovered;
            self.promised = true;
        }
        if conclusion.of_new_key {
            self.log_staged_verdict(endpoint, &conclusion.evidence, turn);
        } else if queued {
            self.count_verdict(conclusion.passed);
        }
        Some(conclusion)
    }

    pub(super) fn count_verdict(&mut self, passed: bool) {
        let totals = &mut self.meta.totals;
        totals.verified += 1;
        if passed {
            totals.recovered += 1;
        } else {
            totals.still_failed += 1;
        }
        self.dirty.any = true;
    }
}

impl Endpoint {
    /// Applies a verdict. Returns `None` if it is void: the check was disowned.
    /// `recovered` is the generation to begin if the endpoint comes back by it.
    pub(super) fn conclude(
        &mut self,
        id: CheckId,
        verdict: Verdict,
        policy: &Policy,
        recovered: Generation,
        turn: Turn,
    ) -> Option<Conclusion> {
        let any = seeded(Bug::OldVerdictCounts);
        let running = self
            .checks
            .running
            .take_if(|running| running.id == id || any)?;
        self.stats.checks += 1;
        let evidence = Evidence {
            facts: verdict.facts.bounded(),
            witness: Witness::Check,
            view: turn.view,
            generation: self.generation,
            observed: turn.now,
        };
        let passed = verdict.passed && !running.contradicted;
        if running.staged {
            self.conclude_staged(passed, &evidence, policy, recovered, turn);
            self.plan_check(policy, turn.now.clock);
            return Some(Conclusion {
                passed,
                of_new_key: true,
                evidence,
            });
        }
        if passed {
            self.pass(running, recovered, turn);
        } else {
            self.checks.failed = self.checks.failed.saturating_add(1);
        }
        if !verdict.passed {
            let queued = self.health.incident().is_some();
            self.flunk(running, &evidence, policy, turn);
            if !queued && self.health.incident().is_some() {
                self.doubts.clear();
                self.checks.failed = 0; // The incident's own checks are yet to come.
            }
        }
        self.plan_check(policy, turn.now.clock);
        Some(Conclusion {
            passed,
            of_new_key: false,
            evidence,
        })
    }

    fn pass(&mut self, running: RunningCheck, recovered: Generation, turn: Turn) {
        self.checks.failed = 0;
        self.absolve(|doubt| doubt.observed.clock <= running.started, turn);
        match self.health {
            Health::Unhealthy(_) => {
                self.regenerate(recovered, Health::Healthy { failures: 0 }, turn);
            }
            Health::Unknown { .. } | Health::Healthy { .. } | Health::Degraded { .. } => {
                let proven = Health::Healthy { failures: 0 };
                // What lifts nothing makes no view: evidence chosen under the present one
                // would be called older than it.
                if self.health != proven {
                    self.mark.cleared = turn.view;
                }
                self.set_health(proven, None, turn);
            }
        }
    }

    /// Applies what a failed check saw. It is evidence in its own right, by the same
    /// table as a proxied request's.
    fn flunk(&mut self, running: RunningCheck, evidence: &Evidence, policy: &Policy, turn: Turn) {
        let facts = &evidence.facts;
        if let Health::Unhealthy(incident) = &self.health {
            let mut incident = incident.clone();
            incident.cause = match facts.outcome.blame() {
                Blame::Credential(cause)
                | Blame::Reporter(cause)
                | Blame::Endpoint(cause)
                | Blame::Pause(cause) => cause,
                Blame::Success | Blame::Nobody => Cause::CheckFailed,
            };
            // An incident's evidence is the newest word on it, also for the same cause.
            self.mark.evidence = Some(Box::new(evidence.clone()));
            self.set_health(Health::Unhealthy(incident), Some(evidence), turn);
            return;
        }
        let health = self.health.clone();
        let health = match facts.outcome.blame() {
            Blame::Credential(cause) => health.eject(cause, turn.now),
            // It was reached, understood what was asked, and still answered wrongly.
            Blame::Success => health.eject(Cause::CheckFailed, turn.now),
            Blame::Reporter(cause) => {
                // It has never worked for anybody, or a proxy says the same.
                let alone = matches!(health, Health::Unknown { .. });
                if self.doubted(evidence, policy, turn) || alone || running.doubted {
                    health.eject(cause, turn.now)
                } else {
                    health
                }
            }
            Blame::Endpoint(cause) => health.fail(cause, self.ejecting(policy), turn.now),
            Blame::Pause(cause) => health.pause(
                cause,
                self.pause_end(facts, Duration::ZERO, policy, turn),
                true,
            ),
            // The provider did not like the check itself (no such model or path):
            // that says nothing about the traffic.
            Blame::Nobody => health,
        };
        if facts.outcome == OutcomeClass::Request {
            self.mark.evidence = Some(Box::new(evidence.clone()));
        }
        self.set_health(health, Some(evidence), turn);
    }
}
