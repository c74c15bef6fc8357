//! An answer that a client does not get (yet): kept in case no other endpoint does better.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::time::timeout;

use super::{fields::Fields, headers::is_identity, inbound::Inbound, message::ResponseHead};

/// Bytes of an error's body that are read to learn its type.
const PEEK_BYTES_MAX: usize = 64 << 10;

/// Longest wait for them. The status has already decided the verdict; the type is a
/// detail for people, and the next try should not wait for it long. But where a server sends
/// head and body apart, its kernel may hold the body back until ours acknowledges the head,
/// after up to 40 ms.
const PEEK_TIMEOUT: Duration = Duration::from_millis(50);

/// Bytes of a provider's `request-id` that are reported.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// An error that an endpoint answered with.
pub(super) struct Failure {
    pub(super) head: Box<ResponseHead>,
    /// The start of the body.
    pub(super) start: Bytes,
    pub(super) rest: Rest,
}

/// What follows the start of a body.
pub(super) enum Rest {
    /// Nothing: it was all of it.
    End,
    /// It is still to come.
    More(Inbound),
    /// It broke off.
    Broken,
}

impl Failure {
    /// Takes an answer and reads the start of its body.
    pub(super) async fn read(head: Box<ResponseHead>, mut body: Inbound) -> Self {
        let mut start = BytesMut::new();
        let mut ended = body.is_end();
        let mut broken = false;
        let reading = async {
            while !ended && start.len() < PEEK_BYTES_MAX {
                match body.data().await {
                    Some(Ok(data)) => start.extend_from_slice(&data),
                    Some(Err(_)) => {
                        broken = true; // For the client to see as well.
                        return;
                    }
                    None => ended = true,
                }
                ended |= body.is_end();
            }
        };
        let _ = timeout(PEEK_TIMEOUT, reading).await; // What has come by then is enough.
        Self {
            head,
            start: start.freeze(),
            rest: match (broken, ended) {
                (true, _) => Rest::Broken,
                (false, true) => Rest::End,
                (false, false) => Rest::More(body),
            },
        }
    }

    /// Takes an answer whose body has been begun.
    pub(super) fn begun(head: Box<ResponseHead>, start: Bytes, body: Inbound) -> Self {
        Self {
            head,
            start,
            rest: match body.is_end() {
                true => Rest::End,
                false => Rest::More(body),
            },
        }
    }

    /// The provider's machine-readable type of the error; empty if there is none.
    pub(super) fn error_type(&self) -> String {
        if is_identity(&self.head.fields) {
            error_type(&self.start)
        } else {
            String::new()
        }
    }
}

/// The `type` inside of an error in the shape of Anthropic or OpenAI; empty if `json`
/// is anything else.
pub(super) fn error_type(json: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        r#type: String,
    }
    serde_json::from_slice(json).map_or_else(|_| String::new(), |it: Envelope| it.error.r#type)
}

/// The provider's id of the request, for its support.
pub(super) fn request_id(fields: &Fields) -> Option<Bytes> {
    let mut names = ["request-id", "x-request-id"].into_iter();
    names.find_map(|name| fields.value(name))
}

/// A request id as it is reported; empty if there is none, or none that people can read.
pub(super) fn text_of(request_id: Option<&Bytes>) -> String {
    let is_text = |id: &&Bytes| id.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = request_id.filter(is_text);
    let start = text.map(|id| &id[..id.len().min(REQUEST_ID_BYTES_MAX)]);
    String::from_utf8_lossy(start.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_an_error_is_read_from_either_shape() {
        for (json, expected) in [
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"m"},"request_id":"r"}"#,
                "overloaded_error",
            ),
            (
                r#"{"error":{"message":"m","type":"server_error","param":null,"code":null}}"#,
                "server_error",
            ),
            (r#"{"error":"no"}"#, ""),
            (r#"{"error":{"type":5}}"#, ""),
            ("<html>", ""),
            ("", ""),
        ] {
            assert_eq!(error_type(json.as_bytes()), expected, "{json}");
        }
    }
}
