//! A waker that remembers that it was woken.
//!
//! A client connection's task is woken for each piece of each answer, and beside hyper it
//! has a timer and a wish to stop to listen to, which are as good as never the reason.
//! Polled with a bell they need not be polled again until it has rung.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
};

/// Wakes its task, and says that it did.
pub(super) struct Bell {
    shared: Arc<Shared>,
    /// The same, as those hold it who ring.
    waker: Waker,
    /// The task, to be compared without a lock.
    task: Waker,
}

struct Shared {
    has_rung: AtomicBool,
    task: Mutex<Waker>,
}

impl Bell {
    /// A bell that has rung: nobody listens to whom it is given yet.
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared {
            has_rung: AtomicBool::new(true),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            waker: Waker::from(Arc::clone(&shared)),
            shared,
            task: Waker::noop().clone(),
        }
    }

    /// Whom to wake.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether it has rung since this was last asked. From here on it wakes `task`.
    pub(super) fn has_rung(&mut self, task: &Waker) -> bool {
        if !self.task.will_wake(task) {
            self.task.clone_from(task);
            let mut woken = (self.shared.task.lock()).unwrap_or_else(PoisonError::into_inner);
            woken.clone_from(task);
        }
        // Looks, before it takes part in the memory's traffic.
        self.shared.has_rung.load(Ordering::Relaxed)
            && self.shared.has_rung.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        (self.task.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_bell_wakes_whoever_asked_last_and_is_remembered_once() {
        let mut bell = Bell::new();
        let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
        let [first, second] = counts.clone().map(Waker::from);
        let woken = || counts.each_ref().map(|it| it.0.load(Ordering::Relaxed));
        assert!(
            bell.has_rung(&first),
            "those behind it have not been polled"
        );
        assert!(!bell.has_rung(&first));
        bell.waker().wake_by_ref();
        assert_eq!(woken(), [1, 0]);
        assert!(bell.has_rung(&second));
        assert!(!bell.has_rung(&second));
        bell.waker().wake_by_ref();
        assert_eq!(woken(), [1, 1]);
        assert!(bell.has_rung(&second));
    }
}
