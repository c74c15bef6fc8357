//! Connection pools, one for each endpoint: what happens to one endpoint's connections
//! is no other endpoint's trouble, even where both are at the same host.
//!
//! And what their failures are evidence of.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use qcc_proto::{tls::Trust, v1::OutcomeClass};
use rustls::ClientConfig;

use super::{
    Settings,
    connector::{Connector, Wire},
    http1::{self, Broke},
    http2,
    inbound::Inbound,
    message::Response,
    outgoing::Call,
    upload::{Progress, State, Upload},
};
use crate::routing::{Endpoint, UpstreamProtocol};

/// Time without a request after which a pool is dropped: by then it is empty.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of an error's description.
const DETAIL_BYTES_MAX: usize = 200;

/// All pools.
pub(super) struct Upstreams {
    pools: ArcSwap<HashMap<Arc<str>, Arc<Pool>>>,
    tls: Arc<ClientConfig>,
    http1: http1::Limits,
    http2: http2::Limits,
    start: Instant,
}

/// The connections to one endpoint.
pub(super) struct Pool {
    connections: Arc<http1::Pool>,
    /// Connections that requests share, where the policy wants them.
    http2: Option<Arc<http2::Pool>>,
    connect_timeout: Duration,
    protocol: UpstreamProtocol,
    /// Milliseconds from the start of all to the last use.
    last_used: AtomicU64,
}

/// Why there was no answer.
#[derive(Debug)]
pub(super) struct Failed {
    /// Who is to blame.
    pub(super) class: OutcomeClass,
    /// What happened, shortly. Names no credential.
    pub(super) detail: String,
    /// A connection that had been used before broke: no word about a new one.
    pub(super) was_reused: bool,
    /// The request was sent, and instead of an answer came the connection's end: what the
    /// request itself may have brought about.
    pub(super) is_kill: bool,
}

impl Upstreams {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            pools: ArcSwap::default(),
            tls: tls(&settings.upstream_trust),
            http1: http1::Limits {
                fields_max: settings.headers_max,
                head_bytes_max: settings.head_max_bytes,
            },
            http2: http2::Limits {
                ping_interval: settings.upstream_ping_interval,
                headers_max: settings.headers_max,
                head_max_bytes: settings.head_max_bytes,
            },
            start: Instant::now(),
        }
    }

    /// The pool of an endpoint. A new address, protocol or connect timeout means a new pool;
    /// requests in flight finish in the old one.
    pub(super) fn pool(
        &self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
        protocol: UpstreamProtocol,
        now: Instant,
    ) -> Arc<Pool> {
        let used = self.elapsed_ms(now);
        let fits = |pool: &&Arc<Pool>| {
            let leads_there = pool.connections.leads_to(&endpoint.base_url);
            leads_there && pool.connect_timeout == connect_timeout && pool.protocol == protocol
        };
        if let Some(pool) = self.pools.load().get(&endpoint.name).filter(fits) {
            pool.last_used.store(used, Ordering::Relaxed);
            return Arc::clone(pool);
        }
        let new = Arc::new(self.new_pool(endpoint, connect_timeout, protocol, used));
        self.pools.rcu(|pools| {
            let mut pools = HashMap::clone(pools);
            // Somebody may have been quicker; one pool is enough.
            if pools.get(&endpoint.name).filter(fits).is_none() {
                pools.insert(Arc::clone(&endpoint.name), Arc::clone(&new));
            }
            pools
        });
        let pools = self.pools.load();
        Arc::clone(pools.get(&endpoint.name).filter(fits).unwrap_or(&new))
    }

    /// Closes connections that nobody needs, and drops the pools of endpoints that are gone,
    /// or that nobody uses.
    pub(super) fn sweep(&self, at: Instant) {
        let now = self.elapsed_ms(at);
        let in_use = |pool: &Pool| {
            let unused = now.saturating_sub(pool.last_used.load(Ordering::Relaxed));
            unused < UNUSED_TIMEOUT.as_millis() as u64
        };
        let pools = self.pools.load();
        for pool in pools.values() {
            pool.connections.sweep(at);
        }
        if pools.values().all(|pool| in_use(pool)) {
            return;
        }
        self.pools.rcu(|pools| {
            let mut pools = HashMap::clone(pools);
            pools.retain(|_, pool| in_use(pool));
            pools
        });
    }

    /// The endpoint that was last sent a request, if that is not long ago.
    pub(super) fn last_used(&self) -> Option<Arc<str>> {
        let pools = self.pools.load();
        let last = (pools.iter()).max_by_key(|(_, pool)| pool.last_used.load(Ordering::Relaxed));
        last.map(|(name, _)| Arc::clone(name))
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }

    fn new_pool(
        &self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
        protocol: UpstreamProtocol,
        used: u64,
    ) -> Pool {
        let target = &endpoint.base_url;
        let connector = Connector::new(Arc::clone(&self.tls), connect_timeout);
        let connections = http1::Pool::new(target, connector, self.http1);
        Pool {
            connections: Arc::new(connections),
            http2: http2::Pool::new(target, protocol, &self.tls, connect_timeout, self.http2),
            connect_timeout,
            protocol,
            last_used: AtomicU64::new(used),
        }
    }
}

impl Pool {
    /// Sends a request and waits for the head of its answer. `alone`: on a connection that it
    /// shares with no other.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        upload: Upload,
        progress: &Progress,
        alone: bool,
    ) -> Result<Response<Inbound>, Failed> {
        if let Some(http2) = &self.http2 {
            // In a box: it is much longer than what HTTP/1.1 needs.
            return Box::pin(self.share(http2, call, upload, progress, alone)).await;
        }
        self.connections.send(call, upload, progress).await
    }

    async fn share(
        &self,
        http2: &Arc<http2::Pool>,
        call: &Call<'_>,
        upload: Upload,
        progress: &Progress,
        alone: bool,
    ) -> Result<Response<Inbound>, Failed> {
        match http2.send(call.request(upload), progress, alone).await? {
            http2::Sent::Answered(response) => Ok(response),
            http2::Sent::Declined(request) => {
                let upload = request.into_body();
                self.connections.send(call, upload, progress).await
            }
        }
    }
}

impl Failed {
    /// Nobody can be reached there.
    pub(super) fn to_connect(error: &(dyn std::error::Error + 'static)) -> Self {
        Self {
            class: OutcomeClass::Connect,
            detail: describe(error),
            was_reused: false,
            is_kill: false,
        }
    }

    /// Finds out what a connection's end is evidence of. Only what shows that nobody can
    /// be reached there is `connect`, which takes the endpoint out at once: one that broke
    /// before anything was sent, or in place of an answer.
    pub(super) fn of(broke: &Broke, wire: &Wire, was_used: bool, upload: State) -> Self {
        let was_written = wire.was_written();
        let (class, prefix) = if matches!(broke, Broke::Malformed(_)) {
            // Somebody is there, but does not speak HTTP as it should.
            (OutcomeClass::ServerError, "")
        } else if was_used {
            // Not just for being idle, but whether the request or the endpoint has ended it is
            // not known: evidence that counts, but does not eject by itself.
            (OutcomeClass::StreamBroken, "reused connection: ")
        } else if was_written && (wire.is_deaf() || !matches!(upload, State::Sent(_))) {
            // Perhaps it is the body that was too much: evidence that counts, as above. It
            // would be the same at every endpoint.
            (
                OutcomeClass::StreamBroken,
                "while the body was being sent: ",
            )
        } else {
            (OutcomeClass::Connect, "")
        };
        Self {
            class,
            is_kill: was_written && class != OutcomeClass::ServerError,
            detail: format!("{prefix}{broke}"),
            was_reused: class == OutcomeClass::StreamBroken && was_used,
        }
    }
}

/// The innermost cause of an error: what happened, without who passed it on.
pub(super) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let mut text = cause.to_string();
    text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
    text
}

/// TLS towards endpoints, for HTTP/1.1.
pub(super) fn tls(trust: &Trust) -> Arc<ClientConfig> {
    Arc::new(trust.client_config(&[b"http/1.1"]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Uri;

    use super::*;

    const HTTP1: UpstreamProtocol = UpstreamProtocol::Http1;

    fn endpoint(name: &str) -> Endpoint {
        Endpoint {
            name: Arc::from(name),
            base_url: Uri::from_static("http://127.0.0.1:1"),
            credential: None,
            first_byte_timeout: Duration::from_secs(1),
            generation: 1,
        }
    }

    #[tokio::test]
    async fn each_endpoint_has_one_pool_for_as_long_as_it_is_used() {
        let upstreams = Upstreams::new(&Settings::default());
        let connect = Duration::from_secs(5);
        let start = Instant::now();
        let a = upstreams.pool(&endpoint("a"), connect, HTTP1, start);
        let b = upstreams.pool(&endpoint("b"), connect, HTTP1, start);
        assert!(!Arc::ptr_eq(&a, &b));
        let later = start + UNUSED_TIMEOUT;
        assert!(Arc::ptr_eq(
            &a,
            &upstreams.pool(&endpoint("a"), connect, HTTP1, later)
        ));

        upstreams.sweep(later + Duration::from_secs(1));
        assert!(Arc::ptr_eq(
            &a,
            &upstreams.pool(&endpoint("a"), connect, HTTP1, later)
        ));
        assert!(!Arc::ptr_eq(
            &b,
            &upstreams.pool(&endpoint("b"), connect, HTTP1, later)
        ));

        let other = upstreams.pool(&endpoint("a"), connect * 2, HTTP1, later);
        assert!(!Arc::ptr_eq(&a, &other));
    }

    #[test]
    fn endpoints_are_not_offered_http_2() {
        assert_eq!(tls(&Trust::platform()).alpn_protocols, [b"http/1.1"]);
    }

    #[test]
    fn a_description_is_cut_between_characters() {
        let described = |text: String| describe(&std::io::Error::other(text)).len();
        assert_eq!(described("é".repeat(150)), DETAIL_BYTES_MAX);
        assert_eq!(
            described(format!("a{}", "é".repeat(150))),
            DETAIL_BYTES_MAX - 1
        );
    }
}
