//! Small changes to the files of a corpus, the same ones for the same seed.

/// Changes of one file; more only make garbage of it.
const CHANGES_MAX: u64 = 4;

/// Pieces that mean something to one reader or another.
const PIECES: [&[u8]; 22] = [
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b" ",
    b"\0",
    b"\xff",
    b":",
    b"0",
    b"9",
    b"99999999999999999999",
    b"-1",
    b".",
    b"/",
    b"..",
    b"%",
    b"\"",
    b"[",
    b"]",
    b"=",
    b"\xe2\x80\xa8",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // The largest number on the wire.
];

/// A source of changed files.
pub(crate) struct Changes {
    state: u64,
}

impl Changes {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns one of the files, changed.
    pub(crate) fn next(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.pick(corpus).clone();
        for _ in 0..=self.below(CHANGES_MAX) {
            self.change(&mut bytes, corpus);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.place(bytes);
        let (from, to) = {
            let other = self.place(bytes);
            (at.min(other), at.max(other).min(at.min(other) + 32))
        };
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
            2 => drop(bytes.drain(from..to)),
            3 => {
                let part = bytes[from..to].to_vec();
                let place = self.place(bytes);
                bytes.splice(place..place, part);
            }
            4 => bytes.truncate(at),
            5 => {
                let other = self.pick(corpus);
                let start = self.place(other);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[start..]);
            }
            _ => {
                let piece = *self.pick(&PIECES);
                bytes.splice(from..from, piece.iter().copied());
            }
        }
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A place in front of, between or behind the bytes.
    fn place(&mut self, bytes: &[u8]) -> usize {
        self.below(bytes.len() as u64 + 1) as usize
    }

    /// A number below `bound`, by SplitMix64. That small numbers are a little likelier
    /// does not matter here.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
