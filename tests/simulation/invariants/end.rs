//! That everything becomes good when faults stop.

use qcc_control::registry::{AdminState, Health, ProxyKey};
use qcc_dataplane::simulation::Seen;
use qcc_proto::v1;

use super::{Judge, Violation, views::of_wire};
use crate::world::World;

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
            if !matches!(endpoint.health, Health::Healthy { .. }) {
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
            let view = run.proxy.view();
            if view.map(of_wire) != Some(snapshot.view) {
                return Err(Violation::new(
                    "I-30 all agree in the end",
                    format!(
                        "p{proxy} is at {view:?}, the control plane at {}",
                        snapshot.view
                    ),
                ));
            }
            for seen in run.proxy.endpoints(node.clock.at(self.now)) {
                let trying = run
                    .attempts
                    .values()
                    .any(|trying| trying.endpoint == seen.name);
                let asked = self.judge.may_wait(&run.key, &seen);
                let away = !seen.reason.is_empty() && !trying && !asked;
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
            self.judge.delivered(&key, waiting, dropped)?;
        }
        Ok(())
    }
}

impl Judge {
    /// Returns whether a proxy may stay away from an endpoint because that has asked it
    /// to: ten minutes at most, unless the fleet finds out that it has relented.
    fn may_wait(&self, proxy: &ProxyKey, seen: &Seen) -> bool {
        let is_pause =
            seen.reason.starts_with("rate limited") || seen.reason.starts_with("overloaded");
        is_pause && self.chosen.may_wait(proxy, &seen.name, seen.generation)
    }
}
