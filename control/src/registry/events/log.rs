//! The bounded log, and how bursts are folded into one event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use imbl::{OrdMap, OrdSet};

use super::{
    super::{Cause, Clock, ClusterName, EndpointName, Generation, Moment},
    Event, EventKind,
};
use crate::seeded::{Bug, seeded};

/// How long an event is counted on before it is replaced: at first, and at most. Each
/// replacement doubles it, so that what goes on for hours does not fill the log.
const WINDOW_FIRST: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(60);

/// An occurrence that comes later than this after the last one is a new event.
const IDLE: Duration = Duration::from_secs(60);

/// Events that are counted on at a time: what goes on at four places of each endpoint
/// of a full registry. Beyond that, occurrences of one kind are one event.
const FOLDS_MAX: usize = 80_000;

/// Events that were counted on that are looked at in one go: whether they are over. More
/// than begin in one go, so that those that are over do not add up.
const LOOKED_AT: usize = 4;

/// What is counted on in one event. An endpoint's next generation is another story, and
/// so is the next endpoint of its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::registry) enum Fold {
    /// Further failures of an incident.
    Suppressed(EndpointName, Generation),
    /// Reports that are too old.
    Stale(EndpointName, Generation),
    /// Checks that the budget does not allow.
    Refused(EndpointName, Generation),
    /// Checks of a new key that was rejected.
    NewCredential(EndpointName, Generation),
    /// Pauses of an endpoint, by cause.
    Paused(EndpointName, Generation, Cause),
    /// Ends of pauses of an endpoint.
    Healthy(EndpointName, Generation),
    /// An overloaded provider in a cluster, by the label of its endpoints.
    ProviderBusy(ClusterName, String),
    /// Ends of its overload at its endpoints.
    ProviderWell(ClusterName, String),
    /// What finds no room of its own, wherever it happens.
    Rest(EventKind),
}

/// The events that are kept. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// By id.
    pub entries: OrdMap<u64, Arc<Event>>,
    /// The newest event that was dropped, or may have been before the process started.
    pub dropped: u64,
}

impl Events {
    /// Returns the newest event's id; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.entries.get_max().map_or(0, |(id, _)| *id)
    }
}

#[derive(Debug, Clone)]
struct Open {
    /// The event so far, with what has been counted since it was logged.
    event: Event,
    window: Duration,
    /// When it is logged again; `None` if nothing has been counted since.
    due: Option<Clock>,
    /// When to look whether it is over.
    look: Clock,
}

/// The newest events. Cloning is cheap.
#[derive(Debug, Clone)]
pub(in crate::registry) struct EventLog {
    events: Events,
    next_id: u64,
    max: usize,
    open: OrdMap<Fold, Open>,
    due: OrdSet<(Clock, Fold)>,
    /// When to look whether an open one is over: each once.
    looks: OrdSet<(Clock, Fold)>,
    /// What differs from the store.
    changed: BTreeSet<u64>,
}

impl EventLog {
    pub(in crate::registry) fn new(saved: BTreeMap<u64, Event>, max: usize) -> Self {
        // A log that is full has dropped all that is older, apart from what was replaced.
        let oldest = saved.first_key_value().map_or(0, |(id, _)| *id);
        let is_full = saved.len() >= max;
        let mut log = Self {
            next_id: saved
                .last_key_value()
                .filter(|_| !seeded(Bug::EventIdsReused))
                .map_or(1, |(id, _)| id + 1),
            events: Events {
                entries: saved
                    .into_iter()
                    .map(|(id, event)| (id, Arc::new(Event { id, ..event })))
                    .collect(),
                dropped: if is_full { oldest.saturating_sub(1) } else { 0 },
            },
            max: max.max(1),
            open: OrdMap::new(),
            due: OrdSet::new(),
            looks: OrdSet::new(),
            changed: BTreeSet::new(),
        };
        log.prune();
        log
    }

    pub(in crate::registry) fn events(&self) -> &Events {
        &self.events
    }

    /// Keeps so many events from now on.
    #[cfg(feature = "simulation")]
    pub(in crate::registry) fn bound(&mut self, max: usize) {
        self.max = max.max(1);
        self.prune();
    }

    /// Takes the ids of events that were added or dropped since it was last asked.
    pub(in crate::registry) fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }

    /// Returns when [`EventLog::advance`] has something to do.
    pub(in crate::registry) fn poll_timeout(&self) -> Option<Clock> {
        self.due.get_min().map(|(due, _)| *due)
    }

    /// Logs an event. Returns its id.
    pub(in crate::registry) fn append(&mut self, mut event: Event) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        event.id = id;
        self.events.entries.insert(id, Arc::new(event));
        self.changed.insert(id);
        self.prune();
        id
    }

    /// Counts on in the event of `fold`, or logs `first` if there is none. `add` puts
    /// the occurrence into an event that is there.
    pub(in crate::registry) fn fold(
        &mut self,
        fold: Fold,
        now: Moment,
        first: impl FnOnce() -> Event,
        add: impl FnOnce(&mut Event),
    ) {
        if self.count_on(&fold, now, add).is_none() {
            return;
        }
        self.close(&fold);
        self.close_idle(now.clock);
        let event = first();
        if self.open.len() < FOLDS_MAX {
            self.begin(fold, event);
            return;
        }
        let rest = Fold::Rest(event.kind);
        let count = |rest: &mut Event| {
            rest.count += event.count;
            rest.take_in(&event);
        };
        if self.count_on(&rest, now, count).is_some() {
            self.close(&rest);
            let mut group = Event {
                endpoint: None,
                cluster: None,
                generation: Generation::default(),
                cause: None,
                evidence: None,
                until_wall_ms: None,
                group: Some(Box::default()),
                ..event.clone()
            };
            group.take_in(&event);
            self.begin(rest, group);
        }
    }

    /// Whether there is something for [`EventLog::advance`] to do or to look at.
    pub(in crate::registry) fn is_due(&self, now: Clock) -> bool {
        let counted = self.due.get_min().is_some_and(|(due, _)| *due <= now);
        counted || self.looks.get_min().is_some_and(|(look, _)| *look < now)
    }

    /// Logs what was counted, where its time has come.
    pub(in crate::registry) fn advance(&mut self, now: Clock) {
        while let Some((_, fold)) = self.due.get_min().filter(|(due, _)| *due <= now).cloned() {
            self.log_again(&fold);
        }
        self.close_idle(now);
    }

    /// Logs what was counted, whether its time has come or not.
    pub(in crate::registry) fn flush(&mut self) {
        while let Some((_, fold)) = self.due.get_min().cloned() {
            self.log_again(&fold);
        }
    }

    /// Adds an occurrence to an event that goes on. Returns `add` if there is none.
    fn count_on<F: FnOnce(&mut Event)>(&mut self, fold: &Fold, now: Moment, add: F) -> Option<F> {
        let Some(open) = self.open.get_mut(fold) else {
            return Some(add);
        };
        if now.clock.since(open.event.last.clock) > IDLE {
            return Some(add);
        }
        add(&mut open.event);
        open.event.last = now;
        if open.due.is_none() {
            let due = now.clock.after(open.window);
            open.due = Some(due);
            self.due.insert((due, fold.clone()));
        }
        None
    }

    /// Logs an event that may go on.
    fn begin(&mut self, fold: Fold, mut event: Event) {
        event.id = self.append(event.clone());
        let look = event.last.clock.after(IDLE);
        self.looks.insert((look, fold.clone()));
        let open = Open {
            event,
            window: WINDOW_FIRST,
            due: None,
            look,
        };
        self.open.insert(fold, open);
    }

    /// Replaces an event by one that says how many there were.
    fn log_again(&mut self, fold: &Fold) {
        let Some(open) = self.open.get_mut(fold) else {
            return;
        };
        if let Some(due) = open.due.take() {
            self.due.remove(&(due, fold.clone()));
        }
        open.window = open.window.saturating_mul(2).min(WINDOW_MAX);
        open.event.replaces = open.event.id;
        let event = open.event.clone();
        if self.events.entries.remove(&event.id).is_some() {
            self.changed.insert(event.id);
        }
        let id = self.append(event);
        if let Some(open) = self.open.get_mut(fold) {
            open.event.id = id;
        }
    }

    /// Ends an event, with all that was counted.
    fn close(&mut self, fold: &Fold) {
        if self.open.get(fold).is_some_and(|open| open.due.is_some()) {
            self.log_again(fold);
        }
        if let Some(open) = self.open.remove(fold) {
            self.looks.remove(&(open.look, fold.clone()));
        }
    }

    /// Ends events that do not go on: a few at a time, since somebody waits.
    fn close_idle(&mut self, now: Clock) {
        for _ in 0..LOOKED_AT {
            let first = self.looks.get_min().filter(|(look, _)| *look < now);
            let Some((look, fold)) = first.cloned() else {
                return;
            };
            let last = self.open.get(&fold).map(|open| open.event.last.clock);
            if last.is_none_or(|last| now.since(last) > IDLE) {
                self.close(&fold);
            }
            self.looks.remove(&(look, fold.clone()));
            if let Some(open) = self.open.get_mut(&fold) {
                open.look = open.event.last.clock.after(IDLE);
                self.looks.insert((open.look, fold));
            }
        }
    }

    fn prune(&mut self) {
        while self.events.entries.len() > self.max
            && !seeded(Bug::LogUnbounded)
            && let Some((id, _)) = self.events.entries.get_min().cloned()
        {
            self.events.entries.remove(&id);
            self.events.dropped = id;
            self.changed.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::View, EventKind},
        *,
    };

    fn at(seconds: u64) -> Moment {
        Moment {
            clock: Clock(seconds * 1000),
            wall_ms: 0,
        }
    }

    fn event(now: Moment) -> Event {
        Event::new(EventKind::ReportsStale, now, View::default())
    }

    fn stale(log: &mut EventLog, now: Moment) {
        let name = EndpointName::try_from("a").expect("a valid name");
        log.fold(
            Fold::Stale(name, Generation(1)),
            now,
            || event(now),
            |event| event.count += 1,
        );
    }

    fn counts(log: &EventLog) -> Vec<(u64, u64)> {
        let entries = log.events().entries.iter();
        entries.map(|(id, event)| (*id, event.count)).collect()
    }

    #[test]
    fn a_burst_is_one_event_that_grows() {
        let mut log = EventLog::new(BTreeMap::new(), 10);
        for _ in 0..58 {
            stale(&mut log, at(1));
        }
        assert_eq!(counts(&log), [(1, 1)], "the first is known at once");
        assert_eq!(log.poll_timeout(), Some(Clock(2000)));
        log.advance(Clock(2000));
        assert_eq!(counts(&log), [(2, 58)]);
        assert_eq!(log.events().entries[&2].replaces, 1);
        assert_eq!(log.poll_timeout(), None);
        stale(&mut log, at(3));
        assert_eq!(
            log.poll_timeout(),
            Some(Clock(5000)),
            "the window has doubled"
        );
        log.advance(Clock(5000));
        assert_eq!(counts(&log), [(3, 59)]);
        stale(&mut log, at(70));
        assert_eq!(
            counts(&log),
            [(3, 59), (4, 1)],
            "after a pause it is another one"
        );
    }

    #[test]
    fn the_newest_events_stay_and_ids_are_not_given_out_again() {
        let mut log = EventLog::new(BTreeMap::new(), 2);
        for _ in 0..3 {
            log.append(event(at(1)));
        }
        assert_eq!(counts(&log), [(2, 1), (3, 1)]);
        assert_eq!(log.take_changed(), [1, 2, 3].into());
        let saved = log.events().entries.iter();
        let saved = saved
            .map(|(id, event)| (*id, Event::clone(event)))
            .collect();
        let mut log = EventLog::new(saved, 2);
        assert_eq!(log.append(event(at(2))), 4);
    }

    #[test]
    fn a_full_log_says_after_a_restart_that_events_are_gone() {
        let saved = |ids: std::ops::Range<u64>| ids.map(|id| (id, event(at(1)))).collect();
        assert_eq!(EventLog::new(saved(7..10), 3).events().dropped, 6);
        assert_eq!(EventLog::new(saved(1..3), 3).events().dropped, 0);
        assert_eq!(EventLog::new(saved(7..11), 3).events().dropped, 7);
    }

    #[test]
    fn what_was_counted_is_logged_when_an_event_ends() {
        let mut log = EventLog::new(BTreeMap::new(), 10);
        stale(&mut log, at(1));
        stale(&mut log, at(1));
        log.flush();
        assert_eq!(counts(&log), [(2, 2)]);
        stale(&mut log, at(2));
        stale(&mut log, at(100));
        assert_eq!(counts(&log), [(3, 3), (4, 1)], "nobody advanced it");
    }

    fn endpoint(log: &mut EventLog, n: usize, now: Moment) {
        let name = EndpointName::try_from(format!("e-{n}").as_str()).expect("a valid name");
        let first = || Event {
            endpoint: Some(name.clone()),
            ..event(now)
        };
        let fold = Fold::Stale(name.clone(), Generation(1));
        log.fold(fold, now, first, |event| event.count += 1);
    }

    #[test]
    fn what_is_counted_on_is_bounded_and_the_rest_is_one_event() {
        let mut log = EventLog::new(BTreeMap::new(), 10);
        for n in 0..FOLDS_MAX + 150 {
            endpoint(&mut log, n, at(1));
        }
        assert_eq!(log.open.len(), FOLDS_MAX + 1);
        log.advance(Clock(2000));
        let newest = log.events().entries.get_max().expect("there are some");
        let group = newest.1.group.as_deref().expect("it is about several");
        assert_eq!((newest.1.count, group.endpoint_count), (150, 150));
        assert_eq!(newest.1.endpoint, None);
        assert_eq!(newest.0, FOLDS_MAX as u64 + 2, "no event for each");
    }

    #[test]
    fn what_is_over_makes_room() {
        let mut log = EventLog::new(BTreeMap::new(), 10);
        for n in 0..100 {
            endpoint(&mut log, n, at(1));
        }
        for _ in 0..50 {
            endpoint(&mut log, 0, at(30));
            log.advance(at(70).clock);
        }
        assert_eq!(log.open.len(), 1, "only one went on");
        assert_eq!(log.looks.len(), 1);
        for _ in 0..2 {
            log.advance(at(200).clock);
        }
        assert!(log.open.is_empty() && log.looks.is_empty() && log.due.is_empty());
    }
}
