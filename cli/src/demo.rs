//! `up --demo`: a key goes bad, and one can watch what becomes of it.
//!
//! - [`upstream`]: a scripted LLM API on loopback.
//! - [`trickle`]: a client that sends a few requests a second through the proxy.
//! - [`narrator`]: tells what happens, as it happens, from what anybody could ask over gRPC.
//!
//! The system under it is the real one; only the providers are made up, and the cluster's checks
//! follow each other more quickly than by default, so that recovery is seen within seconds.

mod narrator;
mod trickle;
mod upstream;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use qcc_proto::v1;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::{error::Error, output::Output};
use upstream::Upstream;

/// The endpoints with their priorities. The first is preferred, and the one that goes bad.
const ENDPOINTS: [(&str, u32); 3] = [("north", 1), ("south", 2), ("west", 2)];
/// Time to see normal traffic.
const BAD_AFTER: Duration = Duration::from_secs(5);
/// Time to see two checks fail.
const GOOD_AFTER: Duration = Duration::from_secs(8);
/// Events that wait to be told; who has more waits, too.
const EVENTS_MAX: usize = 1024;

/// Something to tell.
#[derive(Debug)]
enum Event {
    /// The endpoints with their present health.
    Endpoints(Vec<v1::Endpoint>),
    /// The failure queue as it is now.
    Queue(Vec<v1::FailureQueueEntry>),
    /// The client got an answer.
    Answer(trickle::Answer),
    /// The preferred upstream has answered its first 401.
    Rejected(Instant),
    /// The preferred upstream's key is rejected from now on.
    KeyRevoked,
    /// The preferred upstream's key is accepted again.
    KeyAccepted,
}

/// Scripted upstreams, ready to be used as endpoints.
#[derive(Debug)]
pub(crate) struct Demo {
    upstreams: Vec<Upstream>,
}

impl Demo {
    /// Starts the upstreams.
    pub(crate) async fn start() -> Result<Self, Error> {
        let mut upstreams = Vec::new();
        for (name, _) in ENDPOINTS {
            let upstream = Upstream::start().await;
            upstreams.push(upstream.map_err(|error| {
                Error::failed(format!("cannot start upstream `{name}`: {error}"))
            })?);
        }
        Ok(Self { upstreams })
    }

    /// The upstreams as endpoints, under a policy that checks often.
    pub(crate) fn resources(&self) -> v1::ApplyResourcesRequest {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let verification = v1::VerificationSchedule {
            first: seconds(2),
            max: seconds(4),
            auth_max: seconds(4),
            per_hour_max: Some(3600),
        };
        let policy = v1::ClusterPolicy {
            verification: Some(verification),
            ..Default::default()
        };
        let endpoints = self
            .upstreams
            .iter()
            .zip(ENDPOINTS)
            .map(|(upstream, (name, priority))| v1::Endpoint {
                name: name.to_owned(),
                base_url: format!("http://{}", upstream.address()),
                credential: Some(v1::Credential {
                    api_key: format!("demo-key-of-{name}"),
                    ..v1::Credential::default()
                }),
                priority: Some(priority),
                ..Default::default()
            });
        v1::ApplyResourcesRequest {
            clusters: vec![v1::Cluster {
                name: "default".to_owned(),
                policy: Some(policy),
                ..Default::default()
            }],
            endpoints: endpoints.collect(),
            ..Default::default()
        }
    }

    /// Plays the script and tells it, until the reader of stdout goes away. Dropping the future ends it.
    pub(crate) async fn play(
        self,
        control: SocketAddr,
        proxy: SocketAddr,
        output: Output,
    ) -> Result<(), Error> {
        let (events, told) = mpsc::channel(EVENTS_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(narrator::watch(control, events.clone()));
        tasks.spawn(narrator::watch_queue(control, events.clone()));
        tasks.spawn(trickle::run(proxy, events.clone()));
        tasks.spawn(async move {
            let [first, ..] = self.upstreams.as_slice() else {
                return;
            };
            sleep(BAD_AFTER).await;
            // Nobody is left to tell only when the demo ends.
            let _ = events.send(Event::KeyRevoked).await;
            let rejected = first.revoke_key().await;
            let _ = events.send(Event::Rejected(rejected)).await;
            sleep(GOOD_AFTER).await;
            let _ = events.send(Event::KeyAccepted).await;
            first.accept_key();
            // Upstreams serve as long as they are held.
            std::future::pending::<()>().await;
        });
        narrator::tell(control, told, output).await
    }
}
