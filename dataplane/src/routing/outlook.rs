//! That nothing can be selected, remembered for a moment.
//!
//! To find that out, and why, means to look at each endpoint. Where there are thousands and
//! all are out, a flood of requests would do nothing else. What is remembered holds for
//! requests that have tried nothing, until something may have become selectable: that is
//! told ([`Router::changed`](super::Router::changed)), but for the ends of pauses, which
//! are known.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::{Table, Unavailable};

/// Longest time for which it is remembered: what people are told of seconds stays true.
const HOLDS_MAX: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Outlook {
    /// How often something may have become selectable.
    changes: AtomicU64,
    /// Whether something is remembered: a look at this costs all other requests nothing.
    is_bleak: AtomicBool,
    known: ArcSwapOption<Known>,
}

#[derive(Debug)]
struct Known {
    table: Weak<Table>,
    changes: u64,
    until: Instant,
    unavailable: Arc<Unavailable>,
}

impl Outlook {
    /// Notes that something may have become selectable, after it has.
    pub(super) fn change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        if self.is_bleak.load(Ordering::Relaxed) {
            self.is_bleak.store(false, Ordering::Relaxed);
            self.known.store(None);
        }
    }

    /// Returns how often something may have become selectable.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Returns what was found of this table, if it still holds.
    pub(super) fn get(&self, table: &Arc<Table>, now: Instant) -> Option<Arc<Unavailable>> {
        if !self.is_bleak.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.known.load();
        let known = known.as_ref()?;
        let holds = known.changes == self.changes()
            && std::ptr::eq(known.table.as_ptr(), Arc::as_ptr(table))
            && now < known.until;
        holds.then(|| Arc::clone(&known.unavailable))
    }

    /// Remembers what was found at `now`, having asked for `changes` before. `for_long`:
    /// until the end of a pause matters.
    pub(super) fn put(
        &self,
        table: &Arc<Table>,
        changes: u64,
        now: Instant,
        for_long: Option<Duration>,
        unavailable: &Arc<Unavailable>,
    ) {
        self.known.store(Some(Arc::new(Known {
            table: Arc::downgrade(table),
            changes,
            until: now + for_long.map_or(HOLDS_MAX, |long| long.min(HOLDS_MAX)),
            unavailable: Arc::clone(unavailable),
        })));
        self.is_bleak.store(true, Ordering::Relaxed);
    }
}
