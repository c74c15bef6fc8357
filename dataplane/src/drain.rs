//! The wish to stop: by a signal, or by `DrainProxy`. Whoever asks first decides how
//! long running requests may take.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// Longest drain that can be asked for.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    begun: CancellationToken,
    asked: Arc<OnceLock<Duration>>,
    default: Duration,
}

impl Drain {
    /// Returns a drain that has not begun. `default` is for whoever names no time.
    pub(crate) fn new(default: Duration) -> Self {
        Self {
            begun: CancellationToken::new(),
            asked: Arc::default(),
            default,
        }
    }

    /// Begins, unless it has begun already.
    pub(crate) fn begin(&self, timeout: Option<Duration>) {
        self.asked
            .get_or_init(|| timeout.unwrap_or(self.default).min(DRAIN_MAX));
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

    /// Returns how long running requests may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.asked.get().copied().unwrap_or(self.default)
    }
}
