//! The one place that asks what time it is.
//!
//! A simulation answers in its place, for its own thread; see `simulation`.

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
            started: instant(),
        }
    }

    /// Returns the present moment.
    pub fn now(&self) -> Moment {
        let wall = wall().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Moment {
            clock: self.clock(),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Returns the present time on the registry's clock.
    pub fn clock(&self) -> Clock {
        let running = instant().saturating_duration_since(self.started);
        self.base.after(running)
    }
}

fn instant() -> Instant {
    #[cfg(feature = "simulation")]
    if let Some((instant, _)) = made_up::now() {
        return instant;
    }
    Instant::now()
}

fn wall() -> SystemTime {
    #[cfg(feature = "simulation")]
    if let Some((_, wall)) = made_up::now() {
        return wall;
    }
    SystemTime::now()
}

/// Time as a simulation tells it.
#[cfg(feature = "simulation")]
pub(crate) mod made_up {
    use std::{
        cell::Cell,
        time::{Instant, SystemTime},
    };

    thread_local! {
        static NOW: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
    }

    /// Makes it be then, for this thread.
    pub(crate) fn set(instant: Instant, wall: SystemTime) {
        NOW.set(Some((instant, wall)));
    }

    pub(super) fn now() -> Option<(Instant, SystemTime)> {
        NOW.get()
    }
}
