//! That everything becomes good when faults stop.

use std::time::Instant;

use qcc_control::registry::{AdminState, CheckKind, Health};
use qcc_proto::v1;

use super::{Judge, Violation, checks::check_of, suspects::Known};
use crate::{position::Position, world::World};

impl World {
    /// Judges the end of a run.
    pub(crate) fn judge_end(&mut self) -> Result<(), Violation> {
        let Some(life) = &self.life else {
            return Err(Violation::new(
                "I-30 all agree in the end",
                "there is no control plane",
            ));
        };
        let snapshot = life.control.snapshot();
        for endpoint in snapshot.endpoints.values() {
            if endpoint.spec.admin_state == AdminState::Disabled {
                continue;
            }
            let rules = super::rules(&snapshot);
            // Without a check a few requests find out, and none may have come.
            let is_in = check_of(endpoint, rules).kind == CheckKind::None
                && endpoint.health.incident().is_none();
            if !is_in && !matches!(endpoint.health, Health::Healthy { .. }) {
                return Err(Violation::new(
                    "I-31 every bad state has a way out",
                    format!(
                        "`{}` is still {:?}; checks: {:?}",
                        endpoint.spec.name, endpoint.health, endpoint.checks
                    ),
                ));
            }
        }
        for (proxy, node) in self.nodes.iter().enumerate() {
            let Some(run) = &node.run else {
                return Err(Violation::new(
                    "I-30 all agree in the end",
                    format!("p{proxy} does not run"),
                ));
            };
            let (theirs, ours) = (run.position(), Position::of(&snapshot));
            if theirs != Some(ours) {
                return Err(Violation::new(
                    "I-30 all agree in the end",
                    format!("p{proxy} is at {theirs:?}, the control plane at {ours}"),
                ));
            }
            let instant = node.clock.at(self.now);
            for seen in run.proxy.endpoints(instant) {
                let trying = run
                    .attempts
                    .values()
                    .any(|trying| trying.endpoint == seen.name);
                // Nobody is there to find out that it has relented.
                let unchecked = snapshot.endpoints.get(&*seen.name).is_some_and(|endpoint| {
                    check_of(endpoint, super::rules(&snapshot)).kind == CheckKind::None
                });
                let paused = unchecked && seen.state == v1::HealthState::Degraded;
                let generation = ours.generation(seen.generation);
                let known = (run.key.clone(), seen.name.clone(), generation);
                let may = paused || self.judge.may_stay_away(&known, &seen.reason, instant);
                let away = !seen.reason.is_empty() && !trying && !may;
                if seen.admin == v1::AdminState::Enabled && away {
                    return Err(Violation::new(
                        "I-31 every bad state has a way out",
                        format!(
                            "p{proxy} still stays away from `{}`: {}",
                            seen.name, seen.reason
                        ),
                    ));
                }
            }
            let (waiting, dropped) = (run.proxy.unacknowledged(), run.proxy.dropped());
            let key = run.key.clone();
            self.judge.delivered(&key, ours, waiting, dropped)?;
        }
        Ok(())
    }
}

impl Judge {
    /// Returns whether a proxy may stay away from an endpoint for the reason that it gives, a
    /// minute at most; then it finds out whether that still holds.
    fn may_stay_away(&self, known: &Known, reason: &str, now: Instant) -> bool {
        match reason {
            _ if reason.starts_with("busy") => self.suspects.is_held(known),
            _ if !reason.contains(" here, next try in ") => false,
            _ if reason.starts_with("rate limited") || reason.starts_with("overloaded") => {
                self.chosen.may_wait(known, now)
            }
            _ => self.chosen.may_suspend(known, now),
        }
    }
}
