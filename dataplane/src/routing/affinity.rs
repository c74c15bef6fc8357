//! Keeps a session at one endpoint, without shared state: weighted rendezvous hashing.
//!
//! Each endpoint of a tier gets points for a session, a number that looks random and
//! depends on nothing but the session, the endpoint's name and its weight. The one with the
//! most points serves the session. So every proxy chooses alike from the same view, shares
//! are as the weights say, and an endpoint that leaves moves its own sessions only: each
//! to where it would have been without that endpoint. One that comes back takes back the
//! same ones.
//!
//! Rings and lookup tables are cheaper to ask, but a ring needs hundreds of points for
//! each endpoint to come near to its weight, and a table moves sessions of others. So
//! points are computed for all endpoints of the tier, about 2 ns each, and where a tier is
//! large the table remembers where the sessions asked for last belong
//! ([`Places`](super::places::Places)): of those, a request costs one look.
//!
//! The definition is part of what proxies of different versions must agree on:
//!
//! - the hash of a text begins with its length in bytes, takes in its words of 8 bytes one
//!   by one, little-endian, the last one filled up with zeros ([`take_in`]), and is mixed
//!   ([`mix`]);
//! - `x` is `mix` of the exclusive or of the hashes of session and endpoint name;
//! - the endpoint with the smallest `-log2(x / 2^64) / weight` serves, of equal weights the
//!   one with the greatest `x`; the logarithm is [`cost`], in whole numbers, so that it
//!   is the same on all machines.

use std::hint::select_unpredictable;

/// Intervals in which the logarithm is taken for a straight line.
const STEPS: usize = 256;

/// Tells apart what else is decided by a session and an endpoint.
const RETURNING: u64 = 0x5265_7475_726e_6564;

/// Names a session, without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session(u64);

/// What an endpoint has to offer to a session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bid {
    points: u64,
    weight: u32,
}

impl Session {
    /// Returns the session of a name.
    pub(crate) fn of(name: &[u8]) -> Self {
        Self(hash(name))
    }

    /// Returns what stands for its name.
    pub(super) fn hash(self) -> u64 {
        self.0
    }

    /// Returns what an endpoint has to offer.
    pub(super) fn bid(self, endpoint: u64, weight: u32) -> Bid {
        Bid {
            points: mix(self.0 ^ endpoint),
            weight,
        }
    }

    /// Returns the best that endpoints of the same weight have to offer, and whose it is.
    pub(super) fn best(self, endpoints: &[u64], weight: u32) -> (Bid, usize) {
        let (mut points, mut best) = (0, 0);
        for (number, endpoint) in endpoints.iter().enumerate() {
            let offered = mix(self.0 ^ endpoint);
            // Nobody can predict who offers more.
            best = select_unpredictable(offered > points, number, best);
            points = points.max(offered);
        }
        (Bid { points, weight }, best)
    }

    /// Returns whether the session is among those that a part of an endpoint's share is
    /// for, in 65536ths. Who is in a part is in every larger one.
    pub(super) fn is_within(self, endpoint: u64, share: u32) -> bool {
        let lot = mix(self.0 ^ endpoint ^ RETURNING) >> 48;
        lot < u64::from(share)
    }
}

impl Bid {
    /// Returns whether it wins over another.
    pub(super) fn beats(self, other: Bid) -> bool {
        if self.weight == other.weight {
            return self.points > other.points;
        }
        if self.weight < other.weight && self.points <= other.points {
            return false;
        }
        let cost = |bid: Bid, weight: u32| u128::from(cost(bid.points)) * u128::from(weight);
        cost(self, other.weight) < cost(other, self.weight)
    }
}

/// Returns the hash of a text.
pub(super) fn hash(text: &[u8]) -> u64 {
    let (words, rest) = text.as_chunks();
    let mut hash = words.iter().fold(text.len() as u64, take_in);
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = take_in(hash, &last);
    }
    mix(hash)
}

/// Takes a word into a hash, so that no two hashes become one.
fn take_in(hash: u64, word: &[u8; 8]) -> u64 {
    let hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

/// Spreads a number over all numbers (the finalizer of splitmix64).
pub(super) fn mix(mut mixed: u64) -> u64 {
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Returns `-log2(points / 2^64)` in parts of 2^32.
fn cost(points: u64) -> u64 {
    let points = points | 1; // Zero has no logarithm.
    let zeros = points.leading_zeros();
    let mantissa = points << zeros;
    let step = (mantissa >> 55) as usize % STEPS;
    let rest = (mantissa >> 23) & 0xffff_ffff;
    let (low, high) = (LOG2[step], LOG2[step + 1]);
    let log = low + (((high - low) * rest) >> 32);
    ((u64::from(zeros) + 1) << 32) - log
}

/// `log2(1 + step / STEPS)` in parts of 2^32.
static LOG2: [u64; STEPS + 1] = {
    let mut logs = [1 << 32; STEPS + 1];
    let mut step = 0;
    while step < STEPS {
        // Each squaring of a number between 1 and 2 brings out one binary digit.
        let (mut square, mut log, mut digits) = ((STEPS + step) as u64 * (1 << 23), 0, 0);
        while digits < 32 {
            square = (square * square) >> 31;
            log <<= 1;
            if square >= 1 << 32 {
                log |= 1;
                square >>= 1;
            }
            digits += 1;
        }
        logs[step] = log;
        step += 1;
    }
    logs
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Other versions and other programs must come to the same.
    #[test]
    fn the_definition_holds() {
        assert_eq!(hash(b""), 0);
        assert_eq!(hash(b"s"), 0xffaee00cdfbd16cb);
        assert_eq!(hash(b"eight by"), 0x3732811dd3c7ca2c);
        assert_eq!(
            hash(b"3f6c0a52-8f1e-4a39-9f43-0f3d3a2e8c11"),
            0x3333aa039976a8b1
        );
        assert_eq!(
            Session::of(b"s").bid(hash(b"eu-1"), 1).points,
            0x56168e374aeee5c8
        );
        assert_eq!(
            Session::of(b"s").bid(hash(b"us-1"), 1).points,
            0xaf4b120568a902c9
        );
        let endpoints = [("eu-1", 100), ("us-1", 100), ("ap-1", 300)];
        let serves = |session: &str| {
            let bid = |(name, weight): (&str, u32)| {
                Session::of(session.as_bytes()).bid(hash(name.as_bytes()), weight)
            };
            let better = |a, b| if bid(b).beats(bid(a)) { b } else { a };
            endpoints.into_iter().reduce(better).map(|(name, _)| name)
        };
        assert_eq!(serves("s"), Some("us-1"));
        assert_eq!(serves("t"), Some("ap-1"));
        assert_eq!(serves("z"), Some("eu-1"));
    }

    #[test]
    fn the_cost_is_a_logarithm() {
        for points in [1, 3, 1 << 20, u64::MAX / 3, u64::MAX / 2, u64::MAX - 5] {
            let exact = 64.0 - (points as f64).log2();
            let ours = cost(points) as f64 / (1_u64 << 32) as f64;
            assert!((exact - ours).abs() < 1e-5, "{points}: {ours}, not {exact}");
        }
    }

    #[test]
    fn a_larger_part_holds_the_smaller_one() {
        let endpoint = hash(b"a");
        let mut within = 0;
        for session in 0..1000_u32 {
            let session = Session::of(&session.to_be_bytes());
            within += u32::from(session.is_within(endpoint, 1 << 14));
            assert!(!session.is_within(endpoint, 1 << 14) || session.is_within(endpoint, 1 << 15));
            assert!(session.is_within(endpoint, 1 << 16));
        }
        assert!((200..300).contains(&within), "{within}");
    }
}
