//! gRPC at the edge: messages in, verbs of the [`Handle`] and reads of the [`Feed`],
//! messages out. No rule about endpoints lives here.

mod base_url;
mod clusters;
mod connections;
mod convert;
mod endpoints;
mod error;
mod events;
mod explain;
mod following;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
mod mask;
mod metrics;
mod operator;
mod page;
mod proxies;
mod queue;
mod reports;
mod resources;
mod snapshots;
mod status;
mod sync;
mod updates;
mod validate;
mod watch;

pub(crate) use convert::read_outcome_class;
pub(crate) use resources::declaration;
#[cfg(feature = "simulation")]
pub(crate) use {
    reports::{batch as report_batch, proxy as report_proxy},
    sync::{Hearing, SharedUpdates, is_sign_of_life},
    updates::Follower,
};

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message;
use qcc_proto::{plain::PlainLayer, tls::Door, v1};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Server};
use tonic_health::pb::health_server::HealthServer;

use crate::{
    actor::Handle,
    feed::Feed,
    registry::{Answer, Mutation, Operator, Request, Snapshot},
    reload::Reloader,
    sessions::Sessions,
};

/// Dead peers are noticed after the sum of these two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls and streams that one connection may have open. The transport's own default
/// is "any number".
const STREAMS_PER_CONNECTION_MAX: u32 = 256;

/// A unary call that takes longer ends. `VerifyEndpoint`, which waits for an upstream,
/// is the longest: a check may take 10 minutes.
const CALL_MAX: Duration = Duration::from_secs(660);

/// What every service needs.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The writer.
    pub handle: Handle,
    /// The published state.
    pub feed: Arc<Feed>,
    /// Data planes.
    pub sessions: Arc<Sessions>,
    /// How the configuration is read again.
    pub reloader: Reloader,
    /// How those who connect are let in.
    pub door: Door,
    /// When the process started.
    pub started: SystemTime,
    /// Ends all streams.
    pub stop: CancellationToken,
}

/// Serves until `api.stop` is cancelled and running calls have ended.
///
/// # Errors
///
/// Returns the transport's error if it cannot serve.
pub(crate) async fn serve(api: Api, listener: TcpListener) -> Result<(), tonic::transport::Error> {
    use v1::{
        cluster_service_server::ClusterServiceServer, control_service_server::ControlServiceServer,
        endpoint_service_server::EndpointServiceServer, event_service_server::EventServiceServer,
        failure_queue_service_server::FailureQueueServiceServer,
        proxy_service_server::ProxyServiceServer, resource_service_server::ResourceServiceServer,
    };
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(qcc_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health");
        // The contract has services that only data planes serve.
        health::SERVICES
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let own = "the descriptor set was made by the build";
    let stop = api.stop.clone();
    let incoming = connections::accept(listener, api.door.clone(), connections::CONNECTIONS_MAX);
    let pages = PlainLayer::new(Arc::new(api.clone()), api.reloader.hosts());
    Server::builder()
        .accept_http1(true)
        .layer(pages)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .timeout(CALL_MAX)
        .add_service(EndpointServiceServer::new(api.clone()))
        .add_service(ClusterServiceServer::new(api.clone()))
        .add_service(EventServiceServer::new(api.clone()))
        .add_service(FailureQueueServiceServer::new(api.clone()))
        .add_service(ProxyServiceServer::new(api.clone()))
        .add_service(ResourceServiceServer::new(api.clone()))
        .add_service(ControlServiceServer::new(api.clone()))
        .add_service(sync::service(api.clone()))
        .add_service(HealthServer::new(health::Health::new(api.stop.clone())))
        .add_service(reflection().build_v1().expect(own))
        .add_service(reflection().build_v1alpha().expect(own))
        .serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await })
        .await
}

/// A change that a caller asks for.
struct Call<'a> {
    operator: Operator,
    mutation: Mutation,
    request_id: &'a str,
    digest: u64,
    validate_only: bool,
}

impl Api {
    /// Makes a change, or shows what it would come to. Returns its answer and the
    /// state after it.
    async fn change(&self, call: Call<'_>) -> Result<(Answer, Arc<Snapshot>), Status> {
        if call.validate_only {
            let (answer, snapshot) = self.handle.rehearse(call.mutation).await?;
            return Ok((answer, Arc::from(snapshot)));
        }
        let request: Option<Request> = validate::request(call.request_id, call.digest)?;
        let answer = self
            .handle
            .mutate(call.operator, call.mutation, request)
            .await?;
        Ok((answer, self.feed.snapshot()))
    }

    /// Looks whether what a client goes on from was read of this registry, if it says so.
    ///
    /// # Errors
    ///
    /// OUT_OF_RANGE for another one.
    fn is_of_registry(&self, named: &str) -> Result<(), Status> {
        if named.is_empty() || *named == *self.feed.snapshot().registry_id {
            return Ok(());
        }
        Err(error::other_registry())
    }

    /// Makes a change that is safe to repeat by its nature.
    async fn simple(
        &self,
        operator: Operator,
        mutation: Mutation,
    ) -> Result<(Answer, Arc<Snapshot>), Status> {
        self.change(Call {
            operator,
            mutation,
            request_id: "",
            digest: 0,
            validate_only: false,
        })
        .await
    }
}

/// Returns a digest of what a request asks for, so that one request id names one
/// question. `method` keeps requests of different methods apart.
fn digest(method: &str, request: &impl Message) -> u64 {
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    hash.update([0]);
    hash.update(request.encode_to_vec());
    let hash = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
}
