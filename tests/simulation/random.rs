//! Chance, drawn from the seed and from nothing else.

use std::ops::Range;

/// A generator (splitmix64): small, fast, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number of the range.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    /// Returns a position in something of that length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.within(0..length as u64) as usize
    }

    /// Returns whether something happens that happens so often in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// Returns a number from 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.within(0..1 << 32) as f64 / (1_u64 << 32) as f64
    }

    /// Returns a span that is mostly short and sometimes long: up to `longest`, its
    /// logarithm evenly spread.
    pub(crate) fn span(&mut self, shortest: u64, longest: u64) -> u64 {
        let ratio = longest as f64 / shortest.max(1) as f64;
        (shortest.max(1) as f64 * ratio.powf(self.fraction())) as u64
    }
}
