//! Watches a stream of server-sent events: for its first content, and for an error inside
//! of it.
//!
//! A provider that fails after its 200 says so in band. The scanner sees every byte once,
//! changes none, and keeps nothing but the start of the line it is in, so that bytes can
//! pass as they arrive however they are cut. These are errors:
//!
//! | event | data | as sent by |
//! | --- | --- | --- |
//! | `error` | `{"type":"error","error":{"type":…}}` | Anthropic |
//! | none | the same, or `{"error":{"type":…,"code":…}}`; `error` or `type` first | OpenAI, chat |
//! | `error` | `{"type":"error","code":…}` | OpenAI, responses |
//! | `response.failed` | `{"response":{"error":{"code":…}}}` | OpenAI, responses |
//!
//! Content is whatever is neither an error nor an opening: `message_start`, `ping`, what
//! the responses API says before its first item, a chat chunk in which nothing but a role
//! is said, and comments.

use memchr::memchr2;
use qcc_proto::{upstream::class_of_error_type, v1::OutcomeClass};
use serde_json::{Map, Value};

/// Bytes of an ordinary line that are looked at: enough for a field and the name of an
/// event, or for how the data of an error begins.
const FIELD_MAX: usize = 32;
/// Bytes of data that are looked at: of an error, and of what may be the first content.
const DATA_MAX: usize = 16 << 10;

/// Names of events that come before content.
const OPENINGS: [&[u8]; 5] = [
    b"message_start",
    b"ping",
    b"response.created",
    b"response.queued",
    b"response.in_progress",
];

/// The state between two chunks.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// The current line so far, if its start came in an earlier chunk; cut off where its
    /// kind says.
    line: Vec<u8>,
    /// The last line ended with `\r`: a `\n` that follows belongs to it.
    after_cr: bool,
    /// Something of an event has come that its blank line has not yet closed.
    inside_event: bool,
    /// What the current event is.
    kind: Kind,
    /// Something has come that is worth a client's while.
    has_content: bool,
    /// The type of the first error; empty if it named none.
    error: Option<String>,
    /// The error came after content.
    error_is_late: bool,
}

/// What an event is, by its name.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It has none: its data tells.
    #[default]
    Unnamed,
    /// It comes before content.
    Opening,
    Error,
    Content,
}

impl Scanner {
    /// Sees the next bytes of the stream.
    pub(crate) fn scan(&mut self, mut chunk: &[u8]) {
        while let Some(&first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                chunk = &chunk[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', chunk) else {
                self.keep(chunk);
                return;
            };
            self.after_cr = chunk[end] == b'\r';
            if self.line.is_empty() {
                self.end_line(self.bounded(&chunk[..end]));
            } else {
                self.keep(&chunk[..end]);
                let mut line = std::mem::take(&mut self.line);
                self.end_line(&line);
                line.clear();
                self.line = line;
            }
            chunk = &chunk[end + 1..];
        }
    }

    /// The type of the first error in the stream; empty if it named none.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The same, if nothing came before it that is worth a client's while.
    pub(crate) fn first_error(&self) -> Option<&str> {
        self.error().filter(|_| !self.error_is_late)
    }

    /// Whether anything has come that is neither an opening nor an error.
    pub(crate) fn has_content(&self) -> bool {
        self.has_content
    }

    /// Whether the stream stands between two events, so that another may follow.
    pub(crate) fn at_boundary(&self) -> bool {
        !self.inside_event
    }

    /// Keeps a part of a line, as much of it as will be looked at.
    fn keep(&mut self, part: &[u8]) {
        self.inside_event |= !part.is_empty();
        let room = FIELD_MAX.saturating_sub(self.line.len());
        let (start, rest) = part.split_at(part.len().min(room));
        self.line.extend_from_slice(start);
        if !rest.is_empty() && self.wants_data(&self.line[..FIELD_MAX]) {
            let room = DATA_MAX - self.line.len();
            self.line.extend_from_slice(&rest[..rest.len().min(room)]);
        }
    }

    /// Of a whole line, as much as will be looked at.
    fn bounded<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        if line.len() <= FIELD_MAX {
            line
        } else if self.wants_data(&line[..FIELD_MAX]) {
            &line[..line.len().min(DATA_MAX)]
        } else {
            &line[..FIELD_MAX]
        }
    }

    /// Whether a line that begins like this has data that matters.
    fn wants_data(&self, start: &[u8]) -> bool {
        let Some(data) = value_of(start, b"data") else {
            return false;
        };
        match self.kind {
            Kind::Error => self.error.is_none(),
            Kind::Unnamed => !self.has_content || begins_an_error(data),
            Kind::Opening | Kind::Content => false,
        }
    }

    fn end_line(&mut self, line: &[u8]) {
        match line.first() {
            None => return self.end_event(),
            Some(b'e') => {
                if let Some(name) = value_of(line, b"event") {
                    self.kind = Kind::of(name);
                    self.has_content |= self.kind == Kind::Content;
                }
            }
            Some(b'd') => {
                if let Some(data) = value_of(line, b"data") {
                    self.take_data(data);
                }
            }
            Some(_) => {}
        }
        self.inside_event = true;
    }

    fn take_data(&mut self, data: &[u8]) {
        let is_error = match self.kind {
            Kind::Error => true,
            Kind::Unnamed => begins_an_error(&data[..data.len().min(FIELD_MAX - "data: ".len())]),
            Kind::Opening | Kind::Content => false,
        };
        if is_error {
            self.fail(|| error_type(data));
        } else if self.kind == Kind::Unnamed && !self.has_content {
            self.has_content = !is_opening(data);
        }
    }

    /// Sees the blank line that ends an event. An error that never got data is one too.
    fn end_event(&mut self) {
        if self.kind == Kind::Error {
            self.fail(String::new);
        }
        self.kind = Kind::Unnamed;
        self.inside_event = false;
    }

    fn fail(&mut self, error_type: impl FnOnce() -> String) {
        if self.error.is_none() {
            self.error = Some(error_type());
            self.error_is_late = self.has_content;
        }
    }
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        match name {
            b"" | b"message" => Self::Unnamed, // The standard's own name for none.
            b"error" | b"response.failed" => Self::Error,
            _ if OPENINGS.contains(&name) => Self::Opening,
            _ => Self::Content,
        }
    }
}

/// A line's value, if it is of this field: `field:value` with at most one blank between.
fn value_of<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(field)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Whether data begins as that of an error without a name does: `{"error": {` or
/// `{"error": "`, as `null` is none, or `{"type": "error"`.
fn begins_an_error(data: &[u8]) -> bool {
    let member = |key| {
        let members = data.strip_prefix(b"{")?; // Nobody puts blanks before it.
        let value = members.trim_ascii_start().strip_prefix(key)?;
        let value = value.trim_ascii_start().strip_prefix(b":")?;
        Some(value.trim_ascii_start())
    };
    let error = member(br#""error""#.as_slice());
    error.is_some_and(|value| matches!(value.first(), Some(b'{' | b'"')))
        || member(br#""type""#).is_some_and(|value| value.starts_with(br#""error""#))
}

/// What the data of an error says it is: `type` or `code`, whichever tells more; empty if
/// it says nothing.
fn error_type(data: &[u8]) -> String {
    let Ok(Value::Object(data)) = serde_json::from_slice(data) else {
        return String::new();
    };
    let response = data.get("response").and_then(Value::as_object);
    let holder = response.unwrap_or(&data);
    let word = |object: &Map<String, Value>, key| match object.get(key) {
        Some(Value::String(word)) => Some(word.clone()),
        Some(Value::Number(status)) => Some(status.to_string()),
        _ => None,
    };
    let Some(error) = holder.get("error").and_then(Value::as_object) else {
        return word(holder, "code").unwrap_or_default();
    };
    let (named, code) = (word(error, "type"), word(error, "code"));
    let is_telling = |word: &String| {
        let class = class_of_error_type(word);
        !matches!(class, OutcomeClass::ServerError | OutcomeClass::Request)
    };
    match (named, code) {
        (Some(named), Some(code)) if is_telling(&code) && !is_telling(&named) => code,
        (named, code) => named.or(code).unwrap_or_default(),
    }
}

/// Whether data without a name says no more than that an answer begins: it is empty, or
/// a chat chunk without a word.
fn is_opening(data: &[u8]) -> bool {
    if data.is_empty() {
        return true;
    }
    match serde_json::from_slice(data) {
        Ok(Value::Object(chunk)) => chunk.get("choices").is_some_and(is_blank),
        _ => false,
    }
}

/// Whether there is nothing in a value but who speaks.
fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_blank),
        Value::Object(members) => (members.iter())
            .all(|(key, value)| matches!(key.as_str(), "role" | "index") || is_blank(value)),
    }
}

#[cfg(test)]
mod tests;
