//! `grpc.health.v1`: SERVING while there is a view and no drain. It does not depend
//! on the control plane: a proxy with a view serves.
//!
//! Written here because the specification wants a watch on an unknown name to stay
//! open and say SERVICE_UNKNOWN, since the service may appear later.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health as HealthService,
};

use super::error::Error;
use crate::{drain::Drain, sync::Link};

/// Names whose health is known; empty means the whole server.
const SERVICES: [&str; 2] = ["", "qcc.v1.ProxyAdminService"];

/// Answers for the whole process.
#[derive(Debug, Clone)]
pub(super) struct Health {
    link: Link,
    drain: Drain,
}

impl Health {
    pub(super) fn new(link: Link, drain: Drain) -> Self {
        Self { link, drain }
    }

    fn status(&self) -> ServingStatus {
        if self.link.state().view.is_some() && !self.drain.has_begun() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }

    /// Sends the status now and whenever it changes, until nobody listens.
    async fn follow(self, messages: mpsc::Sender<Result<HealthCheckResponse, Status>>) {
        let mut views = self.link.subscribe();
        let mut told = None;
        loop {
            let status = self.status();
            if told.replace(status) != Some(status)
                && messages.send(Ok(response(status))).await.is_err()
            {
                return;
            }
            tokio::select! {
                () = messages.closed() => return,
                () = self.drain.token().cancelled(), if !self.drain.has_begun() => {}
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[async_trait]
impl HealthService for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if SERVICES.contains(&service.as_str()) {
            Ok(Response::new(response(self.status())))
        } else {
            Err(Error::UnknownService(service).into())
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (messages, stream) = mpsc::channel(1);
        if SERVICES.contains(&request.into_inner().service.as_str()) {
            tokio::spawn(self.clone().follow(messages));
        } else {
            tokio::spawn(async move {
                let unknown = Ok(response(ServingStatus::ServiceUnknown));
                if messages.send(unknown).await.is_ok() {
                    messages.closed().await; // The stream stays open for as long as its reader.
                }
            });
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
