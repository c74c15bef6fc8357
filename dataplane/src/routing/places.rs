//! Where sessions are, as much of it as a few bits can say.
//!
//! Eight sessions share a line of the processor's cache, and where eight are known already
//! the ninth takes the place of one of them.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Session;

/// Sessions that are remembered: 64 KiB. More than are active at once at most proxies;
/// beyond it places are computed again.
const PLACES: usize = 8192;

/// Sessions that share a line.
const WAYS: usize = 8;

/// Remembers of sessions what a few bits can say.
#[derive(Debug)]
pub(super) struct Places(Box<[Line]>);

/// Each place is 31 bits of a session's hash and one that is always set, then what was noted.
#[derive(Debug)]
#[repr(align(64))]
struct Line([AtomicU64; WAYS]);

impl Places {
    pub(super) fn new() -> Self {
        let line = |_| Line(array::from_fn(|_| AtomicU64::new(0)));
        Self((0..PLACES / WAYS).map(line).collect())
    }

    /// Returns what was noted of a session.
    pub(super) fn get(&self, session: Session) -> Option<u32> {
        let (line, tag) = self.line(session);
        let mut noted = line.iter().map(|place| place.load(Ordering::Relaxed));
        noted.find(|noted| noted >> 32 == tag).map(|it| it as u32)
    }

    /// Notes something of a session.
    pub(super) fn put(&self, session: Session, value: u32) {
        let (line, tag) = self.line(session);
        let noted = || line.iter().map(|place| place.load(Ordering::Relaxed));
        let place = (noted().position(|noted| noted >> 32 == tag))
            .or_else(|| noted().position(|noted| noted == 0))
            .unwrap_or(tag as usize % WAYS);
        let next = tag << 32 | u64::from(value);
        if line[place].load(Ordering::Relaxed) != next {
            line[place].store(next, Ordering::Relaxed);
        }
    }

    fn line(&self, session: Session) -> (&[AtomicU64; WAYS], u64) {
        let hash = session.hash();
        let Line(places) = &self.0[hash as usize % (PLACES / WAYS)]; // A constant, or it would divide.
        (places, hash >> 32 | 1 << 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_sessions_apart() {
        let places = Places::new();
        let (one, other) = (Session::of(b"one"), Session::of(b"other"));
        assert_eq!(places.get(one), None);
        places.put(one, 0);
        places.put(other, 7);
        assert_eq!((places.get(one), places.get(other)), (Some(0), Some(7)));
        places.put(one, 1);
        assert_eq!(places.get(one), Some(1));
    }

    #[test]
    fn half_of_what_it_can_hold_is_held() {
        let places = Places::new();
        let sessions = || (0..PLACES as u32 / 2).map(|it| (Session::of(&it.to_be_bytes()), it));
        for (session, number) in sessions() {
            places.put(session, number);
        }
        let known = sessions().filter(|(session, number)| places.get(*session) == Some(*number));
        assert!(known.count() > PLACES * 49 / 100);
    }
}
