//! A watch is a snapshot and all its changes: nothing missing, nothing twice.

use std::collections::BTreeMap;

use qcc_proto::v1::{
    DeleteEndpointRequest, Endpoint, ListEndpointsRequest, View, WatchEndpointsRequest, WatchKind,
    WatchSnapshotsResponse, watch_snapshots_response::Update,
};
use qcc_tests::{FakeProxy, Testbed};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::contract::{create, endpoint, update};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_a_snapshot_and_all_its_changes() {
    let testbed = Testbed::start().unchecked().endpoints(["a", "b"]).await;
    let control = testbed.control();
    let mut client = control.endpoints();
    let mut held = BTreeMap::new();
    let request = WatchEndpointsRequest::default();
    let mut watch = client
        .watch_endpoints(request)
        .await
        .expect("a watch")
        .into_inner();
    for index in 0..20_u32 {
        let changed = Endpoint {
            weight: Some(index + 1),
            ..endpoint("a")
        };
        client
            .update_endpoint(update(changed, &["weight"]))
            .await
            .expect("valid");
        client
            .create_endpoint(create(endpoint(&format!("n-{index}"))))
            .await
            .expect("valid");
    }
    let delete = DeleteEndpointRequest {
        name: "b".to_owned(),
        ..Default::default()
    };
    client.delete_endpoint(delete).await.expect("it exists");
    let goal = control.view().await;
    let mut last = View::default();
    while last < goal {
        let step = watch
            .next()
            .await
            .expect("the watch goes on")
            .expect("no error");
        let view = step.view.unwrap_or_default();
        assert!(view >= last, "{view} after {last}");
        if step.kind() == WatchKind::Snapshot && view > last {
            held.clear();
        }
        held.extend(
            step.endpoints
                .into_iter()
                .map(|endpoint| (endpoint.name.clone(), endpoint)),
        );
        for name in step.removed_endpoints {
            held.remove(&name);
        }
        if !step.more {
            last = view;
        }
    }
    let listed = client
        .list_endpoints(ListEndpointsRequest::default())
        .await
        .expect("a page");
    let listed = listed.into_inner().endpoints;
    assert_eq!(held.into_values().collect::<Vec<_>>(), listed);

    // Going on from a view brings what came later, and nothing twice.
    let request = WatchEndpointsRequest {
        resume_from: Some(goal),
        ..Default::default()
    };
    let mut resumed = client
        .watch_endpoints(request)
        .await
        .expect("a watch")
        .into_inner();
    let changed = Endpoint {
        weight: Some(99),
        ..endpoint("a")
    };
    client
        .update_endpoint(update(changed, &["weight"]))
        .await
        .expect("valid");
    let step = loop {
        let step = resumed
            .next()
            .await
            .expect("the watch goes on")
            .expect("no error");
        if step.kind() != WatchKind::Bookmark {
            break step;
        }
    };
    assert_eq!(step.kind(), WatchKind::Delta, "{step:?}");
    assert_eq!(
        step.endpoints
            .iter()
            .map(|endpoint| endpoint.weight)
            .collect::<Vec<_>>(),
        [Some(99)]
    );
    let future = View {
        revision: goal.revision + 1000,
        ..goal
    };
    let request = WatchEndpointsRequest {
        resume_from: Some(future),
        ..Default::default()
    };
    let status = match client.watch_endpoints(request).await {
        Err(status) => status,
        Ok(watch) => watch
            .into_inner()
            .next()
            .await
            .expect("an answer")
            .expect_err("the future"),
    };
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_plane_s_deltas_add_up_to_the_snapshot() {
    let testbed = Testbed::start().unchecked().endpoints(["a", "b"]).await;
    let control = testbed.control();
    let proxy = FakeProxy::new(control, "fake", "1");
    let mut watch = proxy.watch("default", None).await.expect("a watch");
    let mut client = control.endpoints();
    for index in 0..20_u32 {
        let changed = Endpoint {
            weight: Some(index + 1),
            ..endpoint("a")
        };
        client
            .update_endpoint(update(changed, &["weight"]))
            .await
            .expect("valid");
        let name = format!("n-{}", index % 3);
        if index % 6 < 3 {
            client
                .create_endpoint(create(endpoint(&name)))
                .await
                .expect("valid");
        } else {
            let delete = DeleteEndpointRequest {
                name,
                ..Default::default()
            };
            client.delete_endpoint(delete).await.expect("it exists");
        }
    }
    let goal = control.view().await;
    let (mut held, mut last) = (BTreeMap::new(), View::default());
    while last < goal {
        let WatchSnapshotsResponse { view, update, .. } = watch
            .next()
            .await
            .expect("the watch goes on")
            .expect("no error");
        let view = view.unwrap_or_default();
        assert!(view >= last, "{view} after {last}");
        match update.expect("every message brings something") {
            Update::Snapshot(chunk) => {
                if chunk.first {
                    held.clear();
                }
                held.extend(
                    chunk
                        .endpoints
                        .into_iter()
                        .map(|routed| (routed.name.clone(), routed)),
                );
                if chunk.last {
                    last = view;
                }
            }
            Update::Delta(delta) => {
                assert_eq!(delta.from_view.unwrap_or_default(), last, "a gap");
                held.extend(
                    delta
                        .endpoints
                        .into_iter()
                        .map(|routed| (routed.name.clone(), routed)),
                );
                for name in delta.removed_endpoints {
                    held.remove(&name);
                }
                last = view;
            }
            Update::Bookmark(_) => assert_eq!(view, last, "a bookmark ran ahead"),
        }
    }
    let snapshot = proxy.snapshot("default").await;
    assert_eq!(held.into_values().collect::<Vec<_>>(), snapshot.endpoints);
}
