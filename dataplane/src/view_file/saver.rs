//! When the view is written: after it has changed, at most once a second, and at a
//! graceful stop. Never on the way of a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use qcc_proto::v1::View;
use tokio::{sync::Mutex, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::ViewFile;
use crate::{reports::Outbox, routing::Router, sync::Link};

/// Shortest time between two writings. What changes in between is in the next one.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A writing that takes long is followed by a rest of so many times as long: a large view
/// that changes all the time must not keep the disk busy.
const REST: u32 = 20;

/// Writes the view that is routed by.
#[derive(Debug)]
pub(crate) struct Saver {
    file: Arc<ViewFile>,
    router: Router,
    link: Link,
    outbox: Arc<Outbox>,
    /// What was written last; held while writing.
    saved: Mutex<Option<View>>,
    has_failed: AtomicBool,
}

impl Saver {
    pub(crate) fn new(
        file: Arc<ViewFile>,
        router: Router,
        link: Link,
        outbox: Arc<Outbox>,
    ) -> Self {
        Self {
            file,
            router,
            link,
            outbox,
            saved: Mutex::new(None),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Writes each view that a control plane brings, for as long as it is polled.
    pub(crate) async fn run(&self) {
        let mut states = self.link.subscribe();
        let mut tried = None;
        loop {
            // It fails only when the sender is gone, and that is ours.
            let is_news = |view: Option<View>| view.is_some() && view != tried;
            let news = states.wait_for(|state| state.restored.is_none() && is_news(state.view));
            tried = match news.await {
                Ok(state) => state.view,
                Err(_) => return,
            };
            let start = Instant::now();
            self.save().await;
            sleep(INTERVAL_MIN.max(REST * start.elapsed())).await;
        }
    }

    /// Writes the view as it is now, if a control plane has confirmed it.
    pub(crate) async fn save(&self) {
        let mut saved = self.saved.lock().await;
        let state = self.link.state();
        let (Some(age), None, Some(table)) = (
            state.age(Instant::now()),
            state.restored,
            self.router.table(),
        ) else {
            return;
        };
        let view = table.view();
        let registry_id = Arc::clone(self.outbox.buffer().registry_id());
        let confirmed = SystemTime::now().checked_sub(age);
        let confirmed = confirmed.unwrap_or(SystemTime::UNIX_EPOCH);
        let file = Arc::clone(&self.file);
        let writing = spawn_blocking(move || file.save(&table, &registry_id, confirmed));
        let path = self.file.path().display();
        match writing.await {
            Ok(Ok(())) => {
                if saved.replace(view).is_none() {
                    info!(%path, %view, "the view is kept");
                }
                self.has_failed.store(false, Ordering::Relaxed);
            }
            Ok(Err(error)) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    warn!(%path, %error, "the view cannot be kept");
                }
            }
            Err(error) => warn!(%path, %error, "the view cannot be kept"),
        }
    }
}
