//! `ProxyService`.

use std::{collections::BTreeMap, time::Duration};

use qcc_proto::{
    duration::to_proto,
    v1::{self, proxy_service_server::ProxyService},
};
use tonic::{Request, Response, Status};

use super::{Api, convert, error::not_found, page};
use crate::{
    registry::{ProxyKey, View},
    sessions::Session,
};

#[tonic::async_trait]
impl ProxyService for Api {
    async fn list_proxies(
        &self,
        request: Request<v1::ListProxiesRequest>,
    ) -> Result<Response<v1::ListProxiesResponse>, Status> {
        let request = request.into_inner();
        let newest = self.feed.snapshot().view;
        // Neither part of the key contains a slash.
        let entries = self
            .proxies(newest)
            .into_iter()
            .map(|(_, proxy)| (format!("{}/{}", proxy.id, proxy.incarnation), proxy));
        let (proxies, next_page_token) =
            page::page(entries, request.page_size, &request.page_token)?;
        let view = Some(convert::view(newest));
        Ok(Response::new(v1::ListProxiesResponse {
            proxies,
            next_page_token,
            view,
        }))
    }

    async fn get_proxy(
        &self,
        request: Request<v1::GetProxyRequest>,
    ) -> Result<Response<v1::GetProxyResponse>, Status> {
        let id = request.into_inner().id;
        let newest = self.feed.snapshot().view;
        let proxy = self
            .proxies(newest)
            .into_iter()
            .filter(|(_, proxy)| proxy.id == id)
            .max_by_key(|(session, _)| session.heard)
            .map(|(_, proxy)| proxy)
            .ok_or_else(|| not_found("proxy", &id))?;
        Ok(Response::new(v1::GetProxyResponse { proxy: Some(proxy) }))
    }
}

impl Api {
    /// Returns all data planes in the order of their listing keys.
    pub(super) fn proxies(&self, newest: View) -> Vec<(Session, v1::Proxy)> {
        let sessions = self.sessions.list();
        let mut live: BTreeMap<String, u32> = BTreeMap::new();
        for (key, _) in sessions.iter().filter(|(_, session)| !session.gone()) {
            *live.entry(key.id.to_string()).or_default() += 1;
        }
        let mut proxies: Vec<_> = sessions
            .into_iter()
            .map(|(key, session)| {
                let duplicate = live.get(key.id.as_str()).is_some_and(|count| *count > 1);
                let behind = self.feed.behind(session.applied.unwrap_or_default());
                let proxy = proxy(&key, &session, duplicate, newest, behind);
                (session, proxy)
            })
            .collect();
        proxies.sort_by_cached_key(|(_, proxy)| format!("{}/{}", proxy.id, proxy.incarnation));
        proxies
    }
}

fn proxy(
    key: &ProxyKey,
    session: &Session,
    duplicate_id: bool,
    newest: View,
    behind: Duration,
) -> v1::Proxy {
    let sync_state = match session.applied {
        _ if session.gone() => v1::SyncState::Gone,
        Some(applied) if applied >= newest => v1::SyncState::Synced,
        _ => v1::SyncState::Stale,
    };
    let applied = session.applied.unwrap_or_default();
    v1::Proxy {
        id: key.id.to_string(),
        incarnation: key.incarnation.to_string(),
        version: session.version.clone(),
        cluster: session.cluster.clone(),
        http_address: session.http_address.clone(),
        admin_address: session.admin_address.clone(),
        sync_state: sync_state.into(),
        applied_view: session.applied.map(convert::view),
        lag_revisions: newest.revision.saturating_sub(applied.revision),
        last_heard_age: Some(to_proto(session.heard.elapsed())),
        connect_time: Some(session.connected.into()),
        acknowledged_sequence: session.acknowledged,
        dropped_outcomes: session.dropped,
        duplicate_id: duplicate_id && !session.gone(),
        lag: Some(to_proto(behind)),
    }
}
