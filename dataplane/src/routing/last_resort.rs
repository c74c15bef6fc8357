//! Endpoints that are tried although they are out, where the cluster's policy says so.
//!
//! - `max_ejected_percent`: of the enabled endpoints at most so many percent, rounded
//!   down, are out for failing. Those beyond, the least bad ones, are *kept*: a last tier,
//!   shared by weight, behind all that are selectable and before any wait.
//! - `last_resort`: when nothing is selectable for anybody, and no pause ends within
//!   reach, the least bad endpoint is tried, as many requests at a time as at one that is
//!   unproven.
//!
//! The least bad come first: those that asked for a pause, the soonest end before the
//! others; those that answer with errors or break off; those that are silent or not
//! there; those whose check got a wrong answer. Among equals priority decides, then weight
//! (which of them are kept: the name). What the view says and what this process saw itself
//! are both looked at, and the worse of them counts.
//!
//! No policy leads to an endpoint that only people can bring back (a rejected or refused
//! key, an operator's word), that is out for a cause that this version does not know, or
//! that the request has tried. An attempt made so is one like any other: what it comes to
//! is marked, and reported under its own generation and view.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use qcc_proto::v1::{AdminState, Cause};

use super::{
    Entry, Next, Reason, Routing, Table,
    admission::{self, Admission, Party},
    affinity,
    live::Limit,
};

/// How bad it is that an endpoint is out: the least is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Plight {
    severity: Severity,
    /// What is left of its pause.
    pause: Duration,
    priority: u32,
}

/// What is wrong with an endpoint, the least bad first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// It works, but not now.
    Paused,
    /// It is there, and fails.
    Failing,
    /// It is not there, or as good as.
    Silent,
    /// What it says cannot be trusted.
    Wrong,
}

/// An enabled endpoint that is out, for a cause that may be overlooked.
#[derive(Debug, Clone, Copy)]
struct Out {
    /// Its position in the table.
    index: usize,
    plight: Plight,
    /// It is out for failing, whatever else.
    has_failed: bool,
    /// It has asked for a pause, whatever else.
    is_paused: bool,
}

/// What is known at one moment.
#[derive(Clone, Copy)]
struct Moment<'a> {
    pinned: &'a Table,
    newest: Option<&'a Table>,
    party: Party,
    now: Instant,
}

/// What a policy does with the endpoints that are out, for people who ask.
#[derive(Debug, Default)]
pub(crate) struct Leniency {
    kept: BTreeSet<Arc<str>>,
    last: BTreeSet<Arc<str>>,
}

impl Routing {
    /// Looks for an endpoint that is out but may be tried, when otherwise `answer` is all
    /// there is. `None`: something has changed meanwhile; look again.
    pub(super) fn resort(&mut self, answer: Next, now: Instant) -> Option<Next> {
        if !self.is_lenient() {
            return Some(answer);
        }
        let newest = self.router.newest();
        let kept = self.moment(newest.as_deref(), now).kept();
        drop(newest);
        let is_open = |out: &Out| self.may_try() && !self.has_tried(out.index);
        let open: Vec<Out> = kept.iter().copied().filter(is_open).collect();
        let usable: Vec<usize> = (open.iter())
            .map(|out| out.index)
            .filter(|&index| self.has_room(index, self.usual(index)))
            .collect();
        if !usable.is_empty() {
            let random = self.random();
            let index = self.table.draw_among(&usable, random)?;
            return self.seize_out(index, self.usual(index), now);
        }
        match answer {
            Next::Exhausted | Next::Unavailable(_) if !open.is_empty() => {
                Some(Next::Wait { until: None })
            }
            Next::Unavailable(_) if !kept.is_empty() => Some(Next::Exhausted),
            Next::Unavailable(_) if self.policy().last_resort => {
                let limit = Limit::Unproven(self.policy().unproven_concurrency);
                match self.least_bad(limit, now) {
                    Some(index) => self.seize_out(index, limit, now),
                    None => Some(answer),
                }
            }
            answer => Some(answer),
        }
    }

    /// Whether the policy leads to endpoints that are out.
    pub(super) fn is_lenient(&self) -> bool {
        self.policy().last_resort || self.policy().max_ejected_percent > 0
    }

    /// Draws by weight among the least bad that have room. However many are out, each is
    /// looked at once, and nothing is kept of it.
    fn least_bad(&mut self, limit: Limit, now: Instant) -> Option<usize> {
        let mut random = self.random();
        let newest = self.router.newest();
        let moment = self.moment(newest.as_deref(), now);
        let (mut best, mut total): (Option<Out>, u64) = (None, 0);
        if !self.may_try() {
            return None;
        }
        for out in (0..self.table.len()).filter_map(|index| moment.look(index)) {
            let order = best.map_or(Ordering::Less, |best| out.plight.cmp(&best.plight));
            if order.is_gt() || self.has_tried(out.index) || !self.has_room(out.index, limit) {
                continue;
            }
            if order.is_lt() {
                total = 0;
            }
            let weight = u64::from(self.table.entry(out.index).routed.weight);
            total += weight;
            // The first is certain, and each later one as likely as its weight says.
            random = affinity::mix(random.wrapping_add(1));
            if random % total < weight {
                best = Some(out);
            }
        }
        best.map(|best| best.index)
    }

    fn seize_out(&mut self, index: usize, limit: Limit, now: Instant) -> Option<Next> {
        let admission = Admission {
            number: self.table.entry(index).live.mark().number,
            limit,
        };
        let attempt = self.seize_if(index, admission, now, |routing| {
            let newest = routing.router.newest();
            let moment = routing.moment(newest.as_deref(), now);
            moment.look(index).is_some()
        })?;
        self.router.resorted();
        Some(Next::Attempt(attempt))
    }

    /// Returns the limit that an endpoint has when nothing is held against it.
    fn usual(&self, index: usize) -> Limit {
        if self.table.entry(index).live.proven() {
            Limit::None
        } else {
            Limit::Unproven(self.policy().unproven_concurrency)
        }
    }

    fn has_room(&self, index: usize, limit: Limit) -> bool {
        let entry = self.table.entry(index);
        entry.live.has_room(limit) && !entry.is_withheld(&entry.live.mark(), self.party)
    }

    fn moment<'a>(&'a self, newest: Option<&'a Table>, now: Instant) -> Moment<'a> {
        Moment {
            pinned: &self.table,
            newest,
            party: self.party,
            now,
        }
    }
}

impl Moment<'_> {
    /// Returns the endpoints that are out for a cause that may be overlooked.
    fn outs(self) -> impl Iterator<Item = Out> {
        (0..self.pinned.len()).filter_map(move |index| self.look(index))
    }

    /// Returns those that may not be left alone, for too many are.
    ///
    /// One that asked for a pause is left in peace, but counts: it is out for failing as
    /// well.
    fn kept(self) -> Vec<Out> {
        let percent = self.pinned.policy().max_ejected_percent as usize;
        if percent == 0 {
            return Vec::new();
        }
        let is_enabled = |entry: &&Entry| entry.routed.admin == AdminState::Enabled;
        let enabled = self.pinned.by_name().filter(is_enabled).count();
        let failed: Vec<Out> = self.outs().filter(|out| out.has_failed).collect();
        let beyond = failed.len().saturating_sub(enabled * percent / 100);
        let mut failed: Vec<Out> = failed.into_iter().filter(|out| !out.is_paused).collect();
        if (1..failed.len()).contains(&beyond) {
            let name = |out: &Out| &*self.pinned.entry(out.index).routed.endpoint.name;
            failed.select_nth_unstable_by(beyond - 1, |a, b| {
                (a.plight, name(a)).cmp(&(b.plight, name(b)))
            });
        }
        failed.truncate(beyond);
        failed
    }

    /// Returns what is wrong with an endpoint, if something is and may be overlooked.
    fn look(self, index: usize) -> Option<Out> {
        let Self {
            pinned,
            newest,
            party,
            now,
        } = self;
        let entry: &Entry = pinned.entry(index);
        let words = [
            entry.standing(now),
            admission::still_standing(newest, pinned, entry, now),
            entry.admit(pinned.policy(), now, party).map(drop),
        ];
        let (mut worst, mut pause) = (None, None);
        for reason in words.into_iter().filter_map(Result::err) {
            if reason.is_busy() {
                continue; // Nothing is wrong with it.
            }
            let severity = severity(reason)?;
            if severity == Severity::Paused {
                pause = pause.max(reason.remaining());
            }
            worst = worst.max(Some(severity));
        }
        let severity = worst?;
        Some(Out {
            index,
            plight: Plight {
                severity,
                pause: pause.unwrap_or_default(),
                priority: entry.routed.priority,
            },
            has_failed: severity > Severity::Paused,
            is_paused: pause.is_some(),
        })
    }
}

impl Leniency {
    /// Returns what the table's policy does now.
    pub(crate) fn of(table: &Table, now: Instant) -> Self {
        let policy = table.policy();
        if !policy.last_resort && policy.max_ejected_percent == 0 {
            return Self::default();
        }
        let moment = Moment {
            pinned: table,
            newest: Some(table),
            party: Party::Bystander,
            now,
        };
        let name = |out: &Out| Arc::clone(&table.entry(out.index).routed.endpoint.name);
        let last = moment.outs().filter(|_| policy.last_resort);
        Self {
            kept: moment.kept().iter().map(name).collect(),
            last: last.map(|out| name(&out)).collect(),
        }
    }

    /// Says what becomes of an endpoint that is not selectable, if anything does.
    pub(crate) fn words(&self, name: &str) -> Option<&'static str> {
        if self.kept.contains(name) {
            return Some("used after all others, for max_ejected_percent");
        }
        (self.last.contains(name)).then_some("may be used as a last resort")
    }
}

/// Returns how bad a reason is; `None`: too bad to be overlooked.
fn severity(reason: Reason) -> Option<Severity> {
    let cause = match reason {
        Reason::Degraded { .. } | Reason::Paused { .. } => return Some(Severity::Paused),
        Reason::Unhealthy { cause, .. } | Reason::Suspended { cause, .. } => cause,
        Reason::Disabled
        | Reason::Draining
        | Reason::Rejected
        | Reason::Superseded
        | Reason::Unproven
        | Reason::Trial
        | Reason::Held => return None,
    };
    match cause {
        Cause::RateLimited | Cause::Overloaded | Cause::ServerError | Cause::StreamBroken => {
            Some(Severity::Failing)
        }
        Cause::Timeout | Cause::Connect => Some(Severity::Silent),
        Cause::CheckFailed => Some(Severity::Wrong),
        Cause::Auth | Cause::Forbidden | Cause::Operator | Cause::Unspecified => None,
    }
}
