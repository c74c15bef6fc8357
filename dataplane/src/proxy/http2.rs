//! HTTP/2 towards an endpoint: requests that share connections, without sharing blame.
//!
//! - [`link`]: one connection, from its opening to its end, and who tells of it.
//! - [`stream`]: one request on a connection.
//!
//! What a shared connection must not do:
//!
//! - *One end that looks like many failures.* The first request that meets the end of a
//!   connection tells of it ([`Link::blame`]); to the others it is the same incident, and no
//!   evidence. All of them go on to another endpoint. A request whose connection has broken
//!   once gets an idle one for itself from then on: if it is the request that breaks
//!   connections, it breaks nobody else's twice, and its verdict is its own.
//! - *A wait for a stream that looks like a slow endpoint.* A connection that is full is no
//!   reason to wait: there is another. Time for the first byte begins with the request
//!   on the wire. A connection is used once it has answered a PING: by then it is known
//!   how many streams it takes, and that HTTP/2 is spoken at all.
//! - *One client that holds up the others.* A stream holds [`STREAM_WINDOW`] at most, and a
//!   connection has room for as many as there are streams.
//!
//! What the endpoint says it has not looked at (a GOAWAY below the stream, or REFUSED_STREAM)
//! is sent once more to the same endpoint, and is nobody's failure.

mod link;
mod stream;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, Uri, request, uri::PathAndQuery};
use qcc_proto::v1::OutcomeClass;
use rustls::ClientConfig;
use tokio::{sync::Notify, time::timeout_at};

pub(super) use self::stream::Stream;
use self::{
    link::{Broke, Link, Place, State, driver},
    stream::exchange,
};
use super::{
    connector::Connector,
    inbound::Inbound,
    message::Response,
    upload::{Progress, Upload},
    upstream::Failed,
};
use crate::routing::UpstreamProtocol;

/// Requests at a time on one connection, fewer if the endpoint allows fewer. What its
/// breaking can do is bounded by that, and what it holds of answers that nobody reads.
const STREAMS_MAX: usize = 64;

/// Bytes of one answer that wait to be read by its client.
const STREAM_WINDOW: u32 = 128 << 10;

/// The same of all answers on a connection: none of them uses up another's share.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;

/// What h2 may spend on keeping small pieces apart that wait to be read: for a connection
/// full of streams of events of some hundred bytes that nobody reads.
const SMALL_FRAMES_BUDGET: usize = 2 * CONNECTION_WINDOW as usize;

/// Bytes of one request that were taken from us and have not been sent.
const SEND_BUFFER: usize = 128 << 10;

/// Streams that we have given up, of which an endpoint that has not heard of it may still
/// send something: so many and so long. h2's own 50 are few for clients that all go at once.
const ABANDONED_MAX: usize = 1024;
const ABANDONED_FOR: Duration = Duration::from_secs(10);

/// Connections to one endpoint. With one stream each, as some servers have it, that is
/// how many requests run; with more than that, others wait as they do to connect.
const CONNECTIONS_MAX: usize = 256;

/// Time for which an endpoint that chose HTTP/1.1 is not asked again.
const HTTP1_REMEMBERED: Duration = Duration::from_secs(600);

/// Connections that a request is put on before it is given up: one that ends as it is
/// about to be used is nobody's failure, but not for ever.
const ROUNDS_MAX: usize = 4;

/// The connections to one endpoint.
pub(super) struct Pool {
    dial: Dial,
    inner: Mutex<Inner>,
    /// Somebody has left a connection, or one has ended: for those who share.
    freed: Notify,
    /// Nobody is on a connection any more, or one has ended: for those who want one alone.
    /// What frees a place for those who share would be wasted on them, and they woken for
    /// nothing each time.
    emptied: Notify,
}

/// How connections are made.
#[derive(Clone)]
struct Dial {
    connector: Connector,
    target: Uri,
    /// Whether HTTP/1.1 is an answer.
    may_decline: bool,
    connect_timeout: Duration,
    limits: Limits,
}

struct Inner {
    links: Vec<Arc<Link>>,
    /// Streams that a connection took when one was last opened.
    expected: usize,
    /// The endpoint has chosen HTTP/1.1.
    http1_until: Option<Instant>,
}

/// What bounds connections, beside what this module says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) ping_interval: Duration,
    pub(super) headers_max: usize,
    pub(super) head_max_bytes: usize,
}

/// What became of a request.
pub(super) enum Sent {
    Answered(Response<Inbound>),
    /// The endpoint wants it in HTTP/1.1, and has seen nothing of it.
    Declined(Box<Request<Upload>>),
}

impl Pool {
    /// A pool for an endpoint, if HTTP/2 may be spoken there.
    pub(super) fn new(
        target: &Uri,
        protocol: UpstreamProtocol,
        tls: &Arc<ClientConfig>,
        connect_timeout: Duration,
        limits: Limits,
    ) -> Option<Arc<Self>> {
        let is_tls = target.scheme_str() == Some("https");
        let may_decline = match protocol {
            UpstreamProtocol::Http1 => return None,
            UpstreamProtocol::Auto if !is_tls => return None, // There is nothing to choose by.
            UpstreamProtocol::Auto => true,
            UpstreamProtocol::Http2 => false,
        };
        let mut tls = ClientConfig::clone(tls);
        tls.alpn_protocols = vec![b"h2".to_vec()];
        if may_decline {
            tls.alpn_protocols.push(b"http/1.1".to_vec());
        }
        Some(Arc::new(Self {
            dial: Dial {
                connector: Connector::new(Arc::new(tls), connect_timeout),
                target: target.clone(),
                may_decline,
                connect_timeout,
                limits,
            },
            inner: Mutex::new(Inner {
                links: Vec::new(),
                expected: STREAMS_MAX,
                http1_until: None,
            }),
            freed: Notify::new(),
            emptied: Notify::new(),
        }))
    }

    /// Sends a request and waits for the head of its answer. `alone`: on a connection that
    /// no other request is on meanwhile.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<Upload>,
        progress: &Progress,
        alone: bool,
    ) -> Result<Sent, Failed> {
        if self.is_declined(Instant::now()) {
            return Ok(Sent::Declined(Box::new(request)));
        }
        let (given, mut body) = request.into_parts();
        let head = self.head(given.clone());
        let mut repeated = false;
        let mut refused_by = None;
        for _ in 0..ROUNDS_MAX {
            progress.queue();
            let Some(place) = self.place(alone, refused_by.as_ref()).await? else {
                progress.begin(body.is_nothing());
                return Ok(Sent::Declined(Box::new(Request::from_parts(given, body))));
            };
            let link = Arc::clone(place.link());
            let opening = place.open(&head, &body, self.dial.connect_timeout);
            let Some(opened) = opening.await? else {
                continue; // It has closed meanwhile, and nothing was sent.
            };
            let spare = body.again();
            let reason = match exchange(opened, body, progress, self.dial.limits.headers_max).await
            {
                Ok(response) => return Ok(Sent::Answered(response)),
                Err(Broke::Failed(failed)) => return Err(failed),
                Err(Broke::Untaken(reason)) => reason,
                Err(Broke::Declined) if self.dial.may_decline && spare.is_some() => {
                    self.decline(Instant::now());
                    "HTTP/1.1 is required".to_owned()
                }
                Err(Broke::Declined) => return Err(Failed::malformed("HTTP/1.1 is required")),
            };
            match spare {
                Some(spare) if !repeated => body = spare,
                // It may be that this is all that the endpoint does.
                Some(_) => return Err(Failed::broken(&format!("refused again: {reason}"))),
                None => return Err(Failed::of_nobody(reason)),
            }
            if self.is_declined(Instant::now()) {
                progress.begin(body.is_nothing());
                return Ok(Sent::Declined(Box::new(Request::from_parts(given, body))));
            }
            (repeated, refused_by) = (true, Some(link));
        }
        Err(Failed::broken("its connections end before they are used"))
    }

    /// A request's head as it is in HTTP/2: its URI says where it goes.
    fn head(&self, mut head: request::Parts) -> request::Parts {
        let mut parts = self.dial.target.clone().into_parts();
        parts.path_and_query = head.uri.into_parts().path_and_query;
        parts
            .path_and_query
            .get_or_insert(PathAndQuery::from_static("/"));
        head.uri = Uri::from_parts(parts).unwrap_or_default(); // It has all three.
        head
    }

    /// Finds a place on a connection that is open; `None`: the endpoint wants HTTP/1.1.
    async fn place(
        self: &Arc<Self>,
        alone: bool,
        not: Option<&Arc<Link>>,
    ) -> Result<Option<Place>, Failed> {
        let give_up = Instant::now() + self.dial.connect_timeout;
        for _ in 0..ROUNDS_MAX {
            let found = timeout_at(give_up.into(), self.vacancy(alone, not)).await;
            let Ok((place, rank)) = found else {
                let reason = "all streams of its connections are taken";
                return Err(Failed::of_nobody(reason.to_owned()));
            };
            match place.link().opened().await {
                State::Open(_) if rank < place.link().limit() => return Ok(Some(place)),
                // It takes fewer than was thought, or none any more.
                State::Open(_) | State::Opening | State::Retired => {}
                State::Declined => return Ok(None),
                State::Failed(failure) => return Err(failure.told_by(place.link())),
            }
        }
        Err(Failed::of_nobody(
            "its connections are full at once".to_owned(),
        ))
    }

    /// Waits for a place, and says how many had one there before. Whoever has to wait takes
    /// any: the connection that it would rather not have may be the one that it is woken for.
    async fn vacancy(self: &Arc<Self>, alone: bool, mut not: Option<&Arc<Link>>) -> (Place, usize) {
        let freed = if alone { &self.emptied } else { &self.freed };
        loop {
            let freed = freed.notified(); // Made first: misses nothing.
            if let Some(found) = self.take(alone, not.take()) {
                return found;
            }
            freed.await;
        }
    }

    /// Takes note that a place was left. `was_alone`: with it all of its connection.
    fn left(&self, was_alone: bool, is_empty: bool) {
        if is_empty {
            self.emptied.notify_one();
        }
        if was_alone {
            self.freed.notify_waiters();
        } else {
            self.freed.notify_one();
        }
    }

    /// Takes note that a connection takes requests again, or that there may be another.
    fn renewed(&self) {
        self.emptied.notify_waiters();
        self.freed.notify_waiters();
    }

    /// Takes a place on a connection that has one, or on a new one; and says how many had
    /// one there before.
    fn take(self: &Arc<Self>, alone: bool, not: Option<&Arc<Link>>) -> Option<(Place, usize)> {
        let mut inner = self.inner();
        inner.links.retain(|link| !link.is_over());
        let wanted = |link: &&Arc<Link>| {
            !not.is_some_and(|not| Arc::ptr_eq(not, link)) && link.has_place(alone)
        };
        if let Some(link) = inner.links.iter().find(wanted) {
            return Some(Place::take(link, self, alone));
        }
        if inner.links.len() >= CONNECTIONS_MAX {
            return None;
        }
        let link = Arc::new(Link::new(inner.expected));
        inner.links.push(Arc::clone(&link));
        let place = Place::take(&link, self, alone);
        drop(inner);
        tokio::spawn(driver::run(link, self.dial.clone(), Arc::downgrade(self)));
        Some(place)
    }

    fn is_declined(&self, now: Instant) -> bool {
        self.dial.may_decline && (self.inner().http1_until).is_some_and(|until| now < until)
    }

    fn decline(&self, now: Instant) {
        self.inner().http1_until = Some(now + HTTP1_REMEMBERED);
    }

    /// Takes note of how many streams a new connection takes.
    fn expect(&self, limit: usize) {
        self.inner().expected = limit;
    }

    /// Lets a connection go that nobody uses, and returns whether nobody does.
    fn forget(&self, link: &Arc<Link>) -> bool {
        let mut inner = self.inner();
        let is_idle = link.streams() == 0;
        if is_idle {
            link.retire();
            inner.links.retain(|it| !Arc::ptr_eq(it, link));
        }
        is_idle
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Failed {
    /// Evidence that counts, but does not eject by itself.
    fn broken(detail: &str) -> Self {
        Self {
            class: OutcomeClass::StreamBroken,
            detail: detail.to_owned(),
            was_reused: true,
            is_kill: false,
        }
    }

    fn malformed(detail: &str) -> Self {
        Self {
            class: OutcomeClass::ServerError,
            detail: format!("malformed response: {detail}"),
            was_reused: false,
            is_kill: false,
        }
    }

    /// No evidence: somebody else tells of it, or it says nothing of the endpoint.
    pub(super) fn of_nobody(detail: String) -> Self {
        Self {
            class: OutcomeClass::Unspecified,
            detail,
            was_reused: true,
            is_kill: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// A pool with as many connections as there may be, all of them full.
    fn full_pool() -> (Arc<Pool>, Vec<Place>) {
        let limits = Limits {
            ping_interval: Duration::from_secs(10),
            headers_max: 1,
            head_max_bytes: 1,
        };
        let tls = crate::proxy::upstream::tls(&qcc_proto::tls::Trust::nobody());
        let target = Uri::from_static("http://127.0.0.1:1");
        let patience = Duration::from_secs(5);
        let pool = Pool::new(&target, UpstreamProtocol::Http2, &tls, patience, limits).unwrap();
        let links: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| Arc::new(Link::new(STREAMS_MAX)))
            .collect();
        pool.inner().links.clone_from(&links);
        let places = links.iter().flat_map(|link| {
            let places = (0..STREAMS_MAX).map(|_| Place::take(link, &pool, false).0);
            places.collect::<Vec<_>>()
        });
        let places = places.collect();
        (pool, places)
    }

    #[test]
    fn who_wants_a_connection_alone_is_not_woken_in_place_of_others() {
        let (pool, mut places) = full_pool();
        let mut alone = pin!(pool.vacancy(true, None));
        let mut shared = pin!(pool.vacancy(false, None));
        assert!(poll(alone.as_mut()).is_pending() && poll(shared.as_mut()).is_pending());
        let left = places.pop();
        drop(left);
        assert!(poll(alone.as_mut()).is_pending());
        let Poll::Ready(found) = poll(shared.as_mut()) else {
            panic!("there is a place for one who shares");
        };
        drop(found);
        places.truncate(places.len() - (STREAMS_MAX - 1));
        assert!(poll(alone.as_mut()).is_ready(), "nobody is on it any more");
    }

    #[test]
    fn who_leaves_a_connection_that_it_had_alone_makes_room_for_many() {
        let (pool, mut places) = full_pool();
        places.truncate(places.len() - STREAMS_MAX);
        let Poll::Ready((alone, _)) = poll(pin!(pool.vacancy(true, None))) else {
            panic!("nobody is on the last connection");
        };
        let mut waiting: Vec<_> = (0..3)
            .map(|_| Box::pin(pool.vacancy(false, None)))
            .collect();
        for waiter in &mut waiting {
            assert!(poll(waiter.as_mut()).is_pending());
        }
        drop(alone);
        let mut found = Vec::new(); // They stay.
        for waiter in &mut waiting {
            match poll(waiter.as_mut()) {
                Poll::Ready(place) => found.push(place),
                Poll::Pending => panic!("there is a place for each of them"),
            }
        }
    }

    #[test]
    fn who_has_to_wait_takes_also_the_connection_that_refused_it() {
        let (pool, mut places) = full_pool();
        let refused_by = Arc::clone(places[0].link());
        let mut waiting = pin!(pool.vacancy(false, Some(&refused_by)));
        assert!(poll(waiting.as_mut()).is_pending());
        drop(places.swap_remove(0));
        let Poll::Ready((place, _)) = poll(waiting.as_mut()) else {
            panic!("there is a place");
        };
        assert!(Arc::ptr_eq(place.link(), &refused_by));
    }
}
