//! The wish to stop: by a signal, or by `DrainProxy`. Whoever asks for less time decides
//! how long running requests may take, even if they have been running out of more.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Longest drain that can be asked for.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    begun: CancellationToken,
    /// The end of the time that running requests have.
    deadline: watch::Sender<Option<Instant>>,
    default: Arc<ArcSwap<Duration>>,
}

impl Drain {
    /// Returns a drain that has not begun. `default` is for whoever names no time.
    pub(crate) fn new(default: Duration) -> Self {
        Self {
            begun: CancellationToken::new(),
            deadline: watch::Sender::default(),
            default: Arc::new(ArcSwap::from_pointee(default)),
        }
    }

    /// Sets the time for whoever names none. A drain that has begun keeps its own.
    pub(crate) fn set_default(&self, default: Duration) {
        self.default.store(Arc::new(default));
    }

    /// Begins; if it has begun already, it may end sooner, but not later.
    pub(crate) fn begin(&self, timeout: Option<Duration>) {
        let end = Instant::now()
            + timeout
                .unwrap_or_else(|| **self.default.load())
                .min(DRAIN_MAX);
        self.deadline.send_if_modified(|deadline| {
            let is_sooner = deadline.is_none_or(|known| end < known);
            if is_sooner {
                *deadline = Some(end);
            }
            is_sooner
        });
        self.begun.cancel();
    }

    /// Returns whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Is cancelled when it begins.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.begun
    }

    /// Returns how long running requests still may take; `None` before it begins.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let deadline = *self.deadline.borrow();
        deadline.map(|end| end.saturating_duration_since(Instant::now()))
    }

    /// Completes once running requests have had their time.
    pub(crate) async fn expired(&self) {
        let mut deadlines = self.deadline.subscribe();
        loop {
            let deadline = *deadlines.borrow_and_update();
            // It fails only when the sender is gone, and that is ours.
            match deadline {
                None => drop(deadlines.changed().await),
                Some(end) => match timeout_at(end, deadlines.changed()).await {
                    Ok(_) => {}
                    Err(_) => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn whoever_asks_for_less_time_decides() {
        let drain = Drain::new(Duration::from_secs(30));
        assert_eq!((drain.has_begun(), drain.remaining()), (false, None));
        let at_most = |longest: u64| {
            let remaining = drain.remaining().unwrap();
            let longest = Duration::from_secs(longest);
            assert!(remaining <= longest, "{remaining:?}");
            assert!(remaining + Duration::from_secs(20) > longest);
        };
        drain.begin(Some(HOUR));
        assert!(drain.has_begun());
        at_most(3600);
        drain.begin(None); // A signal.
        at_most(30);
        drain.begin(Some(HOUR)); // Too late to get more.
        at_most(30);
    }

    #[tokio::test]
    async fn a_drain_that_runs_can_be_shortened() {
        let drain = Drain::new(Duration::from_millis(10));
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.expired().await }
        });
        drain.begin(Some(HOUR));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        drain.begin(None);
        let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        ended.unwrap().unwrap();
    }
}
