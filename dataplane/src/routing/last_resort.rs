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
    Attempt, Entry, Next, Reason, Routing, Table,
    admission::{self, Admission, Party},
    chance::Lot,
    live::Limit,
    table::Place,
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
    /// Its place in the table.
    place: Place,
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
    newest: &'a Table,
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
        let kept = self.with_moment(now, |moment| moment.kept());
        let is_open = |out: &Out| self.may_try() && !self.has_tried(out.place);
        let open: Vec<Out> = kept.iter().copied().filter(is_open).collect();
        let (mut dice, mut lot) = (self.dice, Lot::new());
        for place in open.iter().map(|out| out.place) {
            if self.has_room(place, self.usual(place)) {
                lot.put(place, self.table().entry(place).routed.weight, &mut dice);
            }
        }
        self.dice = dice;
        if let Some(place) = lot.drawn() {
            return self.seize_out(place, self.usual(place), now);
        }
        match answer {
            Next::Exhausted | Next::Unavailable(_) if !open.is_empty() => {
                Some(Next::Wait { until: None })
            }
            Next::Unavailable(_) if !kept.is_empty() => Some(Next::Exhausted),
            Next::Unavailable(_) if self.policy().last_resort => {
                let limit = Limit::unproven(self.policy().unproven_concurrency);
                match self.least_bad(limit, now) {
                    Some(place) => self.seize_out(place, limit, now),
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
    fn least_bad(&mut self, limit: Limit, now: Instant) -> Option<Place> {
        if !self.may_try() {
            return None;
        }
        let mut dice = self.dice;
        let drawn = self.with_moment(now, |moment| {
            let (mut least, mut lot) = (None, Lot::new());
            for out in moment.outs() {
                let order = least.map_or(Ordering::Less, |least| out.plight.cmp(&least));
                if order.is_gt() || self.has_tried(out.place) || !self.has_room(out.place, limit) {
                    continue;
                }
                if order.is_lt() {
                    (least, lot) = (Some(out.plight), Lot::new());
                }
                let weight = self.table().entry(out.place).routed.weight;
                lot.put(out.place, weight, &mut dice);
            }
            lot.drawn()
        });
        self.dice = dice;
        drawn
    }

    fn seize_out(&mut self, place: Place, limit: Limit, now: Instant) -> Option<Next> {
        let admission = Admission {
            number: self.table().entry(place).live.mark().number,
            limit,
        };
        let taken = self.seize_if(place, admission, |routing, _| {
            routing.with_moment(now, |moment| moment.look(place).is_some())
        })?;
        self.router().resorted();
        let attempt = Attempt::new(Arc::clone(&self.pinned), taken, now);
        Some(Next::Attempt(attempt))
    }

    /// Returns the limit that an endpoint has when nothing is held against it.
    fn usual(&self, place: Place) -> Limit {
        if self.table().entry(place).live.proven() {
            Limit::NONE
        } else {
            Limit::unproven(self.policy().unproven_concurrency)
        }
    }

    fn has_room(&self, place: Place, limit: Limit) -> bool {
        let entry = self.table().entry(place);
        entry.live.has_room(limit) && !self.is_withheld(entry)
    }

    fn with_moment<T>(&self, now: Instant, look: impl FnOnce(Moment<'_>) -> T) -> T {
        let (pinned, party) = (self.table(), self.party);
        self.pinned.with_newest(|newest| {
            look(Moment {
                pinned,
                newest,
                party,
                now,
            })
        })
    }
}

impl Moment<'_> {
    /// Returns the endpoints that are out for a cause that may be overlooked.
    fn outs(self) -> impl Iterator<Item = Out> {
        (self.pinned.places()).filter_map(move |place| self.look(place))
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
            let name = |out: &Out| &*self.pinned.entry(out.place).routed.endpoint.name;
            failed.select_nth_unstable_by(beyond - 1, |a, b| {
                (a.plight, name(a)).cmp(&(b.plight, name(b)))
            });
        }
        failed.truncate(beyond);
        failed
    }

    /// Returns what is wrong with an endpoint, if something is and may be overlooked.
    fn look(self, place: Place) -> Option<Out> {
        let Self {
            pinned,
            newest,
            party,
            now,
        } = self;
        let entry: &Entry = pinned.entry(place);
        let words = [
            entry.standing(now),
            admission::still_standing(newest, pinned, entry, now).map(drop),
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
            place,
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
            newest: table,
            party: Party::Bystander,
            now,
        };
        let name = |out: &Out| Arc::clone(&table.entry(out.place).routed.endpoint.name);
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
