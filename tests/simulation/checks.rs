//! Checks: carried out in place of the checker, against the truth.

use qcc_control::{
    registry::{self, CheckId, EndpointName},
    simulation::{Ask, Job, goes_on_after, questions},
};
use qcc_dataplane::simulation::Reply;

use crate::{
    control::Origin,
    event::Event,
    invariants::{Violation, asked_in_order},
    time::{MS, S},
    upstream::verdict,
    world::World,
};

/// A check in flight.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) endpoint: EndpointName,
    pub(crate) generation: u64,
    pub(crate) given_up: bool,
    /// The turn in which it began.
    pub(crate) turn: u64,
    /// What it asks with.
    pub(crate) key: String,
    /// What it asks.
    check: registry::Check,
}

impl World {
    pub(crate) fn start_job(&mut self, job: Job) -> Result<(), Violation> {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        match job {
            Job::Check(order) => {
                let generation = life
                    .control
                    .snapshot()
                    .endpoints
                    .get(&order.endpoint)
                    .map_or(0, |endpoint| endpoint.generation.0);
                let twice = life
                    .checks
                    .values()
                    .any(|check| check.endpoint == order.endpoint && !check.given_up);
                if twice {
                    return Err(Violation::new(
                        "R-15 at most one check of an endpoint is in flight",
                        format!("`{}` is checked again", order.endpoint),
                    ));
                }
                let check = Check {
                    endpoint: order.endpoint.clone(),
                    generation,
                    given_up: false,
                    turn: self.judge.turns(),
                    check: order.check.clone(),
                    key: order
                        .api_key
                        .as_ref()
                        .map_or("", |key| key.expose())
                        .to_owned(),
                };
                life.checks.insert(order.id, check);
                let snapshot = life.control.snapshot();
                self.judge
                    .check_begins(&snapshot, &order.endpoint, &order.check)?;
                let number = life.number;
                self.turn_to(format_args!(
                    "check {} of {} begins",
                    order.id, order.endpoint
                ));
                let lasts = self.random.span(5 * MS, 8 * S);
                let check = order.id;
                self.after(
                    lasts,
                    Event::Checked {
                        life: number,
                        check,
                    },
                );
            }
            Job::GiveUp(id) => {
                if let Some(check) = life.checks.get_mut(&id) {
                    check.given_up = true;
                }
                self.turn_to(format_args!("check {id} is given up"));
            }
        }
        Ok(())
    }

    /// Ends a check. One that was given up may have ended at the same moment.
    pub(crate) fn checked(&mut self, number: u64, id: CheckId) -> Result<(), Violation> {
        let Some(life) = self.life.as_mut().filter(|life| life.number == number) else {
            return Ok(());
        };
        let Some(check) = life.checks.get(&id).cloned() else {
            return Ok(());
        };
        if check.given_up && self.random.percent(70) {
            life.checks.remove(&id);
            return Ok(());
        }
        let mut asked = Vec::new();
        for question in questions(&check.check) {
            let reply = if self.plan.checks_reach || self.calm {
                let name = check.endpoint.as_str();
                let random = &mut self.random;
                self.upstreams.answer(name, &check.key, &question, random)
            } else {
                Reply::Refused
            };
            let verdict = verdict(&reply);
            let goes_on = goes_on_after(&verdict);
            asked.push((question, verdict));
            if !goes_on {
                break;
            }
        }
        asked_in_order(&check.check, &asked)?;
        if let Some((_, verdict)) = asked.pop() {
            self.put(Ask::Verdict(check.endpoint, id, verdict), Origin::Nobody);
        }
        Ok(())
    }
}
