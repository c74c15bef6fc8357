//! A disk that keeps what was committed, and of what was on its way when the process
//! died all or nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qcc_control::{
    simulation::{Records, disk_failed, write},
    store::{self, Batch, Keep},
};

/// One disk; clones are the same one. It outlives the processes that use it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    records: Records,
    term: u64,
    lives: u64,
    commits: u64,
    dies: Option<Death>,
}

/// What a life of the control plane begins with.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Tells it from all other lives, also where everything was lost.
    pub(crate) life: u64,
    /// Its term, which is on disk.
    pub(crate) term: u64,
    /// What was kept.
    pub(crate) records: Records,
}

/// What becomes of the commit during which the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// It is not there.
    Lost,
    /// It is there, though nobody was told.
    Kept,
}

impl Disk {
    /// Lets the process die in its next commit.
    pub(crate) fn die(&self, death: Death) {
        self.state().dies = Some(death);
    }

    /// Lets no process die any more.
    pub(crate) fn recover(&self) {
        self.state().dies = None;
    }

    /// Begins another life.
    pub(crate) fn open(&self) -> Opened {
        let mut state = self.state();
        state.lives += 1;
        state.term += 1;
        state.dies = None;
        Opened {
            life: state.lives,
            term: state.term,
            records: state.records.clone(),
        }
    }

    /// Loses everything.
    pub(crate) fn lose(&self) {
        let mut state = self.state();
        state.records.clear();
        state.term = 0;
        state.dies = None;
    }

    /// Returns how many commits there have been.
    pub(crate) fn commits(&self) -> u64 {
        self.state().commits
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keep for Disk {
    fn commit(&mut self, batch: &Batch) -> Result<(), store::Error> {
        let mut state = self.state();
        let dies = state.dies.take();
        if dies != Some(Death::Lost) {
            write(batch, &mut state.records);
            state.commits += 1;
        }
        match dies {
            Some(_) => Err(disk_failed()),
            None => Ok(()),
        }
    }
}
