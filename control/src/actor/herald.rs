//! Tells data planes of news that can wait a moment.
//!
//! Evidence wakes all streams together. All other news is told to some of them at a time: where
//! a thousand are woken at once, whatever else there is to do stands in line behind them all,
//! and an operator's next change several times.

use std::sync::Arc;

use tokio::{sync::Notify, task::yield_now};
use tokio_util::task::AbortOnDropHandle;

use crate::feed::Feed;

/// Streams that are told together. As many have said something, at least, when a task that has
/// yielded has its turn again: it has after 61 others, and a stream takes two, its own and its
/// connection's.
pub(super) const STREAMS_AT_ONCE: usize = 30;

/// Goes around with news. Dropping it ends that.
pub(super) struct Herald {
    news: Arc<Notify>,
    _round: AbortOnDropHandle<()>,
}

impl Herald {
    pub(super) fn start(feed: Arc<Feed>) -> Self {
        let news = Arc::<Notify>::default();
        let told = Arc::clone(&news);
        let round = tokio::spawn(async move {
            loop {
                // News that come during a round make another one.
                told.notified().await;
                let mut place = Some(0);
                while let Some(from) = place {
                    place = feed.announce_to_some(from, STREAMS_AT_ONCE);
                    yield_now().await;
                }
            }
        });
        Self {
            news,
            _round: AbortOnDropHandle::new(round),
        }
    }

    /// Sends it on its way with what is newest when it comes by.
    pub(super) fn tell(&self) {
        self.news.notify_one();
    }
}
