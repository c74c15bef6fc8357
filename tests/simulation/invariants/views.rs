//! What proxies are told, and whom they choose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use qcc_control::registry::{
    AdminState, Endpoint, Health, OutcomeClass, Policy, ProxyKey, ReturnPolicy, Snapshot, Strategy,
    View,
};
use qcc_dataplane::simulation::{Rules, Seen};
use qcc_proto::v1;

use super::{Judge, Violation, equals, rules};

/// What proxies have seen of endpoints.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Endpoints and generations that have answered 401, by run of a proxy.
    rejected: BTreeSet<(ProxyKey, String, u64)>,
    /// Endpoints and generations that have answered a run of a proxy well.
    proven: BTreeSet<(ProxyKey, String, u64)>,
    /// Endpoints and generations that a run of a proxy has seen fail in any way.
    bad: BTreeSet<(ProxyKey, String, u64)>,
    /// Until when endpoints have asked a run of a proxy to stay away, unless the fleet has
    /// seen the end of it since.
    told: BTreeMap<(ProxyKey, String, u64), Pause>,
}

/// What an endpoint has asked a run of a proxy for.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// When it did so last.
    told: Instant,
    until: Instant,
}

/// What a proxy says of whom it has rejected a credential.
const REJECTED: &str = "credential rejected here";

/// How often a pause is tried that the fleet does not know of.
const TRIAL_INTERVAL: Duration = Duration::from_secs(60);

/// A choice that a proxy has made.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    /// Whom it chose, in which generation.
    pub(crate) chosen: &'a (String, u64),
    /// What it sends along.
    pub(crate) key: &'a str,
    /// How long it waits for a head.
    pub(crate) timeout: Duration,
    /// Its newest view.
    pub(crate) view: Option<v1::View>,
    /// The view that the request is routed by.
    pub(crate) pinned: v1::View,
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
    pub(crate) pinned: Option<v1::View>,
    /// The proxy's newest view, by whose rules it says who is free.
    pub(crate) newest: Option<v1::View>,
    /// Whether it is to ask again.
    pub(crate) waits: bool,
}

impl Chosen {
    pub(super) fn rejected(&mut self, proxy: &ProxyKey, endpoint: &str, generation: u64) {
        self.rejected
            .insert((proxy.clone(), endpoint.to_owned(), generation));
    }

    pub(super) fn ended(
        &mut self,
        proxy: &ProxyKey,
        endpoint: &str,
        generation: u64,
        class: OutcomeClass,
    ) {
        if class != OutcomeClass::Success {
            self.bad
                .insert((proxy.clone(), endpoint.to_owned(), generation));
        }
    }

    fn is_proven(&self, known: &(ProxyKey, String, u64)) -> bool {
        self.proven.contains(known)
    }

    /// Returns whether a run of a proxy may stay away because it was asked to.
    pub(super) fn may_wait(
        &self,
        proxy: &ProxyKey,
        endpoint: &str,
        generation: u64,
        now: Instant,
    ) -> bool {
        let known = (proxy.clone(), endpoint.to_owned(), generation);
        let told = self.told.get(&known);
        told.is_some_and(|pause| now < pause.until.min(pause.told + TRIAL_INTERVAL))
    }
}

impl Judge {
    /// Returns the rules of a view.
    pub(crate) fn rules(&self, view: Option<v1::View>) -> Policy {
        let truth = view.and_then(|view| self.history.get(&of_wire(view)));
        truth.map(|truth| rules(truth).clone()).unwrap_or_default()
    }

    /// Judges what readers see now.
    pub(super) fn publish(&mut self, seen: &Arc<Snapshot>) -> Result<(), Violation> {
        if let Some((newest, _)) = self.history.last_key_value()
            && (seen.view < *newest || seen.view.revision < newest.revision)
        {
            return Err(Violation::new(
                "I-8 neither term nor revision ever falls",
                format!("{} after {newest}", seen.view),
            ));
        }
        if let Some(before) = self.history.get(&seen.view) {
            let same = before.endpoints.len() == seen.endpoints.len()
                && rules(before) == rules(seen)
                && before.endpoints.iter().all(|(name, one)| {
                    let other = seen.endpoints.get(name);
                    other.is_some_and(|other| Arc::ptr_eq(one, other) || acts_like(one, other))
                });
            if !same {
                return Err(Violation::new(
                    "R-2 a view is one state",
                    format!("{} was published with two", seen.view),
                ));
            }
        }
        for (name, endpoint) in &seen.endpoints {
            let key = key_of(endpoint);
            let born = (name.clone(), key);
            let generation = endpoint.generation.0;
            let known = self.generations.entry(generation);
            let known = known.or_insert_with(|| born.clone());
            if *known != born {
                return Err(Violation::new(
                    "R-3 a generation is one life of one endpoint",
                    format!("{generation} was of {}, now of {name}", known.0),
                ));
            }
        }
        self.history.insert(seen.view, seen.clone());
        Ok(())
    }

    /// Judges what a proxy has after an update.
    pub(crate) fn applied(
        &mut self,
        proxy: &ProxyKey,
        before: Option<v1::View>,
        view: Option<v1::View>,
        seen: &[Seen],
        theirs: Option<Rules>,
    ) -> Result<(), Violation> {
        let Some(view) = view else { return Ok(()) };
        let proxy_id = proxy.id.as_str();
        if before.is_some_and(|before| view < before) {
            return Err(Violation::new(
                "I-10 a proxy's view never goes back",
                format!("{proxy_id} goes from {before:?} to {view}"),
            ));
        }
        let Some(truth) = self.history.get(&of_wire(view)) else {
            return Err(Violation::new(
                "I-14 a proxy holds what was published",
                format!("{proxy_id} is at {view}, which never was"),
            ));
        };
        let ours = rules(truth);
        if theirs.as_ref() != Some(&as_told(ours)) {
            return Err(Violation::new(
                "I-17 a snapshot and its deltas are the later snapshot",
                format!("{proxy_id} at {view} has the rules {theirs:?}, not {ours:?}"),
            ));
        }
        let limits_seen = |seen: &Seen| (summary_of_seen(seen), seen.failures_max, seen.timeout);
        let limits = |endpoint: &Endpoint| {
            let failures_max = endpoint.spec.max_failures.unwrap_or(ours.max_failures);
            let timeout = endpoint.spec.timeout.unwrap_or(ours.timeouts.first_byte);
            (summary(endpoint), failures_max, timeout)
        };
        let theirs: Vec<_> = seen.iter().map(limits_seen).collect();
        let ours: Vec<_> = truth.endpoints.values().map(|e| limits(e)).collect();
        if theirs != ours {
            let differing = theirs.iter().zip(&ours).find(|(one, two)| one != two);
            return Err(Violation::new(
                "I-17 a snapshot and its deltas are the later snapshot",
                format!(
                    "{proxy_id} at {view} differs: {differing:?} of {} and {}",
                    theirs.len(),
                    ours.len()
                ),
            ));
        }
        let was = before.and_then(|before| self.history.get(&of_wire(before)));
        for (name, is) in &truth.endpoints {
            if is.proven {
                let known = (proxy.clone(), name.to_string(), is.generation.0);
                self.chosen.proven.insert(known);
            }
            let was = was.and_then(|was| was.endpoints.get(name));
            let paused = was.is_some_and(|was| matches!(was.health, Health::Degraded { .. }));
            if paused && matches!(is.health, Health::Healthy { .. }) {
                let lifted = (proxy.clone(), name.to_string(), is.generation.0);
                self.chosen.told.remove(&lifted);
            }
        }
        Ok(())
    }

    /// Judges what a run of a proxy knows of rejections that an earlier one has seen.
    pub(crate) fn remembers(&mut self, proxy: &ProxyKey, seen: &[Seen]) -> Result<(), Violation> {
        for seen in seen.iter().filter(|seen| seen.reason == REJECTED) {
            let earlier = |(of, name, generation): &(ProxyKey, String, u64)| {
                of.id == proxy.id && *name == seen.name && *generation == seen.generation
            };
            if !self.chosen.rejected.iter().any(earlier) {
                return Err(Violation::new(
                    "I-26 no failure of before condemns",
                    format!("{} stays away from `{}`: no 401", proxy.id, seen.name),
                ));
            }
            let known = (proxy.clone(), seen.name.clone(), seen.generation);
            self.chosen.rejected.insert(known.clone());
            self.chosen.bad.insert(known);
        }
        Ok(())
    }

    /// Notes that an endpoint has answered a run of a proxy well.
    pub(crate) fn answered_well(&mut self, proxy: &ProxyKey, endpoint: &str, generation: u64) {
        let known = (proxy.clone(), endpoint.to_owned(), generation);
        self.suspects.acquit(&known);
        self.chosen.proven.insert(known);
    }

    /// Notes until when an endpoint has asked a run of a proxy to stay away.
    pub(crate) fn told_to_wait(
        &mut self,
        proxy: &ProxyKey,
        endpoint: &str,
        generation: u64,
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

    /// Judges that a request gets no endpoint: there is none for it.
    pub(crate) fn left_alone(
        &mut self,
        proxy: &ProxyKey,
        left: &Left<'_>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        self.equals.looked(proxy);
        let truth = left
            .pinned
            .and_then(|view| self.history.get(&of_wire(view)));
        let Some(truth) = truth else { return Ok(()) };
        if *rules(truth) != self.rules(left.newest) {
            return Ok(()); // It has other limits.
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
            let known = (proxy.clone(), seen.name.clone(), seen.generation);
            let good = seen.admin == v1::AdminState::Enabled
                && seen.state == v1::HealthState::Healthy
                && !self.chosen.bad.contains(&known)
                && !self.suspects.is_held(&known);
            if open && good && (seen.known || !left.waits) {
                return Err(Violation::new(
                    "R-13 a request that can be served is served",
                    format!(
                        "{} leaves out `{}`, of which nobody has seen anything bad: {}",
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
            view,
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
        let pinned = self.rules(Some(choice.pinned));
        if choice.tried.len() >= pinned.attempts_max as usize {
            return Err(Violation::new(
                "D-1 a request makes as many attempts as it may",
                format!("{} tries `{name}` after {:?}", proxy.id, choice.tried),
            ));
        }
        let truth = view.and_then(|view| self.history.get(&of_wire(view)));
        let Some(endpoint) = truth.and_then(|truth| truth.endpoints.get(name.as_str())) else {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!("{} chooses `{name}`, which is not there", proxy.id),
            ));
        };
        let lets_through = endpoint.spec.admin_state == AdminState::Enabled
            && endpoint.health.incident().is_none()
            && endpoint.generation.0 == *generation;
        if !lets_through {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!(
                    "{} chooses `{name}` in generation {generation}; the view says {:?}, {:?}, generation {}",
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
        let was = self.history.get(&of_wire(choice.pinned));
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
        let may_wait = self.chosen.may_wait(proxy, name, *generation, choice.at);
        if may_wait {
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
        let Some(truth) = self.history.get(&of_wire(choice.pinned)) else {
            return Ok(());
        };
        if *rules(truth) != self.rules(choice.view) {
            return Ok(()); // It has other limits.
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

/// Returns a cluster's rules as its data planes are told them.
fn as_told(rules: &Policy) -> Rules {
    let (timeouts, cool_downs) = (&rules.timeouts, &rules.cool_downs);
    Rules {
        attempts_max: rules.attempts_max,
        unproven_concurrency: rules.unproven_concurrency,
        timeouts: [timeouts.connect, timeouts.idle, timeouts.total],
        cool_downs: [
            cool_downs.overloaded,
            cool_downs.rate_limited,
            cool_downs.max,
        ],
        queue_timeout: rules.queue_timeout,
        strategy: match rules.strategy {
            Strategy::Priority => v1::Strategy::Priority,
            Strategy::Weighted => v1::Strategy::Weighted,
            Strategy::RoundRobin => v1::Strategy::RoundRobin,
            Strategy::Random => v1::Strategy::Random,
            Strategy::LeastInflight => v1::Strategy::LeastInflight,
            Strategy::PeakEwma => v1::Strategy::PeakEwma,
        },
        sessions_stay: rules.affinity.return_policy == ReturnPolicy::Stay,
        slow_start: rules.slow_start,
    }
}

/// What a proxy acts on, in words that both sides have.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    name: String,
    generation: u64,
    admin: v1::AdminState,
    state: v1::HealthState,
    cause: String,
    /// Whether a pause has an end.
    ends: bool,
    failures: u32,
    proven: bool,
    priority: u32,
    weight: u32,
    url: String,
    key: String,
}

fn summary(endpoint: &Endpoint) -> Summary {
    let admin = match endpoint.spec.admin_state {
        AdminState::Enabled => v1::AdminState::Enabled,
        AdminState::Draining => v1::AdminState::Draining,
        AdminState::Disabled => v1::AdminState::Disabled,
    };
    let state = match endpoint.health {
        Health::Unknown { .. } => v1::HealthState::Unknown,
        Health::Healthy { .. } => v1::HealthState::Healthy,
        Health::Degraded { .. } => v1::HealthState::Degraded,
        Health::Unhealthy(_) => v1::HealthState::Unhealthy,
    };
    let cause = endpoint.health.cause().map(|cause| cause.to_string());
    Summary {
        name: endpoint.spec.name.to_string(),
        generation: endpoint.generation.0,
        admin,
        state,
        cause: cause.unwrap_or_default(),
        ends: matches!(endpoint.health, Health::Degraded { .. }),
        failures: endpoint.health.failures(),
        proven: endpoint.proven,
        priority: endpoint.spec.priority,
        weight: endpoint.spec.weight,
        url: endpoint.spec.base_url.trim_end_matches('/').to_owned(),
        key: key_of(endpoint),
    }
}

fn summary_of_seen(seen: &Seen) -> Summary {
    let cause = seen.cause.map(|cause| cause.as_str_name().to_lowercase());
    let cause = cause.unwrap_or_default();
    Summary {
        name: seen.name.clone(),
        generation: seen.generation,
        admin: seen.admin,
        state: seen.state,
        cause: cause.trim_start_matches("cause_").to_owned(),
        ends: seen.until.is_some(),
        failures: seen.failures,
        proven: seen.proven,
        priority: seen.priority,
        weight: seen.weight,
        url: seen.url.trim_end_matches('/').to_owned(),
        key: seen.key.clone(),
    }
}

/// Returns whether two states of an endpoint are the same to a proxy.
pub(super) fn acts_like(one: &Endpoint, other: &Endpoint) -> bool {
    summary(one) == summary(other) && one.health.acts_like(&other.health) && one.spec == other.spec
}

fn key_of(endpoint: &Endpoint) -> String {
    let key = endpoint.spec.api_key.as_ref();
    key.map_or("", |key| key.expose()).to_owned()
}

pub(super) fn of_wire(view: v1::View) -> View {
    View {
        term: view.term,
        revision: view.revision,
    }
}
