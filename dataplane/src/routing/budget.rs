//! How many tries may follow a first one, so that retries never multiply an outage: a part
//! of the client requests of the last [`SECONDS`], and a floor for quiet times.
//!
//! A few are made beyond it: by requests that may themselves be to blame for how they failed.
//! Whether a healthy endpoint is taken from all others for one bad request must not depend
//! on how many others are retried. An outage does not grow by them: a handful at a time,
//! one for each request, and the third different request in a row that fares alike shows
//! that no request is at fault.
//!
//! Requests are counted once and for all, and of each second it is noted how many there were
//! when it began; retries are counted by the second. Each note is one number that is replaced
//! as a whole: no lock. At the edge as many retries too many may pass as there are threads.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{RetryBudget, Router};

/// The window. Long enough to smooth bursts, short enough to forget an outage.
pub(crate) const SECONDS: u64 = 10;

/// Retries at a time beyond the budget. Few requests are bad, and those that are repeat.
const HEARINGS_MAX: u32 = 4;

/// Client requests and retries of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// What seconds are counted from: the first moment seen.
    origin: OnceLock<Instant>,
    /// Client requests since the process started.
    requests: AtomicU64,
    /// How many client requests there had been when a second began.
    starts: Seconds,
    /// Retries in a second.
    retries: Seconds,
    /// Retries under way that are made beyond it.
    hearings: AtomicU32,
}

/// A retry beyond the budget, of a request whose fault it may be that it failed.
#[derive(Debug)]
pub(crate) struct Hearing(Router);

impl Hearing {
    /// Takes one of the few places, if one is free.
    pub(super) fn begin(router: &Router) -> Option<Self> {
        let places = &router.budget().hearings;
        let taken = places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < HEARINGS_MAX).then_some(taken + 1)
        });
        taken.is_ok().then(|| Self(router.clone()))
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.0.budget().hearings.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A number of each of the last seconds: the second, and as much of the number as fits
/// beside it. Counts that are compared are less than 2^32 apart.
#[derive(Debug, Default)]
struct Seconds([AtomicU64; SECONDS as usize]);

impl Budget {
    /// Counts a client request, and returns how many there were before.
    pub(crate) fn request(&self, now: Instant) -> u64 {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let second = self.second(now);
        self.starts.change(second, |known| match known {
            None => Some(before as u32),
            Some(_) => None,
        });
        before
    }

    /// Counts a retry.
    pub(crate) fn spend(&self, now: Instant) {
        let second = self.second(now);
        self.retries.change(second, |known| {
            let known = known.unwrap_or_default();
            Some(known.saturating_add(1))
        });
    }

    /// Returns whether one more retry is within the budget.
    pub(crate) fn allows(&self, policy: RetryBudget, now: Instant) -> bool {
        let second = self.second(now);
        let requests = self.requests.load(Ordering::Relaxed) as u32;
        let start = self.starts.since(second).min_by_key(|(second, _)| *second);
        let requests = start.map_or(0, |(_, start)| requests.wrapping_sub(start));
        let retries = self
            .retries
            .since(second)
            .map(|(_, count)| u64::from(count));
        let share = u64::from(requests) * u64::from(policy.percent) / 100;
        let floor = u64::from(policy.min_per_second) * SECONDS;
        retries.sum::<u64>() < share.max(floor)
    }

    fn second(&self, now: Instant) -> u32 {
        let origin = *self.origin.get_or_init(|| now);
        now.saturating_duration_since(origin).as_secs() as u32
    }
}

impl Seconds {
    /// Replaces the number of a second, if `change` has another.
    fn change(&self, second: u32, change: impl Fn(Option<u32>) -> Option<u32>) {
        let place = &self.0[second as usize % self.0.len()];
        let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let (noted, number) = unpack(packed);
            // One of a later second belongs to a thread that is ahead: too late to count.
            let known = (noted == second).then_some(number);
            let next = if noted > second { None } else { change(known) };
            next.map(|number| u64::from(second) << 32 | u64::from(number))
        });
    }

    /// Returns the numbers of the window that ends with a second. None are of the first
    /// second, and it has nothing, before it is noted.
    fn since(&self, last: u32) -> impl Iterator<Item = (u32, u32)> {
        let all = self
            .0
            .iter()
            .map(|place| unpack(place.load(Ordering::Relaxed)));
        all.filter(move |(second, _)| {
            u64::from(*second) + SECONDS > u64::from(last) && *second <= last
        })
    }
}

fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const POLICY: RetryBudget = RetryBudget {
        percent: 20,
        min_per_second: 3,
    };

    /// Spends until there is nothing left, and returns how much there was.
    fn spend_all(budget: &Budget, policy: RetryBudget, now: Instant) -> u32 {
        let mut spent = 0;
        while budget.allows(policy, now) {
            budget.spend(now);
            spent += 1;
        }
        spent
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried_and_three_a_second_in_any_case() {
        let now = Instant::now();
        let quiet = Budget::default();
        assert_eq!(spend_all(&quiet, POLICY, now), 30);
        let busy = Budget::default();
        for _ in 0..1000 {
            busy.request(now);
        }
        assert_eq!(spend_all(&busy, POLICY, now), 200);
    }

    #[test]
    fn the_window_slides() {
        let budget = Budget::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..20 {
            for _ in 0..100 {
                budget.request(at(second));
            }
        }
        assert_eq!(spend_all(&budget, POLICY, at(19)), 200);
        assert!(!budget.allows(POLICY, at(28)));
        assert!(budget.allows(POLICY, at(29)), "those of second 19 are over");
        assert_eq!(spend_all(&budget, POLICY, at(1000)), 30);
    }

    #[test]
    fn nothing_is_a_budget_too() {
        let nothing = RetryBudget {
            percent: 0,
            min_per_second: 0,
        };
        let budget = Budget::default();
        budget.request(Instant::now());
        assert!(!budget.allows(nothing, Instant::now()));
    }
}
