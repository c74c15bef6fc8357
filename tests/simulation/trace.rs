//! What happened, in order: what mattered and the last of everything to read, all of it
//! in one number.

use std::{collections::VecDeque, fmt};

/// Events that are kept to be read, of either kind, unless all are wanted.
const KEPT: usize = 60;

/// The events of one run.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The last events of all.
    last: VecDeque<String>,
    /// The last that changed something.
    turns: VecDeque<String>,
    kept: usize,
    digest: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self {
            last: VecDeque::with_capacity(KEPT),
            turns: VecDeque::with_capacity(KEPT),
            kept: KEPT,
            digest: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Keeps every event.
    pub(crate) fn keep_all(&mut self) {
        self.kept = usize::MAX;
    }

    /// Notes an event at a time in microseconds.
    pub(crate) fn note(&mut self, now: u64, event: fmt::Arguments<'_>) {
        let line = format!("{:>11.6}s  {event}", now as f64 / 1e6);
        // FNV-1a: order and every byte count.
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        keep(&mut self.last, line, self.kept);
    }

    /// Notes an event that changes what comes after it.
    pub(crate) fn turn(&mut self, now: u64, event: fmt::Arguments<'_>) {
        self.note(now, event);
        if let Some(line) = self.last.back() {
            keep(&mut self.turns, line.clone(), KEPT);
        }
    }

    /// Returns a number that two runs share only if they were the same.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// Returns the events that are kept, a line each.
    pub(crate) fn tail(&self) -> String {
        let mut text = String::from("what changed something, last:\n");
        for line in &self.turns {
            text += line;
            text.push('\n');
        }
        text += "\nall, last:\n";
        for line in &self.last {
            text += line;
            text.push('\n');
        }
        text
    }
}

fn keep(ring: &mut VecDeque<String>, line: String, kept: usize) {
    if ring.len() == kept {
        ring.pop_front();
    }
    ring.push_back(line);
}
