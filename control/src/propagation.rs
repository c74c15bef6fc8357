//! How long views take to reach data planes: a histogram since the process started.

use std::time::Duration;

/// Upper bounds of the buckets, in milliseconds; above the last there is one more.
/// Three to a decade, from what a good network does to what an outage does.
const BOUNDS_MS: [u64; 14] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 60_000,
];

/// The histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Propagation {
    counts: [u64; BOUNDS_MS.len() + 1],
    /// Sum of all observations.
    pub sum: Duration,
    /// The longest one.
    pub max: Duration,
}

impl Propagation {
    /// Counts one observation.
    pub fn observe(&mut self, lag: Duration) {
        let bucket = BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < lag);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(lag);
        self.max = self.max.max(lag);
    }

    /// Returns the number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the buckets, the shortest first: their inclusive upper bounds (`None` for
    /// the last) and their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS_MS.iter().map(|ms| Some(Duration::from_millis(*ms)));
        bounds.chain([None]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let mut propagation = Propagation::default();
        for micros in [1, 1000, 1001, 70_000_000] {
            propagation.observe(Duration::from_micros(micros));
        }
        let filled: Vec<_> = propagation
            .buckets()
            .filter(|(_, count)| *count > 0)
            .collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(filled, [(ms(1), 2), (ms(2), 1), (None, 1)]);
        assert_eq!(propagation.count(), 4);
        assert_eq!(propagation.max, Duration::from_secs(70));
    }
}
