//! How many tries may follow a first one, so that retries never multiply an outage: a part
//! of the client requests of the last [`SECONDS`], and a floor for quiet times.
//!
//! A few are made beyond it: by requests that may themselves be to blame for how they failed.
//! Whether a healthy endpoint is taken from all others for one bad request must not depend
//! on how many others are retried. An outage does not grow by them: a handful at a time,
//! one for each request, and the third different request in a row that fares alike shows
//! that no request is at fault.
//!
//! Counted in slots of a second, each one number that is replaced as a whole: no lock. At
//! the edge as many retries too many may pass as there are threads.

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

/// Bits of each count in a slot: 262,143 a second, at which it stays. Seconds have the rest,
/// eight years.
const COUNT_BITS: u32 = 18;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// Client requests and retries of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// What seconds are counted from: the first moment seen.
    origin: OnceLock<Instant>,
    /// A second, and its requests and retries.
    slots: [AtomicU64; SECONDS as usize],
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

#[derive(Clone, Copy)]
struct Slot {
    second: u64,
    requests: u64,
    retries: u64,
}

impl Budget {
    /// Counts a client request.
    pub(crate) fn request(&self, now: Instant) {
        self.count(now, |slot| slot.requests += 1);
    }

    /// Counts a retry.
    pub(crate) fn spend(&self, now: Instant) {
        self.count(now, |slot| slot.retries += 1);
    }

    /// Returns whether one more retry is within the budget.
    pub(crate) fn allows(&self, policy: RetryBudget, now: Instant) -> bool {
        let second = self.second(now);
        let (mut requests, mut retries) = (0, 0);
        for slot in &self.slots {
            let slot = Slot::unpack(slot.load(Ordering::Relaxed));
            if slot.second + SECONDS > second && slot.second <= second {
                requests += slot.requests;
                retries += slot.retries;
            }
        }
        let share = requests * u64::from(policy.percent) / 100;
        let floor = u64::from(policy.min_per_second) * SECONDS;
        retries < share.max(floor)
    }

    fn count(&self, now: Instant, change: impl Fn(&mut Slot)) {
        let second = self.second(now);
        let place = &self.slots[(second % SECONDS) as usize];
        // A slot of a later second belongs to a thread that is ahead: too late to count.
        let _ = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |packed| {
            let mut slot = Slot::unpack(packed);
            if slot.second < second {
                slot = Slot {
                    second,
                    requests: 0,
                    retries: 0,
                };
            }
            let is_ours = slot.second == second;
            change(&mut slot);
            is_ours.then(|| slot.pack())
        });
    }

    fn second(&self, now: Instant) -> u64 {
        let origin = *self.origin.get_or_init(|| now);
        now.saturating_duration_since(origin).as_secs()
    }
}

impl Slot {
    fn unpack(packed: u64) -> Self {
        Self {
            second: packed >> (2 * COUNT_BITS),
            requests: packed >> COUNT_BITS & COUNT_MAX,
            retries: packed & COUNT_MAX,
        }
    }

    fn pack(self) -> u64 {
        self.second << (2 * COUNT_BITS)
            | self.requests.min(COUNT_MAX) << COUNT_BITS
            | self.retries.min(COUNT_MAX)
    }
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
