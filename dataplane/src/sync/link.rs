//! How current this process is, for whoever wants to know: status, readiness, the
//! reporter.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Uri;
use qcc_proto::v1::View;
use tokio::sync::watch;

/// Bookmarks come every 5 s; after three that are missing the view may be out of
/// date.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(15);

/// The address of a control plane as people write it: without the slash that a URL
/// parser puts behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'a>(pub &'a Uri);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0.to_string();
        f.write_str(url.trim_end_matches('/'))
    }
}

/// The state of the connection to the control plane. Cheap to clone; all clones are
/// one.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    state: watch::Sender<LinkState>,
    freshness: Arc<Freshness>,
}

/// What the way of a request asks for, without a lock. Times are in milliseconds.
#[derive(Debug)]
struct Freshness {
    start: Instant,
    /// From the start to the last confirmation; [`NEVER`] before the first view.
    confirmed: AtomicU64,
    /// See [`LinkState::restored`]; [`NEVER`] for none.
    restored: AtomicU64,
}

const NEVER: u64 = u64::MAX;

/// See [`Link`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// The control plane that is connected now.
    pub connected: Option<Uri>,
    /// The view in use.
    pub view: Option<View>,
    /// When the control plane last said that this view is current, or the view was
    /// restored.
    pub confirmed: Option<Instant>,
    /// The view was kept by an earlier process, and no control plane has confirmed it
    /// yet: how old it was when it was restored, by the wall clock.
    pub restored: Option<Duration>,
}

impl LinkState {
    /// Returns whether the view may be out of date.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.restored.is_some() || self.age(now).is_some_and(|age| age > SILENCE_MAX)
    }

    /// Returns the time since a control plane last confirmed the view; `None` before the
    /// first one.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let before = self.restored.unwrap_or_default();
        (self.confirmed).map(|at| now.saturating_duration_since(at) + before)
    }
}

impl Link {
    /// Returns a link that has never been connected.
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::default(),
            freshness: Arc::new(Freshness {
                start: Instant::now(),
                confirmed: AtomicU64::new(NEVER),
                restored: AtomicU64::new(NEVER),
            }),
        }
    }

    /// Returns how old the view is if it may be out of date, else `None`.
    pub(crate) fn staleness(&self, now: Instant) -> Option<Duration> {
        let restored = self.freshness.restored.load(Ordering::Acquire);
        let confirmed = self.freshness.confirmed.load(Ordering::Acquire);
        if confirmed == NEVER {
            return None;
        }
        let at = self.freshness.start + Duration::from_millis(confirmed);
        let age = now.saturating_duration_since(at);
        match restored {
            NEVER => (age > SILENCE_MAX).then_some(age),
            before => Some(age + Duration::from_millis(before)),
        }
    }

    /// Returns the state as it is now.
    pub(crate) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// Follows the state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Completes once there is a view.
    pub(crate) async fn ready(&self) {
        // It fails only when the sender is gone, and that is ours.
        let _ = self
            .subscribe()
            .wait_for(|state| state.view.is_some())
            .await;
    }

    /// Notes that a control plane has confirmed the view in use, or brought one.
    pub(crate) fn confirmed(&self, by: &Uri, view: Option<View>, now: Instant) {
        self.state.send_modify(|state| {
            if state.connected.as_ref() != Some(by) {
                state.connected = Some(by.clone());
            }
            state.view = view.or(state.view);
            state.confirmed = Some(now);
            state.restored = None;
        });
        self.freshness.set(now, None);
    }

    /// Notes that there is a view, of an earlier process and so old.
    pub(crate) fn restored(&self, view: View, age: Duration, now: Instant) {
        self.state.send_modify(|state| {
            state.view = Some(view);
            state.confirmed = Some(now);
            state.restored = Some(age);
        });
        self.freshness.set(now, Some(age));
    }

    /// Notes that the connection is gone.
    pub(super) fn lost(&self) {
        self.state
            .send_if_modified(|state| state.connected.take().is_some());
    }
}

impl Freshness {
    fn set(&self, confirmed: Instant, restored: Option<Duration>) {
        let confirmed = millis(confirmed.saturating_duration_since(self.start));
        self.confirmed.store(confirmed, Ordering::Release);
        self.restored
            .store(restored.map_or(NEVER, millis), Ordering::Release);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_is_told_agrees_with_the_state() {
        let link = Link::new();
        let start = link.freshness.start + Duration::from_secs(1);
        let view = View {
            term: 1,
            revision: 2,
        };
        let agrees = |now: Instant, stale: bool| {
            let state = link.state();
            assert_eq!(state.is_stale(now), stale);
            assert_eq!(link.staleness(now), state.age(now).filter(|_| stale));
        };
        agrees(start, false);
        link.restored(view, Duration::from_secs(3600), start);
        agrees(start, true);
        assert_eq!(
            link.state().age(start + SILENCE_MAX),
            Some(Duration::from_secs(3615))
        );
        let confirmed = start + Duration::from_secs(20);
        link.confirmed(&Uri::from_static("http://127.0.0.1:1"), None, confirmed);
        agrees(confirmed + SILENCE_MAX, false);
        agrees(confirmed + SILENCE_MAX + Duration::from_secs(5), true);
    }
}
