//! Where the requests of a session go.
//!
//! To where it [belongs](super::affinity), among the endpoints of a tier that can be used;
//! or, if the policy says so, to where it went last.

use std::time::Instant;

use super::{
    ReturnPolicy, Routing, Session, Table,
    admission::Admission,
    affinity::Bid,
    attempt::Taken,
    pace,
    places::Places,
    table::{Place, Tier},
};
use crate::seeded::{Bug, seeded};

/// Endpoints of a tier from which on it is worth a look whether a session's place is known.
const REMEMBERED_FROM: usize = 32;

impl Routing {
    /// Keeps the request where its session is.
    pub(crate) fn keep(&mut self, session: Session) {
        self.session = self.policy().affinity.enabled.then_some(session);
    }

    /// Takes where the session went last, if it is to stay there.
    pub(super) fn stay(&mut self, now: Instant) -> Option<Taken> {
        let session = self.session.filter(|_| self.stays())?;
        let hash = self.router().whereabouts(session)?;
        let place = self.table().find_hashed(hash)?;
        self.take(place, now)
    }

    fn stays(&self) -> bool {
        self.policy().affinity.return_policy == ReturnPolicy::Stay
    }

    /// Takes where the session belongs among the endpoints of a tier that can be used now.
    #[inline(always)]
    pub(super) fn go_home(&mut self, tier: &Tier, now: Instant) -> Option<Taken> {
        let session = self.session.filter(|_| !seeded(Bug::SessionsAnywhere))?;
        let home = self.table().home(tier, session)?;
        // As good as always it can be used, and nobody else need be asked.
        let (home, admission) = match self.known(home, session, now) {
            Some(admission) => (home, admission),
            None => self.second_home(tier, session, now)?,
        };
        let taken = self.seize(home, admission, now)?;
        if self.stays() && !seeded(Bug::SessionsForgotten) {
            self.router().stays(session, self.table().hash(home));
        }
        Some(taken)
    }

    /// Returns where it belongs without those that cannot be used now, nor those that it does
    /// not know yet, unless there are no others.
    #[inline(never)]
    fn second_home(
        &self,
        tier: &Tier,
        session: Session,
        now: Instant,
    ) -> Option<(Place, Admission)> {
        let known = |place| self.known(place, session, now);
        let home = self.table().best_fitting(tier, session, known);
        home.or_else(|| {
            let usable = |place| self.usable(place, now);
            self.table().best_fitting(tier, session, usable)
        })
    }

    /// Returns how an endpoint may be tried now, if the session knows it. Of one that is new
    /// only a part of its sessions does yet.
    #[inline(always)]
    fn known(&self, place: Place, session: Session, now: Instant) -> Option<Admission> {
        let admission = self.usable(place, now)?;
        let share = self.share(place, now);
        let is_known = share == pace::FULL || session.is_within(self.table().hash(place), share);
        is_known.then_some(admission)
    }
}

impl Table {
    /// Returns where a session belongs in a tier, whether the endpoint can be used or not.
    fn home(&self, tier: &Tier, session: Session) -> Option<Place> {
        if tier.blocks.start > 0 || tier.len() < REMEMBERED_FROM {
            return self.best(tier, session);
        }
        let homes = self.homes.get_or_init(Places::new);
        if let Some(known) = homes.get(session).map(Place)
            && tier.blocks.contains(&known.block())
            && known.within() < self.blocks[known.block()].entries.len()
        {
            return Some(known);
        }
        let home = self.best(tier, session)?;
        homes.put(session, home.0);
        Some(home)
    }

    /// The same, found out anew.
    fn best(&self, tier: &Tier, session: Session) -> Option<Place> {
        let mut best: Option<(Bid, Place)> = None;
        for number in tier.blocks.clone() {
            let (bid, within) = self.blocks[number].best(session);
            if best.is_none_or(|(best, _)| bid.beats(best)) {
                best = Some((bid, Place::new(number, within)));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Returns where a session belongs among the endpoints of a tier that fit, and what was
    /// found of that. Those that others are preferred to are not asked whether they do.
    fn best_fitting<T>(
        &self,
        tier: &Tier,
        session: Session,
        fits: impl Fn(Place) -> Option<T>,
    ) -> Option<(Place, T)> {
        let mut best: Option<(Bid, Place, T)> = None;
        for place in self.places_of(tier) {
            let weight = self.entry(place).routed.weight;
            let bid = session.bid(self.hash(place), weight);
            if best.as_ref().is_none_or(|(best, ..)| bid.beats(*best))
                && let Some(found) = fits(place)
            {
                best = Some((bid, place, found));
            }
        }
        best.map(|(_, place, found)| (place, found))
    }

    /// Returns the place of the endpoint with a name of that hash, or the end of it.
    pub(super) fn find_hashed(&self, low: u32) -> Option<Place> {
        self.places().find(|place| self.hash(*place) as u32 == low)
    }

    /// Returns the hash of the name of the endpoint at a place.
    pub(super) fn hash(&self, place: Place) -> u64 {
        self.blocks[place.block()].hashes[place.within()]
    }
}
