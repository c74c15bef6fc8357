//! The buffer, shared between requests, which push, and the reporter, which takes.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

use super::{Report, ReportBuffer};

/// A [`ReportBuffer`] behind a lock. The lock is taken once per attempt, after its
/// end, and held for a map insertion; selection never takes it.
#[derive(Debug)]
pub(crate) struct Outbox {
    buffer: Mutex<ReportBuffer>,
    urgent: AtomicBool,
    wake: Notify,
}

impl Outbox {
    /// Returns an empty outbox for so many reports.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            buffer: Mutex::new(ReportBuffer::new(capacity)),
            urgent: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Takes a report; an urgent one wakes the reporter.
    pub(crate) fn push(&self, report: Report, urgent: bool) {
        self.buffer().push(report);
        if urgent && !self.urgent.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Completes when an urgent report has arrived.
    pub(crate) fn urgent(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Gives access to the buffer. Whoever is about to take a batch has seen all
    /// urgent reports so far.
    pub(crate) fn buffer(&self) -> MutexGuard<'_, ReportBuffer> {
        // A panic while holding it leaves at worst a report out.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the next urgent report wake the reporter again. Call it before taking a
    /// batch.
    pub(crate) fn rearm(&self) {
        self.urgent.store(false, Ordering::Release);
    }
}
