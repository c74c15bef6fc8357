//! What data planes report in these benches.

use std::time::Duration;

use qcc_control::registry::{Facts, Generation, Outcome, OutcomeClass, View};
use qcc_proto::v1;

/// Endpoints that attempts are spread over. Their names are in order.
pub(crate) const ENDPOINTS: [&str; 10] = [
    "endpoint-0",
    "endpoint-1",
    "endpoint-2",
    "endpoint-3",
    "endpoint-4",
    "endpoint-5",
    "endpoint-6",
    "endpoint-7",
    "endpoint-8",
    "endpoint-9",
];

/// One outcome in so many is a 429, where there are any. Has no divisor in common with
/// [`ENDPOINTS`], so that each endpoint is limited at times.
const LIMITED_EVERY: u64 = 19;

/// What the endpoint asks for with a 429.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What attempts come to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mix {
    /// All work.
    Successes,
    /// Some are answered with a 429, which pauses the endpoint until the next success:
    /// health moves to and fro, each time in a view of its own.
    SomeLimited,
}

impl Mix {
    pub(crate) const ALL: [Self; 2] = [Self::Successes, Self::SomeLimited];

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Successes => "successes",
            Self::SomeLimited => "5 % are 429",
        }
    }

    fn is_limited(self, sequence: u64) -> bool {
        match self {
            Self::Successes => false,
            Self::SomeLimited => sequence.is_multiple_of(LIMITED_EVERY),
        }
    }

    /// Returns the outcome of this number as the writer takes it.
    pub(crate) fn outcome(self, sequence: u64, view: View, generation: Generation) -> Outcome {
        let facts = match self.is_limited(sequence) {
            false => Facts::of(OutcomeClass::Success),
            true => Facts {
                http_status: 429,
                error_type: "rate_limit_error".into(),
                retry_after: Some(RETRY_AFTER),
                upstream_request_id: format!("req_{sequence:020}"),
                ..Facts::of(OutcomeClass::RateLimited)
            },
        };
        Outcome {
            endpoint: ENDPOINTS[turn(sequence)].into(),
            generation,
            view,
            count: 1,
            facts,
            age: Duration::from_millis(1),
        }
    }

    /// Returns the outcome of this number as it is sent.
    pub(crate) fn message(self, sequence: u64, view: v1::View, generation: u64) -> v1::Outcome {
        let success = v1::Outcome {
            endpoint: ENDPOINTS[turn(sequence)].into(),
            generation,
            view: Some(view),
            class: v1::OutcomeClass::Success.into(),
            count: 1,
            age_ms: 1,
            ..v1::Outcome::default()
        };
        match self.is_limited(sequence) {
            false => success,
            true => v1::Outcome {
                class: v1::OutcomeClass::RateLimited.into(),
                http_status: 429,
                error_type: "rate_limit_error".into(),
                retry_after_ms: Some(RETRY_AFTER.as_millis() as u64),
                upstream_request_id: format!("req_{sequence:020}"),
                ..success
            },
        }
    }
}

/// Returns the place in [`ENDPOINTS`] whose turn it is.
pub(crate) fn turn(sequence: u64) -> usize {
    sequence as usize % ENDPOINTS.len()
}
