//! HTTP/1.1, towards endpoints and towards clients.
//!
//! - [`connection`]: one connection to an endpoint: a request goes out, an answer comes in.
//! - [`sending`]: a request on its way out.
//! - [`head`]: heads, written and read.
//! - [`answer`]: an answer's body, as it is read.
//! - [`downstream`]: one connection of a client: requests come in, answers go out.
//! - [`decoder`]: where a body ends. [`writer`]: what has not been written yet. [`spare`]:
//!   buffers that are used again.
//!
//! A connection to an endpoint is driven by the request that uses it, and not by a task of its own: what an
//! endpoint sends wakes up whoever passes it on, and nobody in between. What is passed on is
//! passed on from the bytes that were read, and a request's fields go out from where they
//! were read.
//!
//! It is known of each connection what its peer has been sent and has said, as blame depends
//! on that: an end before anything of a request was written is nobody's failure, and the
//! request goes to another connection.
//!
//! An answer that can be read in two ways is read in none ([`Malformed`]).

mod answer;
mod connection;
mod decoder;
mod downstream;
mod head;
#[cfg(any(test, feature = "fuzzing"))]
mod reading;
mod sending;
mod spare;
mod writer;

use std::{
    fmt,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{
    HeaderValue, Method, Uri,
    uri::{Authority, Scheme},
};
use tower_service::Service as _;

pub(super) use self::{
    answer::Answer,
    downstream::{RequestBody, serve},
    head::decimal,
};
use self::{connection::Connection, head::Head, sending::Sending};
#[cfg(feature = "fuzzing")]
pub(crate) use self::{downstream::read as read_request, reading::read as read_answer};
use super::{
    connector::Connector,
    inbound::Inbound,
    message::Response,
    outgoing::Call,
    upload::{Progress, State, Upload},
    upstream::{Failed, describe},
};

/// Idle time after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Idle connections that are kept.
const IDLE_MAX: usize = 1024;

/// How soon after a request was sent its connection's end may have been on the way before it:
/// there and back, over the slowest of networks. What ends later had heard it.
const CROSSING_MAX: Duration = Duration::from_secs(1);

/// The connections to one endpoint.
pub(super) struct Pool {
    /// Where it is: scheme and authority count.
    base_url: Uri,
    host: HeaderValue,
    connector: Connector,
    limits: Limits,
    sent_on_for: Duration,
    /// The one that was used last is at the end, and is used next.
    idle: Mutex<Vec<Idle>>,
}

/// What bounds an answer's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) fields_max: usize,
    pub(super) head_bytes_max: usize,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Broke {
    /// What came is none.
    Malformed(Malformed),
    /// The peer has closed the connection.
    Closed,
    Io(io::Error),
    /// The request's body broke off.
    Upload,
}

/// What is wrong with an answer. Somebody is there, but does not speak HTTP as it should.
#[derive(Debug)]
pub(crate) struct Malformed(String);

impl From<&str> for Malformed {
    fn from(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl From<String> for Malformed {
    fn from(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed response: {}", self.0)
    }
}

impl fmt::Display for Broke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Closed => f.write_str("the connection was closed before the end of its answer"),
            Self::Io(error) => f.write_str(&describe(error)),
            Self::Upload => f.write_str("the request body broke off"),
        }
    }
}

impl Pool {
    pub(super) fn new(base_url: &Uri, connector: Connector, limits: Limits) -> Self {
        Self {
            base_url: base_url.clone(),
            host: host(base_url),
            connector,
            limits,
            sent_on_for: answer::SENT_ON_FOR,
            idle: Mutex::default(),
        }
    }

    /// Whether it leads there. What is written in another case counts as elsewhere: that is
    /// asked for each request, and one more pool does no harm.
    pub(super) fn leads_to(&self, base_url: &Uri) -> bool {
        let [ours, theirs] = [&self.base_url, base_url]
            .map(|url| (url.scheme(), url.authority().map(Authority::as_str)));
        ours == theirs
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        self: &Arc<Self>,
        call: &Call<'_>,
        upload: Upload,
        progress: &Progress,
    ) -> Result<Response<Inbound>, Failed> {
        let mut sending = Sending::new(call, &self.host, upload);
        let is_of_head = call.request.head.method == Method::HEAD;
        loop {
            let (mut connection, idle_since) = match self.take() {
                Some(Idle { connection, since }) => (connection, Some(since)),
                None => (Box::pin(self.connect()).await?, None),
            };
            let exchange =
                poll_fn(|cx| connection.poll_exchange(&mut sending, is_of_head, self.limits, cx));
            let broke = match exchange.await {
                Ok(head) => return Ok(self.answer(head, connection, sending)),
                Err(broke) => broke,
            };
            if let Some(since) = idle_since {
                self.forget(since);
            }
            match idle_since {
                // It had been closed while it was idle: nothing was sent.
                Some(_) if !connection.wire.was_written() && !matches!(broke, Broke::Upload) => {}
                // As good as always it was closed for that as the request was on its way. Where
                // it was not, the next one is a new connection, and tells.
                Some(_)
                    if matches!(broke, Broke::Closed | Broke::Io(_))
                        && !connection.has_begun()
                        && has_just_been_sent(progress.state()) =>
                {
                    return Err(Failed {
                        is_kill: true, // It may be the request all the same.
                        ..Failed::of_nobody(format!("reused connection: {broke}"))
                    });
                }
                Some(_) | None => {
                    let wire = &connection.wire;
                    let has_answered = connection.has_answered;
                    return Err(Failed::of(&broke, wire, has_answered, progress.state()));
                }
            }
        }
    }

    /// Closes connections that have been idle for too long, or that have ended.
    pub(super) fn sweep(&self, now: Instant) {
        let is_over = |idle: &mut Idle| {
            now.saturating_duration_since(idle.since) >= IDLE_TIMEOUT || !idle.connection.is_open()
        };
        let mut idle = self.idle();
        let over: Vec<_> = idle.extract_if(.., is_over).collect();
        drop(idle);
        drop(over); // Not under the lock: over TLS, each has a last word to write.
    }

    async fn connect(&self) -> Result<Box<Connection>, Failed> {
        let mut connector = self.connector.clone();
        let connecting = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(self.base_url.clone()).await
        };
        let wire = (connecting.await).map_err(|error| Failed::to_connect(&*error))?;
        Ok(Box::new(Connection::new(wire)))
    }

    fn answer(
        self: &Arc<Self>,
        head: Head,
        connection: Box<Connection>,
        sending: Sending,
    ) -> Response<Inbound> {
        let answer = if sending.is_sent() {
            let goes_on = head.keeps_alive && head.body.is_framed();
            let pool = goes_on.then(|| Arc::clone(self));
            Answer::direct(connection, head.body, pool)
        } else {
            Answer::apart(connection, head.body, sending, self.sent_on_for)
        };
        Response {
            head: head.parts,
            body: Inbound::of_endpoint(answer),
        }
    }

    fn take(&self) -> Option<Idle> {
        self.idle().pop()
    }

    /// Drops what has been idle for as long as a connection that had ended, or for longer: it
    /// will have ended like that one, and each would be found out by a request.
    fn forget(&self, since: Instant) {
        let mut idle = self.idle();
        let ended = idle.partition_point(|idle| idle.since <= since);
        let ended: Vec<_> = idle.drain(..ended).collect();
        drop(idle);
        drop(ended); // Not under the lock: there may be many.
    }

    fn put(&self, mut connection: Box<Connection>) {
        if !connection.rest() {
            return;
        }
        let since = Instant::now();
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { connection, since });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the end of a request's connection may be older than the request.
fn has_just_been_sent(upload: State) -> bool {
    match upload {
        State::Sending(since) | State::Sent(since) => since.elapsed() < CROSSING_MAX,
        State::Queued | State::Waiting(_) | State::Failed(_) => false,
    }
}

/// RFC 9110, section 7.2: without a port that goes without saying.
fn host(base_url: &Uri) -> HeaderValue {
    let host = base_url.host().unwrap_or_default();
    let default = match base_url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        Some(_) | None => 80,
    };
    let value = match base_url.port_u16() {
        Some(port) if port != default => HeaderValue::try_from(format!("{host}:{port}")),
        Some(_) | None => HeaderValue::from_str(host),
    };
    // An authority has only characters that a value may have.
    value.unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests;
