//! The request body, kept for another try.
//!
//! A body is collected before the first try, up to a limit of its own and within a
//! budget for all requests. That costs a moment (clients send a prompt in one go), and
//! buys that a client that breaks off, or frames its body badly, never reaches an
//! endpoint. A body over a limit is not kept: it streams through, with one try.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{Counters, Limit, inbound::Inbound, upload::Fault};

/// Room made at once for a body that claims to be long; the rest as it really comes.
const ROOM_AT_ONCE: usize = 256 << 10;

/// A part of the budget for all requests; given back on drop.
#[derive(Debug)]
struct Share {
    /// Where the account is, for others to read.
    counters: Arc<Counters>,
    bytes: usize,
    /// Bytes that all requests together may keep.
    total_max: usize,
}

impl Share {
    fn none_of(counters: &Arc<Counters>, total_max: usize) -> Self {
        Self {
            counters: Arc::clone(counters),
            bytes: 0,
            total_max,
        }
    }

    /// Grows by a piece, after which there are so many bytes in `total`.
    fn keep(&mut self, piece: usize, total: usize, max: usize) -> bool {
        if total > max {
            self.counters.hit(Limit::KeptBodyBytes);
            return false;
        }
        self.grow(piece)
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let used = &self.counters.buffered_bytes;
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes)
                .filter(|used| *used <= self.total_max)
        });
        match taken {
            Ok(_) => self.bytes += bytes,
            Err(_) => self.counters.hit(Limit::BufferedBytes),
        }
        taken.is_ok()
    }
}

/// Bytes, and their share of the budget.
struct Kept {
    bytes: Bytes,
    _share: Share,
}

impl Kept {
    /// Ties the share to the bytes: it is given back when nobody holds any of them, be it
    /// the last slice on its way to an endpoint.
    fn of(bytes: Bytes, share: Share) -> Bytes {
        Bytes::from_owner(Self {
            bytes,
            _share: share,
        })
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let used = &self.counters.buffered_bytes;
        used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What bounds the reading of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Longest body that is kept.
    pub(super) replay_max: usize,
    /// Bytes kept for all requests together.
    pub(super) replay_total_max: usize,
    /// Longest body that is taken at all.
    pub(super) body_max: Option<u64>,
    /// Longest silence between two pieces.
    pub(super) idle: Duration,
}

/// A body after it was read as far as it is kept.
#[derive(Debug)]
pub(super) enum Collected {
    /// All of it.
    Whole(Bytes),
    /// Its start; the rest is still to come.
    Start {
        bytes: Bytes,
        rest: Inbound,
        /// Longest that all of it may become.
        bytes_max: Option<u64>,
    },
}

/// Takes a body that is there. `Err`: it is still to come.
pub(super) fn at_once(
    mut body: Inbound,
    limits: Limits,
    counters: &Arc<Counters>,
) -> Result<Result<Collected, Fault>, Inbound> {
    if body.is_end() {
        return Ok(Ok(Collected::Whole(Bytes::new())));
    }
    let Some(bytes) = body.take_whole() else {
        return Err(body);
    };
    if limits.body_max.is_some_and(|max| bytes.len() as u64 > max) {
        return Ok(Err(Fault::TooLarge));
    }
    let mut share = Share::none_of(counters, limits.replay_total_max);
    Ok(Ok(
        match share.keep(bytes.len(), bytes.len(), limits.replay_max) {
            true => Collected::Whole(Kept::of(bytes, share)),
            false => Collected::Start {
                bytes,
                rest: body,
                bytes_max: limits.body_max,
            },
        },
    ))
}

/// Reads a body until its end or a limit.
pub(super) async fn collect(
    mut body: Inbound,
    limits: Limits,
    counters: &Arc<Counters>,
) -> Result<Collected, Fault> {
    let mut share = Share::none_of(counters, limits.replay_total_max);
    if body.is_end() {
        return Ok(Collected::Whole(Bytes::new()));
    }
    let declared = body.left().unwrap_or(0);
    if limits.body_max.is_some_and(|max| declared > max) {
        return Err(Fault::TooLarge);
    }
    let fits = usize::try_from(declared).is_ok_and(|declared| declared <= limits.replay_max);
    if !fits {
        counters.hit(Limit::KeptBodyBytes);
        let bytes = Bytes::new();
        return Ok(Collected::Start {
            bytes,
            rest: body,
            bytes_max: limits.body_max,
        });
    }

    // Most bodies are one piece: kept as it came, nothing is copied.
    let Some(first) = next(&mut body, limits.idle).await? else {
        return Ok(Collected::Whole(Bytes::new()));
    };
    if limits.body_max.is_some_and(|max| first.len() as u64 > max) {
        return Err(Fault::TooLarge);
    }
    let kept = share.keep(first.len(), first.len(), limits.replay_max);
    if kept && body.is_end() {
        return Ok(Collected::Whole(Kept::of(first, share)));
    }
    if !kept {
        return Ok(Collected::Start {
            bytes: first,
            rest: body,
            bytes_max: limits.body_max,
        });
    }

    // Many pieces are put together: kept one by one they would hold on to the read
    // buffers that they were cut from.
    let room = (declared as usize).clamp(first.len(), ROOM_AT_ONCE.max(first.len()));
    let mut bytes = BytesMut::with_capacity(room);
    bytes.extend_from_slice(&first);
    while let Some(piece) = next(&mut body, limits.idle).await? {
        let total = bytes.len() + piece.len();
        if limits.body_max.is_some_and(|max| total as u64 > max) {
            return Err(Fault::TooLarge);
        }
        bytes.extend_from_slice(&piece);
        if !share.keep(piece.len(), total, limits.replay_max) {
            // All but the last piece, which is one read long, has its share.
            let bytes = Kept::of(bytes.freeze(), share);
            return Ok(Collected::Start {
                bytes,
                rest: body,
                bytes_max: limits.body_max,
            });
        }
    }
    Ok(Collected::Whole(Kept::of(bytes.freeze(), share)))
}

/// The next piece of data; `None` at the end.
async fn next(body: &mut Inbound, idle: Duration) -> Result<Option<Bytes>, Fault> {
    if body.is_end() {
        return Ok(None);
    }
    let mut data = pin!(body.data());
    // Mostly it is there: a timer is made only if it is not.
    let piece = match poll_fn(|cx| Poll::Ready(data.as_mut().poll(cx))).await {
        Poll::Ready(piece) => Ok(piece),
        Poll::Pending => timeout(idle, data).await,
    };
    match piece {
        Ok(piece) => piece.transpose().map_err(|_| Fault::Broken),
        Err(_) => Err(Fault::Stalled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let counters = Arc::default();
        let mut one = Share::none_of(&counters, 10);
        let mut two = Share::none_of(&counters, 10);
        assert!(one.grow(6));
        assert!(!two.grow(5));
        assert!(two.grow(4));
        assert!(!one.grow(1));
        drop(one);
        assert!(two.grow(6));
        drop(two);
        assert_eq!(counters.buffered_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_share_lasts_as_long_as_any_of_its_bytes() {
        let counters = Arc::default();
        let mut share = Share::none_of(&counters, 10);
        assert!(share.grow(4));
        let mut bytes = Kept::of(Bytes::from_static(b"1234"), share);
        let slice = bytes.split_to(2);
        let again = slice.clone();
        drop((bytes, slice));
        assert_eq!(counters.buffered_bytes.load(Ordering::Relaxed), 4);
        assert_eq!(&*again, b"12");
        drop(again);
        assert_eq!(counters.buffered_bytes.load(Ordering::Relaxed), 0);
    }
}
