//! The bounded log, and how bursts are folded into one event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use imbl::OrdMap;

use super::{
    super::{Clock, EndpointName, Moment},
    Event,
};

/// How long an event is counted on before it is replaced: at first, and at most. Each
/// replacement doubles it, so that what goes on for hours does not fill the log.
const WINDOW_FIRST: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(60);

/// An occurrence that comes later than this after the last one is a new event.
const IDLE: Duration = Duration::from_secs(60);

/// Events that are counted on at a time. Beyond that each occurrence is an event.
const FOLDS_MAX: usize = 4096;

/// What is counted on in one event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::registry) enum Fold {
    /// Further failures of an incident.
    Suppressed(EndpointName),
    /// Reports that are too old.
    Stale(EndpointName),
    /// Checks that the budget does not allow.
    Refused(EndpointName),
    /// Checks of a new key that was rejected.
    NewCredential(EndpointName),
    /// An overloaded provider, by the label of its endpoints.
    Provider(String),
}

/// The events that are kept. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// By id.
    pub entries: OrdMap<u64, Arc<Event>>,
    /// The newest event that was dropped since the process started.
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
}

/// The newest events. Cloning is cheap.
#[derive(Debug, Clone)]
pub(in crate::registry) struct EventLog {
    events: Events,
    next_id: u64,
    max: usize,
    open: OrdMap<Fold, Open>,
    due: BTreeSet<(Clock, Fold)>,
    /// What differs from the store.
    changed: BTreeSet<u64>,
}

impl EventLog {
    pub(in crate::registry) fn new(saved: BTreeMap<u64, Event>, max: usize) -> Self {
        let mut log = Self {
            next_id: saved.last_key_value().map_or(1, |(id, _)| id + 1),
            events: Events {
                entries: saved
                    .into_iter()
                    .map(|(id, event)| (id, Arc::new(Event { id, ..event })))
                    .collect(),
                dropped: 0,
            },
            max: max.max(1),
            open: OrdMap::new(),
            due: BTreeSet::new(),
            changed: BTreeSet::new(),
        };
        log.prune();
        log
    }

    pub(in crate::registry) fn events(&self) -> &Events {
        &self.events
    }

    /// Takes the ids of events that were added or dropped since it was last asked.
    pub(in crate::registry) fn take_changed(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.changed)
    }

    /// Returns when [`EventLog::advance`] has something to do.
    pub(in crate::registry) fn poll_timeout(&self) -> Option<Clock> {
        self.due.first().map(|(due, _)| *due)
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
        if let Some(open) = self.open.get_mut(&fold)
            && now.clock.since(open.event.last.clock) <= IDLE
        {
            add(&mut open.event);
            open.event.last = now;
            if open.due.is_none() {
                let due = now.clock.after(open.window);
                open.due = Some(due);
                self.due.insert((due, fold));
            }
            return;
        }
        let mut event = first();
        event.id = self.append(event.clone());
        self.close(&fold);
        if self.open.len() >= FOLDS_MAX {
            self.close_idle(now.clock);
        }
        if self.open.len() < FOLDS_MAX {
            let window = WINDOW_FIRST;
            self.open.insert(
                fold,
                Open {
                    event,
                    window,
                    due: None,
                },
            );
        }
    }

    /// Logs what was counted, where its time has come.
    pub(in crate::registry) fn advance(&mut self, now: Clock) {
        while let Some((due, fold)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            self.due.remove(&(due, fold.clone()));
            let Some(open) = self.open.get_mut(&fold) else {
                continue;
            };
            open.due = None;
            open.window = open.window.saturating_mul(2).min(WINDOW_MAX);
            open.event.replaces = open.event.id;
            let event = open.event.clone();
            if self.events.entries.remove(&event.id).is_some() {
                self.changed.insert(event.id);
            }
            let id = self.append(event);
            if let Some(open) = self.open.get_mut(&fold) {
                open.event.id = id;
            }
        }
    }

    fn close(&mut self, fold: &Fold) {
        if let Some(due) = self.open.remove(fold).and_then(|open| open.due) {
            self.due.remove(&(due, fold.clone()));
        }
    }

    fn close_idle(&mut self, now: Clock) {
        let idle = |open: &Open| open.due.is_none() && now.since(open.event.last.clock) > IDLE;
        self.open = std::mem::take(&mut self.open)
            .into_iter()
            .filter(|(_, open)| !idle(open))
            .collect();
    }

    fn prune(&mut self) {
        while self.events.entries.len() > self.max
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
            Fold::Stale(name),
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
    fn what_is_counted_on_is_bounded() {
        let mut log = EventLog::new(BTreeMap::new(), 10);
        for n in 0..FOLDS_MAX + 10 {
            let fold = Fold::Provider(n.to_string());
            log.fold(fold, at(1), || event(at(1)), |_| {});
        }
        assert_eq!(log.open.len(), FOLDS_MAX);
    }
}
