//! What is left to chance: a generator of numbers, and a draw among some.

use super::affinity::mix;

/// Makes numbers that look random from a seed (splitmix64).
#[derive(Debug, Clone, Copy)]
pub(super) struct Dice(u64);

/// A draw among whoever comes, each as likely as its weight says.
#[derive(Debug)]
pub(super) struct Lot<T> {
    drawn: Option<T>,
    total: u64,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns the next number, below `end`. To multiply is cheaper than to divide, and
    /// no less even.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(end)) >> 64) as u64
    }
}

impl<T> Lot<T> {
    pub(super) fn new() -> Self {
        Self {
            drawn: None,
            total: 0,
        }
    }

    /// Takes one more: the first is certain, and each later one as likely as its weight says.
    pub(super) fn put(&mut self, one: T, weight: u32, dice: &mut Dice) {
        let weight = u64::from(weight);
        self.total += weight;
        if dice.below(self.total) < weight {
            self.drawn = Some(one);
        }
    }

    /// Returns who is drawn.
    pub(super) fn drawn(self) -> Option<T> {
        self.drawn
    }
}
