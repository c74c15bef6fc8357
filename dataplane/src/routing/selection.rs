//! One client request's way through the endpoints.
//!
//! Tier by tier: where the request's session belongs, if it has one
//! ([`home`](super::home)); else a few draws by the strategy ([`draw`](super::draw)). An
//! endpoint that is new gives most of its draws away ([`pace`](super::pace)), unless nobody
//! takes them. A draw looks at one endpoint or two, however many there are. Only where all
//! draws meet endpoints that cannot be used is the tier gone through.
//!
//! What every choice goes through is inlined by hand: a result that is handed from function
//! to function goes through memory each time, which is a tenth of what a choice costs.

use std::{sync::Arc, time::Instant};

use http::HeaderValue;
use qcc_proto::v1::View;

use super::{
    ATTEMPTS_MAX, Attempt, Entry, Hearing, Policy, Reason, Router, Session, Table, Unavailable,
    admission::{self, Admission, Party},
    attempt::Taken,
    chance::Dice,
    router::Pinned,
    table::{Place, Tier},
};
use crate::seeded::{Bug, seeded};

/// Draws before the usable endpoints of a tier are gone through one by
/// one. While most are usable a draw or two will do, however many there are.
const DRAWS: usize = 4;

/// Draws where some meet endpoints that are new, and that gave them away. One that has a
/// twentieth of its share and one other: in one of a thousand cases it is met each time.
const DRAWS_AMONG_NEW: usize = 10;

/// One client request: remembers what it has tried, and sees one table from its
/// first attempt to its end.
#[derive(Debug)]
pub(crate) struct Routing {
    pub(super) pinned: Arc<Pinned>,
    /// Unseeded until the request is counted.
    pub(super) dice: Dice,
    /// The endpoints tried, as many as there were attempts.
    tried: [Place; ATTEMPTS_MAX],
    pub(super) attempts: u32,
    /// The endpoint that may come once more; see [`Routing::once_more`].
    pub(super) spared: Option<Place>,
    pub(super) party: Party,
    /// It is among the requests that the retry budget is a part of.
    is_counted: bool,
    /// It has had its retry beyond the budget.
    is_heard: bool,
    pub(super) session: Option<Session>,
}

/// What to do next for a client request. With a tag of its own, for the same reason as
/// [`Limit`](super::live::Limit).
#[derive(Debug)]
#[repr(u8)]
pub(crate) enum Next {
    /// Try this endpoint.
    Attempt(Attempt),
    /// Nothing now, but a busy endpoint may become free at any moment
    /// ([`Router::changed`]), or a pause ends within the policy's `queue_timeout`, at
    /// `until`. Ask again then; how long to go on waiting is the caller's to bound.
    Wait {
        /// When the first pause ends, if one does within reach.
        until: Option<Instant>,
    },
    /// There are endpoints that work, but not for this request: it has made all its
    /// attempts, or has tried them all.
    Exhausted,
    /// No endpoint is selectable, for anybody.
    Unavailable(Arc<Unavailable>),
}

impl Routing {
    pub(super) fn new(pinned: Arc<Pinned>) -> Self {
        Self {
            pinned,
            dice: Dice::new(0),
            tried: [Place::default(); ATTEMPTS_MAX],
            attempts: 0,
            spared: None,
            party: Party::Bystander,
            is_counted: false,
            is_heard: false,
            session: None,
        }
    }

    pub(super) fn router(&self) -> &Router {
        &self.pinned.router
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.pinned.table
    }

    /// Returns the policy in force for this request.
    pub(crate) fn policy(&self) -> &Policy {
        self.table().policy()
    }

    /// Whether there is any endpoint, selectable or not.
    pub(crate) fn has_endpoints(&self) -> bool {
        self.table().len() > 0
    }

    /// Returns the view that this request is routed by.
    pub(crate) fn view(&self) -> View {
        self.table().view()
    }

    /// Returns that view as responses name it.
    pub(crate) fn revision(&self) -> &HeaderValue {
        self.table().revision()
    }

    /// Returns how many attempts this request has made.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Lets the endpoint of the last attempt come once more if no other is left: what
    /// ended the attempt may be a connection that was closed while it was idle.
    pub(crate) fn once_more(&mut self) {
        let tried = self.tried();
        self.spared = tried.last().copied().filter(|last| {
            let times = tried.iter().filter(|place| *place == last).count();
            times == 1
        });
    }

    /// Forgets what was tried, so that the same request can be used to measure again.
    #[cfg(feature = "simulation")]
    pub(crate) fn forget(&mut self) {
        self.attempts = 0;
    }

    /// Lets the request go where evidence is held: it holds some itself, and how it fares
    /// elsewhere decides what that is worth.
    pub(crate) fn pursue(&mut self) {
        self.party = Party::Suspect;
    }

    /// Returns whether the cluster's budget has room for one more retry.
    pub(crate) fn may_retry(&self, now: Instant) -> bool {
        (self.router().budget()).allows(self.policy().retry_budget, now)
    }

    /// Begins a retry beyond the budget, where the next verdict decides whether this request is
    /// to blame: one for each request, and a few at a time. It lasts as long as what is
    /// returned.
    pub(crate) fn hear(&mut self) -> Option<Hearing> {
        if self.is_heard {
            return None;
        }
        let hearing = Hearing::begin(self.router());
        self.is_heard = hearing.is_some();
        hearing
    }

    /// Takes a retry off the cluster's budget.
    pub(crate) fn spend_retry(&self, now: Instant) {
        self.router().budget().spend(now);
    }

    /// Chooses the next endpoint.
    ///
    /// No endpoint comes twice, not even when no other is left: a request that makes an
    /// endpoint fail would make it fail again, count each time as one more failure in
    /// a row, and be billed each time. [`Routing::once_more`] is the exception.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.attempts == 0 {
            self.renew(); // Nothing tried yet: a request that waited starts afresh.
        }
        if !std::mem::replace(&mut self.is_counted, true) {
            self.dice = Dice::new(self.router().count_request(now));
        }
        if let Some(known) = self.remembered(now) {
            return known.into();
        }
        loop {
            if let Some(taken) = self.choose(now) {
                return Next::Attempt(Attempt::new(Arc::clone(&self.pinned), taken, now));
            }
            if let Some(answer) = self.survey(now)
                && let Some(answer) = self.resort(answer, now)
            {
                return answer;
            }
        }
    }

    /// Returns why endpoints are not selectable, those left out that are.
    pub(crate) fn unavailable(&self, now: Instant) -> Unavailable {
        let all = self.table().by_name().filter_map(|entry| {
            let reason = self.admit(entry, now).err()?;
            Some((&entry.routed.endpoint.name, reason))
        });
        Unavailable::new(all, self.policy())
    }

    pub(super) fn may_try(&self) -> bool {
        if seeded(Bug::NobodyServed) || (seeded(Bug::NoFailover) && self.attempts > 0) {
            return false;
        }
        let is_allowed = self.attempts < self.policy().attempts_max;
        (is_allowed || seeded(Bug::AttemptsUnlimited)) && (self.attempts as usize) < ATTEMPTS_MAX
    }

    /// Takes the newest table, if it has another.
    fn renew(&mut self) {
        if self.table().is_superseded()
            && let Some(pinned) = self.router().pin()
        {
            self.pinned = pinned;
        }
    }

    /// Takes a place at the endpoint to try next.
    #[inline(always)]
    fn choose(&mut self, now: Instant) -> Option<Taken> {
        if !self.may_try() {
            return None;
        }
        if let Some(taken) = self.stay(now) {
            return Some(taken);
        }
        for number in 0..self.table().tiers().len() {
            let tier = self.table().tiers()[number].clone(); // Two ranges.
            if let Some(taken) = self.pick(&tier, now) {
                return Some(taken);
            }
        }
        let spared = self.spared?;
        let admission = self.admit(self.table().entry(spared), now).ok()?;
        let taken = self.seize(spared, admission, now)?;
        self.spared = None;
        Some(taken)
    }

    /// Picks among a tier: where the session belongs, or by the strategy.
    #[inline(always)]
    fn pick(&mut self, tier: &Tier, now: Instant) -> Option<Taken> {
        if let Some(taken) = self.go_home(tier, now) {
            return Some(taken);
        }
        let mut new = None;
        for round in 0..DRAWS_AMONG_NEW {
            if new.is_none() && round >= DRAWS.min(tier.len()) {
                break;
            }
            let (first, mut second) = self.draw(tier, now);
            let mut drawn = Some(first);
            while let Some(place) = drawn {
                if let Some(admission) = self.usable(place, now) {
                    // Alone there is nobody to give a draw to, but its share grows all the same.
                    if self.is_given_away(place, now) && tier.len() > 1 {
                        new.get_or_insert(place);
                    } else if let Some(taken) = self.seize(place, admission, now) {
                        return Some(taken);
                    }
                }
                drawn = second.take();
            }
        }
        if let Some(taken) = new.and_then(|place| self.take(place, now)) {
            return Some(taken);
        }
        // Few are usable: choose among exactly those. Somebody else may be quicker;
        // then there is one less, so this ends.
        loop {
            let place = self.draw_usable(tier, now)?;
            if let Some(taken) = self.take(place, now) {
                return Some(taken);
            }
        }
    }

    /// Takes an endpoint if it can be used.
    #[inline(never)]
    pub(super) fn take(&mut self, place: Place, now: Instant) -> Option<Taken> {
        let admission = self.usable(place, now)?;
        self.seize(place, admission, now)
    }

    /// Takes an endpoint that was usable a moment ago, if it still is once it has
    /// been taken.
    #[inline(always)]
    pub(super) fn seize(
        &mut self,
        place: Place,
        admission: Admission,
        now: Instant,
    ) -> Option<Taken> {
        self.seize_if(place, admission, |routing, entry| {
            routing.still_stands(entry, now)
        })
    }

    /// The same, by another rule than what the views say.
    #[inline(always)]
    pub(super) fn seize_if(
        &mut self,
        place: Place,
        admission: Admission,
        may_stand: impl FnOnce(&Self, &Entry) -> bool,
    ) -> Option<Taken> {
        // A mark or a table that came before our place was taken must count: the
        // place may be free *because* its last holder met a 401.
        let is_right =
            |entry: &Entry| self.is_unmarked(entry, admission.number) && may_stand(self, entry);
        let taken = Taken::within(&self.pinned, place, admission, is_right)?;
        self.tried[self.attempts as usize] = place;
        self.attempts += 1;
        Some(taken)
    }

    /// Returns how an endpoint may be tried now, if this request may try it.
    #[inline(always)]
    pub(super) fn usable(&self, place: Place, now: Instant) -> Option<Admission> {
        if self.has_tried(place) {
            return None;
        }
        self.admit(self.table().entry(place), now).ok()
    }

    /// Returns how an endpoint may be tried now, or why it may not.
    #[inline(always)]
    pub(super) fn admit(&self, entry: &Entry, now: Instant) -> Result<Admission, Reason> {
        entry.standing(now)?;
        match self.is_newest() {
            true => entry.admit(self.policy(), now, self.party),
            false => self.admit_by_newest(entry, now),
        }
    }

    #[inline(never)]
    fn admit_by_newest(&self, entry: &Entry, now: Instant) -> Result<Admission, Reason> {
        self.pinned.with_newest(|newest| {
            let newest = admission::still_standing(newest, self.table(), entry, now)?;
            newest.admit(self.policy(), now, self.party)
        })
    }

    /// Returns whether the newest table lets an endpoint through that the pinned one does.
    #[inline(always)]
    fn still_stands(&self, entry: &Entry, now: Instant) -> bool {
        self.is_newest() || self.stands_by_newest(entry, now)
    }

    #[inline(never)]
    fn stands_by_newest(&self, entry: &Entry, now: Instant) -> bool {
        (self.pinned).with_newest(|newest| {
            admission::still_standing(newest, self.table(), entry, now).is_ok()
        })
    }

    /// Returns whether no table is newer than the pinned one, as it is most of the time. What
    /// is to be asked of a newer one stands apart: a choice would carry it along.
    #[inline(always)]
    fn is_newest(&self) -> bool {
        !self.table().is_superseded()
    }

    #[inline(always)]
    fn is_unmarked(&self, entry: &Entry, number: u64) -> bool {
        entry.live.unmarked() == Some(number)
            || self.pinned.with_counterpart(entry, |newest| {
                newest.is_some_and(|newest| newest.is_unmarked(number, self.party))
            })
    }

    /// Returns whether evidence that is held keeps this request away.
    pub(super) fn is_withheld(&self, entry: &Entry) -> bool {
        self.pinned.with_counterpart(entry, |newest| {
            newest.is_some_and(|newest| newest.is_withheld(&entry.live.mark(), self.party))
        })
    }

    pub(super) fn has_tried(&self, place: Place) -> bool {
        self.tried().contains(&place)
    }

    fn tried(&self) -> &[Place] {
        &self.tried[..self.attempts as usize]
    }
}
