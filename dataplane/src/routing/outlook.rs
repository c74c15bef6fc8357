//! That nothing can be chosen, found out and remembered for a moment.
//!
//! To find that out, and why, means to look at each endpoint. Where there are thousands and
//! all are out, or all are busy, a flood of requests would do nothing else. What is
//! remembered holds for requests that have tried nothing, and, where there is nothing for
//! anybody, for all others; until something may have become selectable: that is told
//! ([`Router::changed`](super::Router::changed)), but for the ends of pauses, which are known.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use super::{Next, Routing, Table, Unavailable, admission::Party};

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
    finding: Finding,
}

/// What there is to say when nothing can be chosen; see [`Next`].
#[derive(Debug, Clone)]
pub(super) enum Finding {
    Wait { until: Option<Instant> },
    Exhausted,
    Unavailable(Arc<Unavailable>),
}

impl From<Finding> for Next {
    fn from(finding: Finding) -> Self {
        match finding {
            Finding::Wait { until } => Self::Wait { until },
            Finding::Exhausted => Self::Exhausted,
            Finding::Unavailable(unavailable) => Self::Unavailable(unavailable),
        }
    }
}

impl Routing {
    /// Returns what is remembered, if that is all there is to say to this request.
    #[inline(always)]
    pub(super) fn remembered(&self, now: Instant) -> Option<Finding> {
        match self.attempts {
            0 => self.router().outlook().get(self.table(), now),
            // These two may go where others may not.
            _ if self.party == Party::Suspect || self.spared.is_some() => None,
            _ => self.foretold(now),
        }
    }

    /// Finds out why there was nothing to choose. `None`: there is now.
    pub(super) fn survey(&self, now: Instant) -> Option<Next> {
        if let Some(known) = self.foretold(now) {
            return Some(known.into());
        }
        let changes = self.router().outlook().changes(); // First: what comes later counts.
        let queue_timeout = self.policy().queue_timeout;
        let may_try = self.may_try();
        let (mut selectable, mut busy) = (false, false);
        let mut until: Option<Instant> = None;
        let mut holds = HOLDS_MAX;
        for place in self.table().places() {
            let is_open = !self.has_tried(place) || self.spared == Some(place);
            let usable = may_try && is_open;
            match self.admit(self.table().entry(place), now) {
                Ok(_) if usable => return None,
                Ok(_) => selectable = true,
                Err(reason) if reason.is_busy() => {
                    selectable = true;
                    busy |= usable;
                }
                Err(reason) => {
                    let Some(left) = reason.remaining() else {
                        continue;
                    };
                    let is_within_reach = left <= queue_timeout;
                    if usable && is_within_reach {
                        until = Some(until.map_or(now + left, |other| other.min(now + left)));
                    }
                    // It matters when it comes within reach, and when it ends.
                    holds = holds.min(match is_within_reach {
                        true => left,
                        false => left - queue_timeout,
                    });
                }
            }
            if selectable && !may_try {
                return Some(Next::Exhausted); // The others make no difference.
            }
        }
        let finding = if busy || until.is_some() {
            Finding::Wait { until }
        } else if selectable {
            Finding::Exhausted
        } else {
            Finding::Unavailable(Arc::new(self.unavailable(now)))
        };
        // Who has tried some is told of the others; and a last resort is another for each.
        if self.attempts == 0 && !self.is_lenient() {
            let outlook = self.router().outlook();
            outlook.put(self.table(), changes, now + holds, finding.clone());
        }
        Some(finding.into())
    }

    /// Returns what is remembered, if it holds for whoever asks: that nobody has anywhere to
    /// go. What the newest table shuts out, an older one does not let in.
    fn foretold(&self, now: Instant) -> Option<Finding> {
        let outlook = self.router().outlook();
        let known = (self.pinned).with_newest(|newest| outlook.get(newest, now));
        known.filter(|known| matches!(known, Finding::Unavailable(_)))
    }
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
    pub(super) fn get(&self, table: &Table, now: Instant) -> Option<Finding> {
        if !self.is_bleak.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.known.load();
        let known = known.as_ref()?;
        let holds = known.changes == self.changes()
            && std::ptr::eq(known.table.as_ptr(), table)
            && now < known.until;
        holds.then(|| known.finding.clone())
    }

    /// Remembers what was found, having asked for `changes` before.
    fn put(&self, table: &Arc<Table>, changes: u64, until: Instant, finding: Finding) {
        self.known.store(Some(Arc::new(Known {
            table: Arc::downgrade(table),
            changes,
            until,
            finding,
        })));
        self.is_bleak.store(true, Ordering::Relaxed);
    }
}
