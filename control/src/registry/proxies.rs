//! Data planes: who is connected, and which of their reports were applied.
//!
//! A report is named by (proxy, incarnation, sequence) and takes effect once. What
//! is remembered for that is one number for each incarnation, written in the same
//! commit as the effect.

use std::{collections::btree_map::Entry, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Clock, EndpointName, EventKind, Moment, Observation, Outcome, Registry, Witness, endpoint::Turn,
};
use crate::seeded::{Bug, seeded};

/// A data plane's name, 1-128 characters of `[A-Za-z0-9._:-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProxyId(Arc<str>);

/// One run of one data plane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyKey {
    /// Its name.
    pub id: ProxyId,
    /// Random per process, 1-64 characters of `[A-Za-z0-9-]`.
    pub incarnation: Arc<str>,
}

/// What is remembered of one incarnation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProxyRecord {
    /// Every outcome up to this sequence number has been applied.
    pub applied: u64,
    /// When it last reported or connected.
    pub heard: Clock,
    /// Its open streams.
    #[serde(skip)]
    pub connections: u32,
}

/// Outcomes with consecutive sequence numbers.
#[derive(Debug, Clone, Default)]
pub struct ReportBatch {
    /// Sequence number of the first outcome; at least 1.
    pub first_sequence: u64,
    /// Outcomes right before it that the proxy had to drop.
    pub dropped: u64,
    /// The registry under which the attempts were chosen; `None` if it was not said.
    pub registry_id: Option<Arc<str>>,
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Everything up to this number has been applied.
    pub acknowledged: u64,
    /// Nothing was applied, since earlier outcomes are missing.
    pub gap: bool,
    /// Outcomes of which this batch was the first to say that they were dropped.
    pub dropped: u64,
}

/// Counts of outcomes since the process started; see `qcc.v1.ReportCounts`.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReportCounts {
    pub applied: u64,
    pub duplicate: u64,
    pub stale: u64,
    pub unknown_endpoint: u64,
    pub dropped: u64,
}

/// The data planes whose streams have ended last, and when: two, for then one of them is
/// another than whoever asks.
#[derive(Debug, Clone, Default)]
pub(super) struct Gone([Option<(ProxyId, Clock)>; 2]);

/// Incarnations that are remembered; the one that was silent longest goes first.
const INCARNATIONS_MAX: usize = 10_000;

/// Time for data planes to come back after a start, or after their connections have broken;
/// they try at least every 5 s.
const RETURN_TIME: Duration = Duration::from_secs(15);

/// A data plane that was heard of within this time before a start is expected back.
const EXPECTED_BACK: Duration = Duration::from_secs(86_400);

impl Registry {
    /// Applies a batch of outcomes; each takes effect once, however often it comes.
    pub fn report(&mut self, proxy: &ProxyKey, batch: ReportBatch, now: Moment) -> Receipt {
        let turn = self.turn(now);
        let ours = batch
            .registry_id
            .as_ref()
            .is_none_or(|id| *id == self.meta.registry_id || seeded(Bug::ForeignReportCounts));
        let alone = self.is_alone(&proxy.id, turn.now.clock);
        let record = self.proxy_record(proxy, now);
        let Some(duplicates) = record.duplicates(&batch) else {
            return Receipt {
                acknowledged: record.applied,
                gap: true,
                dropped: 0,
            };
        };
        let sent = batch.outcomes.len() as u64;
        let duplicates = duplicates.min(sent);
        let last = batch.first_sequence.saturating_add(sent).saturating_sub(1);
        let acknowledged = record.applied.max(last);
        let mut dropped = 0;
        if acknowledged > record.applied {
            dropped = batch.dropped;
            record.applied = acknowledged;
            self.dirty.any = true;
            self.dirty.proxies.insert(proxy.clone());
            self.report_counts.dropped = self.report_counts.dropped.saturating_add(dropped);
        }
        self.report_counts.duplicate += duplicates;
        let witness = Witness::Proxy(proxy.id.clone());
        for outcome in batch.outcomes.into_iter().skip(duplicates as usize) {
            // Views and generations of another history only look like ours, and nobody
            // can have seen a view of the future.
            let name = EndpointName::try_from(outcome.endpoint.as_str()).ok();
            let name = name.filter(|_| ours && outcome.view < turn.view);
            match name.and_then(|name| self.observe(&name, outcome, &witness, alone, turn)) {
                Some(Observation::Applied | Observation::Suppressed) => {
                    self.report_counts.applied += 1;
                }
                Some(Observation::Stale) => self.report_counts.stale += 1,
                None => self.report_counts.unknown_endpoint += 1,
            }
        }
        Receipt {
            acknowledged,
            gap: false,
            dropped,
        }
    }

    /// Applies one outcome; `None` if there is no such endpoint.
    fn observe(
        &mut self,
        name: &EndpointName,
        mut outcome: Outcome,
        witness: &Witness,
        alone: bool,
        turn: Turn,
    ) -> Option<Observation> {
        let count = u64::from(outcome.count);
        let evidence = outcome.evidence(witness, turn.now);
        let observation = self.touch(name, turn, |endpoint, policy, turn| {
            endpoint.observe(outcome, alone, &evidence, policy, turn)
        })?;
        let kind = match observation {
            Observation::Applied => return Some(observation),
            Observation::Suppressed => EventKind::FailuresSuppressed,
            Observation::Stale => EventKind::ReportsStale,
        };
        self.log_repeated(kind, name, count, turn, |endpoint, event| {
            event.cause = endpoint.health.cause();
            event.evidence = Some(Box::new(evidence));
        });
        Some(observation)
    }

    /// Notes a data plane's new stream, and returns what of its reports was applied.
    pub fn connect(&mut self, proxy: &ProxyKey, now: Moment) -> Receipt {
        *self.connected.entry(proxy.id.clone()).or_default() += 1;
        let record = self.proxy_record(proxy, now);
        record.connections += 1;
        Receipt {
            acknowledged: record.applied,
            gap: false,
            dropped: 0,
        }
    }

    /// Notes the end of a data plane's stream.
    pub fn disconnect(&mut self, proxy: &ProxyKey, now: Moment) {
        if let Some(record) = self.proxies.get_mut(proxy) {
            record.connections = record.connections.saturating_sub(1);
        }
        if let Entry::Occupied(mut streams) = self.connected.entry(proxy.id.clone()) {
            *streams.get_mut() -= 1;
            if *streams.get() == 0 {
                streams.remove();
                self.gone.note(&proxy.id, now.clock);
            }
        }
    }

    /// Whether no other data plane could agree or disagree with this one. For a while
    /// after a start, those that were there before are still expected back, and so is whoever
    /// was there until a moment ago: what breaks all connections at once leaves somebody
    /// who is the first to come back.
    fn is_alone(&self, proxy: &ProxyId, now: Clock) -> bool {
        let others = |known: &ProxyId| known != proxy;
        let expected = now.since(self.started) < RETURN_TIME
            && self.proxies.iter().any(|(key, record)| {
                others(&key.id) && self.started.since(record.heard) < EXPECTED_BACK
            });
        let is_missed = || self.gone.has_lately_lost(others, now);
        !expected && !self.connected.keys().any(others) && !is_missed()
    }

    /// Returns what is remembered of a data plane that was just heard of. A new one may
    /// take the place of the one that was silent longest.
    fn proxy_record(&mut self, proxy: &ProxyKey, now: Moment) -> &mut ProxyRecord {
        if self.proxies.len() >= INCARNATIONS_MAX && !self.proxies.contains_key(proxy) {
            let silent = self
                .proxies
                .iter()
                .filter(|(_, record)| record.connections == 0)
                .min_by_key(|(_, record)| record.heard)
                .map(|(key, _)| key.clone());
            if let Some(key) = silent {
                self.proxies.remove(&key);
                self.dirty.any = true;
                self.dirty.proxies.insert(key);
            }
        }
        let record = match self.proxies.entry(proxy.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.dirty.any = true;
                self.dirty.proxies.insert(proxy.clone());
                new.insert(ProxyRecord::default())
            }
        };
        record.heard = now.clock;
        record
    }
}

impl Gone {
    fn note(&mut self, proxy: &ProxyId, now: Clock) {
        let Self([last, before]) = self;
        if last.as_ref().is_none_or(|(known, _)| known != proxy) {
            *before = last.take();
        }
        *last = Some((proxy.clone(), now));
    }

    fn has_lately_lost(&self, is_meant: impl Fn(&ProxyId) -> bool, now: Clock) -> bool {
        let mut gone = self.0.iter().flatten();
        gone.any(|(proxy, at)| {
            let is_lately = now.since(*at) < RETURN_TIME && !seeded(Bug::GoneForgotten);
            is_lately && is_meant(proxy)
        })
    }
}

impl ProxyRecord {
    /// Returns how many leading outcomes of `batch` were applied before, or `None`
    /// if outcomes before it are missing.
    pub(super) fn duplicates(&self, batch: &ReportBatch) -> Option<u64> {
        if seeded(Bug::DuplicateCounts) {
            return Some(0);
        }
        let next = self.applied.saturating_add(1);
        let missing = batch.first_sequence.saturating_sub(next);
        // An incarnation that was never heard of may begin anywhere: what came before
        // was acknowledged by a control plane whose data is gone.
        if missing > batch.dropped && self.applied > 0 {
            return None;
        }
        Some(next.saturating_sub(batch.first_sequence))
    }
}

impl ProxyId {
    /// Takes a name that was checked at the edge.
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProxyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
