//! An answer, as it goes out: its head, and what that says of its body.

use std::{
    cell::RefCell,
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::super::writer::Writer;
use crate::proxy::{
    fields::{put_line, put_number},
    message::ResponseHead,
    names::is,
};

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
    head: &ResponseHead,
    length: Option<u64>,
    asked: Asked,
    goes_on: &mut bool,
) -> Framing {
    let told = head.length;
    let framing = match (length, told) {
        _ if asked.is_of_head || has_no_body(head.status) => Framing::Length(0),
        (Some(length), _) => Framing::Length(length),
        (None, Some(told)) => Framing::Length(told),
        (None, None) if asked.is_http10 => Framing::UntilClosed,
        (None, None) => Framing::Chunked,
    };
    *goes_on &= framing != Framing::UntilClosed && !head.closes;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let reason = head.status.canonical_reason().unwrap_or_default();
    out.extend_from_slice(reason.as_bytes());
    let mut has_date = false;
    head.fields.write(out, |name| {
        has_date |= is(name, "date");
        // These are about another connection.
        !is(name, "connection") && !is(name, "transfer-encoding")
    });
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
        put_number(out, "content-length", length);
    }
    if framing == Framing::Chunked {
        put_line(out, b"transfer-encoding", b"chunked");
    }
    match *goes_on {
        false => put_line(out, b"connection", b"close"),
        true if asked.is_http10 => put_line(out, b"connection", b"keep-alive"),
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
        put_line(out, b"date", text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let head = Box::<ResponseHead>::from(head);
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
