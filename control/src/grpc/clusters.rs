//! `ClusterService`.

use qcc_proto::v1::{self, cluster_service_server::ClusterService};
use tonic::{Code, Request, Response, Status};

use super::{
    Api, Call, convert, digest,
    error::{Violations, invalid, not_found},
    mask, operator, page, validate,
};
use crate::registry::{Answer, ClusterName, Mutation, Snapshot};

/// As for endpoints.
const RACES_MAX: usize = 5;

#[tonic::async_trait]
impl ClusterService for Api {
    async fn list_clusters(
        &self,
        request: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        let request = request.into_inner();
        let snapshot = self.feed.snapshot();
        let entries = snapshot
            .clusters
            .iter()
            .map(|(name, c)| (name.to_string(), (name, c)));
        let (found, next_page_token) = page::page(entries, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListClustersResponse {
            clusters: found
                .into_iter()
                .map(|(name, cluster)| convert::cluster(name, cluster, &snapshot))
                .collect(),
            next_page_token,
            view: Some(convert::view(snapshot.view)),
        }))
    }

    async fn get_cluster(
        &self,
        request: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let name = validate::cluster_name("name", &request.into_inner().name)?;
        let cluster = Some(find(&self.feed.snapshot(), &name)?);
        Ok(Response::new(v1::GetClusterResponse { cluster }))
    }

    async fn create_cluster(
        &self,
        request: Request<v1::CreateClusterRequest>,
    ) -> Result<Response<v1::CreateClusterResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let digest = digest("CreateCluster", &request);
        let wanted = request
            .cluster
            .ok_or_else(|| invalid("cluster", "must be set"))?;
        let name = validate::cluster_name("cluster.name", &wanted.name)?;
        let mut violations = Violations::default();
        let policy = wanted.policy.unwrap_or_default();
        let policy = validate::policy(&policy, "cluster.policy.", &mut violations);
        let call = Call {
            operator,
            mutation: Mutation::CreateCluster {
                name,
                policy: violations.none(policy)?,
            },
            request_id: &request_id,
            digest,
            validate_only: request.validate_only,
        };
        let cluster = Some(self.cluster_after(call).await?);
        Ok(Response::new(v1::CreateClusterResponse { cluster }))
    }

    async fn update_cluster(
        &self,
        request: Request<v1::UpdateClusterRequest>,
    ) -> Result<Response<v1::UpdateClusterResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let digest = digest("UpdateCluster", &request);
        let wanted = request
            .cluster
            .ok_or_else(|| invalid("cluster", "must be set"))?;
        let name = validate::cluster_name("cluster.name", &wanted.name)?;
        let wanted_policy = wanted.policy.unwrap_or_default();
        let asked_etag = validate::etag(&wanted.etag);
        let mut races = 0;
        loop {
            let present = find(&self.feed.snapshot(), &name)?;
            let mask = request.update_mask.as_ref();
            let present_policy = present.policy.unwrap_or_default();
            let merged = mask::merge_policy(present_policy, &wanted_policy, mask)?;
            let mut violations = Violations::default();
            let policy = validate::policy(&merged, "cluster.policy.", &mut violations);
            let call = Call {
                operator: operator.clone(),
                mutation: Mutation::UpdateCluster {
                    name: name.clone(),
                    policy: violations.none(policy)?,
                    etag: Some(asked_etag.clone().unwrap_or(present.etag)),
                },
                request_id: &request_id,
                digest,
                validate_only: request.validate_only,
            };
            match self.cluster_after(call).await {
                Err(lost) if lost.code() == Code::Aborted && asked_etag.is_none() => {
                    races += 1;
                    if races == RACES_MAX {
                        return Err(lost);
                    }
                }
                result => {
                    let cluster = Some(result?);
                    return Ok(Response::new(v1::UpdateClusterResponse { cluster }));
                }
            }
        }
    }

    async fn delete_cluster(
        &self,
        request: Request<v1::DeleteClusterRequest>,
    ) -> Result<Response<v1::DeleteClusterResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let call = Call {
            operator,
            mutation: Mutation::DeleteCluster {
                name: validate::cluster_name("name", &request.name)?,
                etag: validate::etag(&request.etag),
                allow_missing: request.allow_missing,
            },
            request_id: &request_id,
            digest: digest("DeleteCluster", &request),
            validate_only: request.validate_only,
        };
        self.change(call).await?;
        Ok(Response::new(v1::DeleteClusterResponse {}))
    }
}

impl Api {
    async fn cluster_after(&self, call: Call<'_>) -> Result<v1::Cluster, Status> {
        let (answer, snapshot) = self.change(call).await?;
        match answer {
            Answer::Cluster(name) => find(&snapshot, &name),
            other => Err(Status::internal(format!("unexpected answer {other:?}"))),
        }
    }
}

fn find(snapshot: &Snapshot, name: &ClusterName) -> Result<v1::Cluster, Status> {
    snapshot
        .clusters
        .get(name)
        .map(|cluster| convert::cluster(name, cluster, snapshot))
        .ok_or_else(|| not_found("cluster", name.as_str()))
}
