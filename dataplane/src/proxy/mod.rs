//! The HTTP data path.
//!
//! One client request is one [`exchange`]: its body is kept ([`replay`]), endpoints
//! are tried one after the other ([`upstream`]), and the first answer that is not an
//! endpoint's failure is relayed frame by frame ([`relay`]). The verdict on a try is
//! made from its response head, and the [`opening`] of a stream of events, *before*
//! anything is sent to the client; once the head has gone out nothing is retried, and what
//! breaks after it breaks visibly.
//!
//! - [`server`], [`curfew`]: the accept loop, graceful stop. [`live`]: what is set now.
//! - [`connection`], [`presence`], [`stall`]: one client connection, and what it is bounded by.
//! - [`service`]: one request from its head to its response head.
//! - [`rules`]: which requests are taken at all, and which we answer ourselves.
//! - [`stats`]: how the proxy fares, for those who ask here.
//! - [`message`], [`fields`], [`names`]: heads, whatever protocol they came by.
//! - [`headers`]: what does not cross a proxy.
//! - [`inbound`]: a body that comes in, with an end that is one.
//! - [`replay`], [`upload`]: the request body, kept for another try or passed through.
//! - [`prompt`]: what a request body asks for, and another name for its model.
//! - [`outgoing`]: the request, as it goes to whichever endpoint.
//! - [`exchange`], [`ending`]: the tries of one request, and what the client gets in the end.
//! - [`opening`]: the start of a stream of events, while its head is held.
//! - [`upstream`], [`connector`]: connection pools, and where they may connect.
//! - [`http2`]: connections that requests share.
//! - [`failure`]: an answer that a client does not get (yet).
//! - [`relay`], [`sse`]: the response body on its way, and errors inside of it.
//! - [`reply`]: answers of our own, in the shape that the caller's library expects.
//!
//! # What the client gets
//!
//! The tries of a request end in one of these ways. An answer is *relayable* if it
//! says nothing about our own credential: any status but 401, 402 and 403. An error that
//! a stream begins with counts as the status it stands for.
//!
//! | tries so far | then | answer |
//! | --- | --- | --- |
//! | a 2xx, a 3xx, or a 4xx that is the request's own fault | - | that answer, as it came |
//! | at least one relayable error | attempts or retry budget used up, no endpoint left, or it said `x-should-retry: false` | the last such error, as it came |
//! | only 401, 402, 403 | no endpoint is selectable until somebody changes one | 502 "endpoint credentials rejected", `x-should-retry: false` |
//! | none relayable, or none at all | no endpoint is selectable | 503 with every endpoint's reason and `retry-after` |
//! | none relayable, or none at all | all are busy for longer than `queue_timeout` | 503 with `retry-after` |
//! | only 401, 402, 403 | attempts or retry budget used up | 502 "endpoint credentials rejected"; `x-should-retry: false` if none is left that another request could try |
//! | only timeouts | attempts or retry budget used up | 504 |
//! | a mix, connection failures among it | attempts or retry budget used up | 502 with every try's reason |
//!
//! A 401 of ours is never relayed: the client would think that *its* key is bad.
//!
//! # One connection for each request
//!
//! Clients may speak HTTP/2; endpoints are spoken to in HTTP/1.1, with one connection
//! for each running request, unless their cluster asks for HTTP/2. On an HTTP/2 connection
//! requests share a fate that is not theirs, and blame has to be told apart by connection:
//! [`http2`] says how.
//!
//! # A request may be at fault
//!
//! One that kills its connection at two endpoints, or is refused by both with 402 or 403
//! and the same error type, is suspect: neither endpoint is blamed
//! (`routing::Suspicion`). What an endpoint did is held back until the request's next
//! verdict tells, while others keep away from it.
//!
//! # A request may run twice
//!
//! A buffered request is sent to another endpoint if the first one closed the
//! connection, or was silent for too long, before its response head. That endpoint may
//! have worked on it all the same, and billed it: HTTP cannot tell. Every gateway in
//! front of LLM APIs accepts that, as do the official clients, which repeat such
//! requests themselves.

mod bell;
mod clock;
mod connection;
mod connector;
mod curfew;
mod ending;
mod exchange;
mod failure;
mod fields;
mod headers;
mod http1;
mod http2;
mod inbound;
mod live;
mod message;
mod names;
mod opening;
mod outgoing;
mod presence;
mod prompt;
mod relay;
mod replay;
mod reply;
mod rules;
mod server;
mod service;
mod sse;
mod stall;
mod stats;
#[cfg(test)]
mod tests;
mod upload;
mod upstream;

pub(crate) use curfew::Curfew;
pub(crate) use fields::Fields;
#[cfg(test)]
pub(crate) use fields::read as fields_of;
pub(crate) use live::Live;
pub(crate) use server::serve;
#[cfg(feature = "fuzzing")]
pub(crate) use {
    http1::{read_answer, read_request},
    prompt::model,
    sse::Scanner,
};

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use qcc_proto::tls::{Door, Trust};

use crate::client_keys::ClientKeys;

/// Limits of the data path, and whom it believes.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How clients are let in: with TLS or without.
    pub(crate) door: Door,
    /// Who may send requests; `None`: everybody.
    pub(crate) client_keys: Option<ClientKeys>,
    /// Who vouches for endpoints.
    pub(crate) upstream_trust: Trust,
    /// Longest request body that is kept for another try. A longer one streams
    /// through: one try, no retry.
    pub(crate) replay_max_bytes: usize,
    /// Bytes kept for all requests together. Bodies that do not fit stream through.
    pub(crate) replay_total_bytes: usize,
    /// Longest request body that is taken at all; longer ones are refused with 413.
    pub(crate) body_max_bytes: Option<u64>,
    /// Longest silence of a client in the middle of its request body.
    pub(crate) body_idle_timeout: Duration,
    /// Time for a client to send a request head. On a new connection it begins at once.
    pub(crate) header_read_timeout: Duration,
    /// Longest time for which a connection is kept without a request.
    pub(crate) client_idle_timeout: Duration,
    /// Longest time for which a client may read nothing of an answer.
    pub(crate) client_stall_timeout: Duration,
    /// Time after which a shared connection to an endpoint has to show that it lives, and
    /// for its answer.
    pub(crate) upstream_ping_interval: Duration,
    /// Number of header fields of a request or response.
    pub(crate) headers_max: usize,
    /// Size of a request or response head.
    pub(crate) head_max_bytes: usize,
    /// Client connections at a time; further ones are closed at once.
    pub(crate) connections_max: usize,
    /// The same for each address, or network of them. Unset:
    /// [`CONNECTIONS_PER_ADDRESS_MAX`], and no such limit for this machine.
    pub(crate) connections_per_address_max: Option<usize>,
    /// Connections without a request that are kept; above, HTTP/1 answers close theirs.
    pub(crate) idle_connections_max: usize,
    /// Requests at a time; further ones are refused.
    pub(crate) requests_max: u64,
    /// Requests at a time that wait for an endpoint; further ones are refused.
    pub(crate) waiting_max: usize,
    /// Time for running requests to finish after a graceful stop began.
    pub(crate) drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            door: Door::plain("clients"),
            client_keys: None,
            upstream_trust: Trust::platform(),
            replay_max_bytes: 32 << 20, // The Messages API takes no more.
            replay_total_bytes: 512 << 20,
            body_max_bytes: None,
            body_idle_timeout: Duration::from_secs(60),
            header_read_timeout: Duration::from_secs(10),
            client_idle_timeout: Duration::from_secs(75), // Longer than clients keep them.
            client_stall_timeout: Duration::from_secs(60),
            // Noticed before the default wait for a response head is over.
            upstream_ping_interval: Duration::from_secs(10),
            headers_max: 128,
            head_max_bytes: 64 << 10,
            connections_max: 16_384,
            connections_per_address_max: None,
            idle_connections_max: 12_288, // A quarter is for those who have something to say.
            requests_max: 8192,
            waiting_max: 1024,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Connections of one address, where nothing else is said. An attack from a few machines
/// leaves most places to others; a thousand clients behind one gateway are served.
pub(crate) const CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;

/// What clients are bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Connections,
    ConnectionsPerAddress,
    IdleConnections,
    HeaderReadTime,
    BodyIdleTime,
    IdleTime,
    ClientStallTime,
    HeadBytes,
    Requests,
    Waiting,
    /// Of one body, to be kept for another try.
    KeptBodyBytes,
    /// Of all bodies that are kept.
    BufferedBytes,
    /// Of one body, to be taken at all.
    BodyBytes,
}

impl Limit {
    /// All of them, each in its own place.
    pub(crate) const ALL: [Self; 13] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::IdleConnections,
        Self::HeaderReadTime,
        Self::BodyIdleTime,
        Self::IdleTime,
        Self::ClientStallTime,
        Self::HeadBytes,
        Self::Requests,
        Self::Waiting,
        Self::KeptBodyBytes,
        Self::BufferedBytes,
        Self::BodyBytes,
    ];

    /// What it is called in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::IdleConnections => "idle_connections",
            Self::HeaderReadTime => "header_read_time",
            Self::BodyIdleTime => "body_idle_time",
            Self::IdleTime => "idle_time",
            Self::ClientStallTime => "client_stall_time",
            Self::HeadBytes => "head_bytes",
            Self::Requests => "requests",
            Self::Waiting => "waiting",
            Self::KeptBodyBytes => "kept_body_bytes",
            Self::BufferedBytes => "buffered_bytes",
            Self::BodyBytes => "body_bytes",
        }
    }
}

/// Counts since the process started, but for those that say that they are of now.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Client requests that were taken, not counting those that ask only for us.
    pub(crate) requests: AtomicU64,
    /// Requests that were answered with an endpoint's answer.
    pub(crate) relayed: AtomicU64,
    /// Requests that came without one of the client keys.
    pub(crate) unauthenticated: AtomicU64,
    /// Requests that were answered with an error of our own.
    pub(crate) own_errors: AtomicU64,
    /// Requests whose client went away before the end of the answer.
    pub(crate) cancelled: AtomicU64,
    /// Tries at endpoints.
    pub(crate) attempts: AtomicU64,
    /// Tries beyond the first of a request.
    pub(crate) retries: AtomicU64,
    /// Requests that were not tried again because the retry budget was used up.
    pub(crate) over_budget: AtomicU64,
    /// Requests that failed alike at two endpoints.
    pub(crate) suspects: AtomicU64,
    /// Requests being served now.
    pub(crate) active: AtomicU64,
    /// Bytes of request bodies that are kept now.
    pub(crate) buffered_bytes: AtomicUsize,
    /// Client connections now.
    pub(crate) connections: AtomicUsize,
    /// Those of them with a request.
    pub(crate) connections_busy: AtomicUsize,
    /// How often each limit was met.
    limits: [AtomicU64; Limit::ALL.len()],
}

impl Counters {
    /// Counts that a limit was met.
    pub(crate) fn hit(&self, limit: Limit) {
        count(&self.limits[limit as usize]);
    }

    /// How often it was met.
    pub(crate) fn hits(&self, limit: Limit) -> u64 {
        self.limits[limit as usize].load(Ordering::Relaxed)
    }
}

/// Counts one more.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
