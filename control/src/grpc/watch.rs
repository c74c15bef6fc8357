//! The stream behind `EndpointService.WatchEndpoints`.

use std::time::Duration;

use qcc_proto::v1;
use tokio_stream::Stream;
use tonic::Status;

use super::{Api, convert, error::stopping, updates::gone};
use crate::{
    feed::Since,
    registry::{ClusterName, Snapshot, View},
};

/// How often a watch says that nothing has changed.
const BOOKMARK: Duration = Duration::from_secs(5);

/// Endpoints in one message of a watch: well below the 4 MiB that clients take.
const ENDPOINTS_PER_MESSAGE: usize = 500;

/// Yields a snapshot (unless `position` can be resumed), then every change, and a
/// bookmark when there is none for a while.
pub(super) fn watch(
    api: Api,
    cluster: Option<ClusterName>,
    mut position: Option<View>,
) -> impl Stream<Item = Result<v1::WatchEndpointsResponse, Status>> + Send {
    let (messages, stream) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut newest = api.feed.subscribe();
        loop {
            newest.mark_unchanged();
            let snapshot = api.feed.snapshot();
            for message in step(&api, &snapshot, cluster.as_ref(), position) {
                if messages.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            position = Some(snapshot.view);
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(BOOKMARK) => {}
                () = messages.closed() => return,
                () = api.stop.cancelled() => {
                    let _ = messages.send(Err(stopping())).await;
                    return;
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(stream)
}

fn step(
    api: &Api,
    snapshot: &Snapshot,
    cluster: Option<&ClusterName>,
    position: Option<View>,
) -> Vec<v1::WatchEndpointsResponse> {
    let wall = api.wall();
    let view = Some(convert::view(snapshot.view));
    let wanted = |e: &&std::sync::Arc<crate::registry::Endpoint>| {
        cluster.is_none_or(|cluster| e.spec.cluster == *cluster)
    };
    let since = position.map_or(Since::TooOld, |from| api.feed.since(from, snapshot.view));
    match since {
        Since::Changed(changed) => {
            let nothing = changed.is_empty();
            let kind = if nothing {
                v1::WatchKind::Bookmark
            } else {
                v1::WatchKind::Delta
            };
            let present = changed.endpoints.iter();
            let present = present.filter_map(|name| snapshot.endpoints.get(name));
            vec![v1::WatchEndpointsResponse {
                view,
                kind: kind.into(),
                endpoints: present
                    .filter(wanted)
                    .map(|e| convert::endpoint(e, snapshot, wall))
                    .collect(),
                removed_endpoints: gone(&changed, snapshot, cluster),
                more: false,
                registry_id: snapshot.registry_id.to_string(),
            }]
        }
        Since::TooOld | Since::Future => {
            let all: Vec<_> = snapshot.endpoints.values().filter(wanted).collect();
            let parts = all.len().div_ceil(ENDPOINTS_PER_MESSAGE).max(1);
            (0..parts)
                .map(|part| v1::WatchEndpointsResponse {
                    view,
                    kind: v1::WatchKind::Snapshot.into(),
                    endpoints: all
                        .iter()
                        .skip(part * ENDPOINTS_PER_MESSAGE)
                        .take(ENDPOINTS_PER_MESSAGE)
                        .map(|e| convert::endpoint(e, snapshot, wall))
                        .collect(),
                    removed_endpoints: Vec::new(),
                    more: part + 1 < parts,
                    registry_id: snapshot.registry_id.to_string(),
                })
                .collect()
        }
    }
}
