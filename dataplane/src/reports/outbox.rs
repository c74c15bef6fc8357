//! The buffer, shared between requests, which push, and the reporter, which takes.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};

use super::{Report, ReportBuffer};

/// How long a success may wait for others to be merged with. Nobody's decision
/// depends on it.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// A [`ReportBuffer`] behind a lock. The lock is taken once per attempt, after its
/// end, and held for a map insertion; selection never takes it.
#[derive(Debug)]
pub(crate) struct Outbox {
    buffer: Mutex<ReportBuffer>,
    arrived: Notify,
    urgent: Notify,
    emptied: Notify,
}

impl Outbox {
    /// Returns an empty outbox for so many reports.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            buffer: Mutex::new(ReportBuffer::new(capacity)),
            arrived: Notify::new(),
            urgent: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Takes a report; an urgent one is sent at once.
    pub(crate) fn push(&self, report: Report, urgent: bool) {
        let mut buffer = self.buffer();
        let first = buffer.is_empty();
        buffer.push(report);
        drop(buffer);
        if first {
            self.arrived.notify_one();
        }
        if urgent {
            self.urgent.notify_one();
        }
    }

    /// Completes when there is something to send: at once if it is urgent, else when
    /// it has waited for company. May complete for nothing.
    pub(crate) async fn due(&self) {
        if self.buffer().is_empty() {
            self.arrived.notified().await;
        }
        tokio::select! {
            () = self.urgent.notified() => {}
            () = sleep(FLUSH_INTERVAL) => {}
        }
    }

    /// Has everything sent at once, and completes when all of it is acknowledged.
    pub(crate) async fn flush(&self) {
        self.arrived.notify_one();
        self.urgent.notify_one();
        loop {
            let emptied = self.emptied.notified();
            if self.buffer().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Changes the buffer as acknowledgements ask for.
    pub(crate) fn settle(&self, change: impl FnOnce(&mut ReportBuffer)) {
        let mut buffer = self.buffer();
        change(&mut buffer);
        if buffer.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Gives access to the buffer.
    pub(crate) fn buffer(&self) -> MutexGuard<'_, ReportBuffer> {
        // No operation leaves it half changed in a way that matters more than a
        // proxy without reports.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
