//! Clients that go on and on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use crate::{client::Call, wait::eventually};

/// Clients that send one request after the other until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    /// Starts a client for each call. It sends the next request when the last one is
    /// answered.
    pub fn start(calls: impl IntoIterator<Item = Call>) -> Self {
        Self::paced(Duration::ZERO, calls)
    }

    /// Starts a client for each call, who thinks for a while between two requests.
    pub fn paced(pause: Duration, calls: impl IntoIterator<Item = Call>) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for call in calls {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            clients.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Relaxed) {
                    match call.clone().send().await {
                        Ok(response) if response.status == 200 => {}
                        Ok(response) => failures.push(format!("{response:?}")),
                        Err(error) => failures.push(error),
                    }
                    served.fetch_add(1, Relaxed);
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
                failures
            });
        }
        Self {
            stop,
            served,
            clients,
        }
    }

    /// Waits until that many more requests have been answered.
    pub async fn goes_on(&self, requests: usize) {
        let goal = self.served.load(Relaxed) + requests;
        eventually("the load goes on", async || {
            match self.served.load(Relaxed) {
                count if count >= goal => Ok(()),
                count => Err(count),
            }
        })
        .await;
    }

    /// Stops the clients and returns how often each was not served.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.clients
            .join_all()
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}
