//! Lifetime counts of this process, for its status.

use std::sync::atomic::{AtomicU32, AtomicU64};

/// Counts since the process started; `active_requests` is a gauge.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Client requests taken.
    pub requests: AtomicU64,
    /// Client requests answered with an upstream's response.
    pub relayed: AtomicU64,
    /// Client requests answered with an error of our own.
    pub own_errors: AtomicU64,
    /// Client requests whose client went away first.
    pub cancelled: AtomicU64,
    /// Client requests being served now.
    pub active_requests: AtomicU32,
    /// Attempts at endpoints. Counted by the router.
    pub attempts: AtomicU64,
    /// Attempts beyond the first of a request. Counted by the router.
    pub retries: AtomicU64,
}
