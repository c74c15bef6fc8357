//! When the view is written: after it has changed or a credential was rejected, at most
//! once a second; every few minutes while it is confirmed, so that its age is known after a
//! crash too; and at a graceful stop. Never on the way of a request.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use qcc_proto::v1::View;
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{Error, Seal, ViewFile};
use crate::{
    routing::{Router, Table},
    sync::Link,
};

/// Shortest time between two writings. What changes in between is in the next one.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A writing that takes long is followed by a rest of so many times as long: a large view
/// that changes all the time must not keep the disk busy.
const REST: u32 = 20;

/// How old the file's word on when the view was confirmed may be: a process that is killed
/// leaves a view that seems older than it is by at most so much.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Writes the view that is routed by.
#[derive(Debug)]
pub(crate) struct Saver {
    file: Arc<ViewFile>,
    router: Router,
    link: Link,
    /// Held while writing.
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// What was written last.
    saved: Option<Saved>,
    /// The key, read once.
    seal: Option<Arc<Seal>>,
    /// The last try has failed.
    has_failed: bool,
}

/// What tells one writing from another.
#[derive(Debug, Clone)]
struct Saved {
    registry_id: Arc<str>,
    view: View,
    /// Rejections of this process that it holds.
    rejections: u64,
    /// Whether a control plane had confirmed the view.
    is_confirmed: bool,
    at: Instant,
}

impl Saved {
    /// Whether this should take the other's place.
    fn is_news_after(&self, other: &Self) -> bool {
        let is_same = self.registry_id == other.registry_id
            && self.view == other.view
            && self.rejections == other.rejections
            && (other.is_confirmed || !self.is_confirmed);
        let is_old = self.at.saturating_duration_since(other.at) >= CONFIRM_INTERVAL;
        !is_same || (self.is_confirmed && is_old)
    }
}

impl Saver {
    pub(crate) fn new(file: Arc<ViewFile>, router: Router, link: Link) -> Self {
        Self {
            file,
            router,
            link,
            progress: Mutex::default(),
        }
    }

    /// Writes each view that a control plane brings, for as long as it is polled.
    pub(crate) async fn run(&self) {
        let mut states = self.link.subscribe();
        let mut rejections = self.router.rejections();
        loop {
            states.mark_unchanged();
            rejections.mark_unchanged();
            if self.is_due().await {
                let start = Instant::now();
                self.save().await;
                sleep(INTERVAL_MIN.max(REST * start.elapsed())).await;
                continue;
            }
            // They fail only when the senders are gone, and those are ours.
            let news = tokio::select! {
                news = states.changed() => news,
                news = rejections.changed() => news,
            };
            if news.is_err() {
                return;
            }
        }
    }

    async fn is_due(&self) -> bool {
        let progress = self.progress.lock().await;
        self.present().is_some_and(|present| {
            let saved = progress.saved.as_ref();
            saved.is_none_or(|saved| present.0.is_news_after(saved))
        })
    }

    /// Returns what would be written now; `None` if there is no view, or only the one that
    /// was read from the file and nothing to add to it.
    fn present(&self) -> Option<(Saved, Arc<Table>)> {
        let (state, table) = (self.link.state(), self.router.table()?);
        let is_confirmed = state.confirmed.is_some() && state.restored.is_none();
        // Counted before the marks are read: one that comes in between is written again.
        let rejections = *self.router.rejections().borrow();
        let is_ready = is_confirmed || (state.restored.is_some() && rejections > 0);
        let saved = Saved {
            registry_id: Arc::clone(table.registry_id()),
            view: table.view(),
            rejections,
            is_confirmed,
            at: Instant::now(),
        };
        is_ready.then_some((saved, table))
    }

    /// Writes the view as it is now, if a control plane has confirmed it or there is
    /// something to add to what was kept.
    pub(crate) async fn save(&self) {
        let mut progress = self.progress.lock().await;
        let (Some((present, table)), Some(age)) = (
            self.present(),
            self.link.state().age(std::time::Instant::now()),
        ) else {
            return;
        };
        let confirmed = SystemTime::now().checked_sub(age);
        let confirmed = confirmed.unwrap_or(SystemTime::UNIX_EPOCH);
        let (file, seal) = (Arc::clone(&self.file), progress.seal.clone());
        let writing = spawn_blocking(move || {
            let seal = match seal {
                Some(seal) => seal,
                None => Arc::new(file.seal()?),
            };
            file.save(&seal, &table, confirmed)?;
            Ok::<_, Error>(seal)
        });
        let path = self.file.path().display();
        let view = present.view;
        match writing.await {
            Ok(Ok(seal)) => {
                progress.seal = Some(seal);
                if progress.saved.replace(present).is_none() {
                    info!(%path, %view, "the view is kept");
                }
                progress.has_failed = false;
            }
            Ok(Err(error)) => {
                if !std::mem::replace(&mut progress.has_failed, true) {
                    warn!(%path, %error, "the view cannot be kept; it is tried again");
                }
            }
            Err(error) => warn!(%path, %error, "the view cannot be kept; it is tried again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(revision: u64, rejections: u64, is_confirmed: bool, at: Instant) -> Saved {
        Saved {
            registry_id: "registry".into(),
            view: View { term: 1, revision },
            rejections,
            is_confirmed,
            at,
        }
    }

    #[test]
    fn what_is_the_same_is_written_again_every_five_minutes_while_it_is_confirmed() {
        let start = Instant::now();
        let (soon, later) = (CONFIRM_INTERVAL / 2, CONFIRM_INTERVAL);
        let confirmed = saved(7, 1, true, start);
        assert!(!saved(7, 1, true, start + soon).is_news_after(&confirmed));
        assert!(saved(7, 1, true, start + later).is_news_after(&confirmed));
        // Nobody has confirmed it since: there is nothing to say.
        let own = saved(7, 1, false, start);
        assert!(!saved(7, 1, false, start + later).is_news_after(&own));
        assert!(!saved(7, 1, false, start + soon).is_news_after(&confirmed));
    }

    #[test]
    fn whatever_a_start_would_go_by_is_news() {
        let now = Instant::now();
        let before = saved(7, 1, false, now);
        let other = Saved {
            registry_id: "another".into(),
            ..before.clone()
        };
        for news in [
            saved(8, 1, false, now),
            saved(7, 2, false, now), // The process's own variant of a kept view.
            saved(7, 1, true, now),
            other,
        ] {
            assert!(news.is_news_after(&before), "{news:?}");
        }
    }
}
