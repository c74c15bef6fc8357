//! `EndpointService`.

use std::{pin::Pin, time::Duration};

use qcc_proto::v1::{self, endpoint_service_server::EndpointService};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::{
    Api, Call,
    convert::{self, Wall},
    digest,
    error::{Violations, invalid, not_found, status},
    mask, operator, page, reports, validate,
    watch::watch,
};
use crate::registry::{AdminState, Answer, EndpointName, KeyChange, Mutation, Operator, Snapshot};

/// How long an operator's ejection holds unless they say otherwise.
const HOLD: Duration = Duration::from_secs(300);
const HOLD_MAX: Duration = Duration::from_secs(30 * 86_400);

/// How long a new key may wait to be proven.
const OVERLAP_MAX: Duration = Duration::from_secs(7 * 86_400);

/// How often an update is tried again when somebody else changed the endpoint between
/// its reading and its writing.
const RACES_MAX: usize = 5;

#[tonic::async_trait]
impl EndpointService for Api {
    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let request = request.into_inner();
        let cluster = validate::cluster_filter(&request.cluster)?;
        let state = request.state();
        let snapshot = self.feed.snapshot();
        let wall = self.wall();
        let entries = snapshot
            .endpoints
            .iter()
            .filter(|(_, e)| {
                cluster
                    .as_ref()
                    .is_none_or(|cluster| e.spec.cluster == *cluster)
            })
            .filter(|(_, e)| convert::in_state(e, state))
            .map(|(name, e)| (name.to_string(), e));
        let (found, next_page_token) = page::page(entries, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListEndpointsResponse {
            endpoints: found
                .into_iter()
                .map(|e| convert::endpoint(e, &snapshot, wall))
                .collect(),
            next_page_token,
            view: Some(convert::view(snapshot.view)),
        }))
    }

    async fn get_endpoint(
        &self,
        request: Request<v1::GetEndpointRequest>,
    ) -> Result<Response<v1::GetEndpointResponse>, Status> {
        let name = validate::endpoint_name("name", &request.into_inner().name)?;
        let endpoint = Some(self.find(&self.feed.snapshot(), &name)?);
        Ok(Response::new(v1::GetEndpointResponse { endpoint }))
    }

    async fn create_endpoint(
        &self,
        request: Request<v1::CreateEndpointRequest>,
    ) -> Result<Response<v1::CreateEndpointResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let digest = digest("CreateEndpoint", &request);
        let wanted = request
            .endpoint
            .ok_or_else(|| invalid("endpoint", "must be set"))?;
        let mut violations = Violations::default();
        let spec = validate::spec(&wanted, "endpoint.", &mut violations);
        let Some(spec) = violations.none(spec)? else {
            return Err(Status::internal(
                "an endpoint without violations was not read",
            ));
        };
        let call = Call {
            operator,
            mutation: Mutation::CreateEndpoint(spec),
            request_id: &request_id,
            digest,
            validate_only: request.validate_only,
        };
        let endpoint = Some(self.endpoint_after(call).await?);
        Ok(Response::new(v1::CreateEndpointResponse { endpoint }))
    }

    async fn update_endpoint(
        &self,
        request: Request<v1::UpdateEndpointRequest>,
    ) -> Result<Response<v1::UpdateEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let digest = digest("UpdateEndpoint", &request);
        let wanted = request
            .endpoint
            .ok_or_else(|| invalid("endpoint", "must be set"))?;
        let name = validate::endpoint_name("endpoint.name", &wanted.name)?;
        let overlap = validate::span(
            "credential_overlap",
            request.credential_overlap,
            Duration::ZERO,
            Duration::ZERO..=OVERLAP_MAX,
        )?;
        let mut races = 0;
        loop {
            let present = self.find(&self.feed.snapshot(), &name)?;
            if !wanted.cluster.is_empty() && wanted.cluster != present.cluster {
                return Err(invalid("endpoint.cluster", "is immutable"));
            }
            let read_etag = present.etag.clone();
            let base_url = present.base_url.clone();
            let mask = request.update_mask.as_ref();
            let (merged, with_key) = mask::merge_endpoint(present, &wanted, mask)?;
            let mut violations = Violations::default();
            let spec = validate::spec(&merged, "endpoint.", &mut violations);
            if !overlap.is_zero() && merged.base_url != base_url {
                let rule = "must not be given together with a new base_url";
                violations.add("credential_overlap", rule);
            }
            let Some(spec) = violations.none(spec)? else {
                return Err(Status::internal(
                    "an endpoint without violations was not read",
                ));
            };
            let key = match (with_key, &spec.api_key) {
                (false, _) => KeyChange::Keep,
                (true, Some(key)) if !overlap.is_zero() => KeyChange::Stage {
                    key: key.clone(),
                    overlap,
                },
                (true, key) => KeyChange::Set(key.clone()),
            };
            let asked_etag = validate::etag(&wanted.etag);
            let call = Call {
                operator: operator.clone(),
                // What was merged is right only for what was read.
                mutation: Mutation::UpdateEndpoint {
                    spec,
                    key,
                    etag: Some(asked_etag.clone().unwrap_or(read_etag)),
                },
                request_id: &request_id,
                digest,
                validate_only: request.validate_only,
            };
            match self.endpoint_after(call).await {
                Err(lost) if lost.code() == Code::Aborted && asked_etag.is_none() => {
                    races += 1;
                    if races == RACES_MAX {
                        return Err(lost);
                    }
                }
                result => {
                    let endpoint = Some(result?);
                    return Ok(Response::new(v1::UpdateEndpointResponse { endpoint }));
                }
            }
        }
    }

    async fn delete_endpoint(
        &self,
        request: Request<v1::DeleteEndpointRequest>,
    ) -> Result<Response<v1::DeleteEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let call = Call {
            operator,
            mutation: Mutation::DeleteEndpoint {
                name: validate::endpoint_name("name", &request.name)?,
                etag: validate::etag(&request.etag),
                allow_missing: request.allow_missing,
            },
            request_id: &request_id,
            digest: digest("DeleteEndpoint", &request),
            validate_only: request.validate_only,
        };
        self.change(call).await?;
        Ok(Response::new(v1::DeleteEndpointResponse {}))
    }

    async fn enable_endpoint(
        &self,
        request: Request<v1::EnableEndpointRequest>,
    ) -> Result<Response<v1::EnableEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let name = request.into_inner().name;
        let endpoint = Some(
            self.set_admin_state(operator, &name, AdminState::Enabled)
                .await?,
        );
        Ok(Response::new(v1::EnableEndpointResponse { endpoint }))
    }

    async fn disable_endpoint(
        &self,
        request: Request<v1::DisableEndpointRequest>,
    ) -> Result<Response<v1::DisableEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let name = request.into_inner().name;
        let endpoint = Some(
            self.set_admin_state(operator, &name, AdminState::Disabled)
                .await?,
        );
        Ok(Response::new(v1::DisableEndpointResponse { endpoint }))
    }

    async fn drain_endpoint(
        &self,
        request: Request<v1::DrainEndpointRequest>,
    ) -> Result<Response<v1::DrainEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let name = request.into_inner().name;
        let endpoint = Some(
            self.set_admin_state(operator, &name, AdminState::Draining)
                .await?,
        );
        Ok(Response::new(v1::DrainEndpointResponse { endpoint }))
    }

    async fn eject_endpoint(
        &self,
        request: Request<v1::EjectEndpointRequest>,
    ) -> Result<Response<v1::EjectEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let digest = digest("EjectEndpoint", &request);
        let mutation = Mutation::Eject {
            name: validate::endpoint_name("name", &request.name)?,
            hold: validate::span("hold", request.hold, HOLD, Duration::ZERO..=HOLD_MAX)?,
            reason: request.reason,
        };
        let call = Call {
            operator,
            mutation,
            request_id: &request_id,
            digest,
            validate_only: false,
        };
        let endpoint = Some(self.endpoint_after(call).await?);
        Ok(Response::new(v1::EjectEndpointResponse { endpoint }))
    }

    async fn restore_endpoint(
        &self,
        request: Request<v1::RestoreEndpointRequest>,
    ) -> Result<Response<v1::RestoreEndpointResponse>, Status> {
        let operator = operator::of(&request, &request.get_ref().reason)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let call = Call {
            operator,
            mutation: Mutation::Restore {
                name: validate::endpoint_name("name", &request.name)?,
            },
            request_id: &request_id,
            digest: digest("RestoreEndpoint", &request),
            validate_only: false,
        };
        let endpoint = Some(self.endpoint_after(call).await?);
        Ok(Response::new(v1::RestoreEndpointResponse { endpoint }))
    }

    async fn verify_endpoint(
        &self,
        request: Request<v1::VerifyEndpointRequest>,
    ) -> Result<Response<v1::VerifyEndpointResponse>, Status> {
        let name = validate::endpoint_name("name", &request.into_inner().name)?;
        let conclusion = self.handle.verify(name.clone()).await?.ok_or_else(|| {
            status(
                Code::Aborted,
                format!("endpoint `{name}` was changed while it was checked"),
                "CHECK_VOID",
                &[("name", name.as_str())],
            )
        })?;
        Ok(Response::new(v1::VerifyEndpointResponse {
            endpoint: Some(self.find(&self.feed.snapshot(), &name)?),
            passed: conclusion.passed,
            evidence: Some(convert::evidence(&conclusion.evidence)),
        }))
    }

    async fn explain_endpoint(
        &self,
        request: Request<v1::ExplainEndpointRequest>,
    ) -> Result<Response<v1::ExplainEndpointResponse>, Status> {
        let name = validate::endpoint_name("name", &request.into_inner().name)?;
        let snapshot = self.feed.snapshot();
        let endpoint = snapshot.endpoints.get(&name);
        let known = endpoint.and_then(|endpoint| {
            let cluster = snapshot.clusters.get(&endpoint.spec.cluster)?;
            Some((endpoint, &cluster.policy))
        });
        let (endpoint, policy) = known.ok_or_else(|| not_found("endpoint", name.as_str()))?;
        Ok(Response::new(self.explanation(endpoint, policy, &snapshot)))
    }

    type WatchEndpointsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchEndpointsResponse, Status>> + Send>>;

    async fn watch_endpoints(
        &self,
        request: Request<v1::WatchEndpointsRequest>,
    ) -> Result<Response<Self::WatchEndpointsStream>, Status> {
        let request = request.into_inner();
        let cluster = validate::cluster_filter(&request.cluster)?;
        let resume_from = request.resume_from.map(|view| reports::view(Some(view)));
        self.is_of_registry(&request.registry_id)?;
        let newest = self.feed.snapshot().view;
        if resume_from.is_some_and(|view| view > newest) {
            return Err(status(
                Code::OutOfRange,
                format!("`resume_from` lies in the future: the newest view is {newest}"),
                "FUTURE_VIEW",
                &[],
            ));
        }
        Ok(Response::new(Box::pin(watch(
            self.clone(),
            cluster,
            resume_from,
        ))))
    }
}

impl Api {
    async fn endpoint_after(&self, call: Call<'_>) -> Result<v1::Endpoint, Status> {
        let (answer, snapshot) = self.change(call).await?;
        match answer {
            // A repeated request is answered by the endpoint as it is now.
            Answer::Endpoint(name) => self.find(&snapshot, &name),
            other => Err(Status::internal(format!("unexpected answer {other:?}"))),
        }
    }

    async fn set_admin_state(
        &self,
        operator: Operator,
        name: &str,
        state: AdminState,
    ) -> Result<v1::Endpoint, Status> {
        let name = validate::endpoint_name("name", name)?;
        let mutation = Mutation::SetAdminState {
            name: name.clone(),
            state,
        };
        let (_, snapshot) = self.simple(operator, mutation).await?;
        self.find(&snapshot, &name)
    }

    /// Returns one endpoint as people see it.
    pub(super) fn find(
        &self,
        snapshot: &Snapshot,
        name: &EndpointName,
    ) -> Result<v1::Endpoint, Status> {
        snapshot
            .endpoints
            .get(name)
            .map(|endpoint| convert::endpoint(endpoint, snapshot, self.wall()))
            .ok_or_else(|| not_found("endpoint", name.as_str()))
    }

    pub(super) fn wall(&self) -> Wall {
        Wall::at(self.feed.now())
    }
}
