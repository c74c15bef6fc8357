//! What has happened is told, to whoever asks and to whoever listens.

use std::time::Duration;

use qcc_proto::v1::{
    Cause, Check, ConversationCheck, Credential, Endpoint, Event, EventKind,
    ExplainEndpointRequest, HealthState, HttpCheck, ListEventsRequest, ListProxiesRequest,
    SyncState, UpdateEndpointRequest, WatchEventsRequest, check,
};
use qcc_tests::{Answer, Testbed, eventually};
use tonic::Streaming;

/// Reads a stream of events until `found` says so. Returns that event.
async fn told(
    stream: &mut Streaming<qcc_proto::v1::WatchEventsResponse>,
    found: impl Fn(&Event) -> bool,
) -> Event {
    loop {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.message()).await;
        let message = next
            .expect("something is sent every 5 s")
            .expect("it lasts");
        let message = message.expect("it does not end");
        if let Some(event) = message.events.into_iter().find(|event| found(event)) {
            return event;
        }
    }
}

async fn events(testbed: &Testbed, endpoint: &str) -> Vec<Event> {
    let request = ListEventsRequest {
        endpoint: endpoint.to_owned(),
        ..ListEventsRequest::default()
    };
    let answer = testbed.control().events().list_events(request).await;
    answer.expect("events are listed").into_inner().events
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_told_as_it_happens_and_after_a_crash() {
    let builder = Testbed::start().eager_checks().endpoints(["a", "b"]);
    let testbed = builder.proxies(2).await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    let follow = WatchEventsRequest {
        endpoint: "a".to_owned(),
        ..WatchEventsRequest::default()
    };
    let mut stream = control.events().watch_events(follow.clone()).await;
    let stream = stream.as_mut().expect("events can be followed").get_mut();

    let rejection = Answer::status(401).header("request-id", "req_of_the_rejection");
    upstream.respond(rejection);
    testbed.proxy(0).message().await.expect_status(200);
    let kind = |kind: EventKind| move |event: &Event| event.kind() == kind;
    let ejected = told(stream, kind(EventKind::EndpointEjected)).await;
    let evidence = ejected.evidence.clone().expect("somebody saw it");
    assert_eq!((evidence.http_status, ejected.cause()), (401, Cause::Auth));
    assert_eq!(evidence.error_type, "authentication_error");
    assert_eq!(evidence.upstream_request_id, "req_of_the_rejection");
    let reporter = testbed.proxy(0).status().await.expect("it answers").id;
    assert_eq!(evidence.proxy, reporter);
    assert!(evidence.view < ejected.view && evidence.generation == ejected.generation);

    control.kill();
    control.start().await;
    let kept = events(&testbed, "a").await;
    assert!(kept.contains(&ejected), "{kept:#?}");

    // Whoever followed goes on where it stood.
    let resume = WatchEventsRequest {
        after_id: Some(ejected.id),
        ..follow
    };
    let mut stream = control.events().watch_events(resume).await;
    let stream = stream.as_mut().expect("events can be followed").get_mut();
    upstream.respond(200);
    let recovered = told(stream, kind(EventKind::EndpointRecovered)).await;
    assert!(recovered.id > ejected.id && recovered.generation > ejected.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_has_not_happened_cannot_be_resumed_from() {
    let testbed = Testbed::start().await;
    let follow = WatchEventsRequest::default();
    let stream = testbed.control().events().watch_events(follow).await;
    let mut stream = stream.expect("events can be followed").into_inner();
    let first = stream.message().await.expect("it lasts");
    let first = first.expect("where it stands");
    let resume = WatchEventsRequest {
        after_id: Some(first.position),
        registry_id: first.registry_id,
        ..WatchEventsRequest::default()
    };
    assert!(!resume.registry_id.is_empty());
    let resumed = testbed.control().events().watch_events(resume).await;
    resumed.expect("it has happened");
    for (after_id, registry_id) in [(1_000_000, ""), (0, "of-a-disk-that-is-lost")] {
        let request = WatchEventsRequest {
            after_id: Some(after_id),
            registry_id: registry_id.to_owned(),
            ..WatchEventsRequest::default()
        };
        let refused = testbed.control().events().watch_events(request).await;
        let status = refused.expect_err("that has not happened here");
        assert_eq!(status.code(), tonic::Code::OutOfRange);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_why_and_what_is_next() {
    let builder = Testbed::start().patient_checks().endpoints(["a", "b"]);
    let testbed = builder.proxies(2).await;
    testbed.upstream("a").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    let control = testbed.control();
    control.eventually_is("a", HealthState::Unhealthy).await;
    synced(&testbed, 2).await;
    let request = ExplainEndpointRequest {
        name: "a".to_owned(),
    };
    let answer = control.endpoints().explain_endpoint(request).await;
    let answer = answer.expect("it exists").into_inner();
    let reporter = testbed.proxy(0).status().await.expect("it answers").id;
    assert!(
        answer.summary.contains("its key is rejected"),
        "{}",
        answer.summary
    );
    assert!(
        answer.summary.contains("401 authentication_error"),
        "{}",
        answer.summary
    );
    assert!(answer.summary.contains(&reporter), "{}", answer.summary);
    assert!(answer.next.starts_with("A check"), "{}", answer.next);
    assert!(answer.next_time.is_some());
    assert!(
        answer.advice.contains("endpoints update a "),
        "{}",
        answer.advice
    );
    assert_eq!(answer.proxies_behind_count, 0);
    assert_eq!(
        answer.events.first().map(Event::kind),
        Some(EventKind::EndpointEjected)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_views_take_is_measured() {
    let builder = Testbed::start().patient_checks().endpoints(["a", "b"]);
    let testbed = builder.proxies(2).await;
    testbed.settled().await;
    let before = testbed
        .control()
        .status()
        .await
        .propagation
        .unwrap_or_default();
    testbed.upstream("a").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    eventually("both proxies have said that they applied it", async || {
        let status = testbed.control().status().await;
        let propagation = status.propagation.unwrap_or_default();
        let counted: u64 = propagation.buckets.iter().map(|bucket| bucket.count).sum();
        assert_eq!(counted, propagation.count);
        if propagation.count >= before.count + 2 {
            Ok(())
        } else {
            Err(format!("{propagation:?}"))
        }
    })
    .await;
    // What was counted may have been about the view before.
    synced(&testbed, 2).await;
}

/// Waits until so many proxies have told the control plane that they have applied the newest view.
async fn synced(testbed: &Testbed, proxies: usize) {
    eventually("all proxies are synced", async || {
        let mut service = testbed.control().proxies();
        let list = service.list_proxies(ListProxiesRequest::default()).await;
        let list = list.expect("they are listed").into_inner().proxies;
        let current = |proxy: &qcc_proto::v1::Proxy| {
            proxy.sync_state() == SyncState::Synced
                && proxy.lag == Some(prost_types::Duration::default())
        };
        if list.len() == proxies && list.iter().all(current) {
            Ok(())
        } else {
            Err(format!("{list:?}"))
        }
    })
    .await;
}

/// Answers like an API that knows these keys.
fn accepts(keys: &'static [&'static str]) -> impl Fn(&qcc_tests::Request) -> Answer {
    move |request| {
        let key = request.header("x-api-key").unwrap_or_default();
        Answer::status(if keys.contains(&key) { 200 } else { 401 })
    }
}

fn rotate(key: &str) -> UpdateEndpointRequest {
    UpdateEndpointRequest {
        endpoint: Some(Endpoint {
            name: "a".to_owned(),
            credential: Some(Credential {
                api_key: key.to_owned(),
                ..Credential::default()
            }),
            ..Endpoint::default()
        }),
        credential_overlap: Some(prost_types::Duration {
            seconds: 600,
            nanos: 0,
        }),
        reason: "rotation".to_owned(),
        ..UpdateEndpointRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_key_serves_until_the_new_one_is_proven() {
    let by_status = |endpoint: &mut Endpoint| {
        endpoint.credential = Some(Credential {
            api_key: "old".to_owned(),
            ..Credential::default()
        });
        endpoint.check = Some(Check {
            kind: Some(check::Kind::Http(HttpCheck::default())),
            ..Check::default()
        });
    };
    let builder = Testbed::start().eager_checks().endpoint("a", by_status);
    let testbed = builder.proxies(1).await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    upstream.respond_by(accepts(&["old"]));
    let before = control.eventually_is("a", HealthState::Healthy).await;

    let update = control.endpoints().update_endpoint(rotate("new")).await;
    let updated = update
        .expect("it is valid")
        .into_inner()
        .endpoint
        .unwrap_or_default();
    let credential = updated.credential.unwrap_or_default();
    assert_eq!(updated.generation, before.generation);
    assert!(!credential.pending_fingerprint.is_empty() && credential.pending_until_time.is_some());
    eventually("the new key is rejected", async || {
        let events = events(&testbed, "a").await;
        let rejected = |event: &Event| event.kind() == EventKind::NewCredentialRejected;
        events.iter().any(rejected).then_some(()).ok_or("not yet")
    })
    .await;
    testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(control.state("a").await, HealthState::Healthy);

    upstream.respond_by(accepts(&["old", "new"]));
    let rotated = control.eventually("a", "served with the new key", |endpoint| {
        endpoint.generation > before.generation
    });
    let credential = rotated.await.credential.unwrap_or_default();
    assert!(credential.pending_fingerprint.is_empty());
    upstream.respond_by(accepts(&["new"]));
    testbed.settled().await;
    testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(control.queue_stats().await.total_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_costs_something_is_asked_only_if_what_costs_nothing_passes() {
    let builder = Testbed::start().eager_checks().endpoint("a", |endpoint| {
        endpoint.check = Some(Check {
            kind: Some(check::Kind::Conversation(ConversationCheck::default())),
            precheck: Some(HttpCheck::default()),
            ..Check::default()
        });
    });
    let testbed = builder.proxies(1).await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    control.eventually_is("a", HealthState::Healthy).await;
    let asked = |method: &str| {
        let requests = upstream.requests();
        let of_method = requests.iter().filter(|request| request.method == method);
        of_method.count()
    };
    assert_eq!((asked("GET"), asked("POST")), (1, 1), "both were asked");

    upstream.respond(401);
    testbed.proxy(0).message().await.expect_status(502);
    let (unbilled, billed) = (asked("GET"), asked("POST"));
    eventually("it is checked again", async || {
        let more = asked("GET") >= unbilled + 3;
        more.then_some(()).ok_or("not yet")
    })
    .await;
    assert_eq!(
        asked("POST"),
        billed,
        "the key is known to be bad without paying"
    );
    upstream.respond(200);
    control.eventually_is("a", HealthState::Healthy).await;
    assert!(asked("POST") > billed);
}
