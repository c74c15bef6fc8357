//! The beginning of a stream of events, read before its head goes out.
//!
//! Until the client has the head, another endpoint can still be asked. So the head is held
//! until there is content: an error that comes first counts as the status that it stands
//! for, and a stream that breaks before it has said anything has failed. Nothing is
//! decided by what stays away: after [`Limits::hold`], or so many bytes, the head goes out
//! with what there is.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout_at};

use super::{
    inbound::{Cut, Inbound},
    sse::Scanner,
};

/// Bytes that are held back. An opening has a few hundred.
const HELD_BYTES_MAX: usize = 64 << 10;

/// A stream whose beginning has been read.
pub(super) struct Opening {
    /// All that has come, for the client to get as it is.
    pub(super) start: Bytes,
    pub(super) rest: Inbound,
    /// Has seen the start.
    pub(super) scanner: Scanner,
    /// When the last piece came.
    pub(super) last: Instant,
}

/// What bounds the reading.
pub(super) struct Limits {
    /// Longest time for which the head is held.
    pub(super) hold: Duration,
    /// Longest silence between two pieces.
    pub(super) idle: Duration,
    /// End of the request's total time.
    pub(super) deadline: Instant,
}

/// Why there is no stream to pass on.
pub(super) enum Failed {
    /// It broke off, or fell silent.
    Broken(String),
    /// The same, with a connection of which another request tells.
    Told(String),
    /// The request's total time is up.
    OutOfTime,
}

impl Opening {
    /// Reads until content, an error, the end, or a limit.
    pub(super) async fn read(mut rest: Inbound, limits: Limits) -> Result<Self, Failed> {
        let begin = Instant::now();
        let release = begin + limits.hold;
        let mut scanner = Scanner::default();
        let mut held = Held::default();
        let mut last = begin;
        while !is_telling(&scanner) && held.len() < HELD_BYTES_MAX && !rest.is_end() {
            let limit = release.min(limits.deadline).min(last + limits.idle);
            match timeout_at(limit, rest.data()).await {
                Ok(Some(Ok(data))) => {
                    scanner.scan(&data);
                    held.push(data);
                    last = Instant::now();
                }
                Ok(Some(Err(Cut(reason)))) if rest.is_told() => return Err(Failed::Told(reason)),
                Ok(Some(Err(Cut(reason)))) => return Err(Failed::Broken(reason)),
                Ok(None) => break,
                Err(_) if limit == limits.deadline => return Err(Failed::OutOfTime),
                Err(_) if limit == release => break,
                Err(_) => {
                    let reason = "it was silent for too long".to_owned();
                    return Err(Failed::Broken(reason));
                }
            }
        }
        Ok(Self {
            start: held.into_bytes(),
            rest,
            scanner,
            last,
        })
    }
}

fn is_telling(scanner: &Scanner) -> bool {
    scanner.has_content() || scanner.error().is_some()
}

/// Pieces that are put together; one alone, as is usual, is not copied.
#[derive(Default)]
struct Held {
    first: Bytes,
    all: BytesMut,
}

impl Held {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}
