//! Settings that may change while they are used.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Settings;

/// What is set now. Cheap to clone; all clones are one.
///
/// Whoever needs several settings that belong together takes them of one look: all of them
/// change at once.
#[derive(Debug, Clone)]
pub(crate) struct Live(Arc<ArcSwap<Settings>>);

impl Live {
    /// Looks. Not to be held for long: it may keep old settings from going.
    pub(crate) fn load(&self) -> Guard<Arc<Settings>> {
        self.0.load()
    }

    /// Sets others for whatever begins from now on.
    pub(crate) fn store(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}

impl From<Settings> for Live {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(settings)))
    }
}
