//! How often a span of time was observed, by upper bound. Two additions an observation, so
//! that the writer can afford it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets, each included, in microseconds: from memory to a disk that
/// is in trouble.
const BOUNDS_MICROS: [u64; 13] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000,
];

/// Observations since the process started.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Counts one observation.
    pub(crate) fn observe(&self, span: Duration) {
        let micros = |bound: &u64| Duration::from_micros(*bound);
        let bucket = BOUNDS_MICROS.partition_point(|bound| micros(bound) < span);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the buckets, the shortest first: their upper bounds (`None` for the last)
    /// and their counts.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = BOUNDS_MICROS
            .iter()
            .map(|bound| Some(Duration::from_micros(*bound)));
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        bounds.chain([None]).zip(counts)
    }

    /// Returns the sum of all observations.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for micros in [1, 50, 51, 3_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let filled: Vec<_> = histogram
            .buckets()
            .filter(|(_, count)| *count > 0)
            .collect();
        let micros = |micros| Some(Duration::from_micros(micros));
        assert_eq!(filled, [(micros(50), 2), (micros(100), 1), (None, 1)]);
        assert_eq!(histogram.sum(), Duration::from_micros(3_000_102));
    }
}
