//! `ProxyAdminService`.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime},
};

use qcc_proto::{
    duration,
    tls::Door,
    v1::{
        DrainProxyRequest, DrainProxyResponse, ExplainProxyEndpointRequest,
        ExplainProxyEndpointResponse, GetProxyStatusRequest, GetProxyStatusResponse,
        ListProxyEndpointsRequest, ListProxyEndpointsResponse, ProxyCounters, ProxyIdentity,
        ProxyStatus, ReloadProxyConfigRequest, ReloadProxyConfigResponse,
        proxy_admin_service_server::ProxyAdminService,
    },
};
use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use super::{endpoints, error::Error, explain::Explanation};
use crate::{
    drain::{DRAIN_MAX, Drain},
    proxy::Counters,
    reload::Reloader,
    reports::Outbox,
    routing::Router,
    sync::{Address, Link},
};

/// All that there is to tell.
#[derive(Debug)]
pub(crate) struct Admin {
    /// Who we are.
    pub identity: ProxyIdentity,
    /// The cluster we serve.
    pub cluster: String,
    /// The control planes we were given.
    pub control_urls: Vec<String>,
    /// When the process started.
    pub started: SystemTime,
    /// The endpoints.
    pub router: Router,
    /// Reports that wait.
    pub outbox: Arc<Outbox>,
    /// How current we are.
    pub link: Link,
    /// Client requests.
    pub counters: Arc<Counters>,
    /// Whether we are stopping.
    pub drain: Drain,
    /// How our own callers are let in.
    pub door: Door,
    /// How clients are let in.
    pub client_door: Door,
    /// How the configuration is read again.
    pub reloader: Reloader,
}

impl Admin {
    fn status(&self, now: Instant) -> ProxyStatus {
        let link = self.link.state();
        let buffer = self.outbox.buffer();
        let (pending, dropped_outcomes) = (buffer.len(), buffer.dropped_total());
        drop(buffer);
        ProxyStatus {
            id: self.identity.id.clone(),
            incarnation: self.identity.incarnation.clone(),
            version: self.identity.version.clone(),
            cluster: self.cluster.clone(),
            http_address: self.identity.http_address.clone(),
            control_urls: self.control_urls.clone(),
            connected_control_url: link
                .connected
                .as_ref()
                .map(|url| Address(url).to_string())
                .unwrap_or_default(),
            ready: link.view.is_some() && !self.drain.has_begun(),
            draining: self.drain.has_begun(),
            applied_view: link.view,
            view_age: link.age(now).map(duration::to_proto),
            stale: link.is_stale(now),
            view_restored: link.restored.is_some(),
            start_time: Some(self.started.into()),
            active_requests: self.active_requests(),
            counters: Some(self.counters()),
            pending_outcomes: u32::try_from(pending).unwrap_or(u32::MAX),
            dropped_outcomes,
            config: Some(self.reloader.status()),
        }
    }

    fn counters(&self) -> ProxyCounters {
        let counters = &self.counters;
        ProxyCounters {
            requests: counters.requests.load(Ordering::Relaxed),
            relayed: counters.relayed.load(Ordering::Relaxed),
            own_errors: counters.own_errors.load(Ordering::Relaxed),
            cancelled: counters.cancelled.load(Ordering::Relaxed),
            attempts: counters.attempts.load(Ordering::Relaxed),
            retries: counters.retries.load(Ordering::Relaxed),
            suspect_requests: counters.suspects.load(Ordering::Relaxed),
        }
    }

    fn active_requests(&self) -> u32 {
        let active = self.counters.active.load(Ordering::Relaxed);
        u32::try_from(active).unwrap_or(u32::MAX)
    }
}

#[async_trait]
impl ProxyAdminService for Admin {
    async fn get_proxy_status(
        &self,
        _request: Request<GetProxyStatusRequest>,
    ) -> Result<Response<GetProxyStatusResponse>, Status> {
        let status = Some(self.status(Instant::now()));
        Ok(Response::new(GetProxyStatusResponse { status }))
    }

    async fn list_proxy_endpoints(
        &self,
        request: Request<ListProxyEndpointsRequest>,
    ) -> Result<Response<ListProxyEndpointsResponse>, Status> {
        let request = request.into_inner();
        let page = endpoints::Page::try_from(&request)?;
        let table = self.router.table();
        let response = table.map(|table| page.of(&table, Instant::now()));
        Ok(Response::new(response.unwrap_or_default()))
    }

    async fn explain_proxy_endpoint(
        &self,
        request: Request<ExplainProxyEndpointRequest>,
    ) -> Result<Response<ExplainProxyEndpointResponse>, Status> {
        let name = request.into_inner().name;
        if name.is_empty() {
            let (field, rule) = ("name", "the name of an endpoint");
            return Err(Error::Invalid { field, rule }.into());
        }
        let table = self.router.table();
        let found = (table.as_deref()).and_then(|table| Some((table, table.find(&name)?)));
        let (table, entry) = found.ok_or(Error::UnknownEndpoint(name))?;
        let explanation = Explanation {
            table,
            entry,
            link: self.link.state(),
            now: Instant::now(),
        };
        Ok(Response::new(explanation.tell()))
    }

    async fn drain_proxy(
        &self,
        request: Request<DrainProxyRequest>,
    ) -> Result<Response<DrainProxyResponse>, Status> {
        let timeout = match request.into_inner().timeout {
            None => None,
            Some(asked) => Some(
                duration::from_proto(&asked)
                    .filter(|asked| *asked <= DRAIN_MAX)
                    .ok_or(Error::Invalid {
                        field: "timeout",
                        rule: "from 0 s to 24 h",
                    })?,
            ),
        };
        info!(
            timeout = timeout.map(tracing::field::debug),
            "asked to drain"
        );
        self.drain.begin(timeout);
        let active_requests = self.active_requests();
        Ok(Response::new(DrainProxyResponse { active_requests }))
    }

    async fn reload_proxy_config(
        &self,
        request: Request<ReloadProxyConfigRequest>,
    ) -> Result<Response<ReloadProxyConfigResponse>, Status> {
        let reloaded = self.reloader.reload(request.into_inner().validate_only);
        let reload = Some(reloaded.await.map_err(Error::Reload)?);
        Ok(Response::new(ReloadProxyConfigResponse { reload }))
    }
}
