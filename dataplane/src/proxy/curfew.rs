//! The end of the time that running answers have once the proxy is stopping.
//!
//! An answer that is on its way looks at a flag whenever it is asked for more, and leaves
//! word where it waits, so that a silent one is woken. That costs nothing for each piece.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
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

    /// Lets work go on until the time is over. Nobody is woken by that: see [`Curfew::wakes`].
    pub(super) async fn bounds<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_called() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Has work looked at again once the time is over.
    pub(super) async fn wakes<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> T {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.over() => {}
        }
        work.await
    }

    /// Completes once it is, if it was not before.
    pub(super) fn called(&self) -> OwnedNotified {
        Arc::clone(&self.0.called).notified_owned()
    }
}
