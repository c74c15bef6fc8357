//! Made-up time. The simulation counts microseconds; each machine has a clock of its
//! own that starts elsewhere and runs a little faster or slower.

use std::time::{Duration, Instant, SystemTime};

use crate::random::Random;

/// Microseconds since the simulation began.
pub(crate) type Time = u64;

/// A millisecond.
pub(crate) const MS: Time = 1_000;

/// A second.
pub(crate) const S: Time = 1_000_000;

/// What the wall shows at the beginning.
pub(crate) const WALL_START: SystemTime = SystemTime::UNIX_EPOCH;

/// A machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Monotonic {
    /// Its reading when the simulation began.
    start: Instant,
    /// Millionths by which it runs faster, or slower if negative.
    drift: i64,
}

impl Monotonic {
    /// Returns a clock that starts anywhere within a day after `origin`, and goes wrong
    /// by up to 200 millionths, as quartz does.
    pub(crate) fn draw(origin: Instant, random: &mut Random) -> Self {
        Self {
            start: origin + Duration::from_micros(random.within(0..86_400 * S)),
            drift: random.within(0..401) as i64 - 200,
        }
    }

    /// Returns its reading.
    pub(crate) fn at(&self, now: Time) -> Instant {
        let wrong = (i128::from(now) * i128::from(self.drift) / 1_000_000) as i64;
        self.start + Duration::from_micros((now as i64 + wrong).max(0) as u64)
    }

    /// Returns the time at which it will show a reading, as well as it can tell.
    pub(crate) fn when(&self, reading: Instant, now: Time) -> Time {
        let shown = self.at(now);
        let ahead = reading.saturating_duration_since(shown).as_micros() as Time;
        let behind = shown.saturating_duration_since(reading).as_micros() as Time;
        (now + ahead).saturating_sub(behind)
    }
}
