//! `FailureQueueService`. The queue is a way to look at endpoints: an entry is the
//! incident of an unhealthy one.

use qcc_proto::v1::{self, failure_queue_service_server::FailureQueueService};
use tonic::{Request, Response, Status};

use super::{Api, convert, operator, page, validate};
use crate::registry::{Answer, Mutation, Snapshot};

#[tonic::async_trait]
impl FailureQueueService for Api {
    async fn list_failures(
        &self,
        request: Request<v1::ListFailuresRequest>,
    ) -> Result<Response<v1::ListFailuresResponse>, Status> {
        let request = request.into_inner();
        let cluster = validate::cluster_filter(&request.cluster)?;
        let snapshot = self.feed.snapshot();
        let wall = self.wall();
        let mut queued: Vec<_> = snapshot
            .endpoints
            .values()
            .filter(|e| e.health.incident().is_some())
            .filter(|e| {
                cluster
                    .as_ref()
                    .is_none_or(|cluster| e.spec.cluster == *cluster)
            })
            .collect();
        // By due time; those in flight have none and come first, those that nobody
        // will check (disabled) come last.
        let order = |e: &crate::registry::Endpoint| match (e.checks.running, e.checks.due) {
            (Some(_), _) => 0,
            (None, Some(due)) => due.0,
            (None, None) => u64::MAX,
        };
        queued.sort_by_key(|e| (order(e), e.spec.name.clone()));
        let entries = queued
            .into_iter()
            .map(|e| (format!("{:020}/{}", order(e), e.spec.name), e));
        let (found, next_page_token) = page::page(entries, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListFailuresResponse {
            entries: found
                .into_iter()
                .filter_map(|e| convert::queue_entry(e, wall))
                .collect(),
            next_page_token,
            view: Some(convert::view(snapshot.view)),
        }))
    }

    async fn get_failure_queue_stats(
        &self,
        _: Request<v1::GetFailureQueueStatsRequest>,
    ) -> Result<Response<v1::GetFailureQueueStatsResponse>, Status> {
        let stats = Some(stats(&self.feed.snapshot()));
        Ok(Response::new(v1::GetFailureQueueStatsResponse { stats }))
    }

    async fn verify_failures(
        &self,
        request: Request<v1::VerifyFailuresRequest>,
    ) -> Result<Response<v1::VerifyFailuresResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let names = request.into_inner().endpoints;
        let names = names
            .iter()
            .map(|name| validate::endpoint_name("endpoints", name));
        let mutation = Mutation::VerifyFailures {
            names: names.collect::<Result<_, _>>()?,
        };
        let started = count(self.simple(operator, mutation).await?.0)?;
        Ok(Response::new(v1::VerifyFailuresResponse { started }))
    }

    async fn remove_failure(
        &self,
        request: Request<v1::RemoveFailureRequest>,
    ) -> Result<Response<v1::RemoveFailureResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let name = validate::endpoint_name("endpoint", &request.into_inner().endpoint)?;
        let (_, snapshot) = self
            .simple(operator, Mutation::RemoveFailure { name: name.clone() })
            .await?;
        let endpoint = Some(self.find(&snapshot, &name)?);
        Ok(Response::new(v1::RemoveFailureResponse { endpoint }))
    }

    async fn clear_failures(
        &self,
        request: Request<v1::ClearFailuresRequest>,
    ) -> Result<Response<v1::ClearFailuresResponse>, Status> {
        let operator = operator::of(&request, "")?;
        let cluster = validate::cluster_filter(&request.into_inner().cluster)?;
        let removed = count(
            self.simple(operator, Mutation::ClearFailures { cluster })
                .await?
                .0,
        )?;
        Ok(Response::new(v1::ClearFailuresResponse { removed }))
    }
}

/// Returns the queue's length and counters.
pub(super) fn stats(snapshot: &Snapshot) -> v1::FailureQueueStats {
    let length = snapshot
        .endpoints
        .values()
        .filter(|e| e.health.incident().is_some())
        .count();
    let totals = snapshot.totals;
    v1::FailureQueueStats {
        length: u32::try_from(length).unwrap_or(u32::MAX),
        total_failed: totals.failed,
        total_verified: totals.verified,
        total_recovered: totals.recovered,
        total_still_failed: totals.still_failed,
    }
}

fn count(answer: Answer) -> Result<u32, Status> {
    match answer {
        Answer::Count(count) => Ok(count),
        other => Err(Status::internal(format!("unexpected answer {other:?}"))),
    }
}
