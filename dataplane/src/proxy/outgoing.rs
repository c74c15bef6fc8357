//! A client's request, as it goes to whichever endpoint.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Uri, header::CONTENT_LENGTH, uri::PathAndQuery};
use http_body::Body as _;
use qcc_proto::{
    upstream::{self, Credential, is_client_credential},
    v1::OutcomeClass,
};

use super::{
    fields,
    inbound::Inbound,
    message::RequestHead,
    prompt::{self, Edit},
    replay::Collected,
    reply::Shape,
    upload::{Progress, Upload},
    upstream::Failed,
};
use crate::routing::{Endpoint, Policy};

/// All of a request but its body.
pub(super) struct Outgoing {
    /// Without fields that are not for an endpoint, but for the client's credentials.
    pub(super) head: Box<RequestHead>,
    /// The client told a length, or that there is a body.
    pub(super) has_length: bool,
    pub(super) shape: Shape,
}

/// Bytes of either end of a body that tell it from others. Conversations differ at their
/// ends; reading all of 32 MiB would hold others up.
const TELLING_BYTES: usize = 64 << 10;

/// The request body, for as many tries as it is good for.
pub(super) enum Payload {
    /// Any number.
    Whole {
        bytes: Bytes,
        /// What an endpoint gets instead of a part of them.
        edit: Option<Edit>,
    },
    /// One.
    Once {
        start: Bytes,
        rest: Inbound,
        /// Longest that it may become.
        bytes_max: Option<u64>,
    },
    /// None any more.
    Spent,
}

impl From<Collected> for Payload {
    fn from(collected: Collected) -> Self {
        match collected {
            Collected::Whole(bytes) => Self::Whole { bytes, edit: None },
            Collected::Start {
                bytes,
                rest,
                bytes_max,
            } => Self::Once {
                start: bytes,
                rest,
                bytes_max,
            },
        }
    }
}

impl Payload {
    /// What there is of it before a try.
    pub(super) fn start(&self) -> &[u8] {
        match self {
            Self::Whole { bytes, .. } | Self::Once { start: bytes, .. } => bytes,
            Self::Spent => &[],
        }
    }

    /// Gives the model that it names the name that the policy has for it. One that is not
    /// kept as a whole cannot be looked into: `false`.
    pub(super) fn rename_model(&mut self, policy: &Policy) -> bool {
        match self {
            Self::Whole { bytes, edit } => {
                *edit = prompt::rename(bytes, policy);
                true
            }
            Self::Once { .. } | Self::Spent => false,
        }
    }

    /// Whether it is no longer than this, as far as that is known.
    pub(super) fn is_within(&self, bytes_max: usize) -> bool {
        let left = match self {
            Self::Once { rest, .. } => rest.left().unwrap_or(0),
            Self::Whole { .. } | Self::Spent => 0,
        };
        let start = self.start().len() as u64;
        start.saturating_add(left) <= bytes_max as u64
    }

    /// Whether it cannot be sent again.
    pub(super) fn is_spent(&self) -> bool {
        matches!(self, Self::Spent)
    }

    fn hash(&self, state: &mut impl Hasher) {
        if let Self::Whole { bytes, .. } = self {
            let length = bytes.len().min(TELLING_BYTES);
            bytes.len().hash(state);
            bytes[..length].hash(state);
            bytes[bytes.len() - length..].hash(state);
        }
    }

    /// The body for one more try, and how it is getting on. `None`: it cannot be sent
    /// again.
    pub(super) fn upload(&mut self, now: Instant) -> Option<(Upload, Arc<Progress>)> {
        if let Self::Whole { bytes, edit } = self {
            return Some(Upload::whole(bytes.clone(), edit.as_ref(), now));
        }
        match std::mem::replace(self, Self::Spent) {
            Self::Once {
                start,
                rest,
                bytes_max,
            } => Some(Upload::streamed(start, rest, bytes_max, now)),
            Self::Whole { .. } | Self::Spent => None,
        }
    }
}

impl Outgoing {
    /// Tells requests apart: what an endpoint would see of this one, but for its headers,
    /// in which libraries count their retries.
    pub(super) fn fingerprint(&self, payload: &Payload) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.head.method.hash(&mut hasher);
        self.head.target.hash(&mut hasher);
        payload.hash(&mut hasher);
        hasher.finish()
    }

    /// The request to one endpoint.
    pub(super) fn to<'a>(&'a self, endpoint: &'a Endpoint) -> Result<Call<'a>, Failed> {
        let root = PathAndQuery::from_static("/");
        let path = self.head.target.path_and_query().unwrap_or(&root);
        let path = upstream::path_of(&endpoint.base_url, path).map_err(|error| Failed {
            class: OutcomeClass::Request,
            detail: error.to_string(),
            was_reused: false,
            is_kill: false,
        })?;
        Ok(Call {
            request: self,
            path,
            credential: endpoint.credential.as_ref(),
        })
    }
}

/// A request to one endpoint, with that endpoint's credential and no other.
pub(super) struct Call<'a> {
    pub(super) request: &'a Outgoing,
    pub(super) path: PathAndQuery,
    credential: Option<&'a Credential>,
}

/// What a request says of its body's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// Nothing: there is no body.
    Untold,
    Told(u64),
    /// There is a body, of some length.
    Unknown,
}

impl Call<'_> {
    /// Writes all fields but those that frame the request, as lines of HTTP/1.
    pub(super) fn write_fields(&self, out: &mut BytesMut) {
        (self.request.head.fields).write(out, |name| !is_client_credential(name));
        if let Some(Credential { name, value }) = self.credential {
            fields::put_line(out, name.as_ref(), value.as_bytes());
        }
    }

    pub(super) fn length(&self, upload: &Upload) -> Length {
        match upload.size_hint().exact() {
            Some(0) if !self.request.has_length => Length::Untold,
            Some(bytes) => Length::Told(bytes),
            None => Length::Unknown,
        }
    }

    /// The same as a message, for protocols that frame it themselves.
    pub(super) fn request(&self, upload: Upload) -> Request<Upload> {
        let mut headers = (self.request.head.fields).to_map(|name| !is_client_credential(name));
        if let Some(Credential { name, value }) = self.credential {
            headers.insert(name, value.clone());
        }
        if let Length::Told(bytes) = self.length(&upload) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        let mut request = Request::new(upload);
        *request.method_mut() = self.request.head.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.headers_mut() = headers;
        request
    }
}
