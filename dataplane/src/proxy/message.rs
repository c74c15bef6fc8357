//! Heads of messages, whatever protocol they came by.

use http::{
    HeaderValue, Method, StatusCode, Uri, Version, header::CONTENT_LENGTH, request, response,
};

use super::{fields::Fields, http1::decimal};

/// A request's head. It goes from hand to hand in a box.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    /// The request target as sent.
    pub(crate) target: Uri,
    pub(crate) version: Version,
    pub(crate) fields: Fields,
}

/// An answer's head, likewise.
#[derive(Debug, Default)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    /// But for what frames its body.
    pub(crate) fields: Fields,
    /// The length that it tells, which need not be that of its body: after a HEAD it is what
    /// it would have been.
    pub(crate) length: Option<u64>,
    /// A client of HTTP/1 is told that its connection ends afterwards.
    pub(crate) closes: bool,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response<B> {
    pub(crate) head: Box<ResponseHead>,
    pub(crate) body: B,
}

impl From<request::Parts> for Box<RequestHead> {
    fn from(parts: request::Parts) -> Self {
        Self::new(RequestHead {
            method: parts.method,
            target: parts.uri,
            version: parts.version,
            fields: parts.headers.into(),
        })
    }
}

impl ResponseHead {
    /// A head without fields.
    pub(super) fn of(status: StatusCode) -> Box<Self> {
        let mut head = Box::<Self>::default();
        head.status = status;
        head
    }
}

impl From<response::Parts> for Box<ResponseHead> {
    fn from(mut parts: response::Parts) -> Self {
        let length = parts.headers.remove(CONTENT_LENGTH);
        let mut head = ResponseHead::of(parts.status);
        head.fields = parts.headers.into();
        head.length = length.and_then(|length| decimal(length.as_bytes()));
        head
    }
}

impl<B> From<Response<B>> for http::Response<B> {
    fn from(Response { head, body }: Response<B>) -> Self {
        let mut response = Self::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.fields.to_map(|_| true);
        if let Some(length) = head.length {
            let length = HeaderValue::from(length);
            response.headers_mut().insert(CONTENT_LENGTH, length);
        }
        response
    }
}
