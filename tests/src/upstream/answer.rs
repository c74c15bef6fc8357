//! Answers of a scripted upstream, byte for byte.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::json;

use super::Gate;

/// One answer: what is written, what it waits for, and how it ends.
#[derive(Clone)]
pub struct Answer {
    pub(super) before: Vec<Gate>,
    /// Unset: the connection ends, or hangs, without a head.
    pub(super) status: Option<u16>,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<Piece>,
    pub(super) chunked: bool,
    pub(super) end: End,
    /// The connection is closed after a complete answer.
    pub(super) leaves: bool,
}

/// A piece of a body.
#[derive(Clone)]
pub enum Piece {
    /// Bytes. In a chunked body they are one chunk.
    Data(Bytes),
    /// Nothing, until the gate is open.
    Wait(Gate),
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum End {
    /// As announced; the connection stays open.
    Complete,
    /// The connection is closed where it stands.
    Close,
    /// The connection is reset where it stands.
    Reset,
    /// Nothing more comes.
    Hang,
}

impl From<u16> for Answer {
    fn from(status: u16) -> Self {
        Self::status(status)
    }
}

impl From<&str> for Piece {
    fn from(text: &str) -> Self {
        Self::Data(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl Answer {
    /// Answers with this status, and a body in the shape that Anthropic's API gives
    /// it.
    pub fn status(status: u16) -> Self {
        let error_type = match status {
            200..300 => return Self::text("hello").with_status(status),
            400 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            _ => "api_error",
        };
        let error = json!({"type": error_type, "message": format!("scripted {status}")});
        Self::json(status, &json!({"type": "error", "error": error}))
    }

    /// Answers 200 with a message that says `text`, in the shapes of Anthropic's and
    /// OpenAI's APIs at once.
    pub fn text(text: &str) -> Self {
        let message = json!({
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [{"type": "text", "text": text}],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": {"input_tokens": 9, "output_tokens": 3},
        });
        Self::json(200, &message)
    }

    /// Answers with these bytes.
    pub fn bytes(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            before: Vec::new(),
            status: Some(status),
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            body: vec![Piece::Data(body.into())],
            chunked: false,
            end: End::Complete,
            leaves: false,
        }
    }

    /// Closes the connection after the whole answer, without having said so.
    pub fn then_close(mut self) -> Self {
        self.leaves = true;
        self
    }

    /// Answers 200 with a stream of server-sent events, in pieces.
    pub fn stream(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let mut answer = Self::bytes(200, "text/event-stream", "").chunked();
        answer.body = pieces.into_iter().collect();
        answer
    }

    /// Takes the request and never answers.
    pub fn hang() -> Self {
        Self {
            status: None,
            end: End::Hang,
            ..Self::bytes(0, "", "")
        }
    }

    /// Takes the request and closes the connection.
    pub fn close() -> Self {
        Self {
            status: None,
            end: End::Close,
            ..Self::bytes(0, "", "")
        }
    }

    /// Takes the request and resets the connection.
    pub fn reset() -> Self {
        Self {
            status: None,
            end: End::Reset,
            ..Self::bytes(0, "", "")
        }
    }

    /// Adds a header, or replaces the one of this name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(present, _)| !present.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends the body in chunks, without a length.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Waits for the gate before the head is sent.
    pub fn behind(mut self, gate: &Gate) -> Self {
        self.before.push(gate.clone());
        self
    }

    /// Closes the connection after the last piece, without the end of the body.
    pub fn cut(mut self) -> Self {
        self.end = End::Close;
        self.chunked = true;
        self
    }

    /// Resets the connection after the last piece, without the end of the body.
    pub fn then_reset(mut self) -> Self {
        self.end = End::Reset;
        self.chunked = true;
        self
    }

    /// Falls silent after the last piece.
    pub fn then_hang(mut self) -> Self {
        self.end = End::Hang;
        self.chunked = true;
        self
    }

    pub(super) fn is_success(&self) -> bool {
        self.end == End::Complete && matches!(self.status, Some(200..300))
    }

    /// Returns the bytes of the head.
    pub(super) fn head(&self, status: u16) -> String {
        let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if self.chunked {
            head.push_str("transfer-encoding: chunked\r\n");
        } else {
            let _ = write!(head, "content-length: {}\r\n", self.length());
        }
        head.push_str("\r\n");
        head
    }

    fn length(&self) -> usize {
        let length = |piece: &Piece| match piece {
            Piece::Data(data) => data.len(),
            Piece::Wait(_) => 0,
        };
        self.body.iter().map(length).sum()
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::bytes(status, "application/json", body.to_string())
    }

    fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}
