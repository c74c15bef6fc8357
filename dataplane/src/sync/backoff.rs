//! How long to wait before the next connection: full jitter, so that proxies that
//! lost the same control plane do not come back at the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// Low, so that a control plane that returns is found soon. A thousand proxies at
/// this rate open 400 connections a second, which it can take.
const MAX: Duration = Duration::from_secs(5);

/// Waits between connections.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// Addresses that are tried in turn: waits grow once per round, so that one
    /// that answers is soon found among several that do not.
    addresses: u32,
    failures: u32,
}

impl Backoff {
    /// Returns the waits for so many addresses.
    pub(crate) fn new(addresses: usize) -> Self {
        Self {
            addresses: u32::try_from(addresses).unwrap_or(u32::MAX).max(1),
            failures: 0,
        }
    }

    /// Returns the next wait; `random`, from 0 to 1, spreads it over the whole range.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let round = self.failures / self.addresses;
        self.failures = self.failures.saturating_add(1);
        let range = FIRST.saturating_mul(1 << round.min(16)).min(MAX);
        range.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Starts over: a connection worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_seconds_and_start_over() {
        let mut backoff = Backoff::new(1);
        let waits: Vec<u128> = (0..7).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
    }

    #[test]
    fn waits_grow_once_per_round_of_addresses() {
        let mut backoff = Backoff::new(3);
        let waits: Vec<u128> = (0..7).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 200, 200, 400, 400, 400, 800]);
    }
}
