//! The newest table, and who waits for a change.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwapOption;
use imbl::OrdMap;
use qcc_proto::v1::{OutcomeClass, View};
use tokio::sync::{Notify, futures::Notified, watch};

use super::{
    Entry, Generation, Outcome, Policy, Routed, Routing, Session, Table,
    budget::Budget,
    endpoint::Health,
    mark::Block,
    outlook::Outlook,
    pace::{Age, Origin},
    places::Places,
};
use crate::{
    reports::{Outbox, Report},
    seeded::{Bug, seeded},
};

/// Hands out [`Routing`]s. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    shared: Arc<Shared>,
}

thread_local! {
    /// What the last request on this thread was begun with.
    static AT_HAND: RefCell<Option<Arc<Pinned>>> = const { RefCell::new(None) };
}

/// A table, and where it comes from: what a request and each of its attempts hold on to.
///
/// Each thread makes one of a table, for all the requests that it begins: to take it is to
/// count one more holder, where no other thread counts. The last one stays at hand, so that
/// a thread that is idle holds on to the table of its last request.
#[derive(Debug)]
pub(super) struct Pinned {
    pub router: Router,
    pub table: Arc<Table>,
}

#[derive(Debug)]
struct Shared {
    table: ArcSwapOption<Table>,
    wake: Notify,
    outlook: Outlook,
    seed: u64,
    budget: Budget,
    /// What the age of what endpoints have shown is counted from.
    origin: Origin,
    /// Whose turn it is, for those who take turns.
    turns: AtomicU64,
    /// Where sessions went, for clusters in which they stay there.
    stays: OnceLock<Places>,
    /// What attempts came to since the process started, by class.
    outcomes: [AtomicU64; OutcomeClass::Cancelled as usize + 1],
    /// Attempts at endpoints that were out, since the process started.
    resorts: AtomicU64,
    /// How often a credential was rejected since the process started.
    rejections: watch::Sender<u64>,
    /// Generations that an earlier process saw rejected, until a control plane has spoken.
    inherited: Mutex<Vec<Generation>>,
    outbox: Arc<Outbox>,
}

/// A new view to route by.
#[derive(Debug)]
pub(crate) struct Update {
    /// The view.
    pub view: View,
    /// Names the registry that it belongs to; empty if that is not known.
    pub registry_id: Arc<str>,
    /// The cluster's policy.
    pub policy: Arc<Policy>,
    /// Its endpoints by name.
    pub endpoints: OrdMap<Arc<str>, Arc<Routed>>,
    /// Whether some are shut or missing that this version cannot use.
    pub has_left_out: bool,
    /// Which of them differ from an earlier view, if that is known.
    pub changes: Option<Changes>,
    /// The view comes from a registry that has forgotten the one before: its
    /// generations mean something else. What was seen so far is void.
    pub reset: bool,
    /// The view was kept by an earlier process: what that saw rejected.
    pub restored: Option<Vec<Generation>>,
}

/// What differs between two views.
#[derive(Debug)]
pub(crate) struct Changes {
    /// The earlier of them.
    pub from: View,
    /// Names of new, changed and removed endpoints.
    pub names: Vec<Arc<str>>,
}

#[cfg(test)]
impl Update {
    /// Describes a view without a word on the one before.
    pub(crate) fn whole(
        view: View,
        policy: Arc<Policy>,
        endpoints: impl IntoIterator<Item = Arc<Routed>>,
        reset: bool,
    ) -> Self {
        let named = |routed: Arc<Routed>| (Arc::clone(&routed.endpoint.name), routed);
        Self {
            view,
            registry_id: Arc::default(),
            policy,
            endpoints: endpoints.into_iter().map(named).collect(),
            has_left_out: false,
            changes: None,
            reset,
            restored: None,
        }
    }
}

impl Router {
    /// Returns a router without a view. The seed decides every weighted choice.
    pub(crate) fn new(seed: u64, outbox: Arc<Outbox>) -> Self {
        Self {
            shared: Arc::new(Shared {
                table: ArcSwapOption::empty(),
                wake: Notify::new(),
                outlook: Outlook::default(),
                seed,
                budget: Budget::default(),
                origin: Origin::default(),
                turns: AtomicU64::new(0),
                stays: OnceLock::new(),
                outcomes: Default::default(),
                resorts: AtomicU64::new(0),
                rejections: watch::Sender::default(),
                inherited: Mutex::default(),
                outbox,
            }),
        }
    }

    /// Begins to route one client request. `None`: there is no view yet.
    pub(crate) fn begin(&self) -> Option<Routing> {
        self.pin().map(Routing::new)
    }

    /// Returns the newest table, to hold on to.
    pub(super) fn pin(&self) -> Option<Arc<Pinned>> {
        let at_hand = AT_HAND.with_borrow(|at_hand| {
            let pinned = at_hand.as_ref().filter(|it| it.is_newest_of(self))?;
            Some(Arc::clone(pinned))
        });
        at_hand.or_else(|| {
            let pinned = Arc::new(Pinned {
                router: self.clone(),
                table: self.table()?,
            });
            // What was there is freed once nothing is borrowed.
            drop(AT_HAND.replace(Some(Arc::clone(&pinned))));
            Some(pinned)
        })
    }

    /// Counts a client request, and returns its seed.
    pub(super) fn count_request(&self, now: Instant) -> u64 {
        let before = self.shared.budget.request(now);
        self.shared.seed.wrapping_add(before)
    }

    /// Completes when something may have become selectable: a new table, a place at
    /// a busy endpoint, a mark that was cleared. The end of a pause is not told;
    /// [`Next::Wait`](super::Next::Wait) says when it is.
    ///
    /// Make the future *before* asking [`Routing::next`]: it completes for every
    /// change since it was made, polled or not.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.shared.wake.notified()
    }

    /// Makes a view the one that requests are routed by, and reports be about its registry.
    /// One at a time: views come in order.
    pub(crate) fn publish(&self, update: Update) {
        let previous = self.table();
        let life = previous.as_ref().map_or(0, |table| table.life());
        let life = life + u64::from(update.reset);
        // Before there are attempts of the new life. Those of the one before can report no
        // more from here on: that is decided under the outbox's lock.
        (self.shared.outbox).settle(|buffer| buffer.belong_to(&update.registry_id, life));
        let (view, policy, endpoints) = (update.view, update.policy, update.endpoints);
        let changes = update.changes.filter(|_| !update.reset);
        let base = previous.as_deref().zip(changes);
        let registry_id = update.registry_id;
        let follows = |(previous, changes): &(&Table, Changes)| {
            previous.view() == changes.from && previous.is_ordered_by(&policy)
        };
        let table = match base.filter(follows) {
            Some((previous, changes)) => {
                let names = changes.names.iter().map(AsRef::as_ref);
                previous.change(view, policy, names, |name| endpoints.get(name).cloned())
            }
            None => match update.restored {
                Some(rejected) => {
                    let table = Table::restore(view, life, policy, endpoints.values(), &rejected);
                    *self.inherited() = rejected;
                    table
                }
                None => Table::build(view, life, policy, endpoints.values(), previous.as_deref()),
            },
        };
        let table = table.of_registry(registry_id, update.has_left_out);
        // First: who can see the new table finds that the old one is not the newest.
        if let Some(previous) = &previous {
            previous.supersede();
        }
        self.shared.table.store(Some(Arc::new(table)));
        self.wake();
    }

    /// Reports what an earlier process saw rejected, now that a control plane has spoken. Where
    /// its view has not taken the endpoint out in that generation, that process was gone before
    /// it could tell, and this one would stay away until somebody changes the key.
    pub(crate) fn testify(&self, now: Instant) {
        let inherited = std::mem::take(&mut *self.inherited());
        let Some(table) = self.table().filter(|_| !inherited.is_empty()) else {
            return;
        };
        for (name, generation) in inherited {
            let Some(entry) = table.find(&name) else {
                continue;
            };
            let is_rejected = entry.routed.endpoint.generation == generation
                && entry.live.mark().block == Block::Rejected;
            if !is_rejected || matches!(entry.routed.health, Health::Unhealthy { .. }) {
                continue;
            }
            let report = Report {
                endpoint: name,
                generation,
                life: table.life(),
                view: table.view(),
                count: 1,
                at: now,
                outcome: Outcome {
                    detail: "seen before the proxy was started again".to_owned(),
                    ..Outcome::of(OutcomeClass::Auth)
                },
            };
            self.outbox().push(report, true);
        }
    }

    fn inherited(&self) -> MutexGuard<'_, Vec<Generation>> {
        (self.shared.inherited)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes when endpoints of the newest table are checked next. Nothing is decided by it
    /// but when clients had best come back.
    pub(crate) fn expect_checks<'a>(&self, planned: impl IntoIterator<Item = (&'a str, Instant)>) {
        let Some(table) = self.table() else { return };
        for (name, due) in planned {
            if let Some(entry) = table.find(name) {
                entry.live.expect_check(due);
            }
        }
    }

    /// Returns the newest table.
    pub(crate) fn table(&self) -> Option<Arc<Table>> {
        self.shared.table.load_full()
    }

    /// Returns how many attempts came to this since the process started.
    pub(crate) fn outcomes(&self, class: OutcomeClass) -> u64 {
        let count = self.shared.outcomes.get(class as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Counts what an attempt came to.
    pub(super) fn count(&self, class: OutcomeClass) {
        if let Some(count) = self.shared.outcomes.get(class as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how many attempts were made at endpoints that were out, since the process
    /// started.
    pub(crate) fn resorts(&self) -> u64 {
        self.shared.resorts.load(Ordering::Relaxed)
    }

    /// Counts an attempt at an endpoint that is out.
    pub(super) fn resorted(&self) {
        self.shared.resorts.fetch_add(1, Ordering::Relaxed);
    }

    /// Follows how often a credential was rejected since the process started.
    pub(crate) fn rejections(&self) -> watch::Receiver<u64> {
        self.shared.rejections.subscribe()
    }

    /// Notes that a credential was rejected.
    pub(super) fn rejected(&self) {
        self.shared.rejections.send_modify(|count| *count += 1);
    }

    /// Returns what is known of times when nothing is selectable.
    pub(super) fn outlook(&self) -> &Outlook {
        &self.shared.outlook
    }

    /// Returns what is left for retries.
    pub(super) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// Returns how old is what endpoints show now.
    #[inline(always)]
    pub(super) fn age(&self, now: Instant) -> Age {
        self.shared.origin.age(now)
    }

    /// Returns whose turn it is.
    pub(super) fn turn(&self) -> u64 {
        let step = u64::from(!seeded(Bug::TurnNotPassed));
        self.shared.turns.fetch_add(step, Ordering::Relaxed)
    }

    /// Returns where a session went last, as the end of a hash of the endpoint's name.
    pub(super) fn whereabouts(&self, session: Session) -> Option<u32> {
        self.shared.stays.get()?.get(session)
    }

    /// Notes where a session went.
    pub(super) fn stays(&self, session: Session, hash: u64) {
        (self.shared.stays.get_or_init(Places::new)).put(session, hash as u32);
    }

    /// Returns where reports go.
    pub(super) fn outbox(&self) -> &Outbox {
        &self.shared.outbox
    }

    /// Tells waiting requests to look again.
    pub(super) fn wake(&self) {
        self.shared.outlook.change();
        self.shared.wake.notify_waiters();
    }
}

impl Pinned {
    /// Looks at the newest table, which most of the time is this one.
    #[inline(always)]
    pub(super) fn with_newest<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        if !self.table.is_superseded() {
            return look(&self.table);
        }
        let newest = self.router.shared.table.load();
        look(newest.as_ref().unwrap_or(&self.table))
    }

    /// Looks at what the newest table has of an endpoint of this one, in this generation.
    #[inline(always)]
    pub(super) fn with_counterpart<T>(
        &self,
        entry: &Entry,
        look: impl FnOnce(Option<&Entry>) -> T,
    ) -> T {
        let pinned: &Table = &self.table;
        self.with_newest(|newest| match std::ptr::eq(newest, pinned) {
            true => look(Some(entry)),
            false => look(newest.counterpart(pinned, entry)),
        })
    }

    fn is_newest_of(&self, router: &Router) -> bool {
        Arc::ptr_eq(&self.router.shared, &router.shared) && !self.table.is_superseded()
    }
}
