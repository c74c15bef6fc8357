//! Answers of our own, in the shape that the caller's library expects.
//!
//! - [`kind`]: why we answer. [`shape`]: how the library that calls reads it.
//!
//! The one place that builds them. They name endpoints and reasons, never credentials,
//! and nothing that a client sent.

mod kind;
mod shape;

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::Value;

use self::kind::Facts;
pub(super) use self::{kind::Kind, shape::Shape};
use super::{
    message::{Response, ResponseHead},
    relay::Body,
    upload::Fault,
};
use crate::client_keys::Denied;

const X_QCC_ERROR: HeaderName = HeaderName::from_static("x-qcc-error");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An answer of our own.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    is_final: bool,
}

impl Refusal {
    /// Says what is wrong, in words for the caller.
    pub(super) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: kind.retry_after(),
            is_final: kind.is_about_the_key(), // The same key will be no other one.
        }
    }

    /// For a request that comes too late, or has no time left.
    pub(super) fn stopping() -> Self {
        Self::new(Kind::Draining, "the proxy is stopping")
    }

    /// Tells when another try has a chance.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Tells that no other try has one.
    pub(super) fn final_answer(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// Builds the response, in the caller's shape.
    pub(super) fn into_response(self, shape: Shape) -> Response<Body> {
        let Facts(status, name, _) = self.kind.facts();
        let status = match (self.kind, shape) {
            // Its own status for that.
            (Kind::Overloaded, Shape::Anthropic) => StatusCode::from_u16(529).unwrap_or(status),
            _ => status,
        };
        let request_id = format!("req_qcc_{:032x}", rand::random::<u128>());
        let body = shape.error(self.kind, &self.message, &request_id);
        let mut head = ResponseHead::of(status);
        let fields = &mut head.fields;
        fields.append(CONTENT_TYPE, shape.content_type());
        fields.append(CACHE_CONTROL, NO_STORE);
        fields.append(X_QCC_ERROR, HeaderValue::from_static(name));
        if let Ok(id) = HeaderValue::try_from(request_id) {
            fields.append(shape.request_id(), id);
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds, as clients read nothing finer; never "at once".
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            fields.append(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.is_final {
            fields.append(X_SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if self.kind.is_about_the_key() {
            fields.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.kind == Kind::Method {
            let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            fields.append(ALLOW, HeaderValue::from_static(allowed));
        }
        head.closes = self.kind.closes();
        Response {
            head,
            body: Body::own(body),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Missing => {
                let message = "this proxy asks for a client key of its own, in `x-api-key` or \
                               `authorization: Bearer`";
                Self::new(Kind::KeyRequired, message)
            }
            Denied::Wrong => {
                let message = "the key is none of this proxy's client keys";
                Self::new(Kind::KeyRejected, message)
            }
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            Fault::Broken => Kind::BodyBroken,
            Fault::TooLarge => Kind::BodyTooLarge,
            Fault::Stalled => Kind::BodyTimeout,
        };
        Self::new(kind, fault.to_string())
    }
}

/// An empty answer that says no more than its status.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut head = ResponseHead::of(status);
    head.fields.append(CACHE_CONTROL, NO_STORE);
    Response {
        head,
        body: Body::own(Bytes::new()),
    }
}

/// A page of ours.
pub(super) fn json(page: &Value) -> Response<Body> {
    let mut head = ResponseHead::of(StatusCode::OK);
    let kind = HeaderValue::from_static("application/json");
    head.fields.append(CONTENT_TYPE, kind);
    head.fields.append(CACHE_CONTROL, NO_STORE);
    Response {
        head,
        body: Body::own(page.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    async fn answer(refusal: Refusal, shape: Shape) -> (http::Response<()>, Value) {
        let Response { head, body } = refusal.into_response(shape);
        let body = body.collect().await.unwrap().to_bytes();
        let closes = head.closes;
        let mut head = http::Response::from(Response { head, body: () });
        if closes {
            let close = HeaderValue::from_static("close"); // As HTTP/1 has it.
            head.headers_mut().insert("connection", close);
        }
        (head, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_503_says_why_and_when_to_come_back() {
        let refusal = Refusal::new(Kind::NoEndpoint, "no endpoint: `a`: rejected")
            .retry_after(Duration::from_millis(1001));
        let (head, body) = answer(refusal, Shape::Anthropic).await;
        assert_eq!(head.status(), 503);
        assert_eq!(head.headers()["retry-after"], "2");
        assert_eq!(head.headers()["x-qcc-error"], "no_endpoint_available");
        assert_eq!(head.headers()["cache-control"], "no-store");
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "api_error");
        assert_eq!(body["error"]["message"], "no endpoint: `a`: rejected");
        assert_eq!(
            head.headers()["request-id"],
            body["request_id"].as_str().unwrap()
        );
    }

    #[tokio::test]
    async fn openai_and_problem_shapes() {
        let refusal = Refusal::new(Kind::CredentialsRejected, "m").final_answer();
        let (head, body) = answer(refusal, Shape::OpenAi).await;
        assert_eq!(head.status(), 502);
        assert_eq!(head.headers()["x-should-retry"], "false");
        assert!(head.headers().contains_key("x-request-id"));
        assert_eq!(body["error"]["code"], "credentials_rejected");

        let (head, body) = answer(Refusal::new(Kind::Malformed, "m"), Shape::Problem).await;
        assert_eq!(head.headers()["content-type"], "application/problem+json");
        assert_eq!(head.headers()["connection"], "close");
        assert_eq!(body["status"], 400);
    }

    /// Status, name, type, and the headers that not all have.
    struct Row(
        Kind,
        u16,
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
    );

    #[tokio::test]
    async fn every_answer_of_ours_is_what_the_callers_library_expects() {
        const CLOSE: &[(&str, &str)] = &[("connection", "close")];
        const LATER: &[(&str, &str)] = &[("retry-after", "1")];
        const CLOSE_LATER: &[(&str, &str)] = &[("connection", "close"), ("retry-after", "1")];
        const ALLOW: &[(&str, &str)] = &[
            ("connection", "close"),
            ("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ];
        const KEY: &[(&str, &str)] = &[("x-should-retry", "false"), ("www-authenticate", "Bearer")];
        const AUTH: &str = "authentication_error";
        const INVALID: &str = "invalid_request_error";
        const API: &str = "api_error"; // Or Claude Code would not show our words.
        let rows = [
            Row(Kind::Malformed, 400, "malformed_request", INVALID, CLOSE),
            Row(Kind::HeadTooLarge, 431, "head_too_large", INVALID, CLOSE),
            Row(Kind::TargetTooLong, 414, "target_too_long", INVALID, CLOSE),
            Row(Kind::BodyBroken, 400, "malformed_body", INVALID, CLOSE),
            Row(
                Kind::BodyTimeout,
                408,
                "body_timeout",
                "timeout_error",
                CLOSE,
            ),
            Row(
                Kind::BodyTooLarge,
                413,
                "body_too_large",
                "request_too_large",
                CLOSE,
            ),
            Row(Kind::Method, 405, "method_not_allowed", INVALID, ALLOW),
            Row(Kind::NotFound, 404, "not_found", "not_found_error", &[]),
            Row(Kind::KeyRequired, 401, "client_key_required", AUTH, KEY),
            Row(Kind::KeyRejected, 401, "client_key_rejected", AUTH, KEY),
            Row(Kind::Expectation, 417, "expectation_failed", INVALID, CLOSE),
            Row(Kind::NoView, 503, "no_view", API, LATER),
            Row(Kind::Draining, 503, "draining", API, CLOSE_LATER),
            Row(
                Kind::Overloaded,
                503,
                "overloaded",
                "overloaded_error",
                LATER,
            ),
            Row(Kind::NoEndpoint, 503, "no_endpoint_available", API, LATER),
            Row(Kind::Busy, 503, "endpoints_busy", API, LATER),
            Row(
                Kind::CredentialsRejected,
                502,
                "credentials_rejected",
                API,
                &[],
            ),
            Row(Kind::Unreachable, 502, "endpoints_unreachable", API, &[]),
            Row(
                Kind::Timeout,
                504,
                "endpoints_timed_out",
                "timeout_error",
                &[],
            ),
        ];
        for Row(kind, status, name, error_type, fields) in rows {
            for shape in [Shape::Anthropic, Shape::OpenAi, Shape::Problem] {
                let (head, body) = answer(Refusal::new(kind, "why"), shape).await;
                let header = |name: &str| head.headers().get(name).map(|it| it.to_str().unwrap());
                let status = match (kind, shape) {
                    (Kind::Overloaded, Shape::Anthropic) => 529, // Its own for that.
                    _ => status,
                };
                assert_eq!(head.status(), status, "{kind:?}");
                assert_eq!(header("x-qcc-error"), Some(name));
                assert_eq!(header("cache-control"), Some("no-store"));
                for optional in [
                    "connection",
                    "retry-after",
                    "allow",
                    "x-should-retry",
                    "www-authenticate",
                ] {
                    let expected = fields.iter().find(|(field, _)| *field == optional);
                    assert_eq!(
                        header(optional),
                        expected.map(|it| it.1),
                        "{kind:?}: {optional}"
                    );
                }
                let id = match shape {
                    Shape::Anthropic => {
                        let error = json!({ "type": error_type, "message": "why" });
                        let id = header("request-id").unwrap();
                        let expected = json!({ "type": "error", "error": error, "request_id": id });
                        assert_eq!(body, expected);
                        id
                    }
                    Shape::OpenAi => {
                        let error = json!({
                            "message": "why", "type": error_type, "param": null, "code": name,
                        });
                        assert_eq!(body, json!({ "error": error }));
                        header("x-request-id").unwrap()
                    }
                    Shape::Problem => {
                        assert_eq!(
                            (&body["status"], &body["detail"]),
                            (&json!(status), &json!("why"))
                        );
                        assert!(body["title"].is_string());
                        header("x-request-id").unwrap()
                    }
                };
                assert!(id.starts_with("req_qcc_"));
                let is_problem = header("content-type") == Some("application/problem+json");
                assert_eq!(is_problem, shape == Shape::Problem);
            }
        }
        let refusal = Refusal::new(Kind::CredentialsRejected, "why").final_answer();
        let (head, _) = answer(refusal, Shape::Anthropic).await;
        assert_eq!(head.headers()["x-should-retry"], "false");
    }

    #[test]
    fn a_retry_after_is_never_zero() {
        let refusal = Refusal::new(Kind::NoEndpoint, "m").retry_after(Duration::ZERO);
        let response = refusal.into_response(Shape::Problem);
        assert_eq!(response.head.fields.get("retry-after"), Some(&b"1"[..]));
    }
}
