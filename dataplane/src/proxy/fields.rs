//! A message's fields.

use std::{fmt, ops::Range};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::names::{Traces, is};

/// Fields of a head, and fields added to it, for which there is room without an allocation.
const READ_USUAL: usize = 16;
const ADDED_USUAL: usize = 3;

/// The fields of a request or an answer in their order, duplicates included.
///
/// Those of HTTP/1 stay where they were read, and are passed on from there, names as they were
/// written; what is added comes after them. Names are looked for without regard to case, among
/// all of them if they may be there: they are few, and most that are looked for are not.
#[derive(Clone, Default)]
pub(crate) struct Fields {
    /// The head that they were read from.
    head: Bytes,
    read: SmallVec<[Place; READ_USUAL]>,
    added: SmallVec<[(HeaderName, HeaderValue); ADDED_USUAL]>,
    /// Of all names that there are, and of some that were.
    traces: Traces,
}

/// Where in its head a field stands.
#[derive(Clone)]
struct Place {
    name: Part,
    value: Part,
}

/// From where to where, in a head of less than 4 GiB.
#[derive(Clone, Copy)]
struct Part {
    start: u32,
    end: u32,
}

impl Place {
    #[inline]
    fn is_of(&self, name: &str, head: &[u8]) -> bool {
        self.name.len() == name.len() && is(self.name.of(head), name)
    }
}

impl Part {
    fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    fn of(self, head: &[u8]) -> &[u8] {
        &head[self.range()]
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Fields {
    /// Makes room for so many that are read.
    pub(super) fn begin(&mut self, count: usize) {
        self.read.reserve(count);
    }

    /// Puts a field, a name and a value that were parsed in a head, which is to be theirs
    /// ([`Fields::stand_in`]).
    ///
    /// # Panics
    ///
    /// If they are no parts of it.
    pub(super) fn put(&mut self, head: &[u8], name: &str, value: &[u8]) {
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - head.as_ptr().addr();
            let end = start + part.len();
            assert!(end <= head.len(), "a part of the head");
            Part {
                start: start as u32,
                end: end as u32,
            }
        };
        self.traces = self.traces.with(name.as_bytes());
        let name = place(name.as_bytes());
        let value = match value {
            [] => Part {
                start: name.end, // Wherever that is.
                end: name.end,
            },
            value => place(value),
        };
        self.read.push(Place { name, value });
    }

    /// Gives those that were put the head that they were parsed in.
    pub(super) fn stand_in(&mut self, head: Bytes) {
        self.head = head;
    }

    /// Adds a field after all others.
    pub(super) fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.traces = self.traces.with(name.as_str().as_bytes());
        self.added.push((name, value));
    }

    /// Adds a field in place of all that have its name.
    pub(super) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.retain(|other| !is(other, name.as_str()));
        self.append(name, value);
    }

    /// Removes those whose name is not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let Self {
            head, read, added, ..
        } = self;
        read.retain(|place| keep(place.name.of(head)));
        added.retain(|(name, _)| keep(name.as_str().as_bytes()));
    }

    /// The value of the first field of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        if !self.traces.may_have(name.as_bytes()) {
            return None;
        }
        if let Some(place) = self.place(name) {
            return Some(place.value.of(&self.head));
        }
        let added = self.added.iter().find(|(other, _)| *other == name);
        added.map(|(_, value)| value.as_bytes())
    }

    /// The values of all fields of that name.
    pub(crate) fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let may_be_there = self.traces.may_have(name.as_bytes());
        let read = if may_be_there { &*self.read } else { &[] };
        let read = read.iter().filter(move |it| it.is_of(name, &self.head));
        let added = self.added.iter().filter(move |(other, _)| other == name);
        let read = read.map(|it| it.value.of(&self.head));
        read.chain(added.map(|(_, value)| value.as_bytes()))
    }

    /// The same, to be kept: it keeps the head that it was read from.
    pub(super) fn value(&self, name: &str) -> Option<Bytes> {
        if !self.traces.may_have(name.as_bytes()) {
            return None;
        }
        if let Some(place) = self.place(name) {
            return Some(self.head.slice(place.value.range()));
        }
        self.get(name).map(Bytes::copy_from_slice)
    }

    fn place(&self, name: &str) -> Option<&Place> {
        let mut read = self.read.iter();
        read.find(|it| it.is_of(name, &self.head))
    }

    /// Whether there is a field of that name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.read.len() + self.added.len()
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let read = (self.read.iter()).map(|it| (it.name.of(&self.head), it.value.of(&self.head)));
        let added = self.added.iter();
        read.chain(added.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
    }

    /// Writes those that pass as lines of HTTP/1. A line's end comes before it: the first
    /// follows a line without one.
    pub(super) fn write(&self, out: &mut BytesMut, mut passes: impl FnMut(&[u8]) -> bool) {
        // As they are, and those that follow each other at once, if they were written in the
        // usual way.
        let mut usual = 0..0;
        for Place { name, value } in &self.read {
            if !passes(name.of(&self.head)) {
                continue;
            }
            let (name_at, value_at) = (name.range(), value.range());
            let before = name_at.start.saturating_sub(2);
            let is_usual = self.head[before..name_at.start] == *b"\r\n"
                && self.head[name_at.end..value_at.start] == *b": ";
            if is_usual && before == usual.end {
                usual.end = value_at.end;
                continue;
            }
            out.extend_from_slice(&self.head[usual]);
            usual = match is_usual {
                true => before..value_at.end,
                false => 0..0,
            };
            if !is_usual {
                put_line(out, name.of(&self.head), value.of(&self.head));
            }
        }
        out.extend_from_slice(&self.head[usual]);
        for (name, value) in &self.added {
            if passes(name.as_str().as_bytes()) {
                put_line(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }

    /// Those that pass, as libraries want them.
    pub(super) fn to_map(&self, passes: impl Fn(&[u8]) -> bool) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len());
        for Place { name, value } in &self.read {
            let name = name.of(&self.head);
            let value = HeaderValue::from_maybe_shared(self.head.slice(value.range()));
            // What was parsed are such.
            if passes(name)
                && let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), value)
            {
                map.append(name, value);
            }
        }
        for (name, value) in &self.added {
            if passes(name.as_str().as_bytes()) {
                map.append(name, value.clone());
            }
        }
        map
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::default();
        fields.added.reserve(map.len());
        let mut last = None;
        for (name, value) in map {
            // Only the first of several comes with its name.
            last = name.or(last);
            if let Some(name) = last.clone() {
                fields.append(name, value);
            }
        }
        fields
    }
}

/// Names and lengths: among the values are keys.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.iter();
        let fields = fields.map(|(name, value)| (String::from_utf8_lossy(name), value.len()));
        f.debug_map().entries(fields).finish()
    }
}

/// The same names, as they are written, and the same values.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

/// Writes a field. The line's end comes before.
pub(super) fn put_line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    for part in [b"\r\n", name, b": ", value] {
        out.extend_from_slice(part);
    }
}

/// The same with a number for a value.
pub(super) fn put_number(out: &mut BytesMut, name: &str, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return put_line(out, name.as_bytes(), &digits[start..]);
        }
    }
}

/// Fields as they are read from a head of HTTP/1.
#[cfg(test)]
pub(crate) fn read(fields: &[(&str, &str)]) -> Fields {
    let line = |(name, value): &(&str, &str)| format!("\r\n{name}: {value}");
    let head: Bytes = fields.iter().map(line).collect::<String>().into();
    let mut read = Fields::default();
    let mut rest = std::str::from_utf8(&head).unwrap();
    for (name, value) in fields {
        let line;
        (line, rest) = rest[2..].split_at(name.len() + 2 + value.len());
        let (name, value) = line.split_at(name.len());
        read.put(&head, name, &value.as_bytes()[2..]);
    }
    read.stand_in(head);
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-b");

    fn text(fields: &Fields) -> String {
        let mut out = BytesMut::new();
        fields.write(&mut out, |_| true);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn fields_pass_in_their_order_and_as_they_were_written() {
        let mut fields = read(&[("X-A", "1"), ("x-b", "2"), ("x-a", " "), ("X-B", "")]);
        assert_eq!(text(&fields), "\r\nX-A: 1\r\nx-b: 2\r\nx-a:  \r\nX-B: ");
        assert!(fields.get_all("x-a").eq([b"1", b" "]));
        assert_eq!(fields.get("x-b"), Some(&b"2"[..]));
        assert_eq!(fields.get("x"), None);
        fields.append(NAME, HeaderValue::from_static("3"));
        assert_eq!((fields.len(), fields.get_all("X-b").count()), (5, 3));
        fields.set(NAME, HeaderValue::from_static("4"));
        assert_eq!(text(&fields), "\r\nX-A: 1\r\nx-a:  \r\nx-b: 4");
        assert_eq!(fields.value("x-b").unwrap(), "4");
        assert_eq!(fields.value("x-a").unwrap(), "1");
        fields.retain(|name| is(name, "x-b"));
        assert_eq!(text(&fields), "\r\nx-b: 4");
    }

    #[test]
    fn names_are_found_in_any_case_and_no_others() {
        let fields = read(&[("HOST", "a"), ("x", "b")]);
        assert_eq!(fields.get("host"), Some(&b"a"[..]));
        assert_eq!(fields.get("X"), Some(&b"b"[..]));
        for name in ["hoot", "most", "y", "te"] {
            assert_eq!(fields.get(name), None, "{name}");
            assert_eq!(
                (fields.get_all(name).count(), fields.value(name)),
                (0, None)
            );
        }
    }

    #[test]
    fn what_was_written_in_an_unusual_way_is_written_in_the_usual_one() {
        let head = Bytes::from("a:1\nb: \t2 \nc: 3\r\nd:\t4\r\n");
        let mut fields = Fields::default();
        let names = std::str::from_utf8(&head).unwrap();
        for (name, value) in [(0, 2..3), (4, 8..9), (11, 14..15), (17, 20..21)] {
            fields.put(&head, &names[name..=name], &head[value]);
        }
        fields.put(&head, &names[..1], b""); // Of the parser's own.
        fields.stand_in(head);
        assert_eq!(text(&fields), "\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\na: ");
    }

    #[test]
    fn libraries_get_the_same() {
        let mut fields = read(&[("X-A", "1"), ("x-b", "\u{fc}"), ("x-a", "2")]);
        fields.append(NAME, HeaderValue::from_static("3"));
        let map = fields.to_map(|_| true);
        let values = |name| map.get_all(name).iter().map(HeaderValue::as_bytes);
        assert!(values("x-a").eq([b"1", b"2"]));
        assert!(values("x-b").eq(["\u{fc}".as_bytes(), b"3"]));
        assert_eq!(Fields::from(map.clone()).to_map(|_| true), map);
        let passed = fields.to_map(|name| is(name, "x-a"));
        assert!(passed.keys().eq(["x-a"]) && passed.len() == 2);
    }

    #[test]
    fn values_are_not_printed() {
        let mut fields = read(&[("X-Api-Key", "sk-secret")]);
        fields.append(NAME, HeaderValue::from_static("sk-secret"));
        let text = format!("{fields:?}");
        assert!(
            text.contains("X-Api-Key") && !text.contains("secret"),
            "{text}"
        );
    }
}
