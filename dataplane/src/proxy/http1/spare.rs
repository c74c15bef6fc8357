//! Buffers that are used again.
//!
//! What is read and written is mostly in one piece, of a few KiB at most, and a connection
//! that waits keeps no buffer. To make one for each message would cost more than to parse it.
//! So each thread keeps a few of them.

use std::{cell::RefCell, collections::VecDeque};

use bytes::BytesMut;

/// Least bytes of a buffer. Those that a message is read in are larger, where messages are.
pub(super) const BYTES_MIN: usize = 8 << 10;

/// Most bytes of one that is kept.
const BYTES_MAX: usize = 128 << 10;

/// How many times as large as is asked for one may be: larger ones are for larger messages.
const TIMES_MAX: usize = 4;

/// Buffers that each thread keeps: those of as many requests as run at the same time, where
/// there are few.
const BUFFERS_MAX: usize = 32;

/// Of these, how many are looked at, the last that were given first: the processor may still
/// have them at hand.
const LOOKS_MAX: usize = 8;

thread_local! {
    static BUFFERS: RefCell<VecDeque<BytesMut>> = const { RefCell::new(VecDeque::new()) };
}

/// Takes an empty buffer with room for so many bytes.
pub(super) fn take(bytes: usize) -> BytesMut {
    let bytes = bytes.max(BYTES_MIN);
    // Of some, somebody still has a part.
    let fits =
        |buffer: &mut BytesMut| buffer.try_reclaim(bytes) && buffer.capacity() <= TIMES_MAX * bytes;
    let spare = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        let mut last = (0..buffers.len()).rev().take(LOOKS_MAX);
        let at = last.find(|at| fits(&mut buffers[*at]))?;
        buffers.swap_remove_back(at)
    });
    let spare = spare.ok().flatten();
    spare.unwrap_or_else(|| BytesMut::with_capacity(bytes))
}

/// Gives a buffer back, whose content is of no use any more to whoever gives it: its last
/// piece may still be on its way out.
pub(super) fn give(mut buffer: BytesMut) {
    if buffer.capacity() == 0 || buffer.capacity() > BYTES_MAX {
        return;
    }
    buffer.clear();
    // A thread that ends keeps nothing.
    let _ = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        if buffers.len() == BUFFERS_MAX {
            buffers.pop_front();
        }
        buffers.push_back(buffer);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        BUFFERS.with_borrow(VecDeque::len)
    }

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_a_part_of_it() {
        let mut buffer = take(BYTES_MIN);
        buffer.extend_from_slice(b"head and body");
        let start = buffer.as_ptr();
        let head = buffer.split_to(8).freeze();
        give(buffer);
        let other = take(100);
        assert_ne!(other.as_ptr(), start, "{head:?} is somebody's");
        drop(head);
        let again = take(100);
        assert!(again.is_empty() && again.capacity() >= BYTES_MIN);
        assert_eq!((again.as_ptr(), kept()), (start, 0));
    }

    #[test]
    fn large_ones_are_for_large_messages() {
        let large = take(TIMES_MAX * BYTES_MIN + 1);
        let start = large.as_ptr();
        give(large);
        give(take(BYTES_MIN));
        assert_ne!(take(BYTES_MIN).as_ptr(), start);
        assert_eq!(take(3 * BYTES_MIN).as_ptr(), start);
    }

    #[test]
    fn few_are_kept_and_none_that_are_too_large() {
        let many: Vec<_> = (0..2 * BUFFERS_MAX).map(|_| take(100)).collect();
        let last = many.last().map(|buffer| buffer.as_ptr());
        many.into_iter().for_each(give);
        assert_eq!(kept(), BUFFERS_MAX);
        assert_eq!(Some(take(100).as_ptr()), last);
        give(take(BYTES_MAX + 1));
        assert_eq!(kept(), BUFFERS_MAX - 1);
        give(BytesMut::new());
        assert_eq!(kept(), BUFFERS_MAX - 1);
    }
}
