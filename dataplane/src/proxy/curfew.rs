//! The end of the time that running answers have once the proxy is stopping.
//!
//! An answer that is on its way looks at a flag whenever it is asked for more, and leaves
//! word where it waits, so that a silent one is woken. That costs nothing for each piece.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, futures::OwnedNotified};

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Curfew(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_called: AtomicBool,
    called: Arc<Notify>,
}

impl Curfew {
    /// Ends what is still running.
    pub(crate) fn call(&self) {
        self.0.is_called.store(true, Ordering::Release);
        self.0.called.notify_waiters();
    }

    /// Whether the time is over.
    pub(super) fn is_called(&self) -> bool {
        self.0.is_called.load(Ordering::Acquire)
    }

    /// Completes once it is.
    pub(super) async fn over(&self) {
        let called = self.0.called.notified(); // Made first: misses nothing.
        if !self.is_called() {
            called.await;
        }
    }

    /// Completes once it is, if it was not before.
    pub(super) fn called(&self) -> OwnedNotified {
        Arc::clone(&self.0.called).notified_owned()
    }
}
