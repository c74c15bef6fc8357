//! Whom a strategy draws.

use std::{hint::select_unpredictable, time::Instant};

use super::{
    Entry, Routing, Strategy,
    chance::Lot,
    pace,
    table::{Place, Tier},
};

impl Routing {
    /// Draws by the strategy: what to try first, and what else was looked at.
    #[inline(always)]
    pub(super) fn draw(&mut self, tier: &Tier, now: Instant) -> (Place, Option<Place>) {
        let strategy = self.policy().strategy;
        match strategy {
            Strategy::Priority | Strategy::Weighted => (self.draw_by_weight(tier), None),
            Strategy::Random => (self.draw_any(tier), None),
            Strategy::RoundRobin => {
                // 32 bits of the count are divided in half the time, and take turns as well.
                let number = self.router().turn() as u32 % tier.len() as u32;
                (self.table().nth(tier, number as usize), None)
            }
            Strategy::LeastInflight => {
                let drawn = self.draw_two(tier);
                self.better(drawn, |entry| entry.busy_score(|| self.router().age(now)))
            }
            Strategy::PeakEwma => {
                let drawn = self.draw_two(tier);
                let age = self.router().age(now);
                self.better(drawn, |entry| entry.latency_score(age))
            }
        }
    }

    #[inline(always)]
    fn draw_two(&mut self, tier: &Tier) -> (Place, Place) {
        (self.draw_by_weight(tier), self.draw_by_weight(tier))
    }

    /// Returns which of two has the lower score for its weight, and the other if it is one.
    #[inline(always)]
    fn better(
        &self,
        (one, other): (Place, Place),
        score: impl Fn(&Entry) -> u64,
    ) -> (Place, Option<Place>) {
        if one == other {
            return (one, None);
        }
        let (a, b) = (self.table().entry(one), self.table().entry(other));
        let cost = |mine, its: &Entry| u128::from(score(mine)) * u128::from(its.routed.weight);
        let is_other = cost(b, a) < cost(a, b);
        // Nobody can predict which.
        let better = select_unpredictable(is_other, other, one);
        (better, Some(select_unpredictable(is_other, one, other)))
    }

    #[inline(always)]
    fn draw_by_weight(&mut self, tier: &Tier) -> Place {
        if tier.is_even() {
            return self.draw_any(tier);
        }
        let weight = self.table().weight(tier);
        let point = self.dice.below(weight);
        self.table().draw(tier, point)
    }

    #[inline(always)]
    fn draw_any(&mut self, tier: &Tier) -> Place {
        let number = self.dice.below(tier.len() as u64);
        self.table().nth(tier, number as usize)
    }

    /// Draws by weight among the endpoints of a tier that can be used now.
    pub(super) fn draw_usable(&mut self, tier: &Tier, now: Instant) -> Option<Place> {
        let (mut dice, mut lot) = (self.dice, Lot::new());
        for place in self.table().places_of(tier) {
            if self.usable(place, now).is_some() {
                lot.put(place, self.table().entry(place).routed.weight, &mut dice);
            }
        }
        self.dice = dice;
        lot.drawn()
    }

    /// Whether this draw of an endpoint belongs to the part of its share that it does not
    /// have yet.
    #[inline(always)]
    pub(super) fn is_given_away(&mut self, place: Place, now: Instant) -> bool {
        let share = self.share(place, now);
        share < pace::FULL && (self.dice.roll() >> 48) >= u64::from(share)
    }

    #[inline(always)]
    pub(super) fn share(&self, place: Place, now: Instant) -> u32 {
        let live = &self.table().entry(place).live;
        live.pace().share(self.policy().slow_start, now)
    }
}
