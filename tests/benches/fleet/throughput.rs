//! Outcomes per second from reporters that wait for each answer, as data planes do.

use std::time::{Duration, Instant};

use tokio::{runtime::Runtime, task::JoinSet};

/// How long one measurement takes.
const WINDOW: Duration = Duration::from_millis(300);

/// A data plane that has outcomes to report at any time.
pub(crate) trait Reporter: Send + 'static {
    /// Reports so many and waits until they are acknowledged.
    fn report(&mut self, outcomes: u64) -> impl Future<Output = ()> + Send;
}

/// Measures how many outcomes a second are acknowledged to all reporters together.
pub(crate) fn measure<R: Reporter>(runtime: &Runtime, reporters: &mut Vec<R>, batch: u64) -> f64 {
    runtime.block_on(async {
        let start = Instant::now();
        let mut running = JoinSet::new();
        for mut reporter in reporters.drain(..) {
            running.spawn(async move {
                let mut sent = 0;
                while start.elapsed() < WINDOW {
                    reporter.report(batch).await;
                    sent += batch;
                }
                (reporter, sent)
            });
        }
        let mut total = 0;
        for (reporter, sent) in running.join_all().await {
            reporters.push(reporter);
            total += sent;
        }
        total as f64 / start.elapsed().as_secs_f64()
    })
}
