//! The published state, and how its readers learn of changes.
//!
//! The writer swaps one pointer and appends one small entry; it never waits for a
//! reader and does not know how many there are. A reader holds a position and asks
//! for what has changed since: it gets the names of everything that differs, or is
//! told that its position is too old and takes the whole snapshot. So a slow reader
//! skips intermediate states, but never a change, and costs nobody else anything.
//!
//! Events have a pointer of their own, since they are shown only once they are stored.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::{
    clock::RegistryClock,
    registry::{Clock, Events, Moment, Publication, Snapshot, View},
    seeded::{Bug, seeded},
    subscribers::{Subscribers, Subscription},
};

/// Views whose changes are remembered. A reader that is further behind is served
/// faster by a snapshot anyway.
const HISTORY_MAX: usize = 4096;

/// The newest snapshot and the names that changed in the views before it.
#[derive(Debug)]
pub struct Feed {
    clock: RegistryClock,
    snapshot: ArcSwap<Snapshot>,
    history: RwLock<History>,
    newest: watch::Sender<View>,
    subscribers: Subscribers,
    events: watch::Sender<Events>,
}

#[derive(Debug)]
struct History {
    /// The view that the oldest entry starts from.
    base: View,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    view: View,
    changed: Publication,
    published: Instant,
}

/// What has changed since a view.
#[derive(Debug)]
pub enum Since {
    /// These names; nothing if the reader is current.
    Changed(Publication),
    /// It is too long ago to tell.
    TooOld,
    /// That view has not been published.
    Future,
}

impl History {
    /// Returns the place of the first entry after a view. Most readers lack the last one
    /// or none, so it is looked at before all others.
    fn first_after(&self, view: View) -> usize {
        let is_known = |entry: &Entry| entry.view <= view;
        let before_last = self.entries.len().saturating_sub(2)..;
        let near = self.entries.range(before_last.clone());
        match near.take_while(|entry| is_known(entry)).count() {
            0 => self.entries.partition_point(is_known),
            known => before_last.start + known,
        }
    }
}

impl Feed {
    /// Starts with a snapshot.
    pub fn new(snapshot: Snapshot, events: Events, clock: RegistryClock) -> Self {
        let view = snapshot.view;
        Self {
            clock,
            snapshot: ArcSwap::from_pointee(snapshot),
            history: RwLock::new(History {
                base: view,
                entries: VecDeque::new(),
            }),
            newest: watch::Sender::new(view),
            subscribers: Subscribers::default(),
            events: watch::Sender::new(events),
        }
    }

    /// Returns the newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Lends the newest snapshot, to look at it and let it go: cheaper than to share it.
    pub(crate) fn newest(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Returns the newest view.
    pub fn view(&self) -> View {
        self.snapshot.load().view
    }

    /// Returns a receiver that has the durable events, and learns of new ones.
    pub fn events(&self) -> watch::Receiver<Events> {
        self.events.subscribe()
    }

    /// Shows events, which are durable.
    pub fn publish_events(&self, events: Events) {
        self.events.send_replace(events);
    }

    /// Returns the present time on the clock of every deadline in a snapshot.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Returns the present time on that clock alone.
    pub(crate) fn clock(&self) -> Clock {
        self.clock.clock()
    }

    /// Returns a subscription that wakes a stream at each new view, for the many: it
    /// costs the stream less than a receiver.
    pub(crate) fn subscription(&self) -> Subscription {
        self.subscribers.subscribe()
    }

    /// Returns how many streams are woken at each new view.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.count()
    }

    /// Returns a receiver that learns of each new view.
    pub fn subscribe(&self) -> watch::Receiver<View> {
        self.newest.subscribe()
    }

    /// Publishes a snapshot. Without a `publication` it differs from the one before
    /// only in what no view tells (counts, when checks are due). Readers are told with [`Feed::announce`].
    ///
    /// Returns the one before: to let it go takes a while, for which nobody has to wait.
    pub fn publish(&self, snapshot: Snapshot, publication: Option<Publication>) -> Arc<Snapshot> {
        let view = snapshot.view;
        // What has changed first, the snapshot second: whoever sees a snapshot can ask
        // what led to it.
        if let Some(publication) = publication {
            let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
            if history.entries.len() == HISTORY_MAX
                && let Some(oldest) = history.entries.pop_front()
            {
                history.base = oldest.view;
            }
            history.entries.push_back(Entry {
                view,
                changed: publication,
                published: Instant::now(),
            });
        }
        self.snapshot.swap(Arc::new(snapshot))
    }

    /// Wakes all readers: there is a new view.
    pub fn announce(&self) {
        self.announce_to_streams();
        self.announce_to_others();
    }

    /// Wakes those who have a [`Feed::subscription`]: the data planes.
    pub(crate) fn announce_to_streams(&self) {
        self.subscribers.wake();
    }

    /// Wakes some of them, those that have these places. Returns the place to go on from, if
    /// there may be more.
    pub(crate) fn announce_to_some(&self, from: usize, places: usize) -> Option<usize> {
        self.subscribers.wake_some(from, places)
    }

    /// Wakes those who have a receiver.
    pub(crate) fn announce_to_others(&self) {
        self.newest.send_replace(self.view());
    }

    /// Returns what has changed after `from`, up to and including `to`.
    pub fn since(&self, from: View, to: View) -> Since {
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        let newest = history
            .entries
            .back()
            .map_or(history.base, |newest| newest.view);
        if from > newest {
            return Since::Future;
        }
        if from < history.base {
            return Since::TooOld;
        }
        let mut changed = Publication::default();
        let mut first = history.first_after(from);
        if seeded(Bug::SlowReaderLosesDelta) {
            first = first.max(history.entries.len().saturating_sub(1));
        }
        let after = history.entries.range(first..);
        for entry in after.take_while(|entry| entry.view <= to) {
            let names = &entry.changed;
            changed.endpoints.extend(names.endpoints.iter().cloned());
            changed.clusters.extend(names.clusters.iter().cloned());
        }
        Since::Changed(changed)
    }

    /// Returns for how long there has been a view after `applied`; zero if there is none.
    /// For a view that is too old to tell it is at least this long.
    pub fn behind(&self, applied: View) -> Duration {
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        let missing = history.entries.get(history.first_after(applied));
        missing.map_or(Duration::ZERO, |entry| entry.published.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::EndpointName;

    fn feed(first: Snapshot) -> Feed {
        Feed::new(first, Events::default(), RegistryClock::resume(Clock(0)))
    }

    fn snapshot(revision: u64) -> Snapshot {
        Snapshot {
            view: View { term: 2, revision },
            clusters: Default::default(),
            endpoints: Default::default(),
            totals: Default::default(),
            report_counts: Default::default(),
            check_counts: Default::default(),
            registry_id: "r".into(),
            salt: Arc::new([]),
        }
    }

    fn change(name: &str) -> Option<Publication> {
        let name = EndpointName::try_from(name).expect("a valid name");
        Some(Publication {
            endpoints: [name].into(),
            ..Publication::default()
        })
    }

    fn names(since: Since) -> Vec<String> {
        match since {
            Since::Changed(changed) => changed.endpoints.into_iter().map(String::from).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reader_is_behind_from_the_first_view_that_it_lacks() {
        let feed = feed(snapshot(5));
        let at = |revision| View { term: 2, revision };
        assert_eq!(feed.behind(at(5)), Duration::ZERO);
        feed.publish(snapshot(6), change("a"));
        feed.publish(snapshot(7), change("b"));
        assert_eq!(feed.behind(at(7)), Duration::ZERO);
        let (five, six) = (feed.behind(at(5)), feed.behind(at(6)));
        assert!(
            feed.behind(at(5)) > Duration::ZERO
                && six <= feed.behind(at(5))
                && five > Duration::ZERO
        );
    }

    #[test]
    fn a_reader_learns_of_everything_after_its_position() {
        let feed = feed(snapshot(5));
        feed.publish(snapshot(6), change("a"));
        feed.publish(snapshot(7), change("b"));
        let at = |revision| View { term: 2, revision };
        assert_eq!(names(feed.since(at(5), at(7))), ["a", "b"]);
        assert_eq!(names(feed.since(at(6), at(7))), ["b"]);
        assert!(names(feed.since(at(7), at(7))).is_empty());
        assert!(matches!(feed.since(at(8), at(8)), Since::Future));
        assert!(matches!(feed.since(at(4), at(7)), Since::TooOld));
        assert!(matches!(
            feed.since(
                View {
                    term: 1,
                    revision: 7
                },
                at(7)
            ),
            Since::TooOld
        ));
    }

    #[test]
    fn history_is_bounded_at_the_exact_view() {
        let feed = feed(snapshot(0));
        let last = HISTORY_MAX as u64 + 1;
        for revision in 1..=last {
            feed.publish(snapshot(revision), change("a"));
        }
        let at = |revision| View { term: 2, revision };
        assert!(matches!(feed.since(at(0), at(last)), Since::TooOld));
        assert_eq!(names(feed.since(at(1), at(last))), ["a"]);
    }

    #[test]
    fn a_reader_beside_the_writer_misses_nothing() {
        const LAST: u64 = 3000; // Fewer than are remembered.
        let feed = feed(snapshot(0));
        let read = || {
            let mut position = View {
                term: 2,
                revision: 0,
            };
            while position.revision < LAST {
                let to = feed.snapshot().view;
                let seen = names(feed.since(position, to)).len() as u64;
                assert_eq!(seen, to.revision - position.revision);
                position = to;
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(read);
            scope.spawn(read);
            for revision in 1..=LAST {
                feed.publish(snapshot(revision), change(&format!("k{revision}")));
            }
        });
    }
}
