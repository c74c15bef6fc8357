//! A control plane that knows three endpoints and a few events, and answers some names with errors.

mod events;

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use qcc_proto::v1::{
    self,
    endpoint_service_server::{EndpointService, EndpointServiceServer},
    event_service_server::EventServiceServer,
};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};
use tonic_types::{ErrorDetails, StatusExt};

/// The server, on a runtime of its own. Dropping it ends it.
pub(crate) struct FakeControl {
    pub(crate) url: String,
    updates: Arc<Mutex<Vec<v1::UpdateEndpointRequest>>>,
    reasons: Arc<Mutex<Vec<String>>>,
    operators: Arc<Mutex<Vec<String>>>,
    watches: Arc<Mutex<Vec<v1::WatchEventsRequest>>>,
    _runtime: tokio::runtime::Runtime,
}

impl FakeControl {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (updates, reasons) = (Arc::default(), Arc::default());
        let (operators, watches) = (Arc::default(), Arc::default());
        let endpoints = Service {
            updates: Arc::clone(&updates),
            reasons: Arc::clone(&reasons),
        };
        let signed = {
            let operators = Arc::clone(&operators);
            move |request: Request<()>| Ok(sign(&operators, request))
        };
        let endpoints = EndpointServiceServer::with_interceptor(endpoints, signed.clone());
        let events = events::service(Arc::clone(&watches));
        let events = EventServiceServer::with_interceptor(events, signed);
        runtime.spawn(
            Server::builder()
                .add_service(endpoints)
                .add_service(events)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            url,
            updates,
            reasons,
            operators,
            watches,
            _runtime: runtime,
        }
    }

    pub(crate) fn updates(&self) -> Vec<v1::UpdateEndpointRequest> {
        self.updates.lock().expect("no test has panicked").clone()
    }

    /// The reasons that were given, one for each act.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.reasons.lock().expect("no test has panicked").clone()
    }

    /// Who has asked, one name for each call.
    pub(crate) fn operators(&self) -> Vec<String> {
        self.operators.lock().expect("no test has panicked").clone()
    }

    /// How events were watched, one request for each stream.
    pub(crate) fn watches(&self) -> Vec<v1::WatchEventsRequest> {
        self.watches.lock().expect("no test has panicked").clone()
    }

    pub(crate) fn last_update(&self) -> v1::UpdateEndpointRequest {
        self.updates().pop().expect("an update has arrived")
    }
}

/// Notes who asks.
fn sign(operators: &Mutex<Vec<String>>, request: Request<()>) -> Request<()> {
    let operator = request.metadata().get("qcc-operator");
    let operator = operator.map(|name| name.to_str().expect("ASCII").to_owned());
    let mut operators = operators.lock().expect("no test has panicked");
    operators.push(operator.unwrap_or_default());
    request
}

struct Service {
    updates: Arc<Mutex<Vec<v1::UpdateEndpointRequest>>>,
    reasons: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn note(&self, reason: String) {
        let mut reasons = self.reasons.lock().expect("no test has panicked");
        reasons.push(reason);
    }
}

/// Sends a key although the contract forbids it, so that its absence in answers means something.
fn endpoint(name: &str) -> v1::Endpoint {
    let mut health = v1::Health {
        state: v1::HealthState::Healthy.into(),
        ..Default::default()
    };
    if name == "e-2" {
        health.set_state(v1::HealthState::Unhealthy);
        health.set_cause(v1::Cause::Auth);
        health.evidence = Some(evidence());
    }
    v1::Endpoint {
        name: name.to_owned(),
        cluster: "default".to_owned(),
        base_url: "https://e.example.com/\u{1b}[2J".to_owned(),
        credential: Some(v1::Credential {
            api_key: "canary".to_owned(),
            fingerprint: "12ab34cd".to_owned(),
            ..v1::Credential::default()
        }),
        health: Some(health),
        ..Default::default()
    }
}

fn evidence() -> v1::Evidence {
    v1::Evidence {
        outcome: v1::OutcomeClass::Auth.into(),
        http_status: 401,
        error_type: "authentication_error".to_owned(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl EndpointService for Service {
    async fn explain_endpoint(
        &self,
        request: Request<v1::ExplainEndpointRequest>,
    ) -> Result<Response<v1::ExplainEndpointResponse>, Status> {
        let mut endpoint = endpoint(&request.into_inner().name);
        let pending = endpoint.credential.get_or_insert_default();
        pending.pending_fingerprint = "56ef78ab".to_owned();
        Ok(Response::new(v1::ExplainEndpointResponse {
            endpoint: Some(endpoint),
            summary: "its key was rejected, says p-1\u{1b}[2J".to_owned(),
            next: "a check".to_owned(),
            next_time: None,
            advice: "give it a new key".to_owned(),
            proxies_behind: vec![v1::ProxyBehind {
                id: "p-2".to_owned(),
                applied_view: Some(v1::View {
                    term: 1,
                    revision: 1,
                }),
                lag: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 250_000_000,
                }),
            }],
            proxies_behind_count: 1,
            events: events::all(),
            view: Some(v1::View {
                term: 1,
                revision: 2,
            }),
        }))
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let request = request.into_inner();
        let (names, next_page_token): (&[&str], &str) =
            match (request.cluster.as_str(), request.page_token.as_str()) {
                ("empty", _) => (&[], ""),
                (_, "") => (&["e-1", "e-2"], "more"),
                (_, _) => (&["e-3"], ""),
            };
        Ok(Response::new(v1::ListEndpointsResponse {
            endpoints: names.iter().map(|name| endpoint(name)).collect(),
            next_page_token: next_page_token.to_owned(),
            view: Some(v1::View {
                term: 1,
                revision: 2,
            }),
        }))
    }

    async fn get_endpoint(
        &self,
        request: Request<v1::GetEndpointRequest>,
    ) -> Result<Response<v1::GetEndpointResponse>, Status> {
        let name = request.into_inner().name;
        match name.as_str() {
            "nobody" => Err(Status::not_found("unknown endpoint `nobody`")),
            "invalid" => {
                let mut details = ErrorDetails::new();
                details.add_bad_request_violation("name", "must be a name");
                Err(Status::with_error_details(
                    tonic::Code::InvalidArgument,
                    "invalid request",
                    details,
                ))
            }
            "exists" => Err(Status::failed_precondition("not now")),
            "denied" => Err(Status::permission_denied("not you")),
            "broken" => Err(Status::internal("oh")),
            "away" => Err(Status::unavailable("gone")),
            "slow" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Err(Status::internal("nobody waits that long"))
            }
            name => Ok(Response::new(v1::GetEndpointResponse {
                endpoint: Some(endpoint(name)),
            })),
        }
    }

    async fn update_endpoint(
        &self,
        request: Request<v1::UpdateEndpointRequest>,
    ) -> Result<Response<v1::UpdateEndpointResponse>, Status> {
        let request = request.into_inner();
        let name = request.endpoint.clone().unwrap_or_default().name;
        self.note(request.reason.clone());
        let mut updates = self.updates.lock().expect("no test has panicked");
        updates.push(request);
        if name == "flaky" && updates.len() == 1 {
            return Err(Status::unavailable("try again"));
        }
        Ok(Response::new(v1::UpdateEndpointResponse {
            endpoint: Some(endpoint(&name)),
        }))
    }

    async fn verify_endpoint(
        &self,
        request: Request<v1::VerifyEndpointRequest>,
    ) -> Result<Response<v1::VerifyEndpointResponse>, Status> {
        let endpoint = Some(endpoint(&request.into_inner().name));
        Ok(Response::new(v1::VerifyEndpointResponse {
            endpoint,
            passed: false,
            evidence: Some(evidence()),
        }))
    }

    async fn create_endpoint(
        &self,
        _: Request<v1::CreateEndpointRequest>,
    ) -> Result<Response<v1::CreateEndpointResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn delete_endpoint(
        &self,
        request: Request<v1::DeleteEndpointRequest>,
    ) -> Result<Response<v1::DeleteEndpointResponse>, Status> {
        let request = request.into_inner();
        self.note(request.reason);
        Ok(Response::new(v1::DeleteEndpointResponse {}))
    }

    async fn enable_endpoint(
        &self,
        request: Request<v1::EnableEndpointRequest>,
    ) -> Result<Response<v1::EnableEndpointResponse>, Status> {
        let request = request.into_inner();
        self.note(request.reason);
        Ok(Response::new(v1::EnableEndpointResponse {
            endpoint: Some(endpoint(&request.name)),
        }))
    }

    async fn disable_endpoint(
        &self,
        request: Request<v1::DisableEndpointRequest>,
    ) -> Result<Response<v1::DisableEndpointResponse>, Status> {
        let request = request.into_inner();
        self.note(request.reason);
        Ok(Response::new(v1::DisableEndpointResponse {
            endpoint: Some(endpoint(&request.name)),
        }))
    }

    async fn drain_endpoint(
        &self,
        request: Request<v1::DrainEndpointRequest>,
    ) -> Result<Response<v1::DrainEndpointResponse>, Status> {
        let request = request.into_inner();
        self.note(request.reason);
        Ok(Response::new(v1::DrainEndpointResponse {
            endpoint: Some(endpoint(&request.name)),
        }))
    }

    async fn eject_endpoint(
        &self,
        request: Request<v1::EjectEndpointRequest>,
    ) -> Result<Response<v1::EjectEndpointResponse>, Status> {
        let request = request.into_inner();
        self.note(request.reason);
        Ok(Response::new(v1::EjectEndpointResponse {
            endpoint: Some(endpoint(&request.name)),
        }))
    }

    async fn restore_endpoint(
        &self,
        request: Request<v1::RestoreEndpointRequest>,
    ) -> Result<Response<v1::RestoreEndpointResponse>, Status> {
        let request = request.into_inner();
        self.note(request.reason);
        Ok(Response::new(v1::RestoreEndpointResponse {
            endpoint: Some(endpoint(&request.name)),
        }))
    }

    type WatchEndpointsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchEndpointsResponse, Status>> + Send>>;

    async fn watch_endpoints(
        &self,
        _: Request<v1::WatchEndpointsRequest>,
    ) -> Result<Response<Self::WatchEndpointsStream>, Status> {
        Err(Status::unimplemented("not played here"))
    }
}
