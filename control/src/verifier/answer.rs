//! What an answer says, taken with care: it comes from outside.

use std::fmt;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// Longest answer that is read. A code or an error takes a few hundred bytes.
const BODY_BYTES_MAX: usize = 1 << 20;

const ERROR_TYPE_BYTES_MAX: usize = 64;
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Why there is no body.
#[derive(Debug)]
pub(super) enum Error {
    Broken(reqwest::Error),
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => f.write_str(&super::transport::describe(error)),
            Self::TooLong => f.write_str("the answer is longer than 1 MiB"),
        }
    }
}

/// Reads an answer's JSON; null if it is something else.
pub(super) async fn read(mut response: reqwest::Response) -> Result<Value, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Error::Broken)? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(Error::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// Returns the type of an error body; OpenAI's `code` says more where `type` is null.
pub(super) fn error_type(body: &Value) -> Option<String> {
    let error = body.get("error")?;
    let error_type = error["type"].as_str().or_else(|| error["code"].as_str())?;
    Some(error_type.to_owned())
}

/// Lets pass only what looks like the identifier that it should be, and nothing that
/// holds the key: some servers repeat what they were sent.
pub(super) struct Cleaner<'a> {
    api_key: Option<&'a str>,
}

impl<'a> Cleaner<'a> {
    pub(super) fn new(api_key: Option<&'a SecretString>) -> Self {
        Self {
            api_key: api_key.map(ExposeSecret::expose_secret),
        }
    }

    pub(super) fn error_type(&self, text: &str) -> String {
        self.identifier(text, ERROR_TYPE_BYTES_MAX)
    }

    pub(super) fn request_id(&self, headers: &HeaderMap) -> String {
        let id = headers.get("request-id").or(headers.get("x-request-id"));
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
        self.identifier(id, REQUEST_ID_BYTES_MAX)
    }

    fn identifier(&self, text: &str, bytes_max: usize) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        let leaks = self.api_key.is_some_and(|key| text.contains(key));
        if leaks || text.len() > bytes_max || !text.bytes().all(plain) {
            return String::new();
        }
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_type_is_found_in_either_shape() {
        for (body, expected) in [
            (
                json!({ "type": "error", "error": { "type": "api_error" } }),
                Some("api_error"),
            ),
            (
                json!({ "error": { "type": null, "code": "invalid_api_key" } }),
                Some("invalid_api_key"),
            ),
            (json!({ "error": "text" }), None),
            (json!({ "error": null }), None),
            (json!([1]), None),
            (Value::Null, None),
        ] {
            assert_eq!(error_type(&body).as_deref(), expected);
        }
    }

    #[test]
    fn only_identifiers_without_the_key_pass() {
        let key = SecretString::from("sk-1");
        let cleaner = Cleaner::new(Some(&key));
        let long = "a".repeat(65);
        for (text, expected) in [
            ("overloaded_error", "overloaded_error"),
            ("bad key sk-1", ""),
            ("bad-key-sk-1", ""),
            ("two words", ""),
            ("\u{1b}[31m", ""),
            (long.as_str(), ""),
        ] {
            assert_eq!(cleaner.error_type(text), expected);
        }
    }
}
