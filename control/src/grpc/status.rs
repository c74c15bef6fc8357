//! `ControlService`.

use qcc_proto::{
    duration::to_proto,
    v1::{self, control_service_server::ControlService},
};
use tonic::{Request, Response, Status};

use super::{Api, convert, queue};
use crate::propagation::Propagation;

#[tonic::async_trait]
impl ControlService for Api {
    async fn get_control_status(
        &self,
        _: Request<v1::GetControlStatusRequest>,
    ) -> Result<Response<v1::GetControlStatusResponse>, Status> {
        let snapshot = self.feed.snapshot();
        let states = [
            v1::HealthState::Unknown,
            v1::HealthState::Healthy,
            v1::HealthState::Degraded,
            v1::HealthState::Unhealthy,
        ];
        let in_state = |state| {
            snapshot
                .endpoints
                .values()
                .filter(|e| convert::in_state(e, state))
                .count() as u32
        };
        let proxies = self.proxies(snapshot.view);
        let proxies_in = |state: v1::SyncState| {
            proxies
                .iter()
                .filter(|(_, proxy)| proxy.sync_state() == state)
                .count() as u32
        };
        let synced = proxies_in(v1::SyncState::Synced);
        let reports = snapshot.report_counts;
        let status = v1::ControlStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            view: Some(convert::view(snapshot.view)),
            start_time: Some(self.started.into()),
            clusters: snapshot.clusters.len() as u32,
            endpoints: snapshot.endpoints.len() as u32,
            endpoint_states: states
                .into_iter()
                .map(|state| v1::StateCount {
                    state: state.into(),
                    endpoints: in_state(state),
                })
                .filter(|count| count.endpoints > 0)
                .collect(),
            failure_queue: Some(queue::stats(&snapshot)),
            proxies: synced + proxies_in(v1::SyncState::Stale),
            proxies_synced: synced,
            reports: Some(v1::ReportCounts {
                applied: reports.applied,
                duplicate: reports.duplicate,
                stale: reports.stale,
                unknown_endpoint: reports.unknown_endpoint,
                dropped: reports.dropped,
            }),
            propagation: Some(propagation(&self.sessions.propagation())),
            checks: snapshot.check_counts.made,
            checks_refused: snapshot.check_counts.refused,
            config: Some(self.reloader.status()),
        };
        Ok(Response::new(v1::GetControlStatusResponse {
            status: Some(status),
        }))
    }

    async fn reload_control_config(
        &self,
        request: Request<v1::ReloadControlConfigRequest>,
    ) -> Result<Response<v1::ReloadControlConfigResponse>, Status> {
        let reload = self.reloader.reload(request.into_inner().validate_only);
        let reload = Some(reload.await?);
        Ok(Response::new(v1::ReloadControlConfigResponse { reload }))
    }
}

fn propagation(propagation: &Propagation) -> v1::Propagation {
    v1::Propagation {
        count: propagation.count(),
        sum: Some(to_proto(propagation.sum)),
        max: Some(to_proto(propagation.max)),
        buckets: propagation
            .buckets()
            .map(|(bound, count)| v1::PropagationBucket {
                upper_bound: bound.map(to_proto),
                count,
            })
            .collect(),
    }
}
