//! Watches a stream of server-sent events for an error inside of it.
//!
//! A provider that fails after its 200 says so in band: an `event: error` whose data
//! names an `error.type`. The scanner sees every byte once, changes none, and keeps
//! nothing but the start of the line it is in, so that bytes can pass as they arrive
//! however they are cut.
//!
//! Holding a response head back until the first event with content, so that an early
//! error can still fail over, would use the same scanner before the head goes out.

use super::failure::error_type;

/// Bytes of an ordinary line that are looked at: enough for `event: error` and blanks.
const FIELD_MAX: usize = 32;
/// Bytes of an error's data that are looked at.
const ERROR_DATA_MAX: usize = 4096;

/// The state between two chunks.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// The current line so far, cut off where its kind says.
    line: Vec<u8>,
    /// The last line ended with `\r`: a `\n` that follows belongs to it.
    after_cr: bool,
    /// Something of an event has come that its blank line has not yet closed.
    inside_event: bool,
    /// The current event is an error.
    is_error: bool,
    /// The `error.type` of the first error; empty if it named none.
    error: Option<String>,
}

impl Scanner {
    /// Sees the next bytes of the stream.
    pub(crate) fn scan(&mut self, mut chunk: &[u8]) {
        while let Some(&first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let end = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &chunk[..end.unwrap_or(chunk.len())];
            self.keep(part);
            match end {
                Some(end) => {
                    self.after_cr = chunk[end] == b'\r';
                    self.end_line();
                    chunk = &chunk[end + 1..];
                }
                None => return,
            }
        }
    }

    /// The `error.type` of the first error in the stream; empty if it named none.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Whether the stream stands between two events, so that another may follow.
    pub(crate) fn at_boundary(&self) -> bool {
        !self.inside_event
    }

    fn keep(&mut self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        self.inside_event = true;
        let max = if self.is_error {
            ERROR_DATA_MAX
        } else {
            FIELD_MAX
        };
        let room = max.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            // The blank line that ends an event. One that never got data is an error too.
            if self.is_error && self.error.is_none() {
                self.error = Some(String::new());
            }
            self.is_error = false;
            self.inside_event = false;
            return;
        }
        if let Some(name) = value_of(&self.line, b"event") {
            self.is_error = name == b"error";
        } else if self.is_error
            && self.error.is_none()
            && let Some(data) = value_of(&self.line, b"data")
        {
            self.error = Some(error_type(data));
        }
        self.line.clear();
    }
}

/// A line's value, if it is of this field: `field:value` with at most one blank between.
fn value_of<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(field)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Scanner {
        let mut scanner = Scanner::default();
        for chunk in chunks {
            scanner.scan(chunk);
        }
        scanner
    }

    const OVERLOADED: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n\
        : ping\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
        \"message\":\"Overloaded\"}}\n\n";

    #[test]
    fn an_error_event_is_found_whatever_ends_its_lines() {
        for newline in ["\n", "\r\n", "\r"] {
            let stream = OVERLOADED.replace('\n', newline);
            let scanner = scan([stream.as_bytes()]);
            assert_eq!(scanner.error(), Some("overloaded_error"), "{newline:?}");
            assert!(scanner.at_boundary());
        }
    }

    #[test]
    fn what_only_looks_like_an_error_is_none() {
        for stream in [
            "event: message_delta\ndata: {\"error\":{\"type\":\"overloaded_error\"}}\n\n",
            "data: event: error\n\n",
            "event: errors\ndata: {}\n\n",
            ": event: error\ndata: {}\n\n",
            "event: error\nevent: ping\ndata: {}\n\n",
            "event: error", // Cut: nobody knows what it would have become.
        ] {
            assert_eq!(scan([stream.as_bytes()]).error(), None, "{stream:?}");
        }
    }

    #[test]
    fn an_error_without_a_type_is_still_an_error() {
        for stream in [
            "event:error\ndata: oops\n\n",
            "event: error\n\n",
            "event: error\ndata: {\"error\":\"oops\"}\n",
        ] {
            assert_eq!(scan([stream.as_bytes()]).error(), Some(""), "{stream:?}");
        }
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut scanner = scan([&b"event: error\ndata: "[..]]);
        for _ in 0..1000 {
            scanner.scan(&[b'x'; 1000]);
        }
        assert!(scanner.line.capacity() <= 2 * ERROR_DATA_MAX);
        assert!(!scanner.at_boundary());
    }

    #[test]
    fn it_knows_when_it_is_inside_an_event() {
        for (stream, boundary) in [
            ("", true),
            ("event: a", false),
            ("event: a\n", false),
            ("event: a\r\ndata: b\r\n", false),
            ("event: a\r\ndata: b\r\n\r", true),
            ("event: a\r\ndata: b\r\n\r\n", true),
            ("\n\n", true),
        ] {
            assert_eq!(
                scan([stream.as_bytes()]).at_boundary(),
                boundary,
                "{stream:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_stream_is_cut(
            lines in proptest::collection::vec(
                prop_oneof![
                    Just("event: error"), Just("event: ping"), Just(""), Just("data: x"), Just(":"),
                    Just("data: {\"error\":{\"type\":\"api_error\"}}"), Just("event"),
                ],
                0..12,
            ),
            ends in proptest::collection::vec(prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 12),
            cuts in proptest::collection::vec(1usize..9, 1..200),
        ) {
            let stream: String = lines.iter().zip(&ends).flat_map(|(line, end)| [*line, *end]).collect();
            let whole = scan([stream.as_bytes()]);
            let bytewise = scan(stream.as_bytes().chunks(1));
            let mut pieces = Vec::new();
            let mut rest = stream.as_bytes();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            let cut = scan(pieces);
            prop_assert_eq!(whole.error(), bytewise.error());
            prop_assert_eq!(whole.error(), cut.error());
            prop_assert_eq!(whole.at_boundary(), bytewise.at_boundary());
            prop_assert_eq!(whole.at_boundary(), cut.at_boundary());
        }
    }
}
