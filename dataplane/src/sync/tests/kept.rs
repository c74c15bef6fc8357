//! A view that an earlier process kept.

use super::*;
use crate::sync::watch::Watch;

/// A view that an earlier process kept an hour ago.
fn kept(registry_id: &str, view: View) -> Kept {
    let clocks = Clocks {
        clock_ms: 0,
        received: Instant::now(),
    };
    let endpoint = RoutedEndpoint {
        name: "kept".into(),
        base_url: "http://127.0.0.1:1".into(),
        generation: 1,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        ..Default::default()
    };
    Kept {
        registry_id: registry_id.into(),
        view,
        policy: crate::routing::Policy::default(),
        endpoints: vec![Arc::new(convert::routed(endpoint, clocks).unwrap())],
        rejected: Vec::new(),
        has_left_out: false,
        age: Duration::from_secs(3600),
    }
}

/// A client of control planes that bring nothing.
fn lonely(control_urls: Vec<Uri>, kept: Kept) -> (Client, Link, Router) {
    let outbox = Arc::new(Outbox::new(100));
    let router = Router::new(1, Arc::clone(&outbox));
    let link = Link::new();
    let client = Client {
        control_urls,
        trust: qcc_proto::tls::Trust::nobody(),
        identity: ProxyIdentity::default(),
        cluster: "default".into(),
        router: router.clone(),
        outbox,
        link: link.clone(),
        kept: Some(kept),
    };
    (client, link, router)
}

const OLD: View = View {
    term: 1,
    revision: 1,
};

#[tokio::test]
async fn a_view_that_was_kept_is_used_when_nobody_answers_and_says_that_it_is_old() {
    let nobody = vec!["http://127.0.0.1:1".parse().unwrap(); 2];
    let (client, link, router) = lonely(nobody, kept("r", OLD));
    let outbox = Arc::clone(&client.outbox);
    let running = tokio::spawn(client.run());
    link.ready().await;
    assert!(router.table().unwrap().find("kept").is_some());
    let (state, now) = (link.state(), Instant::now());
    assert_eq!((state.view, state.connected.clone()), (Some(OLD), None));
    assert!(state.is_stale(now) && link.staleness(now).is_some());
    assert!(state.age(now).unwrap() >= Duration::from_secs(3600));
    assert_eq!(&**outbox.buffer().registry_id(), "r");
    running.abort();
}

#[tokio::test]
async fn a_control_plane_that_hangs_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (client, link, _) = lonely(vec![url.parse().unwrap()], kept("r", OLD));
    let start = Instant::now();
    let running = tokio::spawn(client.run());
    link.ready().await; // The connection is there; nothing ever comes of it.
    assert!(start.elapsed() < link::SILENCE_MAX, "{:?}", start.elapsed());
    assert!(link.state().is_stale(Instant::now()));
    running.abort();
}

#[tokio::test]
async fn the_control_planes_word_goes_before_what_was_kept() {
    let later = View {
        term: 9,
        revision: 9,
    };
    for kept_view in [OLD, later] {
        let testbed = Testbed::with(Some(kept("", kept_view))).await;
        let mut states = testbed.link.subscribe();
        let connected = states.wait_for(|state| state.connected.is_some());
        drop(connected.await.unwrap());
        let (state, table) = (testbed.link.state(), testbed.router.table().unwrap());
        assert_eq!(state.restored, None);
        assert!(!state.is_stale(Instant::now()));
        assert!(table.find("kept").is_none(), "{kept_view}");
    }
}

#[tokio::test]
async fn what_was_kept_is_let_go_of_once_a_control_plane_has_answered() {
    let kept = kept("", OLD);
    let with_a_key = Arc::downgrade(&kept.endpoints[0]);
    let testbed = Testbed::with(Some(kept)).await;
    until(|| with_a_key.upgrade().is_none()).await; // Not only at the end of the session.
    assert!(!testbed.sync.is_finished() && testbed.link.state().connected.is_some());
}

/// A message by which a control plane tells of the kept endpoint.
fn told(registry_id: &str, generation: u64, state: HealthState) -> WatchSnapshotsResponse {
    let Some(Update::Snapshot(mut chunk)) = snapshot(1, 2, generation).update else {
        unreachable!("a snapshot");
    };
    chunk.registry_id = registry_id.into();
    chunk.endpoints[0].name = "kept".into();
    chunk.endpoints[0].state = state.into();
    chunk.endpoints[0].cause = v1::Cause::Timeout.into();
    message(1, 2, Update::Snapshot(chunk))
}

#[test]
fn what_an_earlier_process_saw_rejected_is_told_to_a_control_plane_that_does_not_know() {
    const HEALTHY: HealthState = HealthState::Healthy;
    for (what, first, is_told) in [
        ("nothing has changed", bookmark(1, 1), true),
        ("it is still in use", told("r", 1, HEALTHY), true),
        ("it is out", told("r", 1, HealthState::Unhealthy), false),
        ("it has another key", told("r", 2, HEALTHY), false),
        ("another registry", told("s", 1, HEALTHY), false),
    ] {
        let kept = Kept {
            rejected: vec![("kept".into(), 1)],
            ..kept("r", OLD)
        };
        let (mut client, ..) = lonely(Vec::new(), kept);
        let kept = client.kept.take().unwrap();
        let mut replica = Replica::default();
        client.restore(kept, &mut replica);
        assert!(client.outbox.buffer().is_empty(), "{what}: not before");
        let url = Uri::from_static("http://127.0.0.1:1");
        let mut watch = Watch::new(&client, &url, &mut replica);
        watch.request();
        let view = first.view.unwrap_or_default();
        let nothing_new = bookmark(view.term, view.revision);
        for message in [first, nothing_new] {
            watch.apply(message, Instant::now()).unwrap();
        }
        let mut buffer = client.outbox.buffer();
        let batch = buffer.next_batch();
        let outcomes = batch.map_or_else(Vec::new, |batch| batch.reports.clone());
        let told: Vec<_> = (outcomes.iter())
            .map(|report| (&*report.endpoint, report.generation, report.outcome.class))
            .collect();
        let expected = [("kept", 1, OutcomeClass::Auth)];
        assert_eq!(told, &expected[..usize::from(is_told)], "{what}");
    }
}

#[tokio::test]
async fn what_was_seen_under_a_kept_view_counts_once_and_for_its_own_registry_only() {
    for (registry, is_known) in [("r1", true), ("r0", false)] {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let url = format!("http://{address}").parse().unwrap();
        let (client, link, router) = lonely(vec![url], kept(registry, OLD));
        let outbox = Arc::clone(&client.outbox);
        let running = tokio::spawn(client.run());
        link.ready().await;
        let now = Instant::now();
        let Next::Attempt(attempt) = router.begin().unwrap().next(now) else {
            panic!("the kept view has an endpoint");
        };
        attempt.finish(Outcome::of(OutcomeClass::Auth), now);

        let (messages, _) = watch::channel(snapshot(2, 2, 1));
        let fake = Fake {
            script: Arc::default(),
            messages,
        };
        let script = Arc::clone(&fake.script);
        let (_, server) = serve(fake, address).await;
        until(|| link.state().restored.is_none() && outbox.buffer().is_empty()).await;
        let asked = script.watches.lock().unwrap()[0].clone();
        assert_eq!(
            (asked.resume_from, &*asked.registry_id),
            (Some(OLD), registry)
        );
        let reports = script.reports.lock().unwrap().clone();
        let batches = reports.into_iter().filter_map(|message| message.batch);
        let (mut sent, dropped) = (0, outbox.buffer().dropped_total());
        for batch in batches.filter(|batch| !batch.outcomes.is_empty()) {
            // A control plane with another registry acknowledges it and does nothing.
            assert_eq!(batch.registry_id, registry);
            assert_eq!(batch.outcomes[0].view, Some(OLD));
            sent += batch.outcomes.len() as u64;
        }
        if is_known {
            assert_eq!((sent, dropped), (1, 0));
        } else {
            // It may have left, and be counted all the same, before the watch told.
            assert!(sent <= 1 && sent + dropped >= 1, "{sent} {dropped}");
        }
        running.abort();
        server.shutdown_background();
    }
}
