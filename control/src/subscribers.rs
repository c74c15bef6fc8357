//! Who is woken when a view is published.
//!
//! A stream that follows the feed is polled by its connection's task for as long as both
//! live. So it leaves that task's waker here once, and not again for each view: what a
//! published view costs for each stream is a wake-up, and nothing else.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use slab::Slab;

/// Everybody who waits for news. As many as there are streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscribers(Arc<Mutex<Slab<Waker>>>);

/// A place among them; whoever drops it leaves it.
#[derive(Debug)]
pub(crate) struct Subscription {
    subscribers: Subscribers,
    /// Where the waker is, and which one.
    place: Option<(usize, Waker)>,
}

impl Subscribers {
    /// Returns a subscription that nobody listens to yet.
    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription {
            subscribers: self.clone(),
            place: None,
        }
    }

    /// Wakes everybody.
    pub(crate) fn wake(&self) {
        for (_, waker) in self.wakers().iter() {
            waker.wake_by_ref();
        }
    }

    /// Wakes those who have these places. Returns the place to go on from, if there may be
    /// more.
    pub(crate) fn wake_some(&self, from: usize, places: usize) -> Option<usize> {
        let wakers = self.wakers();
        let end = (from + places).min(wakers.capacity());
        let some = (from..end).filter_map(|place| wakers.get(place));
        some.for_each(Waker::wake_by_ref);
        (end < wakers.capacity()).then_some(end)
    }

    /// Returns how many they are.
    pub(crate) fn count(&self) -> usize {
        self.wakers().len()
    }

    fn wakers(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Lets all news from now on wake `waker`, and returns whether it did already.
    ///
    /// Whoever looks for news *after* this call misses none.
    pub(crate) fn listen(&mut self, waker: &Waker) -> bool {
        match &mut self.place {
            Some((_, known)) if known.will_wake(waker) => return true,
            Some((place, known)) => {
                known.clone_from(waker);
                self.subscribers.wakers()[*place].clone_from(waker);
            }
            None => {
                let place = self.subscribers.wakers().insert(waker.clone());
                self.place = Some((place, waker.clone()));
            }
        }
        false
    }

    /// Is woken by nothing until it listens again.
    pub(crate) fn leave(&mut self) {
        if let Some((place, _)) = self.place.take() {
            self.subscribers.wakers().remove(place);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counted() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn all_news_wake_whoever_listened_last() {
        let subscribers = Subscribers::default();
        let ((first, waker), (second, other)) = (counted(), counted());
        let mut subscription = subscribers.subscribe();
        subscribers.wake();
        assert!(!subscription.listen(&waker));
        assert!(subscription.listen(&waker));
        subscribers.wake();
        subscribers.wake();
        assert!(!subscription.listen(&other));
        subscribers.wake();
        let woken = |count: &Count| count.0.load(Ordering::Relaxed);
        assert_eq!((woken(&first), woken(&second)), (2, 1));
    }

    #[test]
    fn some_at_a_time_come_to_all_of_them() {
        let subscribers = Subscribers::default();
        let listeners: Vec<_> = (0..10)
            .map(|_| {
                let (count, waker) = counted();
                let mut subscription = subscribers.subscribe();
                subscription.listen(&waker);
                (count, subscription)
            })
            .collect();
        let woken = || -> Vec<u32> {
            let counts = listeners.iter().map(|(count, _)| count);
            counts.map(|it| it.0.load(Ordering::Relaxed)).collect()
        };
        let mut place = subscribers.wake_some(0, 4);
        assert_eq!(woken(), [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]);
        while let Some(from) = place {
            place = subscribers.wake_some(from, 4);
        }
        assert_eq!(woken(), [1; 10]);
        assert_eq!(subscribers.wake_some(1000, 4), None);
    }

    #[test]
    fn whoever_has_left_is_not_woken_until_it_listens_again() {
        let subscribers = Subscribers::default();
        let (count, waker) = counted();
        let mut subscription = subscribers.subscribe();
        subscription.listen(&waker);
        subscription.leave();
        subscribers.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        assert!(!subscription.listen(&waker), "it did not before");
        subscribers.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn whoever_is_gone_is_forgotten() {
        let subscribers = Subscribers::default();
        let ((gone, waker), (stays, other)) = (counted(), counted());
        let mut leaver = subscribers.subscribe();
        let mut stayer = subscribers.subscribe();
        leaver.listen(&waker);
        stayer.listen(&other);
        drop(leaver);
        subscribers.wake();
        assert_eq!(gone.0.load(Ordering::Relaxed), 0);
        assert_eq!(stays.0.load(Ordering::Relaxed), 1);
        drop(stayer);
        assert!(subscribers.wakers().is_empty());
    }
}
