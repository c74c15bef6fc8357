//! Whom proxies choose, by what they have been told and have seen themselves.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use qcc_control::registry::{AdminState, Health, OutcomeClass, ProxyKey, Snapshot, Strategy};
use qcc_dataplane::simulation::Seen;
use qcc_proto::v1;

use super::{Evidence, Judge, Violation, equals, rules, suspects::Known, views::key_of};
use crate::{
    position::{Generation, Position},
    upstream::class as class_of,
};

/// What proxies have seen of endpoints.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Endpoints and generations that have answered 401, by run of a proxy.
    rejected: BTreeSet<Known>,
    /// Those of an earlier run of the proxy, until a control plane has spoken to this one.
    inherited: BTreeSet<Known>,
    /// Endpoints and generations that have answered a run of a proxy well.
    proven: BTreeSet<Known>,
    /// Endpoints and generations that a run of a proxy has seen fail, and nobody served since
    /// who was sent there after that.
    bad: BTreeMap<Known, Bad>,
    /// Until when endpoints have asked a run of a proxy to stay away, unless the fleet has
    /// seen the end of it since.
    told: BTreeMap<Known, Pause>,
}

/// What a run of a proxy has seen of an endpoint that fails.
#[derive(Debug, Clone, Copy)]
struct Bad {
    /// How often it has failed, those left out that were under way as it did before.
    failures: u32,
    /// When the last failure was seen.
    seen: Instant,
    /// When the last evidence became that: later, if a request had it held.
    stood: Instant,
    /// Until when the proxy may stay away, if the endpoint asks for nothing.
    until: Instant,
}

/// What an endpoint has asked a run of a proxy for.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// When it did so last.
    told: Instant,
    until: Instant,
}

/// How often a pause is tried that the fleet does not know of.
const TRIAL_INTERVAL: Duration = Duration::from_secs(60);

/// How long a proxy stays away by itself after a failure. Twice as long after each one more
/// of somebody who was sent to find out, until somebody is served.
const SUSPENSION: Duration = Duration::from_secs(5);

/// How long at most.
const SUSPENSION_MAX: Duration = Duration::from_secs(60);

/// A choice that a proxy has made.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// Whom it chose, in which generation.
    pub(crate) chosen: &'a (String, Generation),
    /// What it sends along.
    pub(crate) key: &'a str,
    /// How long it waits for a head.
    pub(crate) timeout: Duration,
    /// Its newest view.
    pub(crate) newest: Position,
    /// The view that the request is routed by.
    pub(crate) pinned: Position,
    /// Whom the request has tried before.
    pub(crate) tried: &'a BTreeSet<String>,
    /// Whether that was one of them.
    pub(crate) again: bool,
    /// Attempts at it that are under way.
    pub(crate) in_flight: usize,
    /// The session that the request names.
    pub(crate) session: Option<u64>,
    /// When, on the proxy's clock.
    pub(crate) at: Instant,
}

/// A request that gets no endpoint.
#[derive(Debug)]
pub(crate) struct Left<'a> {
    /// Whom it has tried.
    pub(crate) tried: &'a BTreeSet<String>,
    /// The view that it is routed by.
    pub(crate) pinned: Position,
    /// The proxy's newest view, by whose rules it says who is free.
    pub(crate) newest: Position,
    /// Whether it is to ask again.
    pub(crate) waits: bool,
    /// When, on the proxy's clock.
    pub(crate) at: Instant,
}

impl Chosen {
    pub(super) fn rejected(&mut self, proxy: &ProxyKey, endpoint: &str, generation: Generation) {
        self.rejected
            .insert((proxy.clone(), endpoint.to_owned(), generation));
    }

    /// Returns whom an earlier run of a proxy has seen rejected, and asks no more.
    pub(super) fn take_inherited(&mut self, proxy: &ProxyKey) -> Vec<(String, Generation)> {
        let of_run = self.inherited.extract_if(.., |(of, ..)| of == proxy);
        of_run
            .map(|(_, name, generation)| (name, generation))
            .collect()
    }

    /// Notes what an attempt has come to.
    pub(super) fn ended(&mut self, proxy: &ProxyKey, evidence: &Evidence, now: Instant) {
        let Evidence {
            ended,
            chosen_at,
            at,
        } = evidence;
        let known = (proxy.clone(), ended.endpoint.clone(), ended.generation);
        let is_failure = match class_of(ended.class) {
            OutcomeClass::Success | OutcomeClass::Request | OutcomeClass::Cancelled => return,
            OutcomeClass::RateLimited | OutcomeClass::Overloaded => false,
            OutcomeClass::Auth
            | OutcomeClass::Forbidden
            | OutcomeClass::ServerError
            | OutcomeClass::Timeout
            | OutcomeClass::Connect
            | OutcomeClass::StreamBroken => true,
        };
        let bad = self.bad.entry(known).or_insert(Bad {
            failures: 0,
            seen: *at,
            stood: now,
            until: *at,
        });
        if is_failure {
            let is_another = bad.failures == 0 || *chosen_at >= bad.stood;
            bad.failures += u32::from(is_another);
            bad.until = bad.until.max(*at + suspension(bad.failures));
        }
        bad.seen = bad.seen.max(*at);
        bad.stood = now;
    }

    fn is_proven(&self, known: &Known) -> bool {
        self.proven.contains(known)
    }

    /// Returns whether a run of a proxy must stay away because it was asked to.
    fn must_wait(&self, known: &Known, now: Instant) -> bool {
        let told = self.told.get(known);
        told.is_some_and(|pause| now < pause.until.min(pause.told + TRIAL_INTERVAL))
    }

    /// Returns whether it may because it was asked to: a pause is not tried at once again if
    /// it was tried in vain.
    pub(super) fn may_wait(&self, known: &Known, now: Instant) -> bool {
        self.told.get(known).is_some_and(|pause| {
            let seen = self.bad.get(known).map(|bad| bad.seen);
            let tried = seen.map_or(pause.told, |seen| seen.max(pause.told));
            now < pause.until.min(tried + TRIAL_INTERVAL)
        })
    }

    /// Returns whether a run of a proxy may stay away because of what it has seen fail.
    pub(super) fn may_suspend(&self, known: &Known, now: Instant) -> bool {
        self.bad.get(known).is_some_and(|bad| now < bad.until)
    }

    /// Returns whether a run of a proxy has no reason to stay away from an endpoint; `idle`:
    /// nobody is there to find out.
    fn is_free(&self, known: &Known, idle: bool, now: Instant) -> bool {
        let is_clean = !self.bad.contains_key(known) && !self.told.contains_key(known);
        let is_over = !self.may_wait(known, now) && !self.may_suspend(known, now);
        !self.rejected.contains(known) && (is_clean || (is_over && idle))
    }

    /// Notes what a view says of endpoints, and what has changed since the one before.
    pub(super) fn are_told(
        &mut self,
        proxy: &ProxyKey,
        view: Position,
        truth: &Snapshot,
        was: Option<&Snapshot>,
    ) {
        for (name, is) in &truth.endpoints {
            let generation = view.generation(is.generation.0);
            if is.proven {
                let known = (proxy.clone(), name.to_string(), generation);
                self.proven.insert(known);
            }
            let was = was.and_then(|was| was.endpoints.get(name));
            let paused = was.is_some_and(|was| matches!(was.health, Health::Degraded { .. }));
            if paused && matches!(is.health, Health::Healthy { .. }) {
                let lifted = (proxy.clone(), name.to_string(), generation);
                self.told.remove(&lifted);
            }
        }
    }
}

impl Judge {
    /// Judges a run of a proxy that has its first view of another registry: what it has seen
    /// itself is about one that is gone. The view alone says whom to stay away from, and
    /// who is proven.
    pub(crate) fn begins_anew(
        &mut self,
        proxy: &ProxyKey,
        seen: &[Seen],
        dropped: u64,
    ) -> Result<(), Violation> {
        for seen in seen {
            let healthy = matches!(
                seen.state,
                v1::HealthState::Healthy | v1::HealthState::Unknown
            );
            let open = seen.admin == v1::AdminState::Enabled && healthy;
            if (open && !seen.reason.is_empty()) || seen.known != seen.proven || seen.in_flight > 0
            {
                return Err(Violation::new(
                    "I-26 what was seen of a registry that is gone is void",
                    format!("{} has kept something of it: {seen:?}", proxy.id),
                ));
            }
        }
        self.drops_all(proxy, dropped)
    }

    /// Judges what a run of a proxy knows of rejections that an earlier one has seen.
    pub(crate) fn remembers(
        &mut self,
        proxy: &ProxyKey,
        view: Position,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        for seen in seen.iter().filter(|seen| seen.rejected) {
            let now = view.generation(seen.generation);
            let earlier = |(of, name, generation): &Known| {
                of.id == proxy.id && *name == seen.name && *generation == now
            };
            if !self.chosen.rejected.iter().any(earlier) {
                return Err(Violation::new(
                    "I-26 no failure of before condemns",
                    format!("{} stays away from `{}`: no 401", proxy.id, seen.name),
                ));
            }
            let known = (proxy.clone(), seen.name.clone(), now);
            self.chosen.rejected.insert(known.clone());
            self.chosen.inherited.insert(known);
        }
        Ok(())
    }

    /// Notes that an endpoint has answered a run of a proxy well.
    pub(crate) fn answered_well(
        &mut self,
        proxy: &ProxyKey,
        endpoint: &str,
        generation: Generation,
    ) {
        let known = (proxy.clone(), endpoint.to_owned(), generation);
        self.suspects.acquit(&known);
        self.chosen.proven.insert(known);
    }

    /// Notes until when an endpoint has asked a run of a proxy to stay away.
    pub(crate) fn told_to_wait(
        &mut self,
        proxy: &ProxyKey,
        endpoint: &str,
        generation: Generation,
        now: Instant,
        until: Instant,
    ) {
        let known = (proxy.clone(), endpoint.to_owned(), generation);
        let told = Pause { told: now, until };
        let before = self.chosen.told.entry(known).or_insert(told);
        *before = Pause {
            told: now,
            until: until.max(before.until),
        };
    }

    /// Notes that an attempt of a run of a proxy has succeeded. If nothing bad has been seen
    /// since it was chosen, all of before is over.
    pub(crate) fn succeeded(
        &mut self,
        proxy: &ProxyKey,
        endpoint: &str,
        generation: Generation,
        chosen_at: Instant,
    ) {
        let known = (proxy.clone(), endpoint.to_owned(), generation);
        if let Entry::Occupied(bad) = self.chosen.bad.entry(known)
            && bad.get().stood < chosen_at
        {
            let (known, _) = bad.remove_entry();
            self.chosen.told.remove(&known);
        }
    }

    /// Judges that a request gets no endpoint: there is none for it.
    pub(crate) fn left_alone(
        &mut self,
        proxy: &ProxyKey,
        left: &Left<'_>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        self.equals.looked(proxy);
        let Some(truth) = self.history.get(&left.pinned) else {
            return Ok(());
        };
        if !self.goes_by_the_newest(left.pinned, left.newest) {
            return Ok(());
        }
        if left.tried.len() >= rules(truth).attempts_max as usize {
            return Ok(());
        }
        for seen in seen.iter().filter(|seen| !left.tried.contains(&seen.name)) {
            let routed = truth.endpoints.get(seen.name.as_str());
            let Some(routed) = routed.filter(|it| it.generation.0 == seen.generation) else {
                continue; // The request goes by an older view.
            };
            let open = routed.spec.admin_state == AdminState::Enabled
                && matches!(
                    routed.health,
                    Health::Healthy { .. } | Health::Unknown { .. }
                );
            if open && seen.reason.is_empty() {
                return Err(Violation::new(
                    "R-13 a request that can be served is served",
                    format!("{} leaves out `{}`, which is free", proxy.id, seen.name),
                ));
            }
            let generation = left.newest.generation(seen.generation);
            let known = (proxy.clone(), seen.name.clone(), generation);
            let good = seen.admin == v1::AdminState::Enabled
                && seen.state == v1::HealthState::Healthy
                && self.chosen.is_free(&known, seen.in_flight == 0, left.at)
                && !self.suspects.is_held(&known);
            if open && good && (seen.known || !left.waits) {
                return Err(Violation::new(
                    "R-13 a request that can be served is served",
                    format!(
                        "{} leaves out `{}`, of which it has no reason to think badly: {}",
                        proxy.id, seen.name, seen.reason
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Judges a choice.
    pub(crate) fn chosen(
        &mut self,
        proxy: &ProxyKey,
        choice: &Choice<'_>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        let Choice {
            chosen: (name, generation),
            key,
            newest,
            again,
            in_flight,
            ..
        } = *choice;
        let known = (proxy.clone(), name.clone(), *generation);
        if self.chosen.rejected.contains(&known) {
            return Err(Violation::new(
                "R-10 a proxy that has seen a 401 stays away",
                format!(
                    "{} chooses `{name}` in generation {generation} again",
                    proxy.id
                ),
            ));
        }
        if again {
            return Err(Violation::new(
                "D-1 a request tries an endpoint once",
                format!("{} chooses `{name}` a second time", proxy.id),
            ));
        }
        let pinned = self.rules(choice.pinned);
        if choice.tried.len() >= pinned.attempts_max as usize {
            return Err(Violation::new(
                "D-1 a request makes as many attempts as it may",
                format!("{} tries `{name}` after {:?}", proxy.id, choice.tried),
            ));
        }
        let truth = self.history.get(&newest);
        let Some(endpoint) = truth.and_then(|truth| truth.endpoints.get(name.as_str())) else {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!("{} chooses `{name}`, which is not there", proxy.id),
            ));
        };
        let lets_through = endpoint.spec.admin_state == AdminState::Enabled
            && endpoint.health.incident().is_none()
            && newest.generation(endpoint.generation.0) == *generation;
        if !lets_through {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!(
                    "{} chooses `{name}` in generation {generation}; the view {newest} says {:?}, {:?}, generation {}",
                    proxy.id, endpoint.spec.admin_state, endpoint.health, endpoint.generation.0
                ),
            ));
        }
        self.waited(proxy, choice, seen)?;
        self.is_best(proxy, choice, seen)?;
        let is_proven = endpoint.proven || self.chosen.is_proven(&known);
        if !is_proven && in_flight >= pinned.unproven_concurrency as usize {
            return Err(Violation::new(
                "unproven: few find out about an endpoint that nobody has proven",
                format!(
                    "{} has {in_flight} at `{name}` and begins one more",
                    proxy.id
                ),
            ));
        }
        let was = self.history.get(&choice.pinned);
        let was = was.and_then(|was| was.endpoints.get(name.as_str()));
        let own = was.and_then(|was| was.spec.timeout);
        let limit = own.unwrap_or(pinned.timeouts.first_byte);
        if choice.timeout != limit {
            return Err(Violation::new(
                "R-2 a request goes by one view",
                format!(
                    "{} waits {:?} for `{name}`, not {limit:?}",
                    proxy.id, choice.timeout
                ),
            ));
        }
        if key_of(endpoint) != key {
            return Err(Violation::new(
                "S-3 a key goes to its endpoint",
                format!("{} sends another key to `{name}`", proxy.id),
            ));
        }
        self.is_due(proxy, choice, seen)
    }
}

impl Judge {
    /// Whether a request that is routed by an older view has the same limits, and can go
    /// where the newest view says.
    fn goes_by_the_newest(&self, pinned: Position, newest: Position) -> bool {
        pinned.registry == newest.registry && self.rules(pinned) == self.rules(newest)
    }

    /// Judges that a pause is over as somebody is chosen.
    fn waited(
        &self,
        proxy: &ProxyKey,
        choice: &Choice<'_>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        let (name, generation) = choice.chosen;
        let present = seen.iter().find(|seen| seen.name == *name);
        let until = present.and_then(|seen| seen.until);
        if until.is_some_and(|until| choice.at < until) {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!("{} chooses `{name}`, which its view pauses", proxy.id),
            ));
        }
        let known = (proxy.clone(), name.clone(), *generation);
        if self.chosen.must_wait(&known, choice.at) {
            return Err(Violation::new(
                "R-8 a proxy stays away for as long as it was asked to",
                format!("{} chooses `{name}` before that", proxy.id),
            ));
        }
        Ok(())
    }

    /// Judges that nobody better was free, by the proxy's own account of a moment before.
    fn is_best(
        &self,
        proxy: &ProxyKey,
        choice: &Choice<'_>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        let Some(truth) = self.history.get(&choice.pinned) else {
            return Ok(());
        };
        if !self.goes_by_the_newest(choice.pinned, choice.newest) {
            return Ok(());
        }
        let (name, _) = choice.chosen;
        let is_flat = rules(truth).strategy == Strategy::Weighted;
        let chosen = truth.endpoints.get(name.as_str());
        let Some(rank) = chosen.map(|it| equals::rank(it, is_flat)) else {
            return Ok(());
        };
        if self.equals.stays(proxy, choice, rules(truth)) {
            return Ok(());
        }
        let better = seen.iter().find(|seen| {
            let routed = truth.endpoints.get(seen.name.as_str());
            routed.is_some_and(|routed| {
                seen.reason.is_empty()
                    && !choice.tried.contains(&seen.name)
                    && routed.generation.0 == seen.generation
                    && routed.spec.admin_state == AdminState::Enabled
                    && matches!(
                        routed.health,
                        Health::Healthy { .. } | Health::Unknown { .. }
                    )
                    && equals::rank(routed, is_flat) < rank
            })
        });
        match better {
            None => Ok(()),
            Some(better) => Err(Violation::new(
                "order: the better endpoint comes first",
                format!("{} chooses `{name}`, not `{}`", proxy.id, better.name),
            )),
        }
    }
}

/// Returns how long a proxy may stay away after so many failures.
fn suspension(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(8);
    (SUSPENSION * (1 << doublings)).min(SUSPENSION_MAX)
}
