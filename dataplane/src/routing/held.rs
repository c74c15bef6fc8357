//! Evidence that may be its request's own fault: how much of it there is, and who has been
//! blamed in the endpoint's place. See [`suspicion`](super::suspicion).

use qcc_proto::v1::OutcomeClass;

use crate::seeded::{Bug, seeded};

/// Different requests in a row that may be blamed in the endpoint's place. Two clients
/// with bad requests at the same time are thinkable; a third, with nobody served in
/// between, is an outage: without this bound, endpoints that all accept connections and
/// break them would be tried first for ever.
const SUSPECTS_MAX: usize = 2;

/// Counts pieces of evidence that may turn out to be their request's own fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Those that suspend by themselves.
    pub suspending: u32,
    /// Those that count towards `max_failures`.
    pub counted: u32,
}

/// Fingerprints of requests that were blamed in the endpoint's place, as many as may be
/// in a row; 0 is a free place. When yet another request fails, it is no request's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suspects([u64; SUSPECTS_MAX]);

impl Held {
    /// Nothing is held.
    pub(super) const NONE: Self = Self {
        suspending: 0,
        counted: 0,
    };

    /// Returns the counts with that of a class changed.
    pub(super) fn with(mut self, class: OutcomeClass, change: impl Fn(u32) -> u32) -> Self {
        match class {
            OutcomeClass::Timeout | OutcomeClass::Connect => {
                self.suspending = change(self.suspending);
            }
            OutcomeClass::Unspecified => {} // Somebody else has it counted.
            _ => self.counted = change(self.counted),
        }
        self
    }
}

impl Suspects {
    /// Nobody has been blamed.
    pub(super) const NONE: Self = Self([0; SUSPECTS_MAX]);

    /// Returns them with one more, if there is a place for it.
    pub(super) fn with(self, request: u64) -> Option<Self> {
        let request = request.max(1); // 0 is a free place.
        let Self(mut places) = self;
        if seeded(Bug::SuspectsUnlimited) {
            places = Self::NONE.0;
        }
        let mut fitting = places.iter_mut();
        let place = fitting.find(|place| **place == request || **place == 0)?;
        *place = request;
        Some(Self(places))
    }
}
