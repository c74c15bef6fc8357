//! Whether a mark keeps anybody away, in one word.
//!
//! Most marks keep nobody away, and each choice asks twice. To look at a mark means to keep
//! it from being freed meanwhile, which costs more than all the rest of a choice; the
//! gate is a number that is read. *Open* says that the mark keeps nobody away, and which
//! number it has. *Shut* says that the mark itself has to be asked.
//!
//! A gate may be shut for nothing, but must never be open in front of a mark that keeps
//! somebody away. So it is shut before such a mark can be seen, and opened after. Among
//! those who change a mark at the same time the newest word stands: it begins with the
//! count of changes, and only ever grows.

use std::sync::atomic::{AtomicU64, Ordering};

use super::mark::Mark;

const SHUT: u64 = 1;
const NUMBER_BITS: u32 = 31;
const NUMBER_MAX: u64 = (1 << NUMBER_BITS) - 1;

/// Stands before a [`Mark`].
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicU64);

impl Gate {
    /// Returns the mark's number, if the mark keeps nobody away.
    #[inline(always)]
    pub(super) fn open(&self) -> Option<u64> {
        let word = self.0.load(Ordering::Acquire);
        (word & SHUT == 0).then_some(word >> 1 & NUMBER_MAX)
    }

    /// Shuts it before a mark that is about to be made.
    pub(super) fn precede(&self, mark: &Mark) {
        if !mark.is_open() {
            self.0.fetch_max(word(mark), Ordering::AcqRel);
        }
    }

    /// Opens it behind a mark that has been made.
    pub(super) fn follow(&self, mark: &Mark) {
        if mark.is_open() {
            self.0.fetch_max(word(mark), Ordering::AcqRel);
        }
    }
}

/// Returns what a gate says of a mark: changes, number, whether it is shut.
fn word(mark: &Mark) -> u64 {
    if mark.changes > u64::from(u32::MAX) || mark.number > NUMBER_MAX {
        return u64::MAX; // Shut from here on. At a thousand changes a second: in 50 days.
    }
    mark.changes << (NUMBER_BITS + 1) | mark.number << 1 | u64::from(!mark.is_open())
}

#[cfg(test)]
mod tests {
    use super::{super::mark::Block, *};

    fn mark(changes: u64, number: u64, block: Block) -> Mark {
        Mark {
            changes,
            number,
            block,
            ..Mark::CLEAR
        }
    }

    /// Makes a mark known as whoever changes it does.
    fn pass(gate: &Gate, mark: &Mark) {
        gate.precede(mark);
        gate.follow(mark);
    }

    #[test]
    fn it_is_open_where_nobody_is_kept_away() {
        let gate = Gate::default();
        assert_eq!(gate.open(), Some(0));
        pass(&gate, &mark(1, 1, Block::Rejected));
        assert_eq!(gate.open(), None);
        pass(&gate, &mark(2, 1, Block::Clear));
        assert_eq!(gate.open(), Some(1));
    }

    #[test]
    fn who_is_late_changes_nothing() {
        let gate = Gate::default();
        let (opens, shuts) = (mark(1, 0, Block::Clear), mark(2, 1, Block::Rejected));
        gate.precede(&shuts);
        gate.follow(&opens);
        assert_eq!(gate.open(), None);
    }

    #[test]
    fn of_two_at_once_the_shut_one_stands() {
        let gate = Gate::default();
        gate.precede(&mark(1, 1, Block::Rejected)); // And then the other was quicker.
        pass(&gate, &mark(1, 0, Block::Clear));
        assert_eq!(gate.open(), None);
    }

    #[test]
    fn what_it_cannot_count_keeps_it_shut() {
        let gate = Gate::default();
        pass(&gate, &mark(1 << 32, 0, Block::Clear));
        assert_eq!(gate.open(), None);
        pass(&gate, &mark((1 << 32) + 1, 0, Block::Clear));
        assert_eq!(gate.open(), None);
    }
}
