//! The words of the library that calls: how it reads an error, in an answer or in a stream.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::json;

use super::kind::{Facts, Kind};
use crate::proxy::fields::Fields;

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which library is calling, by what it calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Shape {
    /// `{"type": "error", "error": {"type", "message"}, "request_id"}`.
    Anthropic,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// RFC 9457.
    Problem,
}

impl Shape {
    /// Tells by path and headers.
    pub(in crate::proxy) fn of(path: &str, fields: &Fields) -> Self {
        const OPENAI: [&str; 10] = [
            "chat",
            "completions",
            "responses",
            "embeddings",
            "models",
            "moderations",
            "images",
            "audio",
            "files",
            "batches",
        ];
        let Some(resource) = path.strip_prefix("/v1/") else {
            return Self::Problem;
        };
        let resource = resource.split('/').next().unwrap_or_default();
        if resource == "messages" || fields.contains("anthropic-version") {
            Self::Anthropic
        } else if OPENAI.contains(&resource) {
            Self::OpenAi
        } else {
            Self::Problem
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Anthropic | Self::OpenAi => "application/json",
            Self::Problem => "application/problem+json",
        })
    }

    pub(super) fn request_id(self) -> HeaderName {
        match self {
            Self::Anthropic => REQUEST_ID,
            Self::OpenAi | Self::Problem => X_REQUEST_ID,
        }
    }

    pub(super) fn error(self, kind: Kind, message: &str, request_id: &str) -> Bytes {
        let Facts(status, name, error_type) = kind.facts();
        let body = match self {
            Self::Anthropic => json!({
                "type": "error",
                "error": { "type": error_type, "message": message },
                "request_id": request_id,
            }),
            Self::OpenAi => json!({ "error": {
                "message": message,
                "type": error_type,
                "param": null,
                "code": name,
            }}),
            Self::Problem => json!({
                "title": status.canonical_reason(),
                "status": status.as_u16(),
                "detail": message,
                "reason": name,
                "request_id": request_id,
            }),
        };
        body.to_string().into()
    }

    /// The last event of a stream that breaks off: not an end that could be taken for
    /// a proper one. `at_boundary`: the stream stands between two events. `None`: nobody
    /// knows what its readers would make of an event of ours; breaking off has to do.
    pub(in crate::proxy) fn stream_error(self, message: &str, at_boundary: bool) -> Option<Bytes> {
        // A half event cannot be taken back. Closing it lets the error be read; what its
        // reader makes of the half is an error as well.
        let mut event = String::from(if at_boundary { "" } else { "\n\n" });
        let written = match self {
            Self::Anthropic => {
                let error = json!({ "type": "api_error", "message": message });
                let data = json!({ "type": "error", "error": error });
                write!(event, "event: error\ndata: {data}\n\n")
            }
            Self::OpenAi => {
                let data = json!({ "error": {
                    "message": message,
                    "type": "api_error",
                    "param": null,
                    "code": "stream_broken",
                }});
                write!(event, "data: {data}\n\n")
            }
            Self::Problem => return None,
        };
        written.ok().map(|()| event.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::proxy::fields_of;

    fn shape(path: &str, fields: &[(&str, &str)]) -> Shape {
        Shape::of(path, &fields_of(fields))
    }

    #[test]
    fn the_shape_is_that_of_the_library_that_calls() {
        let version: &[_] = &[("anthropic-version", "2026-10-21")];
        assert_eq!(shape("/v1/messages", &[]), Shape::Anthropic);
        assert_eq!(shape("/v1/messages/count_tokens", &[]), Shape::Anthropic);
        assert_eq!(shape("/v1/models", version), Shape::Anthropic);
        assert_eq!(shape("/v1/models", &[]), Shape::OpenAi);
        assert_eq!(shape("/v1/chat/completions", &[]), Shape::OpenAi);
        assert_eq!(shape("/v1/responses", &[]), Shape::OpenAi);
        assert_eq!(shape("/v1/chatter", &[]), Shape::Problem);
        assert_eq!(shape("/else", version), Shape::Problem);
    }

    #[test]
    fn a_broken_stream_ends_in_an_error_event() {
        let event = Shape::Anthropic.stream_error("cut", false).unwrap();
        let event = std::str::from_utf8(&event).unwrap();
        let data = event.strip_prefix("\n\nevent: error\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], "error");
        assert_eq!(data["error"]["type"], "api_error");
        let event = Shape::OpenAi.stream_error("cut", true).unwrap();
        assert!(event.starts_with(b"data: {\"error\":"));
        assert_eq!(Shape::Problem.stream_error("cut", true), None);
    }
}
