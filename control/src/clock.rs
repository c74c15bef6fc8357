//! The one place that asks what time it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::registry::{Clock, Moment};

/// Tells the registry's time: its own clock, carried on from the last run.
#[derive(Debug, Clone, Copy)]
pub struct RegistryClock {
    base: Clock,
    started: Instant,
}

impl RegistryClock {
    /// Goes on from where the last run stopped.
    pub fn resume(base: Clock) -> Self {
        Self {
            base,
            started: Instant::now(),
        }
    }

    /// Returns the present moment.
    pub fn now(&self) -> Moment {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Moment {
            clock: self.base.after(self.started.elapsed()),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
