//! `ResourceService`.

use qcc_proto::v1::{self, resource_service_server::ResourceService};
use tonic::{Request, Response, Status};

use super::{Api, Call, convert, digest, error::Violations, operator, validate};
use crate::registry::{
    Action, AdminState, Answer, Change, ClusterName, Declaration, DeclaredEndpoint, KeyChange,
    Mutation, NAME_RULE, Resource,
};

#[tonic::async_trait]
impl ResourceService for Api {
    async fn apply_resources(
        &self,
        request: Request<v1::ApplyResourcesRequest>,
    ) -> Result<Response<v1::ApplyResourcesResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let call = Call {
            operator,
            mutation: Mutation::Apply(declaration(&request)?),
            request_id: &request_id,
            digest: digest("ApplyResources", &request),
            validate_only: request.validate_only,
        };
        let (answer, snapshot) = self.change(call).await?;
        let Answer::Changes(changes) = answer else {
            return Err(Status::internal(format!("unexpected answer {answer:?}")));
        };
        Ok(Response::new(v1::ApplyResourcesResponse {
            changes: changes.into_iter().map(change).collect(),
            view: Some(convert::view(snapshot.view)),
        }))
    }
}

/// Reads a declared set of resources.
///
/// # Errors
///
/// INVALID_ARGUMENT with every broken rule of every resource.
pub(crate) fn declaration(request: &v1::ApplyResourcesRequest) -> Result<Declaration, Status> {
    let mut violations = Violations::default();
    let mut declaration = Declaration {
        prune: request.prune,
        ..Declaration::default()
    };
    for (at, cluster) in request.clusters.iter().enumerate() {
        let prefix = format!("clusters[{at}]");
        let policy = cluster.policy.clone().unwrap_or_default();
        let policy = validate::policy(&policy, &format!("{prefix}.policy."), &mut violations);
        match ClusterName::try_from(cluster.name.as_str()) {
            Ok(name) if declaration.clusters.iter().any(|(other, _)| *other == name) => {
                violations.add(format!("{prefix}.name"), "must not be declared twice");
            }
            Ok(name) => declaration.clusters.push((name, policy)),
            Err(_) => violations.add(format!("{prefix}.name"), NAME_RULE),
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for (at, endpoint) in request.endpoints.iter().enumerate() {
        let prefix = format!("endpoints[{at}]");
        if !names.insert(&endpoint.name) {
            violations.add(format!("{prefix}.name"), "must not be declared twice");
        }
        let spec = validate::spec(endpoint, &format!("{prefix}."), &mut violations);
        let Some(spec) = spec else { continue };
        let key = match &spec.api_key {
            Some(key) => KeyChange::Set(Some(key.clone())),
            None => KeyChange::Keep,
        };
        let admin_state = match endpoint.admin_state() {
            v1::AdminState::Unspecified => None,
            v1::AdminState::Enabled => Some(AdminState::Enabled),
            v1::AdminState::Draining => Some(AdminState::Draining),
            v1::AdminState::Disabled => Some(AdminState::Disabled),
        };
        declaration.endpoints.push(DeclaredEndpoint {
            spec,
            key,
            admin_state,
        });
    }
    violations.none(declaration)
}

fn change(change: Change) -> v1::ResourceChange {
    let (kind, name) = match &change.resource {
        Resource::Cluster(name) => ("cluster", name.as_str()),
        Resource::Endpoint(name) => ("endpoint", name.as_str()),
    };
    let action = match change.action {
        Action::Unchanged => v1::ChangeAction::Unchanged,
        Action::Created => v1::ChangeAction::Created,
        Action::Updated => v1::ChangeAction::Updated,
        Action::Deleted => v1::ChangeAction::Deleted,
    };
    v1::ResourceChange {
        kind: kind.into(),
        name: name.into(),
        action: action.into(),
        fields: change.fields,
    }
}
