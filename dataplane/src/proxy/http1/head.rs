//! Heads: a request's as it goes out, an answer's as it comes in.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{HeaderValue, StatusCode};
use httparse::{Header, Status};

use super::{Limits, Malformed, decoder::Decoder, spare};
use crate::proxy::{
    fields::{put_line, put_number},
    message::ResponseHead,
    names::is,
    outgoing::{Call, Length},
};

/// Fields for which there is room without an allocation.
const FIELDS_USUAL: usize = 128;

/// Bytes of a usual field, to guess how long a head gets.
pub(super) const FIELD_BYTES: usize = 48;

/// An answer's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Box<ResponseHead>,
    /// Where its body ends.
    pub(super) body: Decoder,
    /// Its connection takes another request afterwards.
    pub(super) keeps_alive: bool,
}

/// Writes a request's head, in the order in which the client has sent its fields, and leaves
/// room for so many bytes of a body.
pub(super) fn write(call: &Call<'_>, host: &HeaderValue, length: Length, room: usize) -> BytesMut {
    let path = call.path.as_str();
    let fields = call.request.head.fields.len() + 4;
    let mut out = spare::take(path.len() + fields * FIELD_BYTES + room);
    for part in [
        call.request.head.method.as_str(),
        " ",
        path,
        " HTTP/1.1\r\nhost: ",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(host.as_bytes());
    call.write_fields(&mut out);
    match length {
        Length::Untold => {}
        Length::Told(bytes) => put_number(&mut out, "content-length", bytes),
        Length::Unknown => put_line(&mut out, b"transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n\r\n");
    out
}

/// Takes an answer's head off the buffer once it is there whole, and what informs of one
/// to come. `seen`: so many of these bytes were there the last time.
pub(super) fn read(
    buffer: &mut BytesMut,
    seen: &mut usize,
    is_of_head: bool,
    limits: Limits,
) -> Result<Option<Head>, Malformed> {
    loop {
        let parse = |bytes: &[u8]| parse(bytes, is_of_head, limits);
        let Some((mut head, length)) = parse_if_whole(buffer, *seen, parse)? else {
            *seen = buffer.len();
            let is_too_long = buffer.len() > limits.head_bytes_max;
            return if is_too_long {
                Err(too_long())
            } else {
                Ok(None)
            };
        };
        if length > limits.head_bytes_max {
            return Err(too_long());
        }
        *seen = 0;
        (head.parts.fields).stand_in(buffer.split_to(length).freeze());
        // RFC 9110, section 15.2: any number of them may come first. One that ends HTTP is
        // for whoever judges it.
        let status = head.parts.status;
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(head));
        }
    }
}

/// Parses what has come of a head, if all of it may be there: at first, as it mostly is, and
/// what is none need not be waited for; and then once its end has come, so that one that comes
/// byte by byte is not parsed as often.
pub(super) fn parse_if_whole<T, E>(
    bytes: &[u8],
    seen: usize,
    parse: impl FnOnce(&[u8]) -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    match seen == 0 || has_end(bytes, seen) {
        true => parse(bytes),
        false => Ok(None),
    }
}

/// Whether an empty line ends in what is new.
fn has_end(bytes: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(2); // A line feed before what is new, and a return.
    memchr::memchr_iter(b'\n', &bytes[from..]).any(|at| {
        let next = &bytes[from + at + 1..];
        next.starts_with(b"\n") || next.starts_with(b"\r\n")
    })
}

/// Parses a head, and says how long it is. `None`: its end is not there.
fn parse(
    bytes: &[u8],
    is_of_head: bool,
    limits: Limits,
) -> Result<Option<(Head, usize)>, Malformed> {
    with_room(limits.fields_max, |fields| {
        let mut response = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        match parser.parse_response_with_uninit_headers(&mut response, bytes, fields) {
            Ok(Status::Complete(length)) => {
                let head = understand(&bytes[..length], &response, is_of_head)?;
                Ok(Some((head, length)))
            }
            Ok(Status::Partial) => Ok(None),
            Err(error) => Err(Malformed::from(error.to_string())),
        }
    })
}

/// Lends room for so many fields.
pub(super) fn with_room<'b, T>(
    fields_max: usize,
    then: impl FnOnce(&mut [MaybeUninit<Header<'b>>]) -> T,
) -> T {
    let mut usual = [const { MaybeUninit::uninit() }; FIELDS_USUAL];
    if let Some(fields) = usual.get_mut(..fields_max) {
        return then(fields);
    }
    let many = (0..fields_max).map(|_| MaybeUninit::uninit());
    then(&mut many.collect::<Vec<_>>())
}

/// What a head means. Its fields stay where they were read.
fn understand(
    bytes: &[u8],
    parsed: &httparse::Response<'_, '_>,
    is_of_head: bool,
) -> Result<Head, Malformed> {
    let code = parsed.code.unwrap_or_default();
    let status = StatusCode::from_u16(code).map_err(|_| Malformed(format!("status {code:03}")))?;
    let is_http10 = parsed.version == Some(0);
    let mut parts = ResponseHead::of(status);
    parts.fields.begin(parsed.headers.len());
    let mut length = None;
    let mut codings = 0;
    let mut connection = Persistence::default();
    for field in &*parsed.headers {
        let name = field.name.as_bytes();
        if is(name, "content-length") {
            // RFC 9112, section 6.3: the same number more than once counts as once.
            for number in field.value.split(|byte| *byte == b',') {
                let number = decimal(number.trim_ascii());
                let number = number.ok_or_else(|| Malformed::from("invalid content-length"))?;
                if length.is_some_and(|length| length != number) {
                    return Err(Malformed::from("two lengths"));
                }
                length = Some(number);
            }
            continue;
        }
        if is(name, "connection") {
            connection.read(field.value);
        } else if is(name, "transfer-encoding") {
            codings += 1;
            if codings > 1 || !field.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::from("transfer coding"));
            }
        }
        parts.fields.put(bytes, field.name, field.value);
    }
    if codings > 0 && is_http10 {
        return Err(Malformed::from("transfer coding in HTTP/1.0"));
    }
    let has_none = is_of_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = match length {
        _ if has_none => Decoder::length(0),
        _ if codings > 0 => Decoder::chunked(),
        Some(length) => Decoder::length(length),
        None => Decoder::until_closed(),
    };
    // Whoever tells both may be about to split an answer in two (section 6.3), and after a
    // switch of protocols nothing is an answer.
    let is_doubtful = codings > 0 && length.is_some() || status == StatusCode::SWITCHING_PROTOCOLS;
    parts.length = length.filter(|_| codings == 0);
    Ok(Head {
        parts,
        body,
        keeps_alive: connection.persists(is_http10) && !is_doubtful,
    })
}

/// What a connection says of itself (RFC 9112, section 9.3).
#[derive(Debug, Default)]
pub(super) struct Persistence {
    closes: bool,
    keeps_alive: bool,
}

impl Persistence {
    pub(super) fn read(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            self.closes |= option.eq_ignore_ascii_case(b"close");
            self.keeps_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    pub(super) fn persists(&self, is_http10: bool) -> bool {
        !self.closes && (!is_http10 || self.keeps_alive)
    }
}

/// Reads digits, and nothing else.
pub(in crate::proxy) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

fn too_long() -> Malformed {
    Malformed::from("its head is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        fields_max: 8,
        head_bytes_max: 1000,
    };

    /// Reads a head that comes byte by byte, and says what is left.
    fn read_slowly(bytes: &[u8], is_of_head: bool) -> Result<Option<(Head, BytesMut)>, Malformed> {
        let (mut buffer, mut seen) = (BytesMut::new(), 0);
        for (at, byte) in bytes.iter().enumerate() {
            buffer.extend_from_slice(&[*byte]);
            if let Some(head) = read(&mut buffer, &mut seen, is_of_head, LIMITS)? {
                buffer.extend_from_slice(&bytes[at + 1..]);
                return Ok(Some((head, buffer)));
            }
        }
        Ok(None)
    }

    fn read_at_once(bytes: &[u8], is_of_head: bool) -> Result<Option<(Head, BytesMut)>, Malformed> {
        let (mut buffer, mut seen) = (BytesMut::from(bytes), 0);
        let head = read(&mut buffer, &mut seen, is_of_head, LIMITS)?;
        Ok(head.map(|head| (head, buffer)))
    }

    /// The head, and what follows it.
    fn both_ways(text: &str) -> Option<(Head, BytesMut)> {
        let slowly = read_slowly(text.as_bytes(), false).ok().flatten();
        let at_once = read_at_once(text.as_bytes(), false).ok().flatten();
        assert_eq!(format!("{slowly:?}"), format!("{at_once:?}"), "{text:?}");
        at_once
    }

    fn with(fields: &str) -> Option<Head> {
        both_ways(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|(head, _)| head)
    }

    #[test]
    fn a_head_is_read_as_it_is() {
        let fields = "A: 1\r\nb:\r\na:  2 \r\nx: \t\u{fc}ml\r\n";
        let text = format!("HTTP/1.1 429 Slow Down\r\n{fields}content-length: 2\r\n\r\nok");
        let (head, rest) = both_ways(&text).unwrap();
        assert_eq!(head.parts.status, 429);
        let fields = &head.parts.fields;
        assert!(fields.get_all("a").eq([b"1", b"2"]));
        assert_eq!(fields.get("b"), Some(&b""[..]));
        assert_eq!(fields.get("x"), Some("\u{fc}ml".as_bytes()));
        assert_eq!(head.body.left(), Some(2));
        assert!(head.keeps_alive);
        assert_eq!(rest, "ok");
    }

    #[test]
    fn what_comes_before_an_answer_is_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nlink: a\r\n\r\n\
                    HTTP/1.1 204 No\r\n\r\n";
        let (head, _) = both_ways(text).unwrap();
        assert_eq!(
            (head.parts.status.as_u16(), head.parts.fields.len()),
            (204, 0)
        );
        assert!(both_ways(&text[..30]).is_none());
        let (head, _) = both_ways("HTTP/1.1 101 X\r\n\r\n").unwrap();
        assert_eq!(
            head.parts.status, 101,
            "that is no answer, but nothing comes after it"
        );
    }

    #[test]
    fn where_a_body_ends_is_told_in_one_way() {
        let left = |fields: &str| with(fields).map(|head| head.body.left());
        assert_eq!(left("content-length: 12\r\n"), Some(Some(12)));
        assert_eq!(
            left("content-length: 2\r\ncontent-length: 2\r\n"),
            Some(Some(2))
        );
        assert_eq!(left("content-length: 2, 2\r\n"), Some(Some(2)));
        assert_eq!(left("transfer-encoding: Chunked\r\n"), Some(None));
        assert_eq!(left(""), Some(None));
        for fields in [
            "content-length: 2\r\ncontent-length: 3\r\n",
            "content-length: 2, 3\r\n",
            "content-length: 2,\r\n",
            "content-length: +2\r\n",
            "content-length: -2\r\n",
            "content-length: 2 2\r\n",
            "content-length: 0x2\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551616\r\n",
            "transfer-encoding: gzip\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding:\r\n",
            "transfer-encoding: \u{b}chunked\r\n",
        ] {
            assert!(with(fields).is_none(), "{fields:?}");
        }
        let both = with("content-length: 2\r\ntransfer-encoding: chunked\r\n").unwrap();
        assert_eq!(both.body.left(), None, "the coding counts");
        assert_eq!(both.parts.length, None, "and nobody is told the other");
        assert!(!both.keeps_alive, "and then nothing more");
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        let says = "content-length: 9\r\n\r\n";
        for (text, is_of_head) in [("200 OK", true), ("204 X", false), ("304 X", false)] {
            let text = format!("HTTP/1.1 {text}\r\n{says}");
            let (head, _) = read_at_once(text.as_bytes(), is_of_head).unwrap().unwrap();
            assert_eq!(head.body.left(), Some(0), "{text:?}");
            assert_eq!(head.parts.length, Some(9), "that is for the client to know");
        }
    }

    #[test]
    fn a_connection_goes_on_unless_somebody_says_otherwise() {
        let goes_on = |text: &str| both_ways(&format!("{text}\r\n\r\n")).unwrap().0.keeps_alive;
        assert!(goes_on("HTTP/1.1 200 OK"));
        assert!(goes_on("HTTP/1.1 200 OK\r\nconnection: x, keep-alive"));
        assert!(!goes_on(
            "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nconnection: Close"
        ));
        assert!(!goes_on("HTTP/1.1 200 OK\r\nconnection: x ,close"));
        assert!(!goes_on("HTTP/1.0 200 OK"));
        assert!(goes_on("HTTP/1.0 200 OK\r\nconnection: Keep-Alive"));
    }

    #[test]
    fn what_is_no_head_is_refused_as_soon_as_that_is_known() {
        let no_answer = |bytes: &[u8]| read_at_once(bytes, false).is_err();
        assert!(no_answer(b"poison"));
        assert!(no_answer(b"\0\0\x06\x04\0\0\0\0\0"));
        assert!(no_answer(b"HTTP/2 200"));
        assert!(no_answer(b"HTTP/1.1 099 X\r\n\r\n"));
        assert!(no_answer(
            b"HTTP/1.0 200 X\r\ntransfer-encoding: chunked\r\n\r\n"
        ));
        assert!(no_answer(b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"));
        assert!(no_answer(b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n"));
        assert!(no_answer(b"HTTP/1.1 200 OK\r\nx : a\r\n\r\n"));
        assert!(no_answer(b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n"));
        assert!(no_answer(b"HTTP/1.1 200 OK\r\nx: a\x7fb\r\n\r\n"));
        assert!(!no_answer(b"HTTP/1.1 200 OK\r\nx: "), "that may become one");
    }

    #[test]
    fn a_head_has_its_bounds() {
        let fields = |count| "x: y\r\n".repeat(count);
        assert!(with(&fields(LIMITS.fields_max)).is_some());
        assert!(with(&fields(LIMITS.fields_max + 1)).is_none());
        let long = |length: usize| format!("x: {}\r\n", "y".repeat(length));
        assert!(with(&long(900)).is_some());
        assert!(with(&long(1000)).is_none());
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(1000));
        assert!(read_slowly(endless.as_bytes(), false).is_err());
        // More than there is room for without an allocation.
        let limits = Limits {
            fields_max: 2 * FIELDS_USUAL,
            head_bytes_max: 10_000,
        };
        let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", fields(2 * FIELDS_USUAL));
        let head = read(&mut BytesMut::from(&*text), &mut 0, false, limits);
        assert_eq!(head.unwrap().unwrap().parts.fields.len(), 2 * FIELDS_USUAL);
    }
}
