//! What this process says about itself, over gRPC.
//!
//! - [`service`]: `ProxyAdminService`. [`endpoints`]: its list of endpoints. [`explain`]: why
//!   one of them is selected or not.
//! - [`health`]: `grpc.health.v1`. Reflection is served in v1 and v1alpha.
//! - [`metrics`]: the pages for Prometheus and for probes, over plain HTTP.
//! - [`error`]: errors as `tonic::Status`.

mod endpoints;
mod error;
mod explain;
mod health;
mod metrics;
mod service;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use qcc_proto::{
    FILE_DESCRIPTOR_SET, plain::PlainLayer, v1::proxy_admin_service_server::ProxyAdminServiceServer,
};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Error, Server, server::TcpIncoming};
use tonic_health::pb::{FILE_DESCRIPTOR_SET as HEALTH_DESCRIPTOR_SET, health_server::HealthServer};

use health::Health;
pub(crate) use service::Admin;

/// Calls at a time on one connection. People and probes make a few.
const STREAMS_MAX: u32 = 64;
/// Every answer is at hand; a call that takes longer is stuck.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests are a few fields.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// Finds peers that vanished without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop` is cancelled and all calls under way are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    admin: Admin,
    stop: CancellationToken,
) -> Result<(), Error> {
    let door = admin.door.clone();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let incoming = incoming.map(move |accepted| accepted.map(|stream| door.accept(stream)));
    let stopped = stop.cancelled_owned();
    let admin = Arc::new(admin);
    let pages = PlainLayer::new(admin.clone(), admin.reloader.hosts());
    let health = Health::new(admin.link.clone(), admin.drain.clone());
    Server::builder()
        .accept_http1(true)
        .layer(pages)
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(STREAMS_MAX as usize)
        .timeout(CALL_TIMEOUT)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .add_service(
            ProxyAdminServiceServer::from_arc(admin).max_decoding_message_size(REQUEST_BYTES_MAX),
        )
        .add_service(HealthServer::new(health).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_optional_service(reflection().build_v1().ok())
        .add_optional_service(reflection().build_v1alpha().ok())
        .serve_with_incoming_shutdown(incoming, stopped)
        .await
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(HEALTH_DESCRIPTOR_SET)
        .with_service_name("qcc.v1.ProxyAdminService")
        .with_service_name("grpc.health.v1.Health")
}
