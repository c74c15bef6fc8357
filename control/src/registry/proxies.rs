//! Data planes: who is connected, and which of their reports were applied.
//!
//! A report is named by (proxy, incarnation, sequence) and takes effect once. What
//! is remembered for that is one number for each incarnation, written in the same
//! commit as the effect.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{Clock, Outcome};
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

/// Incarnations that are remembered; the one that was silent longest goes first.
pub(super) const INCARNATIONS_MAX: usize = 10_000;

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
