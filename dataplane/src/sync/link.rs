//! How current this process is, for whoever wants to know: status, readiness, the
//! reporter.

use std::{
    fmt,
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
}

/// See [`Link`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// The control plane that is connected now.
    pub connected: Option<Uri>,
    /// The view in use.
    pub view: Option<View>,
    /// When the control plane last said that this view is current.
    pub confirmed: Option<Instant>,
}

impl LinkState {
    /// Returns whether the view may be out of date.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.confirmed
            .is_some_and(|at| now.saturating_duration_since(at) > SILENCE_MAX)
    }
}

impl Link {
    /// Returns a link that has never been connected.
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::default(),
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
        });
    }

    /// Notes that the connection is gone.
    pub(super) fn lost(&self) {
        self.state
            .send_if_modified(|state| state.connected.take().is_some());
    }
}
