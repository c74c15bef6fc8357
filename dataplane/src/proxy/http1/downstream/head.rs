//! A request's head, as it comes in.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Uri, Version};
use httparse::Status;

use super::super::{
    Limits,
    head::{self, Persistence, decimal},
};
use crate::proxy::{
    message::RequestHead,
    names::is,
    reply::{Kind, Refusal},
};

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Box<RequestHead>,
    pub(super) length: Length,
    /// The client takes another answer afterwards.
    pub(super) keeps_alive: bool,
    /// It sends its body once it is told to, or when it has waited for long enough.
    pub(super) waits: bool,
}

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    Chunked,
}

/// A request that is not served, and after which nothing is read.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// Its path, as far as it is known.
    pub(super) path: String,
}

impl Refused {
    fn new(kind: Kind, message: &'static str, bytes: &[u8]) -> Self {
        Self {
            refusal: Refusal::new(kind, message),
            path: path(bytes),
        }
    }
}

/// Takes a request's head off the buffer once it is there whole. `seen`: so many of these bytes
/// were there the last time.
pub(super) fn read(
    buffer: &mut BytesMut,
    seen: &mut usize,
    limits: Limits,
) -> Result<Option<Head>, Refused> {
    if *seen == 0 {
        // RFC 9112, section 2.2: some clients send an empty line after a body.
        let blank = empty_lines(buffer);
        buffer.advance(blank);
        if **buffer == *b"\r" {
            return Ok(None); // It may be half of another one.
        }
    }
    let found = head::parse_if_whole(buffer, *seen, |bytes| parse(bytes, limits))?;
    let Some((mut head, target, length)) = found else {
        *seen = buffer.len();
        return match buffer.len() > limits.head_bytes_max {
            true => Err(too_long(buffer, limits)),
            false => Ok(None),
        };
    };
    if length > limits.head_bytes_max {
        return Err(too_long(buffer, limits));
    }
    *seen = 0;
    let bytes = buffer.split_to(length).freeze();
    head.parts.target = read_target(&bytes, target)?;
    head.parts.fields.stand_in(bytes);
    Ok(Some(head))
}

/// Bytes of the empty lines that come first. A return alone is none.
fn empty_lines(bytes: &[u8]) -> usize {
    let mut length = 0;
    loop {
        length += match &bytes[length..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return length,
        };
    }
}

/// Parses a head, and says where its target is, and how long it is. `None`: its end is not there.
fn parse(bytes: &[u8], limits: Limits) -> Result<Option<(Head, Range<usize>, usize)>, Refused> {
    head::with_room(limits.fields_max, |fields| {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, fields) {
            Ok(Status::Complete(length)) => {
                let bytes = &bytes[..length];
                let target = request.path.unwrap_or_default();
                let start = target.as_ptr().addr() - bytes.as_ptr().addr();
                let head = understand(bytes, &request)?;
                Ok(Some((head, start..start + target.len(), length)))
            }
            Ok(Status::Partial) => Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                let message = "the request head has too many fields";
                Err(Refused::new(Kind::HeadTooLarge, message, bytes))
            }
            Err(error) => {
                let message = match error {
                    httparse::Error::HeaderName => "invalid field name",
                    httparse::Error::HeaderValue => "invalid field value",
                    httparse::Error::Version => "not a version of HTTP/1",
                    _ => "not an HTTP request",
                };
                Err(Refused::new(Kind::Malformed, message, bytes))
            }
        }
    })
}

/// What a head means, but for its target. Its fields stay where they were read.
fn understand(bytes: &[u8], parsed: &httparse::Request<'_, '_>) -> Result<Head, Refused> {
    let malformed = |message| Refused::new(Kind::Malformed, message, bytes);
    let is_http10 = parsed.version == Some(0);
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    let mut parts = Box::<RequestHead>::default();
    parts.fields.begin(parsed.headers.len());
    let mut connection = Persistence::default();
    let (mut length, mut lengths, mut codings) = (0, 0, 0);
    let mut waits = false;
    for field in &*parsed.headers {
        let name = field.name.as_bytes();
        if is(name, "content-length") {
            length = decimal(field.value).ok_or_else(|| malformed("invalid content-length"))?;
            lengths += 1;
        } else if is(name, "transfer-encoding") {
            codings += 1;
        } else if is(name, "connection") {
            connection.read(field.value);
        } else if is(name, "expect") {
            waits |= field.value.eq_ignore_ascii_case(b"100-continue");
        }
        parts.fields.put(bytes, field.name, field.value);
    }
    // Two readers may read what has two lengths as two different requests; and one that
    // was not made for codings does not read them at all (RFC 9112, section 6.3).
    if lengths > 1 || (lengths > 0 && codings > 0) {
        return Err(malformed("the body's length is told in more than one way"));
    }
    if codings > 0 && is_http10 {
        return Err(malformed("a transfer coding in HTTP/1.0"));
    }
    parts.method = method.map_err(|_| malformed("invalid method"))?;
    parts.version = match is_http10 {
        true => Version::HTTP_10,
        false => Version::HTTP_11,
    };
    Ok(Head {
        length: match codings {
            0 => Length::Bytes(length),
            _ => Length::Chunked, // Whatever it is: others are refused by the rules.
        },
        keeps_alive: connection.persists(is_http10),
        waits: waits && !is_http10,
        parts,
    })
}

/// The target that is there in a head.
fn read_target(head: &Bytes, at: Range<usize>) -> Result<Uri, Refused> {
    let length = at.len();
    Uri::from_maybe_shared(head.slice(at)).map_err(|_| match length >= TARGET_BYTES_MAX {
        true => Refused::new(Kind::TargetTooLong, "the request target is too long", head),
        false => Refused::new(Kind::Malformed, "invalid request target", head),
    })
}

/// The longest target that can be taken apart.
const TARGET_BYTES_MAX: usize = u16::MAX as usize;

/// Says what of a head is too long: all of it, or its first line alone.
fn too_long(bytes: &[u8], limits: Limits) -> Refused {
    match memchr::memchr(b'\n', &bytes[..limits.head_bytes_max]) {
        Some(_) => Refused::new(Kind::HeadTooLarge, "the request head is too long", bytes),
        None => Refused::new(Kind::TargetTooLong, "the request target is too long", bytes),
    }
}

/// The path of a request whose head may be anything, to know in what shape to answer.
fn path(bytes: &[u8]) -> String {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next();
    let target = line.and_then(|line| line.split(|byte| *byte == b' ').nth(1));
    let path = target.and_then(|target| target.split(|byte| *byte == b'?').next());
    let path = path.and_then(|path| std::str::from_utf8(path).ok());
    path.filter(|path| path.len() < 256)
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        fields_max: 8,
        head_bytes_max: 1000,
    };

    type Taken = Result<Option<(Head, BytesMut)>, Refused>;

    /// Reads a head that comes byte by byte, and says what is left.
    fn read_slowly(bytes: &[u8]) -> Taken {
        let (mut buffer, mut seen) = (BytesMut::new(), 0);
        for (at, byte) in bytes.iter().enumerate() {
            buffer.extend_from_slice(&[*byte]);
            if let Some(head) = read(&mut buffer, &mut seen, LIMITS)? {
                buffer.extend_from_slice(&bytes[at + 1..]);
                return Ok(Some((head, buffer)));
            }
        }
        Ok(None)
    }

    fn read_at_once(bytes: &[u8]) -> Taken {
        let mut buffer = BytesMut::from(bytes);
        let head = read(&mut buffer, &mut 0, LIMITS)?;
        Ok(head.map(|head| (head, buffer)))
    }

    /// The head, and what follows it; or why there is none.
    fn both_ways(text: &str) -> Result<Option<(Head, BytesMut)>, Kind> {
        let why = |refused: Refused| refused.refusal.kind;
        let slowly = read_slowly(text.as_bytes()).map_err(why);
        let at_once = read_at_once(text.as_bytes()).map_err(why);
        assert_eq!(format!("{slowly:?}"), format!("{at_once:?}"), "{text:?}");
        at_once
    }

    fn with(fields: &str) -> Result<Head, Kind> {
        let read = both_ways(&format!("POST /v1 HTTP/1.1\r\n{fields}\r\n"))?;
        Ok(read.unwrap().0)
    }

    #[test]
    fn a_head_is_read_as_it_is() {
        let fields = "A: 1\r\nb:\r\na:  2 \r\nx: \t\u{fc}ml\r\n";
        let text = format!("put /v1/\u{e9}?a=%2e HTTP/1.1\r\n{fields}\r\nrest");
        let (head, rest) = both_ways(&text).unwrap().unwrap();
        assert_eq!(head.parts.method, "put");
        assert_eq!(head.parts.target, "/v1/\u{e9}?a=%2e");
        assert_eq!(head.parts.version, Version::HTTP_11);
        let fields = &head.parts.fields;
        assert!(fields.get_all("a").eq([b"1", b"2"]));
        assert_eq!(fields.get("b"), Some(&b""[..]));
        assert_eq!(fields.get("x"), Some("\u{fc}ml".as_bytes()));
        assert_eq!(head.length, Length::Bytes(0));
        assert!(head.keeps_alive && !head.waits);
        assert_eq!(rest, "rest");
    }

    #[test]
    fn empty_lines_may_come_first_and_nothing_else() {
        for first in ["\r\n", "\n", "\r\n\r\n\n\r\n"] {
            let (head, rest) = both_ways(&format!("{first}GET / HTTP/1.1\n\n\r\n"))
                .unwrap()
                .unwrap();
            assert_eq!((head.parts.target.path(), &*rest), ("/", &b"\r\n"[..]));
        }
        for first in ["\r", "\r\r\n", "\n\r", " ", "\r\n ", "\0", "\t\r\n"] {
            let refused = both_ways(&format!("{first}GET / HTTP/1.1\r\n\r\n"));
            assert_eq!(refused.unwrap_err(), Kind::Malformed, "{first:?}");
        }
        let mut buffer = BytesMut::from("\r\n\n\r\n");
        assert!(read(&mut buffer, &mut 0, LIMITS).unwrap().is_none());
        assert!(buffer.is_empty(), "nobody keeps them");
    }

    #[test]
    fn where_a_body_ends_is_told_in_one_way() {
        let length = |fields: &str| with(fields).map(|head| head.length);
        assert_eq!(length("content-length: 12\r\n"), Ok(Length::Bytes(12)));
        assert_eq!(length("Content-Length:\t012 \r\n"), Ok(Length::Bytes(12)));
        let most = format!("content-length: {}\r\n", u64::MAX);
        assert_eq!(length(&most), Ok(Length::Bytes(u64::MAX)));
        assert_eq!(
            length("Transfer-Encoding: Chunked\r\n"),
            Ok(Length::Chunked)
        );
        assert_eq!(length("content-length-x: 5\r\n"), Ok(Length::Bytes(0)));
        // The rules refuse what else is no plain `chunked`; until then it has no length.
        for coding in ["gzip", "", "chunked, chunked", "identity"] {
            let field = format!("transfer-encoding: {coding}\r\n");
            assert_eq!(length(&field), Ok(Length::Chunked), "{coding:?}");
        }
        for fields in [
            "content-length: 2\r\ncontent-length: 2\r\n",
            "content-length: 2\r\nCONTENT-LENGTH: 3\r\n",
            "content-length: 2, 2\r\n",
            "content-length: 2,\r\n",
            "content-length: +2\r\n",
            "content-length: -2\r\n",
            "content-length: 2 2\r\n",
            "content-length: 2\u{b2}\r\n",
            "content-length: 0x2\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length: 2\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\na: b\r\ncontent-length: 0\r\n",
        ] {
            assert_eq!(length(fields), Err(Kind::Malformed), "{fields:?}");
        }
        let old = "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(both_ways(old).unwrap_err(), Kind::Malformed);
    }

    #[test]
    fn a_connection_goes_on_unless_somebody_says_otherwise() {
        let read = |version: &str, fields: &str| {
            let text = format!("GET / HTTP/{version}\r\n{fields}\r\n");
            both_ways(&text).unwrap().unwrap().0
        };
        let goes_on = |version, fields| read(version, fields).keeps_alive;
        assert!(goes_on("1.1", ""));
        assert!(goes_on("1.1", "connection: x, keep-alive\r\n"));
        assert!(!goes_on(
            "1.1",
            "connection: keep-alive\r\nconnection: Close\r\n"
        ));
        assert!(!goes_on("1.1", "connection: x ,close\r\n"));
        assert!(!goes_on("1.0", ""));
        assert!(goes_on("1.0", "connection: Keep-Alive\r\n"));
        let waits = |version| read(version, "expect: 100-Continue\r\n").waits;
        assert!(waits("1.1"));
        assert!(!waits("1.0"), "it would take that for the answer");
    }

    #[test]
    fn what_is_no_head_is_refused_as_soon_as_that_is_known() {
        let refused = |bytes: &[u8]| read_at_once(bytes).is_err();
        for bytes in [
            &b"\x16\x03\x01\x00\xc8\x01"[..],
            b"GET  / HTTP/1.1\r\n",
            b"GET /\r\n",
            b"GET / HTTP/2.0\r\n",
            b"GET / HTTP/1.2\r\n",
            b"GET / http/1.1\r\n",
            b"G(T / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nnonsense\r\n",
            b"GET / HTTP/1.1\r\nx : a\r\n",
            b"GET / HTTP/1.1\r\n: a\r\n",
            b"GET / HTTP/1.1\r\n x: a\r\n",
            b"GET / HTTP/1.1\r\nx: a\r\n b\r\n",
            b"GET / HTTP/1.1\r\nx: a\0b\r\n",
            b"GET / HTTP/1.1\r\nx: a\x7fb\r\n",
            b"GET / HTTP/1.1\r\nx: a\rb\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"GET http:// HTTP/1.1\r\n\r\n",
        ] {
            assert!(refused(bytes), "{}", bytes.escape_ascii());
            let slowly = read_slowly(&[bytes, b"\r\n\r\n"].concat());
            assert!(slowly.is_err(), "{}", bytes.escape_ascii());
        }
        assert!(!refused(b"GET / HTTP/1.1\r\nx: "), "that may become one");
    }

    #[test]
    fn a_head_has_its_bounds() {
        let fields = |count| "x: y\r\n".repeat(count);
        assert!(with(&fields(LIMITS.fields_max)).is_ok());
        let refused = with(&fields(LIMITS.fields_max + 1));
        assert_eq!(refused.unwrap_err(), Kind::HeadTooLarge);
        let long = |length: usize| format!("x: {}\r\n", "y".repeat(length));
        assert!(with(&long(900)).is_ok());
        assert_eq!(with(&long(1000)).unwrap_err(), Kind::HeadTooLarge);
        let target = |length| format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(length));
        assert!(both_ways(&target(900)).is_ok());
        assert_eq!(both_ways(&target(1000)).unwrap_err(), Kind::TargetTooLong);
        // It is all the same whether there is an end.
        for start in ["GET / HTTP/1.1\r\nx: ", "GET /"] {
            let endless = [start, &"y".repeat(LIMITS.head_bytes_max)].concat();
            assert!(both_ways(&endless).is_err(), "{start}");
        }
        let limits = Limits {
            fields_max: 1,
            head_bytes_max: 1 << 20,
        };
        for (length, expected) in [(65_000, None), (65_535, Some(Kind::TargetTooLong))] {
            let text = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(length - 1));
            let head = read(&mut BytesMut::from(&*text), &mut 0, limits);
            assert_eq!(head.err().map(|it| it.refusal.kind), expected, "{length}");
        }
    }

    #[test]
    fn of_what_is_refused_the_path_is_told_if_there_is_one() {
        for (bytes, expected) in [
            (&b""[..], ""),
            (b"GET", ""),
            (b"GET ", ""),
            (b"GET /v1/messages", "/v1/messages"),
            (b"GET /v1/messages?a b HTTP/9", "/v1/messages"),
            (b"GET /v1\r\n", "/v1"),
            (b"\n /v1", ""),
            (b"GET /\xff HTTP/1.1\r\n", ""),
        ] {
            assert_eq!(path(bytes), expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(path(format!("GET /{}", "a".repeat(300)).as_bytes()), "");
        let refused = read_at_once(b"GET /v1/messages HTTP/1.1\r\nx\r\n\r\n");
        assert_eq!(refused.unwrap_err().path, "/v1/messages");
    }
}
