//! Time as the registry sees it: handed in, never asked for.
//!
//! Decisions use [`Clock`], which only runs while the control plane does and knows
//! nothing of calendars: a clock that jumps by ten years changes no decision, and a
//! pause that was cut by a restart is resumed, not skipped. [`Moment`] adds the wall
//! time of a fact, for people to read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds on the registry's own monotonic clock, carried on over restarts.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Clock(pub u64);

impl Clock {
    /// Returns the time `span` later, or the last one there is.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// Returns the time `span` earlier, or the first one there is.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// Returns how long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// When something happened: for decisions and for display.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// On the registry's clock.
    pub clock: Clock,
    /// Milliseconds since the Unix epoch; only ever displayed.
    pub wall_ms: u64,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
