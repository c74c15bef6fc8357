//! The moving part of an endpoint in one generation: in-flight counts and the mark.
//! It stands beside the tables, so that what one request learns acts at once on all
//! others, whichever table they have pinned.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use super::{attempt::Witness, gate::Gate, mark::Mark, pace::Pace};
use crate::seeded::{Bug, seeded};

/// The mark that every endpoint begins with. Most never get another, so there is one for
/// all of them.
static CLEAR: LazyLock<Arc<Mark>> = LazyLock::new(|| Arc::new(Mark::CLEAR));

/// How long a check that was due is taken to be under way: as long as the control plane may
/// be silent before it counts as gone.
const CHECK_HEARD_WITHIN: Duration = Duration::from_secs(15);

/// Shared by all tables that hold the endpoint in the same generation.
#[derive(Debug)]
pub(crate) struct Live {
    /// Attempts in flight.
    in_flight: AtomicU32,
    /// Whether the mark keeps anybody away.
    gate: Gate,
    /// Whether the one trial of a suspended endpoint is in flight.
    trial: AtomicBool,
    /// Whether the endpoint has answered well in this generation, here or (by the
    /// view) anywhere. Never goes back.
    proven: AtomicBool,
    /// How it fares, for strategies and shares.
    pace: Pace,
    /// Read without a lock, replaced as a whole.
    mark: ArcSwap<Mark>,
    /// When it is checked next, as far as the control plane has said.
    check: ArcSwapOption<Instant>,
    /// The newest evidence against it, for people: nothing is decided by it.
    witness: ArcSwapOption<Witness>,
    /// Counts that outlive the generation.
    totals: Arc<Totals>,
}

/// What this process has done with an endpoint, over all generations.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Attempts made.
    pub attempts: AtomicU64,
    /// Attempts that succeeded.
    pub successes: AtomicU64,
}

/// How many attempts may be in flight: the most, and in the highest bit whether one trial is
/// among them, because the endpoint is coming back from a suspension.
///
/// In one word without a value that it may not have: what has one is copied around it, in odd
/// pieces, which a choice would wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(u32);

impl Limit {
    /// Any number.
    pub(super) const NONE: Self = Self(u32::MAX >> 1);

    const TRIAL: u32 = 1 << 31;

    /// Returns the limit of an endpoint that has not yet proven itself.
    pub(super) fn unproven(cap: u32) -> Self {
        Self(cap.min(Self::NONE.0))
    }

    /// Returns the limit with one trial in it.
    pub(super) fn trial(self) -> Self {
        Self(self.0 | Self::TRIAL)
    }

    /// Returns whether it lets a trial in.
    pub(super) fn is_trial(self) -> bool {
        self.0 & Self::TRIAL != 0
    }

    /// Returns whether there may be one more than so many.
    fn is_above(self, count: u32) -> bool {
        let most = self.0 & !Self::TRIAL;
        most == Self::NONE.0 || count < most
    }
}

impl Live {
    /// Returns the state of an endpoint that nothing is known about.
    pub(crate) fn new(totals: Arc<Totals>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            gate: Gate::default(),
            trial: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            pace: Pace::default(),
            mark: ArcSwap::new(Arc::clone(&CLEAR)),
            check: ArcSwapOption::empty(),
            witness: ArcSwapOption::empty(),
            totals,
        }
    }

    /// Returns the counts that outlive the generation.
    pub(crate) fn totals(&self) -> &Arc<Totals> {
        &self.totals
    }

    /// Returns the mark as it is now.
    pub(crate) fn mark(&self) -> Guard<Arc<Mark>> {
        self.mark.load()
    }

    /// Returns the newest evidence against the endpoint, whatever has come of it.
    pub(crate) fn witness(&self) -> Option<Arc<Witness>> {
        self.witness.load_full()
    }

    /// Notes when the endpoint is checked next.
    pub(super) fn expect_check(&self, due: Instant) {
        self.check.store(Some(Arc::new(due)));
    }

    /// Returns the time left until the next check, zero while one is under way. Nothing if
    /// it is not known, or if nothing was heard of one that was due.
    pub(super) fn check_in(&self, now: Instant) -> Option<Duration> {
        let due = **self.check.load().as_ref()?;
        let overdue = now.saturating_duration_since(due);
        (overdue <= CHECK_HEARD_WITHIN).then(|| due.saturating_duration_since(now))
    }

    /// Keeps the evidence of an attempt.
    pub(crate) fn bear(&self, witness: Witness) {
        self.witness.store(Some(Arc::new(witness)));
    }

    /// Replaces the mark by what `change` makes of it, and returns whether it did.
    pub(crate) fn change(&self, change: impl Fn(&Mark) -> Option<Mark>) -> bool {
        let mut current = self.mark.load();
        loop {
            let Some(next) = change(&current) else {
                return false;
            };
            let next = Arc::new(Mark {
                changes: current.changes + 1,
                ..next
            });
            self.gate.precede(&next);
            let previous = self.mark.compare_and_swap(&current, Arc::clone(&next));
            if Arc::ptr_eq(&previous, &current) {
                self.gate.follow(&next);
                return true;
            }
            current = previous;
        }
    }

    /// Returns the number of the mark, if that keeps nobody away.
    #[inline(always)]
    pub(super) fn unmarked(&self) -> Option<u64> {
        self.gate.open()
    }

    /// Returns how the endpoint fares.
    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Returns whether the endpoint has answered well in this generation.
    pub(crate) fn proven(&self) -> bool {
        self.proven.load(Ordering::Acquire)
    }

    /// Records that it has, and returns whether that is news. From here on its share grows.
    pub(crate) fn prove(&self) -> bool {
        let is_news = self.confirm();
        if is_news {
            self.pace.ramp();
        }
        is_news
    }

    /// Records that it has, as was said of it before, and returns whether that is news here.
    pub(super) fn confirm(&self) -> bool {
        !self.proven() && !self.proven.swap(true, Ordering::AcqRel)
    }

    /// Returns the attempts in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Returns whether a new attempt would be within `limit`.
    #[inline(always)]
    pub(crate) fn has_room(&self, limit: Limit) -> bool {
        limit.is_above(self.in_flight())
            && !(limit.is_trial() && self.trial.load(Ordering::Acquire))
    }

    /// Takes a place within `limit`; `false` if there is none.
    ///
    /// The compare-exchange is what makes the cap hold under races. It reads what
    /// [`Live::leave`] wrote (and so does the addition where there is no cap), so whoever takes
    /// a place that was left also sees the mark that was made before it was left.
    #[inline(always)]
    pub(crate) fn enter(&self, limit: Limit) -> bool {
        if limit == Limit::NONE {
            self.in_flight.fetch_add(1, Ordering::AcqRel);
            return true;
        }
        if limit.is_trial() && self.trial.swap(true, Ordering::AcqRel) {
            return false;
        }
        let has_entered = (self.in_flight)
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                limit.is_above(count).then_some(count + 1)
            })
            .is_ok();
        if limit.is_trial() && !has_entered {
            self.end_trial();
        }
        has_entered
    }

    /// Gives the place back.
    pub(crate) fn leave(&self, limit: Limit) {
        if !seeded(Bug::PlaceKept) {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
        if limit.is_trial() {
            self.end_trial();
        }
    }

    /// Lets the next trial begin, while the attempt itself goes on.
    pub(crate) fn end_trial(&self) {
        self.trial.store(false, Ordering::Release);
    }
}
