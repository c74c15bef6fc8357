//! How an endpoint fares, as far as strategies compare endpoints by it, and how much of its
//! share it gets while it is new.
//!
//! A strategy that prefers who is idle or quick is drawn to an endpoint that fails at once:
//! it is always idle, and nobody is quicker. So nothing but a 2xx head counts as quick,
//! and an attempt that failed goes on to count as one in flight: a *debt*, which a
//! success pays off and time halves. A failure takes one attempt out of flight and adds one
//! to the debt, so it never improves a score, and neither does a fast 429.
//!
//! ```text
//! least in flight   (in flight + debt)                     / weight
//! peak EWMA         (in flight + debt + 1) x (latency + 1) / weight
//! ```
//!
//! Latency is that of the last heads: a slower one counts at once, a faster one by an
//! eighth. It is halved for each [`HALF_LIFE`] without a head or a failure, or an endpoint
//! that was slow once would never be asked again.
//!
//! An endpoint that has just proven itself gets a twentieth of its share at first, and all
//! of it after `slow_start`. One that was proven before this process met it does not ramp:
//! others do not know when it began either, and a restart of a proxy is no reason to.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The whole share.
pub(crate) const FULL: u32 = 1 << 16;
/// The share to begin with: a session or a request must come, or nothing is learned.
const FIRST: u32 = FULL / 20;
/// What halves debt and latency. About as long as an overload lasts.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// How soon an endpoint answers that has failed and is not known to answer at all.
const UNKNOWN: Duration = Duration::from_secs(1);
/// More debt than this makes no difference to a choice.
const DEBT_MAX: u32 = 1 << 16;

/// How an endpoint fares in one generation.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    is_ramping: AtomicBool,
    ramp_from: OnceLock<Instant>,
    /// In microseconds.
    latency: Fading,
    debt: Fading,
}

/// What ages are counted from: the first moment that is asked about.
#[derive(Debug, Default)]
pub(super) struct Origin(OnceLock<Instant>);

/// A moment, in half-lives since the [`Origin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age(u32);

/// A number that time halves: when it was written, in half-lives, and what it was then.
#[derive(Debug, Default)]
struct Fading(AtomicU64);

impl Pace {
    /// Says that the endpoint is proven from now on. "Now" is when that is first asked for.
    pub(super) fn ramp(&self) {
        self.is_ramping.store(true, Ordering::Release);
    }

    /// Returns how much of its share the endpoint gets, in parts of [`FULL`].
    pub(super) fn share(&self, slow_start: Duration, now: Instant) -> u32 {
        if !self.is_ramping.load(Ordering::Acquire) {
            return FULL;
        }
        let since = *self.ramp_from.get_or_init(|| now);
        let passed = now.saturating_duration_since(since);
        if passed >= slow_start {
            self.is_ramping.store(false, Ordering::Release);
            return FULL;
        }
        let part = passed.as_micros() * u128::from(FULL) / slow_start.as_micros().max(1);
        u32::try_from(part).unwrap_or(FULL).max(FIRST)
    }

    /// Takes the time that a 2xx head took.
    pub(super) fn answered(&self, took: Duration, age: Age) {
        let sample = micros(took);
        self.latency.change(age, |latency| {
            let faster = latency.saturating_sub(sample);
            latency.max(sample) - faster / 8
        });
    }

    /// Takes a failure.
    pub(super) fn failed(&self, took: Duration, age: Age) {
        self.latency.change(age, |latency| match latency {
            0 => micros(took.max(UNKNOWN)),
            known => known.max(micros(took)),
        });
        self.debt.change(age, |debt| (debt + 1).min(DEBT_MAX));
    }

    /// Takes a success.
    pub(super) fn succeeded(&self, age: impl Fn() -> Age) {
        if self.debt(&age) > 0 {
            self.debt.change(age(), |debt| debt.saturating_sub(1));
        }
    }

    /// Returns how many failures count as attempts in flight. Mostly there are none, and
    /// nobody need know the time.
    pub(super) fn debt(&self, age: impl FnOnce() -> Age) -> u32 {
        self.debt.get(age)
    }

    /// Returns how soon it answers, in microseconds; 0 if that is not known.
    pub(super) fn latency(&self, age: Age) -> u32 {
        self.latency.get(|| age)
    }
}

impl Origin {
    /// Returns how many half-lives have passed.
    pub(super) fn age(&self, now: Instant) -> Age {
        let origin = *self.0.get_or_init(|| now);
        let passed = now.saturating_duration_since(origin).as_secs() / HALF_LIFE.as_secs();
        Age(u32::try_from(passed).unwrap_or(u32::MAX))
    }
}

impl Fading {
    /// Returns what it is now. Nothing does not fade.
    #[inline(always)]
    fn get(&self, age: impl FnOnce() -> Age) -> u32 {
        match self.0.load(Ordering::Relaxed) {
            packed if packed as u32 == 0 => 0,
            packed => Self::faded(packed, age()),
        }
    }

    fn change(&self, age: Age, change: impl Fn(u32) -> u32) {
        let next =
            |packed| Some(u64::from(age.0) << 32 | u64::from(change(Self::faded(packed, age))));
        let _ = (self.0).fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn faded(packed: u64, age: Age) -> u32 {
        let passed = age.0.saturating_sub((packed >> 32) as u32);
        (packed as u32).checked_shr(passed).unwrap_or_default()
    }
}

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    proptest! {
        #[test]
        fn a_failure_never_improves_a_score(
            history in vec((any::<bool>(), 1..2000_u64, 0..40_000_u64), 0..40),
            took in 1..2000_u64,
        ) {
            let (pace, origin) = (Pace::default(), Origin::default());
            let mut now = Instant::now();
            for (is_good, took, pause) in history {
                now += MS * pause as u32;
                if is_good {
                    pace.answered(MS * took as u32, origin.age(now));
                    pace.succeeded(|| origin.age(now));
                } else {
                    pace.failed(MS * took as u32, origin.age(now));
                }
            }
            let age = origin.age(now);
            let score = |in_flight: u32| {
                let busy = u64::from(in_flight + pace.debt(|| age));
                (busy, (busy + 1) * (u64::from(pace.latency(age)) + 1))
            };
            let before = score(1);
            pace.failed(MS * took as u32, age);
            let after = score(0);
            prop_assert!(after.0 >= before.0 && after.1 >= before.1, "{before:?} to {after:?}");
        }
    }

    #[test]
    fn a_slow_head_counts_at_once_and_a_fast_one_slowly() {
        let (pace, origin, start) = (Pace::default(), Origin::default(), Instant::now());
        let now = origin.age(start);
        pace.answered(MS * 8, now);
        assert_eq!(pace.latency(now), 8000);
        pace.answered(MS * 80, now);
        assert_eq!(pace.latency(now), 80_000);
        pace.answered(MS * 8, now);
        assert_eq!(pace.latency(now), 71_000);
        assert_eq!(pace.latency(origin.age(start + HALF_LIFE)), 35_500);
    }

    #[test]
    fn a_share_grows_from_a_twentieth_to_all() {
        let (pace, start) = (Pace::default(), Instant::now());
        let (slow_start, at) = (MS * 30_000, |seconds| start + MS * 1000 * seconds);
        assert_eq!(pace.share(slow_start, start), FULL);
        pace.ramp();
        assert_eq!(pace.share(slow_start, start), FIRST);
        assert_eq!(pace.share(slow_start, at(15)), FULL / 2);
        assert_eq!(pace.share(slow_start, at(30)), FULL);
        assert_eq!(
            pace.share(slow_start, at(15)),
            FULL,
            "it does not begin again"
        );
        let at_once = Pace::default();
        at_once.ramp();
        assert_eq!(at_once.share(Duration::ZERO, start), FULL);
    }
}
