//! Gates: answers wait at them until the test lets them pass.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::watch;

use crate::wait::eventually;

/// Holds answers back until it is opened. Clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    arrived: Arc<AtomicUsize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: Arc::new(watch::channel(false).0),
            arrived: Arc::default(),
        }
    }
}

impl Gate {
    /// Returns a closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all that wait pass, and all that come later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Number of answers that have ever arrived here.
    pub fn arrivals(&self) -> usize {
        self.arrived.load(Relaxed)
    }

    /// Waits until that many answers have arrived here.
    pub async fn reached_by(&self, answers: usize) {
        eventually(
            &format!("{answers} answers reached the gate"),
            async || match self.arrivals() {
                count if count >= answers => Ok(()),
                count => Err(count),
            },
        )
        .await;
    }

    /// Waits until the gate is open.
    pub(crate) async fn pass(&self) {
        self.arrived.fetch_add(1, Relaxed);
        // Fails only if the sender is gone, and `self` holds it.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}
