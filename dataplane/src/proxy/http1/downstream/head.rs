//! Heads: a request's as it comes in, an answer's as it goes out.

use std::{
    cell::RefCell,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
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
        let blank = buffer.iter().take_while(|it| matches!(it, b'\r' | b'\n'));
        let blank = blank.count();
        if blank > 0 {
            let _ = buffer.split_to(blank);
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
    path.filter(|path| path.len() < 256).unwrap_or_default().to_owned()
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
    status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
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
