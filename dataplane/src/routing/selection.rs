//! One client request's way through the endpoints.

use std::{ops::Range, sync::Arc, time::Instant};

use qcc_proto::v1::View;

use super::{
    ATTEMPTS_MAX, Attempt, Policy, Reason, Router, Table, Unavailable,
    admission::{self, Admission},
};

/// Weighted draws before the usable endpoints of a tier are gone through one by
/// one. While most are usable a draw or two will do, however many there are.
const DRAWS: usize = 4;

/// One client request: remembers what it has tried, and sees one table from its
/// first attempt to its end.
#[derive(Debug)]
pub(crate) struct Routing {
    router: Router,
    table: Arc<Table>,
    random: u64,
    tried: [Tried; ATTEMPTS_MAX],
    attempts: u32,
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

/// An attempt that this request has made.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    /// Position in the table.
    index: usize,
    /// The number at which the mark had last blocked the endpoint before.
    blocked: u64,
}

impl Routing {
    pub(super) fn new(router: Router, table: Arc<Table>, seed: u64) -> Self {
        Self {
            router,
            table,
            random: seed,
            tried: [Tried::default(); ATTEMPTS_MAX],
            attempts: 0,
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

    /// Chooses the next endpoint.
    ///
    /// No endpoint comes twice while one is selectable that has not been tried, and
    /// none comes twice at all if it was blocked since this request chose it.
    pub(crate) fn next(&mut self, now: Instant) -> Next {
        if self.attempts == 0
            && let Some(newest) = self.router.table()
        {
            self.table = newest; // Nothing tried yet: a request that waited starts afresh.
        }
        loop {
            if let Some(attempt) = self.attempt(now) {
                return Next::Attempt(attempt);
            }
            if let Some(answer) = self.survey(now) {
                return answer;
            }
        }
    }

    /// Returns why each endpoint is not selectable, those left out that are.
    pub(crate) fn unavailable(&self, now: Instant) -> Unavailable {
        let table = &self.table;
        let reasons = table.by_name().filter_map(|index| {
            let reason = self.admit(index, now).err()?;
            Some((
                Arc::clone(&table.entries()[index].routed.endpoint.name),
                reason,
            ))
        });
        Unavailable::new(reasons.collect())
    }

    fn may_try(&self) -> bool {
        self.attempts < self.policy().attempts_max && (self.attempts as usize) < ATTEMPTS_MAX
    }

    fn attempt(&mut self, now: Instant) -> Option<Attempt> {
        if !self.may_try() {
            return None;
        }
        let table = Arc::clone(&self.table);
        let mut tiers = table.tiers().iter();
        if let Some(attempt) = tiers.find_map(|tier| self.pick(tier, false, now)) {
            return Some(attempt);
        }
        if self.attempts == 0 {
            return None;
        }
        let mut tiers = table.tiers().iter();
        tiers.find_map(|tier| self.pick(tier, true, now))
    }

    /// Picks among a tier by weight: among those not yet tried, or `again` among
    /// those tried.
    fn pick(&mut self, tier: &Range<usize>, again: bool, now: Instant) -> Option<Attempt> {
        for _ in 0..DRAWS.min(tier.len()) {
            let random = self.random();
            let index = self.table.draw(tier, random);
            if let Some(attempt) = self.take(index, again, now) {
                return Some(attempt);
            }
        }
        // Few are usable: choose among exactly those. Somebody else may be quicker;
        // then there is one less, so this ends.
        loop {
            let usable = |&index: &usize| self.usable(index, again, now).is_some();
            let usable: Vec<usize> = tier.clone().filter(usable).collect();
            let random = self.random();
            let index = self.table.draw_among(&usable, random)?;
            if let Some(attempt) = self.take(index, again, now) {
                return Some(attempt);
            }
        }
    }

    fn take(&mut self, index: usize, again: bool, now: Instant) -> Option<Attempt> {
        let admission = self.usable(index, again, now)?;
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
        let entry = &self.table.entries()[index];
        if !entry.live.enter(admission.limit) {
            return None;
        }
        let attempt = Attempt::new(
            self.router.clone(),
            Arc::clone(&self.table),
            index,
            admission,
        );
        // A mark or a table that came before our place was taken must count: the
        // place may be free *because* its last holder met a 401.
        if entry.live.mark().number != admission.number || self.standing(index, now).is_err() {
            return None; // Dropping the attempt gives the place back.
        }
        self.tried[self.attempts as usize] = Tried {
            index,
            blocked: admission.blocked,
        };
        self.attempts += 1;
        attempt.count();
        Some(attempt)
    }

    /// Returns how an endpoint may be tried now, if this request may try it: one that
    /// it has not tried, or `again` one that it has.
    pub(super) fn usable(&self, index: usize, again: bool, now: Instant) -> Option<Admission> {
        if self.tried(index).is_some() != again || !self.allowed(index) {
            return None;
        }
        self.admit(index, now).ok()
    }

    fn admit(&self, index: usize, now: Instant) -> Result<Admission, Reason> {
        self.standing(index, now)?;
        self.table.entries()[index].admit(self.policy(), now)
    }

    fn standing(&self, index: usize, now: Instant) -> Result<(), Reason> {
        let entry = &self.table.entries()[index];
        entry.standing(now)?;
        let newest = self.router.newest();
        admission::still_standing(newest.as_deref(), &self.table, entry, now)
    }

    /// Returns whether this request has not met an endpoint, or has met it without
    /// it being blocked since.
    fn allowed(&self, index: usize) -> bool {
        self.tried(index)
            .is_none_or(|tried| self.table.entries()[index].live.mark().blocked == tried.blocked)
    }

    fn tried(&self, index: usize) -> Option<Tried> {
        let tried = &self.tried[..self.attempts as usize];
        tried.iter().rfind(|tried| tried.index == index).copied()
    }

    /// Finds out why there was nothing to choose. `None`: there is now.
    fn survey(&self, now: Instant) -> Option<Next> {
        let mut selectable = false;
        let mut busy = false;
        let mut until: Option<Instant> = None;
        for index in 0..self.table.entries().len() {
            let usable = self.may_try() && self.allowed(index);
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
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
