//! `grpc.health.v1`. A control plane that listens has read its store and serves; it
//! stops to when it is told to stop.
//!
//! Written here because the specification wants a watch on an unknown name to stay
//! open and say SERVICE_UNKNOWN, since the service may appear later.

use std::pin::Pin;

use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as HealthService,
};

use super::error::not_found;

/// The services of the contract that a control plane serves.
pub(crate) const SERVICES: [&str; 8] = [
    "qcc.v1.ClusterService",
    "qcc.v1.ControlService",
    "qcc.v1.EndpointService",
    "qcc.v1.EventService",
    "qcc.v1.FailureQueueService",
    "qcc.v1.HealthSyncService",
    "qcc.v1.ProxyService",
    "qcc.v1.ResourceService",
];

/// Answers for the whole process.
#[derive(Debug, Clone)]
pub(super) struct Health {
    stop: CancellationToken,
}

impl Health {
    /// Serves until `stop` is cancelled.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop }
    }

    fn status(&self) -> HealthCheckResponse {
        let status = if self.stop.is_cancelled() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }
}

#[tonic::async_trait]
impl HealthService for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if is_known(&service) {
            Ok(Response::new(self.status()))
        } else {
            Err(not_found("service", &service))
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = is_known(&request.into_inner().service);
        let (messages, stream) = tokio::sync::mpsc::channel(1);
        let health = self.clone();
        tokio::spawn(async move {
            let unknown = HealthCheckResponse {
                status: ServingStatus::ServiceUnknown.into(),
            };
            let first = if known { health.status() } else { unknown };
            if messages.send(Ok(first)).await.is_err() {
                return;
            }
            tokio::select! {
                () = messages.closed() => {}
                () = health.stop.cancelled() => {
                    if known {
                        // The stream ends right after, with the connection.
                        let _ = messages.send(Ok(health.status())).await;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(stream),
        )))
    }
}

/// Whether a name has a health; empty means the whole server.
fn is_known(service: &str) -> bool {
    service.is_empty() || SERVICES.contains(&service)
}
