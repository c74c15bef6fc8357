//! Heads: a request's as it comes in, an answer's as it goes out.

use std::{
    cell::RefCell,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING},
    request::Parts,
    response,
};
use httparse::Status;

use super::super::{
    Limits,
    head::{self, Persistence, decimal, field, number_field},
    writer::Writer,
};
use crate::proxy::reply::{Kind, Refusal};

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
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
    let Some(length) = head::end(buffer, *seen) else {
        if *seen == 0 && !buffer.is_empty() {
            parse(buffer, limits, |_| Ok(()))?; // What is no head need not be waited for.
        }
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
    let head = parse(&bytes, limits, |parsed| understand(&bytes, parsed))?;
    let no_end = || Refused::new(Kind::Malformed, "the request head has no end", &bytes);
    head.ok_or_else(no_end).map(Some)
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

/// Parses a head; `None`: its end is not there.
fn parse<T>(
    bytes: &[u8],
    limits: Limits,
    then: impl FnOnce(&httparse::Request<'_, '_>) -> Result<T, Refused>,
) -> Result<Option<T>, Refused> {
    head::with_room(limits.fields_max, |fields| {
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, fields) {
            Ok(Status::Complete(length)) if length == bytes.len() => then(&request).map(Some),
            Ok(Status::Complete(_)) => {
                let message = "the request head has two ends";
                Err(Refused::new(Kind::Malformed, message, bytes))
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

/// What a head means. Its fields stay where they were read.
fn understand(bytes: &Bytes, parsed: &httparse::Request<'_, '_>) -> Result<Head, Refused> {
    let malformed = |message| Refused::new(Kind::Malformed, message, bytes);
    let is_http10 = parsed.version == Some(0);
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes());
    let target = parsed.path.unwrap_or_default();
    let target = Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes()));
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    let mut connection = Persistence::default();
    let (mut length, mut lengths, mut codings) = (0, 0, 0);
    let mut waits = false;
    for field in &*parsed.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let name = name.map_err(|_| malformed("invalid field name"))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value));
        let value = value.map_err(|_| malformed("invalid field value"))?;
        if name == CONTENT_LENGTH {
            length = decimal(field.value).ok_or_else(|| malformed("invalid content-length"))?;
            lengths += 1;
        } else if name == TRANSFER_ENCODING {
            codings += 1;
        } else if name == CONNECTION {
            connection.read(field.value);
        } else if name == EXPECT {
            waits |= field.value.eq_ignore_ascii_case(b"100-continue");
        }
        let appended = headers.try_append(name, value);
        appended.map_err(|_| malformed("too many fields"))?;
    }
    // Two readers may read what has two lengths as two different requests; and one that
    // was not made for codings does not read them at all (RFC 9112, section 6.3).
    if lengths > 1 || (lengths > 0 && codings > 0) {
        return Err(malformed("the body's length is told in more than one way"));
    }
    if codings > 0 && is_http10 {
        return Err(malformed("a transfer coding in HTTP/1.0"));
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = method.map_err(|_| malformed("invalid method"))?;
    parts.uri = match target {
        Ok(target) => target,
        Err(_) if parsed.path.is_some_and(|it| it.len() >= TARGET_BYTES_MAX) => {
            let message = "the request target is too long";
            return Err(Refused::new(Kind::TargetTooLong, message, bytes));
        }
        Err(_) => return Err(malformed("invalid request target")),
    };
    parts.version = match is_http10 {
        true => Version::HTTP_10,
        false => Version::HTTP_11,
    };
    parts.headers = headers;
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

/// How an answer's body goes out, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// It ends with its connection.
    UntilClosed,
    /// All of it is with the writer.
    Ended,
    /// It is not what its head has said.
    Broken,
}

impl Framing {
    /// Whether there is more to put.
    pub(super) fn is_open(self) -> bool {
        !matches!(self, Self::Ended | Self::Broken)
    }

    /// Puts the next piece.
    pub(super) fn put(&mut self, piece: Bytes, writer: &mut Writer) {
        if piece.is_empty() {
            return; // As a chunk, it would be the last.
        }
        match self {
            Self::Length(left) => match left.checked_sub(piece.len() as u64) {
                Some(rest) => {
                    *left = rest;
                    writer.put(piece);
                }
                None => *self = Self::Broken,
            },
            Self::Chunked => writer.put_chunk(piece),
            Self::UntilClosed => writer.put(piece),
            Self::Ended | Self::Broken => {}
        }
    }

    /// Puts the end.
    pub(super) fn end(&mut self, writer: &mut Writer) {
        *self = match self {
            Self::Length(1..) | Self::Broken => Self::Broken,
            Self::Chunked => {
                writer.end_chunks();
                Self::Ended
            }
            Self::Length(0) | Self::UntilClosed | Self::Ended => Self::Ended,
        };
    }
}

/// Writes an answer's head, and returns how its body goes out. `length` is that of the body,
/// if it is known. `goes_on`: the connection is kept for another request.
pub(super) fn write(
    out: &mut BytesMut,
    head: &response::Parts,
    length: Option<u64>,
    asked: Asked,
    goes_on: &mut bool,
) -> Framing {
    let told = (head.headers.get(CONTENT_LENGTH)).and_then(|value| decimal(value.as_bytes()));
    let framing = match (length, told) {
        _ if asked.is_of_head || has_no_body(head.status) => Framing::Length(0),
        (Some(length), _) => Framing::Length(length),
        (None, Some(told)) => Framing::Length(told),
        (None, None) if asked.is_http10 => Framing::UntilClosed,
        (None, None) => Framing::Chunked,
    };
    *goes_on &= framing != Framing::UntilClosed;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    let mut has_date = false;
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH || *name == CONNECTION || *name == TRANSFER_ENCODING {
            continue;
        }
        has_date |= *name == DATE;
        field(out, name, value.as_bytes());
    }
    let length = match framing {
        // RFC 9110, section 8.6: what it would be, which only these two may tell.
        Framing::Length(_) if asked.is_of_head || head.status == StatusCode::NOT_MODIFIED => {
            told.or(length.filter(|length| *length > 0))
        }
        Framing::Length(_) if has_no_body(head.status) => None,
        Framing::Length(length) => Some(length),
        _ => None,
    };
    if let Some(length) = length {
        number_field(out, &CONTENT_LENGTH, length);
    }
    if framing == Framing::Chunked {
        field(out, &TRANSFER_ENCODING, b"chunked");
    }
    match *goes_on {
        false => field(out, &CONNECTION, b"close"),
        true if asked.is_http10 => field(out, &CONNECTION, b"keep-alive"),
        true => {}
    }
    if !has_date {
        put_date(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
    match framing {
        Framing::Length(0) => Framing::Ended,
        framing => framing,
    }
}

/// What it is that an answer answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) is_of_head: bool,
    pub(super) is_http10: bool,
}

impl Asked {
    /// It is not known.
    pub(super) const ANYTHING: Self = Self {
        is_of_head: false,
        is_http10: false,
    };
}

fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// RFC 9110, section 6.6.1: whoever has a clock says when.
fn put_date(out: &mut BytesMut) {
    thread_local! {
        /// The second, and its text.
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    LAST.with_borrow_mut(|(second, text)| {
        if *second != seconds {
            *second = seconds;
            text.clear();
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let _ = write!(text, "{}", httpdate::HttpDate::from(time)); // Cannot fail.
        }
        field(out, &DATE, text.as_bytes());
    });
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
        assert_eq!(head.parts.uri, "/v1/\u{e9}?a=%2e");
        assert_eq!(head.parts.version, Version::HTTP_11);
        let values: Vec<_> = head.parts.headers.get_all("a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(head.parts.headers["b"], "");
        let value = head.parts.headers["x"].as_bytes();
        assert_eq!(value, "\u{fc}ml".as_bytes());
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
            assert_eq!((head.parts.uri.path(), &*rest), ("/", &b"\r\n"[..]));
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

    /// What is asked, and what is answered.
    struct Case {
        asked: Asked,
        status: u16,
        fields: &'static [(&'static str, &'static str)],
        /// Of the body, if it is known.
        length: Option<u64>,
        goes_on: bool,
    }

    /// An answer with a body of two bytes.
    const USUAL: Case = Case {
        asked: Asked::ANYTHING,
        status: 200,
        fields: &[("date", "now")],
        length: Some(2),
        goes_on: true,
    };

    const OF_HEAD: Asked = Asked {
        is_of_head: true,
        is_http10: false,
    };
    const HTTP10: Asked = Asked {
        is_of_head: false,
        is_http10: true,
    };

    impl Case {
        /// What is written but for the end, how the body goes out, and whether the connection
        /// goes on.
        fn write(&self) -> (String, Framing, bool) {
            let mut response = http::Response::builder().status(self.status);
            for (name, value) in self.fields {
                response = response.header(*name, *value);
            }
            let (head, ()) = response.body(()).unwrap().into_parts();
            let (mut out, mut goes_on) = (BytesMut::new(), self.goes_on);
            let framing = write(&mut out, &head, self.length, self.asked, &mut goes_on);
            let text = String::from_utf8(out.to_vec()).unwrap();
            let head = text.strip_suffix("\r\n\r\n").unwrap();
            assert!(!head.contains("\r\n\r\n"), "{head}");
            (head.to_owned(), framing, goes_on)
        }
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_what_comes_after_it() {
        let head = |lines: &[&str]| lines.join("\r\n");
        let date = "date: now";
        for (what, case, expected, framing, goes_on) in [
            (
                "a known length",
                USUAL,
                head(&["HTTP/1.1 200 OK", date, "content-length: 2"]),
                Framing::Length(2),
                true,
            ),
            (
                "a length that is told",
                Case {
                    fields: &[("content-length", "7"), ("date", "now")],
                    length: None,
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "content-length: 7"]),
                Framing::Length(7),
                true,
            ),
            (
                "what is there counts",
                Case {
                    fields: &[("content-length", "7"), ("date", "now")],
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "content-length: 2"]),
                Framing::Length(2),
                true,
            ),
            (
                "no body",
                Case {
                    length: Some(0),
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "content-length: 0"]),
                Framing::Ended,
                true,
            ),
            (
                "no length, and what is about another connection",
                Case {
                    fields: &[
                        ("transfer-encoding", "gzip"),
                        ("connection", "x"),
                        ("date", "now"),
                    ],
                    length: None,
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "transfer-encoding: chunked"]),
                Framing::Chunked,
                true,
            ),
            (
                "the last one",
                Case {
                    goes_on: false,
                    ..USUAL
                },
                head(&[
                    "HTTP/1.1 200 OK",
                    date,
                    "content-length: 2",
                    "connection: close",
                ]),
                Framing::Length(2),
                false,
            ),
            (
                "HTTP/1.0 that goes on",
                Case {
                    asked: HTTP10,
                    ..USUAL
                },
                head(&[
                    "HTTP/1.1 200 OK",
                    date,
                    "content-length: 2",
                    "connection: keep-alive",
                ]),
                Framing::Length(2),
                true,
            ),
            (
                "HTTP/1.0 without a length",
                Case {
                    asked: HTTP10,
                    length: None,
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "connection: close"]),
                Framing::UntilClosed,
                false,
            ),
            (
                "an answer to a HEAD",
                Case {
                    asked: OF_HEAD,
                    fields: &[("content-length", "7"), ("date", "now")],
                    length: Some(0),
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "content-length: 7"]),
                Framing::Ended,
                true,
            ),
            (
                "one of ours",
                Case {
                    asked: OF_HEAD,
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date, "content-length: 2"]),
                Framing::Ended,
                true,
            ),
            (
                "one whose length nobody knows",
                Case {
                    asked: OF_HEAD,
                    length: None,
                    ..USUAL
                },
                head(&["HTTP/1.1 200 OK", date]),
                Framing::Ended,
                true,
            ),
            (
                "204 has no length",
                Case {
                    status: 204,
                    fields: &[("content-length", "7"), ("date", "now")],
                    ..USUAL
                },
                head(&["HTTP/1.1 204 No Content", date]),
                Framing::Ended,
                true,
            ),
            (
                "304 has that of another answer",
                Case {
                    status: 304,
                    fields: &[("content-length", "7"), ("date", "now")],
                    length: Some(0),
                    ..USUAL
                },
                head(&["HTTP/1.1 304 Not Modified", date, "content-length: 7"]),
                Framing::Ended,
                true,
            ),
            (
                "a status without a name",
                Case {
                    status: 299,
                    ..USUAL
                },
                head(&["HTTP/1.1 299 ", date, "content-length: 2"]),
                Framing::Length(2),
                true,
            ),
        ] {
            assert_eq!(case.write(), (expected, framing, goes_on), "{what}");
        }
    }

    #[test]
    fn an_answer_without_a_date_gets_one() {
        let case = Case {
            fields: &[],
            ..USUAL
        };
        let before = SystemTime::now() - Duration::from_secs(1); // It has whole seconds.
        let (head, ..) = case.write();
        let date = head.lines().find_map(|it| it.strip_prefix("date: "));
        let date = httpdate::parse_http_date(date.unwrap()).unwrap();
        assert!(before <= date && date <= SystemTime::now());
    }

    #[test]
    fn a_body_is_as_long_as_its_head_has_said() {
        let piece = || Bytes::from_static(b"ok");
        let mut writer = Writer::default();
        let mut framing = Framing::Length(4);
        framing.put(piece(), &mut writer);
        framing.put(Bytes::new(), &mut writer);
        assert_eq!(framing, Framing::Length(2));
        let (mut short, mut long) = (framing, framing);
        short.end(&mut writer);
        assert_eq!(short, Framing::Broken);
        long.put(Bytes::from_static(b"okay"), &mut writer);
        long.put(piece(), &mut writer);
        long.end(&mut writer);
        assert_eq!(long, Framing::Broken);
        framing.put(piece(), &mut writer);
        framing.end(&mut writer);
        assert_eq!(framing, Framing::Ended);
        assert_eq!(&**writer.lead(), b"okok");

        let mut writer = Writer::default();
        let mut framing = Framing::Chunked;
        framing.put(piece(), &mut writer);
        framing.put(Bytes::new(), &mut writer); // Which would be the end.
        framing.end(&mut writer);
        framing.end(&mut writer);
        assert_eq!(&**writer.lead(), b"2\r\nok\r\n0\r\n\r\n");
    }
}
