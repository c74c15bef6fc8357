//! What this process owes the control plane: a report of each attempt that says
//! something about an endpoint.
//!
//! - [`buffer`]: reports in order, bounded; batches with sequence numbers. Pure.
//! - [`outbox`]: the buffer, shared between requests and the reporter.

mod buffer;
mod outbox;

use std::{sync::Arc, time::Instant};

use qcc_proto::v1::{OutcomeClass, View};

use crate::routing::Outcome;
pub(crate) use buffer::{Batch, ReportBuffer};
pub(crate) use outbox::Outbox;

/// An account of one attempt, or of several alike that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// The generation that the attempt used.
    pub generation: u64,
    /// The life of the registry that gave it out; see
    /// [`Router::publish`](crate::routing::Router::publish).
    pub life: u64,
    /// The view under which the endpoint was chosen.
    pub view: View,
    /// Number of attempts; above 1 for successes only.
    pub count: u32,
    /// When the (last) attempt ended.
    pub at: Instant,
    /// What it came to.
    pub outcome: Outcome,
}

impl Report {
    fn is_success(&self) -> bool {
        self.outcome.class == OutcomeClass::Success
    }

    fn is_rejection(&self) -> bool {
        self.outcome.class == OutcomeClass::Auth
    }
}
