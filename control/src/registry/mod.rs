//! The registry: the truth about endpoints, and every rule by which it changes.
//!
//! It is told the time, takes values and returns values. It does no I/O, spawns
//! nothing, logs nothing and knows no wire types: the same calls give the same state.
//! One task owns it (`actor`) and works in turns:
//!
//! 1. apply any number of commands and [`Registry::advance`] the time,
//! 2. [`Registry::reveal`]: learn what may be published at once, since it is evidence,
//! 3. [`Registry::settle`]: learn what to store, what to publish and what to do,
//! 4. store and publish, then answer. Nothing is acknowledged that a crash could take
//!    back; only evidence may be seen before it is stored.
//!
//! | module | answers |
//! | --- | --- |
//! | `health` | how does an endpoint's health move? |
//! | `observe` | what does a reported outcome do to it? |
//! | `checks` | when is it checked? |
//! | `verdict` | what does a check's verdict do? |
//! | `staged` | when does a new key take over? |
//! | `operate` | what may an operator do? |
//! | `apply` | how is a declared set of resources brought about? |
//! | `proxies` | who reports, and what was applied before? |
//! | `requests` | which requests were answered before? |
//! | `events` | what has happened, and why? |
//! | `snapshot` | what do readers see? |
//! | `state` | what is kept, and what does a turn hand out? |

mod apply;
mod checks;
mod endpoint;
mod error;
mod events;
mod evidence;
mod health;
mod mutation;
mod names;
mod observe;
mod operate;
mod policy;
#[cfg(test)]
mod properties;
mod proxies;
mod requests;
mod secret;
mod snapshot;
mod staged;
mod state;
#[cfg(test)]
mod stories;
mod time;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;

pub use apply::{Action, Change, Declaration, DeclaredEndpoint, Resource};
pub use checks::{CheckId, CheckOrder};
pub use endpoint::{AdminState, Endpoint, Mark, Spec, Stats};
pub use error::Error;
pub use events::{Event, EventKind, Events, Group, Operator};
pub use evidence::{Blame, Cause, Evidence, Facts, OutcomeClass, Witness};
pub use health::{Health, Incident, State};
pub use mutation::{Answer, KeyChange, Mutation};
pub use names::{ClusterName, EndpointName, InvalidName, NAME_RULE};
pub use observe::{Observation, Outcome};

pub use policy::{
    Affinity, ApiFlavor, CHECK_MAX_TOKENS, CHECK_TIMEOUT, Check, CheckKind, CoolDowns,
    CredentialScheme, HttpCheck, Policy, RetryBudget, ReturnPolicy, Strategy, Timeouts,
    UpstreamProtocol, VerificationSchedule,
};
pub use proxies::{ProxyId, ProxyKey, ProxyRecord, Receipt, ReportBatch, ReportCounts};
pub use requests::{Request, RequestRecord};
pub use secret::ApiKey;
pub use snapshot::{Publication, Snapshot};
pub use staged::Staged;
pub use state::{
    CheckCounts, Cluster, Dirty, Effect, Generation, Meta, QueueTotals, Saved, Seed, Settlement,
    View,
};
pub use time::{Clock, Moment};
pub use verdict::{Conclusion, Verdict};

use crate::seeded::{Bug, seeded};
use endpoint::Turn;
use events::{Before, EventLog, Unlogged};
use requests::Requests;

/// Events that are kept; the oldest goes first.
const EVENTS_MAX: usize = 10_000;

/// The state and its rules.
///
/// Cloning is cheap: large maps share their nodes. That is how a dry run and an
/// all-or-nothing change are done.
#[derive(Debug, Clone)]
pub struct Registry {
    term: u64,
    meta: Meta,
    clusters: OrdMap<ClusterName, Arc<Cluster>>,
    endpoints: OrdMap<EndpointName, Arc<Endpoint>>,
    proxies: BTreeMap<ProxyKey, ProxyRecord>,
    /// Open streams by name of data plane: those who could agree with each other.
    connected: BTreeMap<ProxyId, u32>,
    gone: proxies::Gone,
    requests: Requests,
    report_counts: ReportCounts,
    check_counts: CheckCounts,
    events: EventLog,
    /// What has happened to endpoints and is not in the log yet, in order.
    unlogged: Vec<Unlogged>,
    /// Who asked for the mutation that is being applied.
    acting: Option<Operator>,
    /// When this life began.
    started: Clock,
    /// Planned checks by due time.
    due: BTreeSet<(Clock, EndpointName)>,
    last_check: CheckId,
    dirty: Dirty,
    publication: Publication,
    /// This turn holds more than evidence; see [`Registry::reveal`].
    promised: bool,
    effects: Vec<Effect>,
}

impl Registry {
    /// Takes up what was saved, in a new term; a new registry grows from `seed`.
    ///
    /// The revision moves on by one: the life before may have shown one more than it
    /// stored, and revisions never fall.
    pub fn new(term: u64, saved: Saved, seed: Seed, now: Moment) -> Self {
        let fresh = saved.meta.is_none();
        let mut meta = saved.meta.unwrap_or_else(|| Meta {
            revision: 0,
            generation: Generation::default(),
            clock: Clock::default(),
            totals: QueueTotals::default(),
            registry_id: seed.registry_id,
            salt: seed.salt.into(),
        });
        if !fresh && !seeded(Bug::RevisionFalls) {
            meta.revision += 1;
        }
        let mut registry = Self {
            term,
            meta,
            clusters: saved
                .clusters
                .into_iter()
                .map(|(name, c)| (name, Arc::new(c)))
                .collect(),
            endpoints: saved.endpoints,
            proxies: saved.proxies,
            connected: BTreeMap::new(),
            gone: proxies::Gone::default(),
            requests: Requests::new(saved.requests),
            report_counts: ReportCounts::default(),
            check_counts: CheckCounts::default(),
            events: EventLog::new(saved.events, EVENTS_MAX),
            unlogged: Vec::new(),
            acting: None,
            started: now.clock,
            due: BTreeSet::new(),
            last_check: 0,
            dirty: Dirty {
                any: true,
                ..Dirty::default()
            },
            publication: Publication::default(),
            promised: true,
            effects: Vec::new(),
        };
        let turn = registry.turn(now);
        registry.log_start(turn.now, registry.view());
        if fresh {
            registry.insert_cluster(ClusterName::default_cluster(), Policy::default(), turn);
        }
        registry.due = registry
            .endpoints
            .values()
            .filter_map(|endpoint| Some((endpoint.checks.due?, endpoint.spec.name.clone())))
            .collect();
        // A check that was in flight died with its process.
        let lost = registry.endpoints.values().filter(|endpoint| {
            let cluster = registry.clusters.get(&endpoint.spec.cluster);
            cluster.is_some_and(|cluster| endpoint.lacks_check(&cluster.policy, turn.now.clock))
        });
        let names: Vec<_> = lost.map(|endpoint| endpoint.spec.name.clone()).collect();
        for name in names {
            registry.touch(&name, turn, |endpoint, policy, turn| {
                endpoint.plan_check(policy, turn.now.clock);
            });
        }
        registry
    }

    /// Returns the view that readers see now.
    pub fn view(&self) -> View {
        View {
            term: self.term,
            revision: self.meta.revision,
        }
    }

    /// Returns the registry's clock as it was last told.
    pub fn clock(&self) -> Clock {
        self.meta.clock
    }

    /// Keeps so many events, in place of ten thousand.
    #[cfg(feature = "simulation")]
    pub(crate) fn bound_events(&mut self, max: usize) {
        self.events.bound(max);
    }

    /// Returns when [`Registry::advance`] has something to do next.
    pub fn poll_timeout(&self) -> Option<Clock> {
        let check = self.due.first().map(|(due, _)| *due);
        check.into_iter().chain(self.events.poll_timeout()).min()
    }

    /// Starts every check whose time has come.
    pub fn advance(&mut self, now: Moment) {
        let turn = self.turn(now);
        if self.events.is_due(turn.now.clock) {
            self.log().advance(turn.now.clock);
        }
        while let Some((_, name)) = self
            .due
            .first()
            .filter(|(due, _)| *due <= now.clock)
            .cloned()
        {
            self.start_check(&name, turn);
        }
    }

    /// Makes a new revision of what readers may see before it is stored, and returns the
    /// names that differ in it; `None` if there is nothing new, or if it has to wait. What
    /// else there is to do for the turn is left to [`Registry::settle`], so that readers
    /// need not wait for it.
    ///
    /// Evidence may be seen: a crash that takes it back leaves whoever reported it without
    /// an answer, and so it comes again. A promise may not: configuration that was asked
    /// for, and generations, whose numbers must not be given out twice.
    pub fn reveal(&mut self) -> Option<Publication> {
        let waits = self.promised && !seeded(Bug::PromiseBeforeCommit);
        if waits { None } else { self.revise() }
    }

    /// Ends the turn: a new revision if anything changed that readers act on.
    pub fn settle(&mut self) -> Settlement {
        self.promised = false;
        let publication = self.revise();
        self.dirty.events = self.log().take_changed();
        self.dirty.any |= !self.dirty.events.is_empty();
        Settlement {
            dirty: std::mem::take(&mut self.dirty),
            effects: std::mem::take(&mut self.effects),
            publication,
        }
    }

    /// Makes a new revision if anything changed that readers act on.
    fn revise(&mut self) -> Option<Publication> {
        if self.publication.is_empty() {
            return None;
        }
        self.meta.revision += 1;
        self.dirty.any = true;
        Some(std::mem::take(&mut self.publication))
    }

    /// Begins a new generation about which nothing is known.
    fn begin_generation(&mut self, name: &EndpointName, turn: Turn) {
        let generation = self.draw_generation();
        self.touch(name, turn, |endpoint, policy, turn| {
            endpoint.regenerate(generation, Health::Unknown { failures: 0 }, turn);
            endpoint.plan_check(policy, turn.now.clock);
        });
    }

    fn draw_generation(&mut self) -> Generation {
        self.meta.generation.0 += 1;
        self.dirty.any = true;
        self.promised = true;
        self.meta.generation
    }

    fn turn(&mut self, now: Moment) -> Turn {
        self.meta.clock = self.meta.clock.max(now.clock);
        let view = View {
            term: self.term,
            revision: self.meta.revision + 1,
        };
        Turn {
            now: Moment {
                clock: self.meta.clock,
                ..now
            },
            view,
        }
    }

    /// Changes one endpoint, and notes for the log what that comes to.
    fn touch<T>(
        &mut self,
        name: &EndpointName,
        turn: Turn,
        change: impl FnOnce(&mut Endpoint, &Policy, Turn) -> T,
    ) -> Option<T> {
        let (result, unlogged) = self.alter(name, turn, change)?;
        self.unlogged.extend(unlogged);
        let endpoint = self.endpoints.get(name);
        if endpoint.is_some_and(|endpoint| endpoint.is_overdue(turn.now.clock)) {
            self.promote(name, turn);
        }
        Some(result)
    }

    /// Changes one endpoint and keeps everything that depends on it in step: the
    /// order of due checks, the counters, what to store and what to publish. The only
    /// way to change an endpoint. Returns what the log is to tell of it.
    fn alter<T>(
        &mut self,
        name: &EndpointName,
        turn: Turn,
        change: impl FnOnce(&mut Endpoint, &Policy, Turn) -> T,
    ) -> Option<(T, Option<Unlogged>)> {
        let shared = self.endpoints.get_mut(name)?;
        let cluster = self.clusters.get(&shared.spec.cluster)?.clone();
        let endpoint = Arc::make_mut(shared);
        let (due, queued) = (endpoint.checks.due, endpoint.health.incident().is_some());
        let running = endpoint.checks.running.map(|running| running.id);
        let before = Before::of(endpoint, &cluster.policy, turn);
        let result = change(endpoint, &cluster.policy, turn);
        if endpoint.checks.due != due {
            if let Some(due) = due {
                self.due.remove(&(due, name.clone()));
            }
            if let Some(due) = endpoint.checks.due {
                self.due.insert((due, name.clone()));
            }
        }
        if let Some(id) = running
            && !seeded(Bug::SecondCheck)
            && endpoint
                .checks
                .running
                .is_none_or(|running| running.id != id)
        {
            self.effects.push(Effect::GiveUp(id));
        }
        let recounted = seeded(Bug::IncidentCountedAgain);
        if (!queued || recounted) && endpoint.health.incident().is_some() {
            self.meta.totals.failed += 1;
        }
        if before.has_moved(endpoint) {
            self.effects.push(Effect::Moved {
                endpoint: name.clone(),
                health: endpoint.health.clone(),
                generation: endpoint.generation,
            });
        }
        if endpoint.changed == turn.view {
            self.publication.endpoints.insert(name.clone());
        }
        let unlogged = before.unlogged(shared, self.acting.as_ref(), turn);
        self.dirty.any = true;
        self.dirty.endpoints.insert(name.clone());
        Some((result, unlogged))
    }
}
