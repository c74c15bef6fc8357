//! Names of fields: compared without regard to case, and mostly told apart by less.

/// Names of fields, to be looked for among them.
pub(super) struct Names {
    lists: &'static [&'static [&'static str]],
    traces: Traces,
}

/// What names leave in 64 bits: most names that are not among them are told by that.
#[derive(Clone, Copy, Default)]
pub(super) struct Traces(u64);

impl Traces {
    /// That of a name in any case: of its length and its ends, which differ in usual names.
    const fn of(name: &[u8]) -> Self {
        let (first, last) = match name {
            [] => (0, 0),
            [first, .., last] => (*first, *last),
            [only] => (*only, *only),
        };
        let ends = 8 * (first | 0x20) as usize + 7 * (last | 0x20) as usize;
        Self(1 << ((name.len() + ends) % 64))
    }

    pub(super) const fn with(self, name: &[u8]) -> Self {
        Self(self.0 | Self::of(name).0)
    }

    pub(super) const fn may_have(self, name: &[u8]) -> bool {
        self.0 & Self::of(name).0 != 0
    }
}

impl Names {
    /// All that are in these lists.
    pub(super) const fn of(lists: &'static [&'static [&'static str]]) -> Self {
        let (mut traces, mut list) = (Traces(0), 0);
        while list < lists.len() {
            let mut at = 0;
            while at < lists[list].len() {
                traces = traces.with(lists[list][at].as_bytes());
                at += 1;
            }
            list += 1;
        }
        Self { lists, traces }
    }

    /// Whether a name is one of them.
    #[inline]
    pub(super) fn have(&self, name: &[u8]) -> bool {
        let mut names = self.lists.iter().copied().flatten();
        self.traces.may_have(name) && names.any(|it| is(name, it))
    }
}

/// Whether a field's name is that one. Most are written in lower case, as that is, and that is
/// seen at once.
#[inline]
pub(super) fn is(name: &[u8], other: &str) -> bool {
    let other = other.as_bytes();
    name.len() == other.len() && (name == other || name.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_among_others_in_any_case_and_nothing_like_it_is() {
        const NAMES: Names = Names::of(&[&["host", "te"], &[], &["x-real-ip"]]);
        for name in ["host", "HOST", "Te", "X-Real-IP"] {
            assert!(NAMES.have(name.as_bytes()), "{name}");
        }
        let alike = "hoot"; // In length and ends.
        for name in ["", "t", alike, "hosts", "x-real-ips"] {
            assert!(!NAMES.have(name.as_bytes()), "{name}");
        }
    }
}
