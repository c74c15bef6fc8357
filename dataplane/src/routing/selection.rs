//! One client request's way through the endpoints.

use std::{sync::Arc, time::Instant};

use qcc_proto::v1::View;

use super::{
    ATTEMPTS_MAX, Attempt, Entry, Policy, Reason, Router, Table, Unavailable,
    admission::{self, Admission, Party},
    table::Tier,
};
use crate::seeded::{Bug, seeded};

/// Weighted draws before the usable endpoints of a tier are gone through one by
/// one. While most are usable a draw or two will do, however many there are.
const DRAWS: usize = 4;

/// One client request: remembers what it has tried, and sees one table from its
/// first attempt to its end.
#[derive(Debug)]
pub(crate) struct Routing {
    pub(super) router: Router,
    pub(super) table: Arc<Table>,
    random: u64,
    /// Positions in the table of the endpoints tried, as many as there were attempts.
    tried: [usize; ATTEMPTS_MAX],
    attempts: u32,
    /// The endpoint that may come once more; see [`Routing::once_more`].
    spared: Option<usize>,
    pub(super) party: Party,
    /// It is among the requests that the retry budget is a part of.
    is_counted: bool,
}

/// What to do next for a client request.
#[derive(Debug)]
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
    Unavailable(Unavailable),
}

impl Routing {
    pub(super) fn new(router: Router, table: Arc<Table>, seed: u64) -> Self {
        Self {
            router,
            table,
            random: seed,
            tried: [0; ATTEMPTS_MAX],
            attempts: 0,
            spared: None,
            party: Party::Bystander,
            is_counted: false,
        }
    }

    /// Returns the policy in force for this request.
    pub(crate) fn policy(&self) -> &Policy {
        self.table.policy()
    }

    /// Returns the view that this request is routed by.
    pub(crate) fn view(&self) -> View {
        self.table.view()
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
            let times = tried.iter().filter(|index| *index == last).count();
            times == 1
        });
    }

    /// Lets the request go where evidence is held: it holds some itself, and how it fares
    /// elsewhere decides what that is worth.
    pub(crate) fn pursue(&mut self) {
        self.party = Party::Suspect;
    }

    /// Returns whether the cluster's budget has room for one more retry.
    pub(crate) fn may_retry(&self, now: Instant) -> bool {
        (self.router.budget()).allows(self.policy().retry_budget, now)
    }

    /// Takes a retry off the cluster's budget.
    pub(crate) fn spend_retry(&self, now: Instant) {
        self.router.budget().spend(now);
    }

    /// Chooses the next endpoint.
    ///
    /// No endpoint comes twice, not even when no other is left: a request that makes an
    /// endpoint fail would make it fail again, count each time as one more failure in
    /// a row, and be billed each time. [`Routing::once_more`] is the exception.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.attempts == 0
            && let Some(newest) = self.router.table()
        {
            self.table = newest; // Nothing tried yet: a request that waited starts afresh.
        }
        if !std::mem::replace(&mut self.is_counted, true) {
            self.router.budget().request(now);
        }
        loop {
            if let Some(attempt) = self.attempt(now) {
                return Next::Attempt(attempt);
            }
            if let Some(answer) = self.survey(now)
                && let Some(answer) = self.resort(answer, now)
            {
                return answer;
            }
        }
    }

    /// Returns why each endpoint is not selectable, those left out that are.
    pub(crate) fn unavailable(&self, now: Instant) -> Unavailable {
        let table = &self.table;
        let reasons = table.by_name().filter_map(|entry| {
            let reason = self.admit_entry(entry, now).err()?;
            Some((Arc::clone(&entry.routed.endpoint.name), reason))
        });
        Unavailable::new(reasons.collect())
    }

    pub(super) fn may_try(&self) -> bool {
        if seeded(Bug::NobodyServed) || (seeded(Bug::NoFailover) && self.attempts > 0) {
            return false;
        }
        let is_allowed = self.attempts < self.policy().attempts_max;
        (is_allowed || seeded(Bug::AttemptsUnlimited)) && (self.attempts as usize) < ATTEMPTS_MAX
    }

    fn attempt(&mut self, now: Instant) -> Option<Attempt> {
        if !self.may_try() {
            return None;
        }
        let table = Arc::clone(&self.table);
        let mut tiers = table.tiers().iter();
        if let Some(attempt) = tiers.find_map(|tier| self.pick(tier, now)) {
            return Some(attempt);
        }
        let spared = self.spared?;
        let admission = self.admit(spared, now).ok()?;
        let attempt = self.seize(spared, admission, now)?;
        self.spared = None;
        Some(attempt)
    }

    /// Picks among a tier by weight.
    fn pick(&mut self, tier: &Tier, now: Instant) -> Option<Attempt> {
        for _ in 0..DRAWS.min(tier.positions().len()) {
            let random = self.random();
            let index = self.table.draw(tier, random);
            if let Some(attempt) = self.take(index, now) {
                return Some(attempt);
            }
        }
        // Few are usable: choose among exactly those. Somebody else may be quicker;
        // then there is one less, so this ends.
        loop {
            let usable = |&index: &usize| self.usable(index, now).is_some();
            let usable: Vec<usize> = tier.positions().filter(usable).collect();
            let random = self.random();
            let index = self.table.draw_among(&usable, random)?;
            if let Some(attempt) = self.take(index, now) {
                return Some(attempt);
            }
        }
    }

    fn take(&mut self, index: usize, now: Instant) -> Option<Attempt> {
        let admission = self.usable(index, now)?;
        self.seize(index, admission, now)
    }

    /// Takes an endpoint that was usable a moment ago, if it still is once it has
    /// been taken.
    pub(super) fn seize(
        &mut self,
        index: usize,
        admission: Admission,
        now: Instant,
    ) -> Option<Attempt> {
        self.seize_if(index, admission, now, |routing| {
            routing.standing(routing.table.entry(index), now).is_ok()
        })
    }

    /// The same, by another rule than what the views say.
    pub(super) fn seize_if(
        &mut self,
        index: usize,
        admission: Admission,
        now: Instant,
        may_stand: impl FnOnce(&Self) -> bool,
    ) -> Option<Attempt> {
        let entry = self.table.entry(index);
        if !entry.live.enter(admission.limit) {
            return None;
        }
        let attempt = Attempt::new(
            self.router.clone(),
            Arc::clone(&self.table),
            index,
            admission,
            now,
        );
        // A mark or a table that came before our place was taken must count: the
        // place may be free *because* its last holder met a 401.
        let mark = entry.live.mark();
        let is_marked = mark.number != admission.number || entry.is_withheld(&mark, self.party);
        if is_marked || !may_stand(self) {
            return None; // Dropping the attempt gives the place back.
        }
        self.tried[self.attempts as usize] = index;
        self.attempts += 1;
        Some(attempt.counted())
    }

    /// Returns how an endpoint may be tried now, if this request may try it.
    pub(super) fn usable(&self, index: usize, now: Instant) -> Option<Admission> {
        if self.has_tried(index) {
            return None;
        }
        self.admit(index, now).ok()
    }

    fn admit(&self, index: usize, now: Instant) -> Result<Admission, Reason> {
        self.admit_entry(self.table.entry(index), now)
    }

    fn admit_entry(&self, entry: &Entry, now: Instant) -> Result<Admission, Reason> {
        self.standing(entry, now)?;
        entry.admit(self.policy(), now, self.party)
    }

    fn standing(&self, entry: &Entry, now: Instant) -> Result<(), Reason> {
        entry.standing(now)?;
        let newest = self.router.newest();
        admission::still_standing(newest.as_deref(), &self.table, entry, now)
    }

    pub(super) fn has_tried(&self, index: usize) -> bool {
        self.tried().contains(&index)
    }

    fn tried(&self) -> &[usize] {
        &self.tried[..self.attempts as usize]
    }

    /// Finds out why there was nothing to choose. `None`: there is now.
    fn survey(&self, now: Instant) -> Option<Next> {
        let mut selectable = false;
        let mut busy = false;
        let mut until: Option<Instant> = None;
        for index in 0..self.table.len() {
            let is_open = !self.has_tried(index) || self.spared == Some(index);
            let usable = self.may_try() && is_open;
            match self.admit(index, now) {
                Ok(_) if usable => return None,
                Ok(_) => selectable = true,
                Err(reason) if reason.is_busy() => {
                    selectable = true;
                    busy |= usable;
                }
                Err(reason) => {
                    let within_reach = |left: &_| usable && *left <= self.policy().queue_timeout;
                    if let Some(left) = reason.remaining().filter(within_reach) {
                        until = Some(until.map_or(now + left, |other| other.min(now + left)));
                    }
                }
            }
        }
        Some(if busy || until.is_some() {
            Next::Wait { until }
        } else if selectable {
            Next::Exhausted
        } else {
            Next::Unavailable(self.unavailable(now))
        })
    }

    /// Steps the generator (splitmix64).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
