//! What a turn of the writer has changed, by what it was asked.

pub(super) mod doubts;
mod health;
mod verdicts;

use std::sync::Arc;

use qcc_control::registry::{
    ApiKey, Cause, CheckKind, Clock, Endpoint, EndpointName, Health, OutcomeClass, Policy,
    Snapshot, View,
};

use super::{Asked, Judge, Violation, checks::check_of, is_failure, is_local, views::acts_like};
use crate::{position::Position, time::Time, trace::Trace};
use health::is_put_off;
use verdicts::is_in_its_generation;

impl Judge {
    /// Judges what a start has found.
    pub(super) fn recovered(&mut self, found: &Arc<Snapshot>, term: u64) -> Result<(), Violation> {
        if found.view.term != term {
            return Err(Violation::new(
                "I-8 neither term nor revision ever falls",
                format!("term {term}, but the view is {}", found.view),
            ));
        }
        if let Some(durable) = self.durable.take() {
            let same = durable.registry_id == found.registry_id
                && durable.endpoints.len() == found.endpoints.len()
                && durable.totals == found.totals
                && super::rules(&durable) == super::rules(found)
                && durable.endpoints.iter().all(|(name, kept)| {
                    found
                        .endpoints
                        .get(name)
                        .is_some_and(|found| is_kept(kept, found))
                });
            if !same {
                let lost = durable.endpoints.iter().find(|(name, kept)| {
                    let found = found.endpoints.get(*name);
                    found.is_none_or(|found| !is_kept(kept, found))
                });
                return Err(Violation::new(
                    "I-6 a start finds what was committed",
                    format!(
                        "lost of {}, at {}: {lost:?}",
                        Position::of(&durable),
                        Position::of(found)
                    ),
                ));
            }
        }
        self.now = Some(found.clone());
        self.ledger.take_back();
        Ok(())
    }

    /// Judges what a turn has changed.
    pub(super) fn moved(
        &mut self,
        before: &Arc<Snapshot>,
        after: &Arc<Snapshot>,
        asked: &[Asked],
        clock: Clock,
        trace: &mut Trace,
        now: Time,
    ) -> Result<(), Violation> {
        let (mut fell, mut may_have_fallen) = (0, 0);
        for (name, is) in &after.endpoints {
            match before.endpoints.get(name) {
                Some(was) if Arc::ptr_eq(was, is) => {}
                Some(was) => {
                    if was.health != is.health || was.generation != is.generation {
                        trace.turn(
                            now,
                            format_args!(
                                "{name}/{} is {} at {}",
                                is.generation.0,
                                brief(&is.health),
                                is.mark.view
                            ),
                        );
                    }
                    self.endpoint_moved(was, is, super::rules(before), asked, clock)?;
                    let (certainly, perhaps) = self.has_fallen(was, is, asked, clock);
                    fell += u64::from(certainly);
                    may_have_fallen += u64::from(perhaps);
                }
                None => {
                    if !is_operators(asked, name) {
                        return Err(Violation::new(
                            "R-1 only an operator creates",
                            format!("`{name}` has appeared"),
                        ));
                    }
                    self.drawn_anew(is)?;
                }
            }
            self.has_a_way_out(is, super::rules(after))?;
        }
        for name in before.endpoints.keys() {
            if !after.endpoints.contains_key(name) && !is_operators(asked, name) {
                return Err(Violation::new(
                    "R-1 only an operator deletes",
                    format!("`{name}` has disappeared"),
                ));
            }
        }
        let counted = after.totals.failed - before.totals.failed;
        if !(fell..=fell + may_have_fallen).contains(&counted) {
            return Err(Violation::new(
                "R-9 one incident counts once",
                format!("{fell} incidents began, {counted} were counted"),
            ));
        }
        let queue = [
            after.totals.recovered + after.totals.still_failed,
            after.totals.verified,
        ];
        if queue[0] != queue[1] {
            return Err(Violation::new(
                "R-9 one incident counts once",
                "verified is not recovered and still failed",
            ));
        }
        self.fell_duly(before, after, asked, clock)?;
        self.seen_to_change(before, after)
    }

    /// Returns whether an endpoint has fallen in a turn, certainly or perhaps, whatever it has
    /// come to after that.
    fn has_fallen(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        asked: &[Asked],
        clock: Clock,
    ) -> (bool, bool) {
        if was.health.incident().is_some() {
            return (false, false);
        }
        let out = is.health.incident().is_some();
        let verdict = self.verdict(asked, was).filter(|verdict| !verdict.passed);
        let against = |of_kind: fn(OutcomeClass) -> bool| {
            self.news_about(was).any(|(class, _)| of_kind(class))
                || verdict.as_ref().is_some_and(|it| of_kind(it.class))
        };
        // A key that waits takes over from one that is refused, in one turn.
        let took_over = was.staged.is_some() && is.staged.is_none();
        // One whose time has come may do so before the refusal is heard: then that is about a
        // key of before, and begins nothing. What else the endpoint may have fallen by it
        // covers up, as an operator does.
        let in_time = (was.staged.as_ref()).is_some_and(|it| it.until <= clock);
        let covers = (took_over && in_time) || is_operators(asked, &is.spec.name);
        match covers && is.generation != was.generation && !out {
            true => (false, verdict.is_some() || against(is_failure)),
            false => (out || (took_over && against(is_refusal)), false),
        }
    }

    /// Judges that whatever readers act on has a new view.
    fn seen_to_change(
        &self,
        before: &Arc<Snapshot>,
        after: &Arc<Snapshot>,
    ) -> Result<(), Violation> {
        if before.view != after.view {
            return Ok(());
        }
        let same = before.endpoints.len() == after.endpoints.len()
            && super::rules(before) == super::rules(after)
            && after.endpoints.iter().all(|(name, is)| {
                let was = before.endpoints.get(name);
                was.is_some_and(|was| Arc::ptr_eq(was, is) || acts_like(was, is))
            });
        if !same {
            return Err(Violation::new(
                "R-2 a view is one state",
                format!("something has changed under {}", after.view),
            ));
        }
        Ok(())
    }

    fn drawn_anew(&self, is: &Endpoint) -> Result<(), Violation> {
        if self.generations.contains_key(&is.generation.0) {
            return Err(Violation::new(
                "R-3 a generation is one life of one endpoint",
                format!(
                    "{} is given out again, to `{}`",
                    is.generation.0, is.spec.name
                ),
            ));
        }
        Ok(())
    }

    fn endpoint_moved(
        &mut self,
        was: &Endpoint,
        is: &Endpoint,
        rules: &Policy,
        asked: &[Asked],
        clock: Clock,
    ) -> Result<(), Violation> {
        let name = &is.spec.name;
        let operator = is_operators(asked, name);
        if operator {
            self.is_not_lost(was, is, asked)?;
            if is.generation != was.generation {
                self.drawn_anew(is)?;
            }
            return Ok(());
        }
        if let Some(staged) = &was.staged
            && is.staged.is_none()
        {
            return self.took_over(was, is, &staged.key, asked, clock);
        }
        if was.spec.admin_state != is.spec.admin_state || was.spec != is.spec {
            return Err(Violation::new(
                "I-28 nothing but an operator changes configuration",
                format!("`{name}`"),
            ));
        }
        let verdict = self.verdict(asked, was);
        let recovered = was.health.incident().is_some() && is.health.incident().is_none();
        if recovered {
            let passed = matches!(&verdict, Some(verdict) if verdict.passed);
            // Nobody is asked: the time is up, and that is all there is to it.
            let elapsed = check_of(was, rules).kind == CheckKind::None
                && was.checks.due.is_some_and(|due| due <= clock)
                && matches!(is.health, Health::Unknown { failures: 0 });
            if !passed && !elapsed {
                return Err(Violation::new(
                    "R-6 only a verification or an operator lifts unhealthy",
                    format!("`{name}` is {} after {asked:?}", brief(&is.health)),
                ));
            }
            if is.generation <= was.generation {
                return Err(Violation::new(
                    "R-3 a recovery begins a generation",
                    format!("`{name}` is still in {}", is.generation.0),
                ));
            }
        }
        if let Some(verdict) = &verdict
            && was.health != is.health
        {
            self.verdict_counts(verdict, was)?;
        }
        if is.generation != was.generation {
            if !recovered {
                return Err(Violation::new(
                    "R-3 evidence ends no generation",
                    format!("`{name}` is in {}", is.generation.0),
                ));
            }
            return self.drawn_anew(is);
        }
        let failed = was.health.incident().is_none() && is.health.incident().is_some();
        if failed {
            self.is_condemned(was, is, verdict.as_ref(), rules, clock)?;
        }
        self.is_lifted(was, is, verdict.as_ref())?;
        self.is_shortened(was, is, verdict.as_ref())?;
        // A doubt brings it forward, and then there may be no budget left for it.
        let is_hastened = self.news_about(was).any(|(class, _)| is_local(class));
        match is_hastened || verdict.is_some() {
            true => Ok(()),
            false => is_put_off(was, is, clock),
        }
    }

    /// Judges that an operator who has read something changes that, and nothing newer.
    fn is_not_lost(&self, was: &Endpoint, is: &Endpoint, asked: &[Asked]) -> Result<(), Violation> {
        let expected = asked.iter().find_map(|asked| match asked {
            Asked::Operator {
                names,
                etag,
                request,
                ..
            } if names.contains(&is.spec.name) => etag.as_ref().zip(request.as_ref()),
            _ => None,
        });
        let Some(now) = self.now.as_deref() else {
            return Ok(());
        };
        let present = was.etag(&now.registry_id);
        let is_old = |(etag, request): (&String, &Arc<str>)| {
            let read_at = self.read_at.get(request).map(|read_at| read_at.registry);
            *etag != present || read_at != Some(Position::of(now).registry)
        };
        if expected.is_some_and(is_old) && was.configured != is.configured {
            return Err(Violation::new(
                "I-1 no update is lost",
                format!("`{}` was at {present}, not at {expected:?}", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Judges that a key that waited takes over for a reason.
    fn took_over(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        key: &ApiKey,
        asked: &[Asked],
        clock: Clock,
    ) -> Result<(), Violation> {
        let name = &is.spec.name;
        let verdict = self.verdict(asked, was);
        let proven = verdict.as_ref().is_some_and(|verdict| verdict.passed);
        let refused = matches!(was.health.cause(), Some(Cause::Auth | Cause::Forbidden))
            || self.news_about(was).any(|(class, _)| is_refusal(class))
            || verdict.as_ref().is_some_and(|verdict| {
                let present = was.spec.api_key.as_ref().map(|key| key.expose());
                is_refusal(verdict.class) && verdict.key.as_deref() == present
            });
        let overdue = was
            .staged
            .as_ref()
            .is_some_and(|staged| staged.until <= clock);
        if !proven && !refused && !overdue {
            return Err(Violation::new(
                "R-3 a new key takes over when it is proven, or nothing is left to lose",
                format!("`{name}` has it already"),
            ));
        }
        if is.spec.api_key.as_ref() != Some(key) || is.generation <= was.generation {
            return Err(Violation::new(
                "R-3 a new key begins a generation",
                format!("`{name}` in generation {}", is.generation.0),
            ));
        }
        if let Some(verdict) = &verdict {
            is_in_its_generation(verdict, was)?;
        }
        self.drawn_anew(is)
    }

    /// Returns the turns so far.
    pub(crate) fn turns(&self) -> u64 {
        self.doubts.turns
    }

    /// Returns what is new about an endpoint in its generation.
    fn news_about<'a>(
        &'a self,
        was: &'a Endpoint,
    ) -> impl Iterator<Item = (OutcomeClass, View)> + 'a {
        self.ledger
            .news
            .iter()
            .filter(|news| {
                news.outcome.endpoint == was.spec.name.as_str()
                    && news.outcome.generation == was.generation
            })
            .map(|news| (news.outcome.facts.outcome, news.outcome.view))
    }
}

/// Whether an outcome says that a key is of no use.
fn is_refusal(class: OutcomeClass) -> bool {
    matches!(class, OutcomeClass::Auth | OutcomeClass::Forbidden)
}

pub(super) fn is_operators(asked: &[Asked], name: &EndpointName) -> bool {
    asked.iter().any(|asked| match asked {
        Asked::Operator { names, .. } => names.is_empty() || names.contains(name),
        _ => false,
    })
}

/// Returns whether a start has found an endpoint as it was kept. A key whose time is up
/// takes over in the first turn.
fn is_kept(kept: &Endpoint, found: &Endpoint) -> bool {
    if kept.staged.is_some() && found.staged.is_none() {
        return found.generation > kept.generation;
    }
    kept.spec == found.spec
        && kept.generation == found.generation
        && kept.health == found.health
        && kept.mark == found.mark
        && kept.proven == found.proven
        && kept.stats == found.stats
}

fn brief(health: &Health) -> String {
    match health {
        Health::Unknown { failures } => format!("unknown ({failures} failures)"),
        Health::Healthy { failures } => format!("healthy ({failures} failures)"),
        Health::Degraded { cause, until, .. } => format!("paused until {} ({cause})", until.0),
        Health::Unhealthy(incident) => format!("unhealthy ({})", incident.cause),
    }
}
