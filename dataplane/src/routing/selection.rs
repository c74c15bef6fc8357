//! One client request's way through the endpoints.
//!
//! Tier by tier: where the request's session belongs, if it has one
//! ([`affinity`]); else a few draws by the strategy. An endpoint that
//! is new gives most of its draws away ([`pace`]), unless nobody takes them. A
//! draw looks at one endpoint or two, however many there are. Only where all draws meet
//! endpoints that cannot be used is the tier gone through.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderValue;
use qcc_proto::v1::View;

use super::{
    ATTEMPTS_MAX, Attempt, Entry, Hearing, Policy, Reason, ReturnPolicy, Router, Session, Strategy,
    Table, Unavailable,
    admission::{self, Admission, Party},
    affinity, pace,
    table::Tier,
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
    /// It has had its retry beyond the budget.
    is_heard: bool,
    session: Option<Session>,
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
    Unavailable(Arc<Unavailable>),
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
            is_heard: false,
            session: None,
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

    /// Returns that view as responses name it.
    pub(crate) fn revision(&self) -> &HeaderValue {
        self.table.revision()
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

    /// Keeps the request where its session is.
    pub(crate) fn keep(&mut self, session: Session) {
        self.session = self.policy().affinity.enabled.then_some(session);
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

    /// Begins a retry beyond the budget, where the next verdict decides whether this request is
    /// to blame: one for each request, and a few at a time. It lasts as long as what is
    /// returned.
    pub(crate) fn hear(&mut self) -> Option<Hearing> {
        if self.is_heard {
            return None;
        }
        let hearing = Hearing::begin(&self.router);
        self.is_heard = hearing.is_some();
        hearing
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
        if self.attempts == 0 {
            self.renew(); // Nothing tried yet: a request that waited starts afresh.
        }
        if !std::mem::replace(&mut self.is_counted, true) {
            self.router.budget().request(now);
        }
        if self.attempts == 0
            && let Some(known) = self.router.outlook().get(&self.table, now)
        {
            return Next::Unavailable(known);
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

    /// Returns why endpoints are not selectable, those left out that are.
    pub(crate) fn unavailable(&self, now: Instant) -> Unavailable {
        let all = self.table.by_name().filter_map(|entry| {
            let reason = self.admit_entry(entry, now).err()?;
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
        let newest = self.router.newest();
        let Some(newest) = newest.as_ref().filter(|it| !Arc::ptr_eq(it, &self.table)) else {
            return;
        };
        self.table = Arc::clone(newest);
    }

    fn attempt(&mut self, now: Instant) -> Option<Attempt> {
        if !self.may_try() {
            return None;
        }
        if let Some(attempt) = self.stay(now) {
            return Some(attempt);
        }
        for number in 0..self.table.tiers().len() {
            let tier = self.table.tiers()[number].clone(); // Two ranges.
            if let Some(attempt) = self.pick(&tier, now) {
                return Some(attempt);
            }
        }
        let spared = self.spared?;
        let admission = self.admit(spared, now).ok()?;
        let attempt = self.seize(spared, admission, now)?;
        self.spared = None;
        Some(attempt)
    }

    /// Picks among a tier: where the session belongs, or by the strategy.
    fn pick(&mut self, tier: &Tier, now: Instant) -> Option<Attempt> {
        if let Some(session) = self.session
            && !seeded(Bug::SessionsAnywhere)
            && let Some(attempt) = self.go_home(session, tier, now)
        {
            return Some(attempt);
        }
        let mut new = None;
        for round in 0..DRAWS_AMONG_NEW {
            if new.is_none() && round >= DRAWS.min(tier.positions().len()) {
                break;
            }
            let (first, second) = self.draw(tier, now);
            for index in [Some(first), second].into_iter().flatten() {
                let Some(admission) = self.usable(index, now) else {
                    continue;
                };
                if self.is_given_away(index, now) {
                    new.get_or_insert(index);
                } else if let Some(attempt) = self.seize(index, admission, now) {
                    return Some(attempt);
                }
            }
        }
        if let Some(attempt) = new.and_then(|index| self.take(index, now)) {
            return Some(attempt);
        }
        // Few are usable: choose among exactly those. Somebody else may be quicker;
        // then there is one less, so this ends.
        loop {
            let index = self.draw_usable(tier, now)?;
            if let Some(attempt) = self.take(index, now) {
                return Some(attempt);
            }
        }
    }

    /// Draws by the strategy: what to try first, and what else was looked at.
    fn draw(&mut self, tier: &Tier, now: Instant) -> (usize, Option<usize>) {
        let places = tier.positions();
        let at = |number: u64| places.start + (number % places.len() as u64) as usize;
        let strategy = self.policy().strategy;
        match strategy {
            Strategy::Priority | Strategy::Weighted => (self.draw_by_weight(tier), None),
            Strategy::Random => (at(self.random()), None),
            Strategy::RoundRobin => (at(self.router.turn()), None),
            Strategy::LeastInflight | Strategy::PeakEwma => {
                let (one, other) = (self.draw_by_weight(tier), self.draw_by_weight(tier));
                if one == other {
                    return (one, None);
                }
                let (a, b) = (self.table.entry(one), self.table.entry(other));
                let is_peak = strategy == Strategy::PeakEwma;
                let score = |entry: &Entry| match is_peak {
                    true => entry.latency_score(now),
                    false => entry.busy_score(now),
                };
                let cost = |mine: &Entry, its: &Entry| score(mine) * u128::from(its.routed.weight);
                if cost(b, a) < cost(a, b) {
                    (other, Some(one))
                } else {
                    (one, Some(other))
                }
            }
        }
    }

    fn draw_by_weight(&mut self, tier: &Tier) -> usize {
        let random = self.random();
        self.table.draw(tier, random)
    }

    /// Draws by weight among the endpoints of a tier that can be used now.
    fn draw_usable(&mut self, tier: &Tier, now: Instant) -> Option<usize> {
        let (mut drawn, mut total) = (None, 0);
        for index in tier.positions() {
            if self.usable(index, now).is_none() {
                continue;
            }
            let weight = u64::from(self.table.entry(index).routed.weight);
            total += weight;
            // The first is certain, and each later one as likely as its weight says.
            if self.random() % total < weight {
                drawn = Some(index);
            }
        }
        drawn
    }

    /// Whether this draw of an endpoint belongs to the part of its share that it does not
    /// have yet.
    fn is_given_away(&mut self, index: usize, now: Instant) -> bool {
        let share = self.share(index, now);
        share < pace::FULL && (self.random() >> 48) >= u64::from(share)
    }

    fn share(&self, index: usize, now: Instant) -> u32 {
        let live = &self.table.entry(index).live;
        live.pace().share(self.policy().slow_start, now)
    }

    /// Takes where the session went last, if it is to stay there.
    fn stay(&mut self, now: Instant) -> Option<Attempt> {
        let session = self.session.filter(|_| self.stays())?;
        let hash = self.router.whereabouts(session)?;
        let index = self.table.find_hashed(hash)?;
        self.take(index, now)
    }

    fn stays(&self) -> bool {
        self.policy().affinity.return_policy == ReturnPolicy::Stay
    }

    /// Takes where the session belongs among the endpoints of a tier that can be used now.
    /// Of one that is new only a part of its sessions knows yet.
    fn go_home(&mut self, session: Session, tier: &Tier, now: Instant) -> Option<Attempt> {
        let knows = |index: usize| {
            let share = self.share(index, now);
            share == pace::FULL || session.is_within(self.table.hash(index), share)
        };
        let usable = |index: usize| self.usable(index, now).is_some();
        let home = self
            .table
            .home(tier, session, |index| usable(index) && knows(index));
        let home = home.or_else(|| self.table.home(tier, session, usable))?;
        let attempt = self.take(home, now)?;
        if self.stays() && !seeded(Bug::SessionsForgotten) {
            self.router.stays(session, self.table.hash(home));
        }
        Some(attempt)
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
        let changes = self.router.outlook().changes(); // First: what comes later counts.
        let queue_timeout = self.policy().queue_timeout;
        let mut selectable = false;
        let mut busy = false;
        let mut shortest: Option<Duration> = None;
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
                    let Some(left) = reason.remaining() else {
                        continue;
                    };
                    shortest = Some(shortest.map_or(left, |other| other.min(left)));
                    if usable && left <= queue_timeout {
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
            let unavailable = Arc::new(self.unavailable(now));
            if self.attempts == 0 && !self.is_lenient() {
                let outlook = self.router.outlook();
                let reach = shortest.map(|left| left.saturating_sub(queue_timeout));
                outlook.put(&self.table, changes, now, reach, &unavailable);
            }
            Next::Unavailable(unavailable)
        })
    }

    /// Steps the generator (splitmix64).
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        affinity::mix(self.random)
    }
}
