//! The thread that waits for the disk, so that no task does.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    histogram::Histogram,
    store::{self, Batch, Keep},
};

/// How long the end of a commit goes unnoticed at most. Tasks that another thread wakes
/// stand in line behind all others, which may take 100 ms where a thousand data planes come
/// back at once; one whose timer has ended does not.
const LOOK: Duration = Duration::from_millis(2);

/// The store, on a thread of its own. Takes one batch at a time.
pub(super) struct Disk {
    orders: mpsc::Sender<Order>,
    /// Ends when the store is closed.
    closed: oneshot::Receiver<Infallible>,
}

/// A batch, and who learns how its commit went.
struct Order {
    batch: Batch,
    done: oneshot::Sender<Result<(), store::Error>>,
}

impl Disk {
    /// Gives the store to a thread. `commits` counts how long commits take.
    ///
    /// # Errors
    ///
    /// Returns the system's error if there is no room for a thread.
    pub(super) fn start(mut store: Box<dyn Keep>, commits: Arc<Histogram>) -> io::Result<Self> {
        let (orders, incoming) = mpsc::channel::<Order>();
        let (open, closed) = oneshot::channel();
        let work = move || {
            for Order { batch, done } in incoming {
                let started = Instant::now();
                let result = store.commit(&batch);
                if result.is_ok() {
                    commits.observe(started.elapsed());
                }
                // The writer may have been given up meanwhile, with its runtime.
                let _ = done.send(result);
            }
            drop(store);
            drop(open);
        };
        thread::Builder::new().name("disk".into()).spawn(work)?;
        Ok(Self { orders, closed })
    }

    /// Makes a batch durable.
    pub(super) async fn commit(&self, batch: Batch) -> Result<(), store::Error> {
        let (done, mut result) = oneshot::channel();
        let order = Order { batch, done };
        let died = "the disk's thread lives as long as this, unless it has panicked";
        self.orders.send(order).expect(died);
        loop {
            if let Ok(result) = timeout(LOOK, &mut result).await {
                return result.expect(died);
            }
        }
    }

    /// Closes the store, and waits for that.
    pub(super) async fn close(self) {
        drop(self.orders);
        // It sends nothing: to be dropped is its message.
        let _ = self.closed.await;
    }
}
