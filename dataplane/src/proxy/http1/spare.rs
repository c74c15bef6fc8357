//! Buffers that are used again.
//!
//! What is read and written is mostly in one piece, of a few KiB at most, and a connection
//! that waits keeps no buffer. To make one for each message would cost more than to parse it.
//! So each thread keeps a few of them.

use std::cell::RefCell;

use bytes::BytesMut;

/// Least bytes of a buffer. Those that a message is read in are larger, where messages are.
pub(super) const BYTES_MIN: usize = 8 << 10;

/// Most bytes of one that is kept.
const BYTES_MAX: usize = 128 << 10;

/// Buffers that each thread keeps: those of as many requests as run at the same time, where
/// there are few.
const BUFFERS_MAX: usize = 32;

thread_local! {
    static BUFFERS: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Takes an empty buffer with room for so many bytes.
pub(super) fn take(bytes: usize) -> BytesMut {
    let spare = BUFFERS.try_with(|buffers| buffers.borrow_mut().pop());
    match spare {
        Ok(Some(mut buffer)) => {
            buffer.reserve(bytes);
            buffer
        }
        Ok(None) | Err(_) => BytesMut::with_capacity(bytes.max(BYTES_MIN)),
    }
}

/// Gives a buffer back, whose content is of no use any more. What somebody else still has a
/// part of is not kept.
pub(super) fn give(mut buffer: BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    buffer.clear();
    if buffer.try_reclaim(BYTES_MIN) && buffer.capacity() <= BYTES_MAX {
        // A thread that ends keeps nothing.
        let _ = BUFFERS.try_with(|buffers| {
            let mut buffers = buffers.borrow_mut();
            if buffers.len() < BUFFERS_MAX {
                buffers.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> usize {
        BUFFERS.with_borrow(Vec::len)
    }

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_a_part_of_it() {
        let mut buffer = take(BYTES_MIN);
        buffer.extend_from_slice(b"head and body");
        let start = buffer.as_ptr();
        let head = buffer.split_to(8).freeze();
        drop(head);
        give(buffer);
        assert_eq!(kept(), 1);
        let mut again = take(100);
        assert!(again.is_empty() && again.capacity() >= BYTES_MIN);
        assert_eq!(again.as_ptr(), start);
        again.extend_from_slice(b"head");
        let head = again.split_to(4).freeze();
        give(again);
        assert_eq!(kept(), 0, "{head:?} is somebody's");
    }

    #[test]
    fn few_are_kept_and_none_that_are_large() {
        let many: Vec<_> = (0..2 * BUFFERS_MAX).map(|_| take(100)).collect();
        many.into_iter().for_each(give);
        assert_eq!(kept(), BUFFERS_MAX);
        give(take(BYTES_MAX + 1));
        assert_eq!(kept(), BUFFERS_MAX - 1);
        give(BytesMut::new());
        assert_eq!(kept(), BUFFERS_MAX - 1);
    }
}
