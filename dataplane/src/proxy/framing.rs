//! Follows what a client sends from head to head.
//!
//! hyper drops a `content-length` beside a `transfer-encoding`, and a second one beside
//! the first, before anybody can see it. It then reads the body in the way that the
//! standard asks for, but somebody in front of us may have read it in the other, and have
//! taken for the rest of one request what is the next to us. So the bytes are looked at
//! on their way to hyper: heads line by line, the size lines of chunks, and of bodies no
//! more than their length. Whatever hyper refuses need not be understood here: it ends
//! the connection.

/// Bytes of a head's line that are kept while its end has not come. No length that is one
/// is longer.
const LINE_BYTES_MAX: usize = 256;

/// Follows one HTTP/1 connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    at: At,
    /// Heads that have come whole.
    heads: u32,
    doubt: Option<Doubt>,
}

/// A head that is not to be served, by its number on the connection, from 1. Nothing is
/// known of those after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) head: u32,
    pub(super) why: Why,
}

/// What is wrong with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The body's length is told in two ways.
    FramedTwice,
    /// There are too many bytes.
    TooLong,
}

#[derive(Debug, Default)]
enum At {
    /// Between two messages.
    #[default]
    Gap,
    Head(Head),
    /// So many bytes before the end of a body.
    Body(u64),
    Chunked(Chunked),
    /// Somewhere else: in what is not HTTP/1, or not a request that is served.
    Lost,
}

/// What is known of a head that has not come whole.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    /// The start of its last line.
    line: Vec<u8>,
    first_seen: bool,
    length: Option<u64>,
    chunked: bool,
    framed_twice: bool,
}

/// Where a chunked body stands, in the same steps as in hyper: two readers that differ
/// would count different heads.
#[derive(Debug, Clone, Copy)]
enum Chunked {
    /// In a chunk's size, of which so much is known.
    Size(Option<u64>),
    /// After its digits.
    SizeEnd(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// Where a trailer begins, or the end.
    EndCr,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Framing {
    /// Follows the next bytes. `head_max` is the longest head.
    pub(super) fn follow(&mut self, mut bytes: &[u8], head_max: usize) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Gap => match bytes[0] {
                    b'\r' | b'\n' => bytes = &bytes[1..],
                    _ => self.at = At::Head(Head::default()),
                },
                At::Head(head) => {
                    let end = memchr::memchr(b'\n', bytes);
                    let taken = end.map_or(bytes.len(), |end| end + 1);
                    head.bytes += taken;
                    let is_too_long = head.bytes > head_max;
                    let ended = match end {
                        Some(end) => head.line(&bytes[..end]),
                        None => {
                            head.keep(bytes);
                            None
                        }
                    };
                    bytes = &bytes[taken..];
                    match ended {
                        _ if is_too_long => self.doubt(Why::TooLong),
                        None => {}
                        Some(Ended::Twice) => self.doubt(Why::FramedTwice),
                        Some(Ended::Foreign) => self.at = At::Lost,
                        Some(Ended::Framed(next)) => {
                            self.heads = self.heads.saturating_add(1);
                            self.at = next;
                        }
                    }
                }
                At::Body(left) => {
                    let taken =
                        usize::try_from(*left).map_or(bytes.len(), |it| it.min(bytes.len()));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.at = At::Gap;
                    }
                }
                At::Chunked(Chunked::Data(left)) => {
                    let taken =
                        usize::try_from(*left).map_or(bytes.len(), |it| it.min(bytes.len()));
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.at = At::Chunked(Chunked::DataCr);
                    }
                }
                At::Chunked(chunked) => {
                    self.at = match chunked.step(bytes[0]) {
                        Some(Chunked::End) => At::Gap,
                        Some(next) => At::Chunked(next),
                        None => At::Lost,
                    };
                    bytes = &bytes[1..];
                }
                At::Lost => return,
            }
        }
    }

    /// The first head that is not to be served.
    pub(super) fn doubted(&self) -> Option<Doubt> {
        self.doubt
    }

    /// How many requests have come, if all of them have come whole and nothing after them.
    pub(super) fn whole(&self) -> Option<u32> {
        matches!(self.at, At::Gap).then_some(self.heads)
    }

    /// Whether a head has begun, and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.at, At::Head(_))
    }

    fn doubt(&mut self, why: Why) {
        self.doubt = Some(Doubt {
            head: self.heads.saturating_add(1),
            why,
        });
        self.at = At::Lost;
    }
}

/// What a head says of what follows it.
enum Ended {
    Framed(At),
    Twice,
    Foreign,
}

impl Head {
    /// Keeps the start of a line.
    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Takes the end of a line, without its line feed.
    fn line(&mut self, end: &[u8]) -> Option<Ended> {
        if self.line.is_empty() {
            return self.whole_line(end);
        }
        self.keep(end);
        let line = std::mem::take(&mut self.line);
        self.whole_line(&line)
    }

    fn whole_line(&mut self, line: &[u8]) -> Option<Ended> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !std::mem::replace(&mut self.first_seen, true) {
            let is_http2 = line == b"PRI * HTTP/2.0";
            return is_http2.then_some(Ended::Foreign);
        }
        match line.first() {
            None => return Some(self.end()),
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length") {
                    self.framed_twice |= self.length.is_some();
                    // What is no number hyper refuses; what was cut off is none.
                    let is_whole = line.len() < LINE_BYTES_MAX - 1;
                    self.framed_twice |= !is_whole;
                    self.length = Some(number(value).unwrap_or_default());
                }
            }
            Some(b't' | b'T') => {
                self.chunked |= value_of(line, b"transfer-encoding").is_some();
            }
            Some(_) => {}
        }
        None
    }

    fn end(&self) -> Ended {
        match (self.length, self.chunked) {
            _ if self.framed_twice => Ended::Twice,
            (Some(_), true) => Ended::Twice,
            (None, true) => Ended::Framed(At::Chunked(Chunked::Size(None))),
            (None | Some(0), false) => Ended::Framed(At::Gap),
            (Some(length), false) => Ended::Framed(At::Body(length)),
        }
    }
}

/// The value of a field, if it has this name.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    let is_it = rest.first() == Some(&b':') && start.eq_ignore_ascii_case(name);
    is_it.then(|| rest[1..].trim_ascii())
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok()
}

impl Chunked {
    /// Takes one byte, which is not one of a chunk's data. `None`: it does not belong there.
    fn step(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Size(size), byte) if byte.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(byte).to_digit(16)?);
                let size = size.unwrap_or_default().checked_mul(16)?;
                Some(Self::Size(Some(size.checked_add(digit)?)))
            }
            (Self::Size(Some(size)) | Self::SizeEnd(size), b'\t' | b' ') => {
                Some(Self::SizeEnd(size))
            }
            (Self::Size(Some(size)) | Self::SizeEnd(size), b';') => Some(Self::Extension(size)),
            (Self::Size(Some(size)) | Self::SizeEnd(size) | Self::Extension(size), b'\r') => {
                Some(Self::SizeLf(size))
            }
            (Self::Extension(_), b'\n') => None,
            (Self::Extension(size), _) => Some(Self::Extension(size)),
            (Self::SizeLf(0), b'\n') => Some(Self::EndCr),
            (Self::SizeLf(size), b'\n') => Some(Self::Data(size)),
            (Self::DataCr, b'\r') => Some(Self::DataLf),
            (Self::DataLf, b'\n') => Some(Self::Size(None)),
            (Self::EndCr, b'\r') => Some(Self::EndLf),
            (Self::Trailer, b'\r') => Some(Self::TrailerLf),
            (Self::EndCr | Self::Trailer, _) => Some(Self::Trailer),
            (Self::TrailerLf, b'\n') => Some(Self::EndCr),
            (Self::EndLf, b'\n') => Some(Self::End),
            (Self::Size(_) | Self::SizeEnd(_) | Self::SizeLf(_), _)
            | (Self::Data(_) | Self::DataCr | Self::DataLf, _)
            | (Self::TrailerLf | Self::EndLf | Self::End, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD_MAX: usize = 1000;

    /// Follows bytes whole, and split at each place: it must make no difference.
    fn follow(bytes: &str) -> (u32, Option<Why>, bool) {
        let seen = |framing: &Framing| {
            let doubt = framing.doubted();
            assert!(doubt.is_none_or(|it| it.head == framing.heads + 1));
            (framing.heads, doubt.map(|it| it.why), framing.is_in_head())
        };
        let mut whole = Framing::default();
        whole.follow(bytes.as_bytes(), HEAD_MAX);
        for split in 0..bytes.len() {
            let mut halves = Framing::default();
            halves.follow(&bytes.as_bytes()[..split], HEAD_MAX);
            halves.follow(&bytes.as_bytes()[split..], HEAD_MAX);
            assert_eq!(seen(&halves), seen(&whole), "{bytes:?} at {split}");
        }
        let mut single = Framing::default();
        for byte in bytes.as_bytes() {
            single.follow(&[*byte], HEAD_MAX);
        }
        assert_eq!(seen(&single), seen(&whole), "{bytes:?} byte by byte");
        seen(&whole)
    }

    #[test]
    fn heads_are_counted_whatever_lies_between_them() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let sized =
            "POST / HTTP/1.1\r\nContent-Length:  31 \r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n1234";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
            1b;x=\"y\"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n\r\n0a \r\n0123456789\r\n0\r\na: b\r\n\r\n";
        let bare = "GET / HTTP/1.1\nhost: a\n\n";
        let all = [get, sized, "\r\n\r\n", chunked, bare, get].concat();
        assert_eq!(follow(&all), (5, None, false));
        assert_eq!(follow("GET / HTTP/1.1\r\nhost"), (0, None, true));
        assert_eq!(follow("\r\n"), (0, None, false));
        let whole = |bytes: &str| {
            let mut framing = Framing::default();
            framing.follow(bytes.as_bytes(), HEAD_MAX);
            framing.whole()
        };
        assert_eq!(whole(""), Some(0));
        assert_eq!(whole(&all), Some(5));
        for end in [1, get.len() / 2, get.len() - 1, get.len() + 60] {
            assert_eq!(whole(&all[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_head_that_tells_the_length_twice_is_doubted() {
        let head = |fields: &str| follow(&format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
        for fields in [
            "content-length: 3\r\ntransfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nx: y\r\nCONTENT-LENGTH: 3\r\n",
            "transfer-encoding: chunked\ncontent-length: 3\n",
            "content-length: 3\r\ncontent-length: 3\r\n",
            "content-length: 0\r\ntransfer-encoding: identity\r\n",
        ] {
            assert_eq!(head(fields), (0, Some(Why::FramedTwice), false), "{fields}");
        }
        let far = format!("content-length:{}3\r\n", " ".repeat(LINE_BYTES_MAX));
        assert_eq!(head(&far), (0, Some(Why::FramedTwice), false));
        for fields in [
            "content-length: 0\r\n",
            "x-content-length: 3\r\ncontent-lengthy: 3\r\n",
            "content-length : 3\r\n", // hyper refuses it.
        ] {
            assert_eq!(head(fields), (1, None, false), "{fields}");
        }
    }

    #[test]
    fn the_second_of_two_heads_can_be_the_one_that_is_doubted() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let twice = "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(
            follow(&[get, twice, get].concat()),
            (1, Some(Why::FramedTwice), false)
        );
    }

    #[test]
    fn a_head_that_is_too_long_is_doubted_before_its_end() {
        let long = format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(HEAD_MAX));
        assert_eq!(follow(&long), (0, Some(Why::TooLong), false));
        let many = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(HEAD_MAX / 6));
        assert_eq!(follow(&many), (0, Some(Why::TooLong), false));
    }

    #[test]
    fn http_2_and_what_is_badly_framed_are_not_followed() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(
            follow(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", get].concat()),
            (0, None, false)
        );
        for body in [
            "x\r\n",
            "1\n",
            "\r\n",
            "2\r\nab\n",
            "1;a\nb\r\n",
            "0\r\n\rx",
            "1 1\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert_eq!(
                follow(&[chunked, body, get].concat()),
                (1, None, false),
                "{body:?}"
            );
        }
    }
}
