//! A watch is a snapshot and all its changes: nothing missing, nothing twice.

use std::collections::BTreeMap;

use qcc_proto::v1::{
    ApplyResourcesRequest, DeleteEndpointRequest, Endpoint, ListEndpointsRequest, RoutedEndpoint,
    View, WatchEndpointsRequest, WatchKind, WatchSnapshotsResponse,
    watch_snapshots_response::Update,
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
    let (mut last, mut registry_id) = (View::default(), String::new());
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
            (last, registry_id) = (view, step.registry_id);
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
        registry_id: registry_id.clone(),
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
    for (view, registry_id) in [
        (future, registry_id),
        (goal, "of-a-disk-that-is-lost".to_owned()),
    ] {
        let request = WatchEndpointsRequest {
            resume_from: Some(view),
            registry_id,
            ..Default::default()
        };
        let refused = client.watch_endpoints(request).await;
        let status = refused.expect_err("this is not known here");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    }
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
    let (mut held, mut last) = (Held::default(), View::default());
    while last < goal {
        let step = watch
            .next()
            .await
            .expect("the watch goes on")
            .expect("no error");
        last = held.apply(step, last);
    }
    assert_eq!(held.endpoints(), proxy.snapshot("default").await.endpoints);
}

/// What a data plane holds, by the contract's rules.
#[derive(Default)]
struct Held(BTreeMap<String, RoutedEndpoint>);

impl Held {
    /// Applies one message to what was held at `last`; returns the view held now.
    fn apply(&mut self, step: WatchSnapshotsResponse, last: View) -> View {
        let view = step.view.unwrap_or_default();
        assert!(view >= last, "{view} after {last}");
        match step.update.expect("every message brings something") {
            Update::Snapshot(chunk) => {
                if chunk.first {
                    self.0.clear();
                }
                self.take(chunk.endpoints);
                if chunk.last { view } else { last }
            }
            Update::Delta(delta) => {
                assert_eq!(delta.from_view.unwrap_or_default(), last, "a gap");
                self.take(delta.endpoints);
                for name in delta.removed_endpoints {
                    self.0.remove(&name);
                }
                view
            }
            Update::Bookmark(_) => {
                assert_eq!(view, last, "a bookmark ran ahead");
                view
            }
        }
    }

    fn take(&mut self, endpoints: Vec<RoutedEndpoint>) {
        self.0.extend(
            endpoints
                .into_iter()
                .map(|routed| (routed.name.clone(), routed)),
        );
    }

    fn endpoints(self) -> Vec<RoutedEndpoint> {
        self.0.into_values().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_a_fresh_snapshot_and_holds_up_nobody() {
    let testbed = Testbed::start().unchecked().proxies(1).await;
    let control = testbed.control();
    let slow = FakeProxy::new(control, "slow", "1");
    let mut watch = slow.watch("default", None).await.expect("a watch");
    // Far more than any buffer on the way would hold, while nobody reads.
    let base_url = format!("http://127.0.0.1:9/{}", "x".repeat(900));
    for round in 0..40_u32 {
        let routed = |index| Endpoint {
            base_url: base_url.clone(),
            priority: Some(round + 1),
            ..endpoint(&format!("e-{index:03}"))
        };
        let request = ApplyResourcesRequest {
            endpoints: (0..300).map(routed).collect(),
            ..Default::default()
        };
        control
            .resources()
            .apply_resources(request)
            .await
            .expect("valid resources");
    }
    testbed.settled().await; // The other proxy has it all.
    let goal = control.view().await;
    let (mut held, mut last, mut messages) = (Held::default(), View::default(), 0);
    while last < goal {
        let step = watch
            .next()
            .await
            .expect("the watch goes on")
            .expect("no error");
        messages += 1;
        last = held.apply(step, last);
    }
    assert_eq!(held.endpoints(), slow.snapshot("default").await.endpoints);
    assert!(messages < 40, "{messages} messages: nothing was skipped");
}
