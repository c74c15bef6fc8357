//! Reports that wait, and the batch that is on its way.
//!
//! ```text
//!   push --> pending: no numbers yet, successes merge, what matters least may drop
//!               |
//!          next_batch: gives out numbers
//!               v
//!            in flight: the same outcomes under the same numbers until acknowledged
//!               |
//!          acknowledge
//!               v
//!             gone
//! ```
//!
//! Numbers are given to a report when it enters a batch, and a batch does not
//! change until it is acknowledged. So merging, dropping and sending again cannot
//! get in each other's way, and numbers have no gaps: `dropped` is a count for
//! people, and closes the gap when a control plane has forgotten what it had
//! acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use qcc_proto::v1::View;

use super::Report;
use crate::seeded::{Bug, seeded};

/// Most reports in a batch: about 500 bytes each at worst, so that a message stays
/// below 1 MiB.
const BATCH_MAX: usize = 2_000;

/// Reports until they are acknowledged.
#[derive(Debug)]
pub(crate) struct ReportBuffer {
    capacity: usize,
    /// By arrival.
    pending: BTreeMap<u64, Report>,
    arrivals: u64,
    /// Arrival numbers of pending successes: the first to go when there is no room.
    successes: BTreeSet<u64>,
    /// Of pending failures: the next to go.
    failures: BTreeSet<u64>,
    /// Of the first pending rejection of each credential: the last to go. This process stays
    /// away until the control plane has heard of it, and nothing else tells it.
    rejections: BTreeMap<Credential, u64>,
    /// Pending successes that may take in another one.
    mergeable: BTreeMap<Key, u64>,
    in_flight: Option<Batch>,
    /// See [`Batch::registry_id`]; of what is pending.
    registry_id: Arc<str>,
    /// The life of that registry: reports of another one are about nothing.
    life: u64,
    next_sequence: u64,
    /// Attempts dropped since the last batch was made, and ever.
    dropped: u64,
    dropped_total: u64,
}

/// Successes that may be one report: same endpoint, generation and view.
type Key = (Arc<str>, u64, View);

/// An endpoint in a generation: what is rejected there is one credential.
type Credential = (Arc<str>, u64);

/// Reports with consecutive sequence numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The registry that the reports are about; empty if it is not known by name.
    pub registry_id: Arc<str>,
    /// Number of the first report.
    pub first_sequence: u64,
    /// Attempts that are lost, since the batch before.
    pub dropped: u64,
    /// The reports.
    pub reports: Vec<Report>,
}

impl Batch {
    fn last_sequence(&self) -> u64 {
        self.first_sequence + self.reports.len() as u64 - 1
    }
}

impl ReportBuffer {
    /// Returns an empty buffer for so many reports. At least one fits.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            pending: BTreeMap::new(),
            arrivals: 0,
            successes: BTreeSet::new(),
            failures: BTreeSet::new(),
            rejections: BTreeMap::new(),
            mergeable: BTreeMap::new(),
            in_flight: None,
            registry_id: Arc::default(),
            life: 0,
            next_sequence: 1,
            dropped: 0,
            dropped_total: 0,
        }
    }

    /// Takes a report. At the bound the oldest success goes, or, if there is none, the
    /// oldest failure that is not the first word on a rejected credential; if there are only
    /// such, the report itself, unless it is one. Whatever goes is counted.
    ///
    /// A report about a registry that is gone is dropped.
    pub(crate) fn push(&mut self, report: Report) {
        if report.life != self.life && !seeded(Bug::AttemptsOutliveRegistry) {
            self.dropped_total += u64::from(report.count);
            return;
        }
        let key = (Arc::clone(&report.endpoint), report.generation, report.view);
        if report.is_success() {
            let merged = self
                .mergeable
                .get(&key)
                .and_then(|at| self.pending.get_mut(at));
            if let Some(earlier) = merged {
                if !seeded(Bug::MergedNotCounted) {
                    earlier.count = earlier.count.saturating_add(report.count);
                }
                earlier.at = report.at;
                return;
            }
        } else {
            // A success from after a failure must not be told as one from before it.
            let (name, generation, _) = &key;
            self.mergeable
                .retain(|(other, of, _), _| other != name || of != generation);
        }
        let credential = (Arc::clone(&report.endpoint), report.generation);
        let is_rejection = report.is_rejection() && !self.rejections.contains_key(&credential);
        if self.len() >= self.capacity && !self.make_room(is_rejection) {
            self.count_dropped(&report);
            return;
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        if report.is_success() {
            self.successes.insert(arrival);
            self.mergeable.insert(key, arrival);
        } else if is_rejection {
            self.rejections.insert(credential, arrival);
        } else {
            self.failures.insert(arrival);
        }
        self.pending.insert(arrival, report);
    }

    /// Returns the batch to send: the one in flight, again, or a new one of what is
    /// pending. `None` if there is nothing.
    pub(crate) fn next_batch(&mut self) -> Option<&Batch> {
        if self.in_flight.is_none() && !self.pending.is_empty() {
            let rest = match self.pending.keys().nth(BATCH_MAX).copied() {
                Some(first_left) => self.pending.split_off(&first_left),
                None => BTreeMap::new(),
            };
            let taken = std::mem::replace(&mut self.pending, rest);
            let left = self
                .pending
                .first_key_value()
                .map_or(self.arrivals, |(&at, _)| at);
            self.successes = self.successes.split_off(&left);
            self.failures = self.failures.split_off(&left);
            self.rejections.retain(|_, at| *at >= left);
            self.mergeable.retain(|_, at| *at >= left);
            let batch = Batch {
                registry_id: Arc::clone(&self.registry_id),
                first_sequence: self.next_sequence,
                dropped: std::mem::take(&mut self.dropped),
                reports: taken.into_values().collect(),
            };
            self.next_sequence = batch.last_sequence() + 1;
            self.in_flight = Some(batch);
        }
        self.in_flight.as_ref()
    }

    /// Lets go of everything up to a number. A late or repeated acknowledgement
    /// changes nothing.
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        let Some(batch) = &mut self.in_flight else {
            return;
        };
        if sequence >= batch.last_sequence() {
            self.in_flight = None;
        } else if sequence >= batch.first_sequence {
            let done = (sequence + 1 - batch.first_sequence) as usize;
            batch.reports.drain(..done);
            batch.first_sequence = sequence + 1;
            batch.dropped = 0;
        }
    }

    /// Agrees with a control plane on where to go on after a break, given what it
    /// has acknowledged. If it has forgotten something, that is gone for good.
    pub(crate) fn resume(&mut self, acknowledged: u64) {
        self.acknowledge(acknowledged);
        if seeded(Bug::UnansweredForgotten) {
            self.in_flight = None;
        }
        let sent = match &self.in_flight {
            Some(batch) => batch.first_sequence - 1,
            None => self.next_sequence - 1,
        };
        let forgotten = sent.saturating_sub(acknowledged);
        match &mut self.in_flight {
            Some(batch) => batch.dropped = batch.dropped.max(forgotten),
            None => self.dropped = self.dropped.max(forgotten),
        }
    }

    /// Names the registry that reports are about from now on. In another life all that
    /// there is goes: it is about a registry that no longer exists.
    pub(crate) fn belong_to(&mut self, registry_id: &Arc<str>, life: u64) {
        if self.life != life && !seeded(Bug::ReportsOutliveRegistry) {
            self.clear();
            self.life = life;
        }
        self.registry_id = Arc::clone(registry_id);
    }

    /// Names the registry that reports are about now; empty if it is not known.
    pub(crate) fn registry_id(&self) -> &Arc<str> {
        &self.registry_id
    }

    /// Drops everything: it is about a registry that no longer exists.
    fn clear(&mut self) {
        let in_flight = self
            .in_flight
            .take()
            .map_or(Vec::new(), |batch| batch.reports);
        let pending = std::mem::take(&mut self.pending);
        let lost = in_flight.iter().chain(pending.values());
        self.dropped_total += lost.map(|report| u64::from(report.count)).sum::<u64>();
        self.successes.clear();
        self.failures.clear();
        self.rejections.clear();
        self.mergeable.clear();
        self.dropped = 0;
    }

    /// Returns whether another batch should follow at once: the one in flight was
    /// not acknowledged whole, or what is pending fills one.
    pub(crate) fn has_backlog(&self) -> bool {
        self.in_flight.is_some() || self.pending.len() >= BATCH_MAX
    }

    /// Returns whether all reports are acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of reports that are not acknowledged.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
            + self
                .in_flight
                .as_ref()
                .map_or(0, |batch| batch.reports.len())
    }

    /// Returns how many attempts were never reported, in the life of the process.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped_total
    }

    /// Makes room for a report, or returns that what is there matters more.
    fn make_room(&mut self, is_rejection: bool) -> bool {
        let least = (self.successes.pop_first()).or_else(|| self.failures.pop_first());
        let oldest = || self.pending.keys().next().copied();
        let victim = match least {
            Some(arrival) => Some(arrival),
            // All are in flight: for that long there is one more.
            None if self.pending.is_empty() => None,
            None if !is_rejection => return false,
            // What is in flight takes the place of as many that matter.
            None => oldest().filter(|_| self.pending.len() >= self.capacity),
        };
        if let Some(lost) = victim.and_then(|arrival| self.pending.remove(&arrival)) {
            let key = (Arc::clone(&lost.endpoint), lost.generation, lost.view);
            if lost.is_success() && self.mergeable.get(&key) == victim.as_ref() {
                self.mergeable.remove(&key);
            }
            if lost.is_rejection() {
                self.rejections.retain(|_, at| Some(*at) != victim);
            }
            self.count_dropped(&lost);
        }
        true
    }

    fn count_dropped(&mut self, lost: &Report) {
        self.dropped += u64::from(lost.count);
        self.dropped_total += u64::from(lost.count);
    }
}

#[cfg(test)]
mod tests;
