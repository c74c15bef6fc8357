//! Log records about what strangers do: few, however much they do.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lets one record of a kind pass in a while, and counts the others.
#[derive(Debug)]
pub struct Rarely {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl Rarely {
    /// Returns a gate that lets one record pass in each `interval`.
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            state: Mutex::new(State {
                last: None,
                suppressed: 0,
            }),
        }
    }

    /// Returns how many records were held back before this one, if it may pass.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = |last| now.saturating_duration_since(last) < self.interval;
        if state.last.is_some_and(is_early) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_and_tells_of_those_that_did_not() {
        let rarely = Rarely::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(rarely.pass(start), Some(0));
        for second in 1..10 {
            assert_eq!(rarely.pass(start + Duration::from_secs(second)), None);
        }
        assert_eq!(rarely.pass(start + Duration::from_secs(10)), Some(9));
        assert_eq!(rarely.pass(start + Duration::from_secs(20)), Some(0));
    }
}
