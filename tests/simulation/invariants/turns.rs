//! What a turn of the writer has changed, by what it was asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use qcc_control::registry::{
    AdminState, ApiKey, Cause, CheckKind, Clock, Endpoint, EndpointName, Health, OutcomeClass,
    Policy, Snapshot, View,
};

use super::{
    Asked, Judge, Violation, checks::check_of, counts::Ledger, is_failure, is_local, is_pause,
    views::acts_like,
};
use crate::{position::Position, time::Time, trace::Trace};

/// By how much a doubt may wait longer for another one than the rules say.
const ROUNDING: Duration = Duration::from_millis(500);

/// How long a data plane is expected back.
const RETURN_TIME: Duration = Duration::from_secs(15);

/// Evidence as it came in, by endpoint and generation.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Witnesses of local-origin evidence, and when they were last heard.
    local: BTreeMap<(String, u64), BTreeMap<String, Clock>>,
    /// When a failure last arrived, and in which turn.
    failed: BTreeMap<(String, u64), u64>,
    /// Turns so far.
    turns: u64,
    /// The turn in which each running check was first seen.
    begun: BTreeMap<u64, u64>,
}

impl Doubts {
    pub(super) fn restarted(&mut self) {
        self.begun.clear();
    }

    /// Notes what a turn was asked to apply.
    pub(super) fn note(
        &mut self,
        asked: &[Asked],
        before: Option<&Snapshot>,
        clock: Clock,
        ledger: &Ledger,
    ) {
        self.turns += 1;
        for news in &ledger.news {
            let class = news.outcome.facts.outcome;
            let key = (news.outcome.endpoint.clone(), news.outcome.generation.0);
            if is_local(class) {
                let witnesses = self.local.entry(key.clone()).or_default();
                witnesses.insert(news.proxy.id.to_string(), clock);
            }
            if is_failure(class) {
                self.failed.insert(key, self.turns);
            }
        }
        for asked in asked {
            if let Asked::Verdict {
                endpoint, verdict, ..
            } = asked
                && is_local(verdict.facts.outcome)
                && let Some(endpoint) = before.and_then(|b| b.endpoints.get(endpoint))
            {
                let key = (endpoint.spec.name.to_string(), endpoint.generation.0);
                let witnesses = self.local.entry(key).or_default();
                witnesses.insert("check".into(), clock);
            }
        }
    }

    fn witnesses(&self, endpoint: &Endpoint, rules: &Policy, clock: Clock) -> usize {
        let key = (endpoint.spec.name.to_string(), endpoint.generation.0);
        let window = rules.corroboration_window + ROUNDING;
        let recent = |at: &&Clock| clock.since(**at) <= window;
        self.local
            .get(&key)
            .map_or(0, |witnesses| witnesses.values().filter(recent).count())
    }
}

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

    /// Judges that a fall has a reason that concerns this generation.
    fn is_condemned(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        verdict: Option<&Verdict>,
        rules: &Policy,
        clock: Clock,
    ) -> Result<(), Violation> {
        if verdict.is_some_and(|verdict| !verdict.passed) {
            return Ok(());
        }
        let about: Vec<_> = self.news_about(was).collect();
        let reason = about.iter().any(|(class, _)| is_failure(*class));
        if !reason {
            return Err(Violation::new(
                "I-26 no failure of before condemns",
                format!(
                    "`{}` fell in generation {}, of which nothing was reported",
                    is.spec.name, is.generation.0
                ),
            ));
        }
        let only_local = about
            .iter()
            .filter(|(class, _)| is_failure(*class))
            .all(|(class, _)| is_local(*class));
        if only_local
            && !self.has_no_other(was, clock)
            && self.doubts.witnesses(was, rules, clock) < 2
        {
            return Err(Violation::new(
                "I-32 no single proxy takes an endpoint from the others",
                format!("`{}` fell by one proxy's word", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Returns whether one of those who report something of an endpoint in this turn may be
    /// the only data plane. Who was there a moment ago is expected back.
    fn has_no_other(&self, was: &Endpoint, clock: Clock) -> bool {
        let lately = RETURN_TIME.saturating_sub(ROUNDING);
        let gone = (self.gone.iter()).filter(|(_, at)| clock.since(**at) <= lately);
        let there: BTreeSet<&String> = (self.streams.keys())
            .chain(gone.map(|(name, _)| name))
            .collect();
        let mut reporters = self.ledger.news.iter().filter(|news| {
            is_local(news.outcome.facts.outcome)
                && news.outcome.endpoint == was.spec.name.as_str()
                && news.outcome.generation == was.generation
        });
        reporters.any(|news| there.iter().all(|name| *name == news.proxy.id.as_str()))
    }

    /// Judges that a pause is lifted by what is newer than it.
    fn is_lifted(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        verdict: Option<&Verdict>,
    ) -> Result<(), Violation> {
        let lifted = matches!(was.health, Health::Degraded { .. })
            && matches!(is.health, Health::Healthy { .. } | Health::Unknown { .. });
        if !lifted || verdict.is_some_and(|verdict| verdict.passed) {
            return Ok(());
        }
        let newer = self
            .news_about(was)
            .any(|(class, view)| class == OutcomeClass::Success && view >= was.mark.view);
        // In one turn a pause may come and go: the mark that counts is the newer one.
        let paused_within = self.news_about(was).any(|(class, _)| is_pause(class));
        if !newer && !paused_within {
            return Err(Violation::new(
                "R-6 a success lifts only what it has seen",
                format!("`{}` is healthy by an older success", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Judges that a pause ends earlier only by what is newer.
    fn is_shortened(
        &self,
        was: &Endpoint,
        is: &Endpoint,
        verdict: Option<&Verdict>,
    ) -> Result<(), Violation> {
        let (Health::Degraded { until: end, .. }, Health::Degraded { until, .. }) =
            (&was.health, &is.health)
        else {
            return Ok(());
        };
        if until >= end || verdict.is_some() {
            return Ok(());
        }
        let newer = self.news_about(was).any(|(_, view)| view >= was.mark.view);
        if !newer {
            return Err(Violation::new(
                "R-8 no pause is shortened by older evidence",
                format!("`{}` was paused until {end:?}, now {until:?}", is.spec.name),
            ));
        }
        Ok(())
    }

    /// Judges that whoever is out has a check coming.
    fn has_a_way_out(&self, is: &Endpoint, rules: &Policy) -> Result<(), Violation> {
        let idle = is.checks.due.is_none() && is.checks.running.is_none();
        // Without a check a few requests find out.
        let unknown = matches!(is.health, Health::Unknown { .. })
            && check_of(is, rules).kind != CheckKind::None;
        let out = is.health.incident().is_some() || unknown;
        if idle && out && is.spec.admin_state != AdminState::Disabled {
            return Err(Violation::new(
                "I-31 every bad state has a way out",
                format!(
                    "`{}` is {} and nothing is planned",
                    is.spec.name,
                    brief(&is.health)
                ),
            ));
        }
        Ok(())
    }

    /// Returns the verdict that this turn brings on an endpoint.
    fn verdict(&self, asked: &[Asked], was: &Endpoint) -> Option<Verdict> {
        asked.iter().find_map(|asked| match asked {
            Asked::Verdict {
                id,
                check,
                endpoint,
                verdict,
            } if *endpoint == was.spec.name => Some(Verdict {
                id: *id,
                passed: verdict.passed,
                class: verdict.facts.outcome,
                key: check.as_ref().map(|check| check.key.clone()),
                generation: check.as_ref().map(|check| check.generation),
                given_up: check.as_ref().is_none_or(|check| check.given_up),
                begun: check.as_ref().map_or(0, |check| check.turn),
            }),
            _ => None,
        })
    }

    /// Judges that a verdict that changes something may do so.
    fn verdict_counts(&self, verdict: &Verdict, was: &Endpoint) -> Result<(), Violation> {
        let name = &was.spec.name;
        is_in_its_generation(verdict, was)?;
        let key = (name.to_string(), was.generation.0);
        let failed = self.doubts.failed.get(&key).copied().unwrap_or_default();
        if verdict.passed && failed > verdict.begun {
            return Err(Violation::new(
                "R-15 a failure after its start voids a check that passed",
                format!("check {} of `{name}`", verdict.id),
            ));
        }
        Ok(())
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

/// A verdict and its check.
#[derive(Debug)]
struct Verdict {
    id: u64,
    passed: bool,
    class: OutcomeClass,
    /// What it asked with.
    key: Option<String>,
    generation: Option<u64>,
    given_up: bool,
    /// The turn in which it began.
    begun: u64,
}

/// Judges that a verdict is about the present generation. What failed with a key that
/// goes says nothing of the one that comes.
fn is_in_its_generation(verdict: &Verdict, was: &Endpoint) -> Result<(), Violation> {
    let name = &was.spec.name;
    if verdict.generation != Some(was.generation.0) || verdict.given_up {
        return Err(Violation::new(
            "R-15 a verdict counts in its generation only",
            format!(
                "check {} of `{name}` was of {:?}, which is in {}",
                verdict.id, verdict.generation, was.generation.0
            ),
        ));
    }
    Ok(())
}

/// Whether an outcome says that a key is of no use.
/// Judges that the check of a paused endpoint comes when it was planned, whatever fails there
/// meanwhile, unless the endpoint asks for more time.
fn is_put_off(was: &Endpoint, is: &Endpoint, clock: Clock) -> Result<(), Violation> {
    let end = |endpoint: &Endpoint| match endpoint.health {
        Health::Degraded { until, .. } => Some(until),
        Health::Unknown { .. } | Health::Healthy { .. } | Health::Unhealthy(_) => None,
    };
    let (Some(planned), Some(due)) = (was.checks.due, is.checks.due) else {
        return Ok(());
    };
    let same = end(was).is_some() && end(was) == end(is);
    // One whose time has come may have to wait for the next hour's budget.
    if same && clock < planned && planned < due {
        return Err(Violation::new(
            "I-31 every bad state has a way out",
            format!("the check of `{}` was put off", is.spec.name),
        ));
    }
    Ok(())
}

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
