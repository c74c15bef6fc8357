//! An outcome counts once, for the attempt it came from.

use qcc_proto::v1::{
    DeleteEndpointRequest, Endpoint, EndpointStats, Health, HealthState, ListProxiesRequest,
    Outcome, OutcomeClass, ProxyIdentity, ReportBatch, ReportOutcomesRequest, View,
    health_sync_service_client::HealthSyncServiceClient,
};
use qcc_tests::{Checks, FakeProxy, Gate, Testbed, eventually, outcome};
use tonic::Code;
use tonic_types::StatusExt;

use crate::contract::{create, endpoint};

/// The counters that reports move.
fn counts(stats: EndpointStats) -> [u64; 5] {
    [
        stats.attempts,
        stats.successes,
        stats.failures,
        stats.throttled,
        stats.stale,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_arrive_twice_count_once() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b", "c"])
        .await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let snapshot = proxy.snapshot("default").await;
    let outcomes = vec![
        outcome(&snapshot, "a", OutcomeClass::Success),
        outcome(&snapshot, "b", OutcomeClass::ServerError),
        outcome(&snapshot, "b", OutcomeClass::ServerError),
        outcome(&snapshot, "c", OutcomeClass::Auth),
        outcome(&snapshot, "c", OutcomeClass::Auth),
    ];
    assert_eq!(
        proxy.report(outcomes.clone()).await.acknowledged_sequence,
        5
    );
    let known = async |name| {
        let Endpoint { health, stats, .. } = control.endpoint(name).await;
        // Deadlines are converted at each reading, and may differ by a millisecond.
        (
            health.map(|health| Health {
                next_check_time: None,
                ..health
            }),
            stats,
        )
    };
    let mut before = Vec::new();
    for name in ["a", "b", "c"] {
        before.push(known(name).await);
    }
    let queue = control.queue_stats().await;
    assert_eq!(queue.total_failed, 1);
    assert_eq!(control.failures().await[0].observations, 2);

    // The whole batch again, a part of it, one of them, and all with one more.
    let mut longer = outcomes.clone();
    longer.push(outcome(&snapshot, "a", OutcomeClass::Success));
    for (first, again) in [
        (1, &outcomes[..]),
        (3, &outcomes[2..]),
        (2, &outcomes[1..2]),
    ] {
        let answer = proxy
            .send(first, again.to_vec())
            .await
            .expect("duplicates are no error");
        assert_eq!(answer.acknowledged_sequence, 5);
    }
    for (name, before) in ["a", "b", "c"].into_iter().zip(before) {
        assert_eq!(known(name).await, before, "{name}");
    }
    assert_eq!(control.queue_stats().await, queue);
    assert_eq!(control.failures().await[0].observations, 2);

    let answer = proxy
        .send(1, longer)
        .await
        .expect("duplicates are no error");
    assert_eq!(answer.acknowledged_sequence, 6);
    assert_eq!(
        counts(control.endpoint("a").await.stats.unwrap_or_default()),
        [2, 2, 0, 0, 0]
    );
    assert!(control.status().await.reports.unwrap_or_default().duplicate >= 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_between_proxies_makes_no_difference() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let control = testbed.control();
    let reader = FakeProxy::new(control, "reader", "1");
    let snapshot = reader.snapshot("default").await;
    let script = |name: &str| {
        let seen = |class| outcome(&snapshot, name, class);
        [
            vec![
                seen(OutcomeClass::ServerError),
                seen(OutcomeClass::ServerError),
            ],
            vec![seen(OutcomeClass::Auth)],
            vec![seen(OutcomeClass::Success), seen(OutcomeClass::RateLimited)],
        ]
    };
    for (name, order) in [("a", [0, 1, 2]), ("b", [2, 1, 0])] {
        for index in order {
            let proxy = FakeProxy::new(control, &format!("proxy-{index}-of-{name}"), "1");
            for _ in 0..2 {
                let batch = script(name)[index].clone();
                proxy.send(1, batch).await.expect("the report is taken");
            }
        }
    }
    let mut results = Vec::new();
    for name in ["a", "b"] {
        let endpoint = control.endpoint(name).await;
        let health = endpoint.health.unwrap_or_default();
        let stats = counts(endpoint.stats.unwrap_or_default());
        results.push((health.state(), health.cause(), stats));
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0].0, HealthState::Unhealthy);
    assert_eq!(results[0].2, [5, 1, 3, 1, 0]);
    assert_eq!(control.queue_stats().await.total_failed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_report_survives_a_kill() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let snapshot = proxy.snapshot("default").await;
    proxy
        .report(vec![outcome(&snapshot, "a", OutcomeClass::Auth)])
        .await;
    control.kill();
    control.start().await;
    assert_eq!(control.state("a").await, HealthState::Unhealthy);
    let again = eventually("the report is taken", async || {
        proxy
            .send(1, vec![outcome(&snapshot, "a", OutcomeClass::Auth)])
            .await
    });
    assert_eq!(again.await.acknowledged_sequence, 1);
    assert_eq!(control.queue_stats().await.total_failed, 1);
    assert_eq!(control.failures().await[0].observations, 1);
    let stats = control.endpoint("a").await.stats.unwrap_or_default();
    assert_eq!(counts(stats), [1, 0, 1, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_refused_unless_it_was_announced() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let snapshot = proxy.snapshot("default").await;
    let success = outcome(&snapshot, "a", OutcomeClass::Success);
    proxy.report(vec![success.clone()]).await;
    let status = proxy
        .send(5, vec![success.clone()])
        .await
        .expect_err("2, 3 and 4 are missing");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let reason = status.get_details_error_info().map(|info| info.reason);
    assert_eq!(reason.as_deref(), Some("SEQUENCE_GAP"));
    assert_eq!(
        counts(control.endpoint("a").await.stats.unwrap_or_default())[0],
        1
    );

    let request = ReportOutcomesRequest {
        proxy: Some(ProxyIdentity {
            id: "fake".to_owned(),
            incarnation: "1".to_owned(),
            ..Default::default()
        }),
        batch: Some(ReportBatch {
            first_sequence: 5,
            dropped: 3,
            outcomes: vec![success],
            ..Default::default()
        }),
    };
    let mut client = HealthSyncServiceClient::new(control.channel());
    let answer = client
        .report_outcomes(request)
        .await
        .expect("the gap is explained");
    assert_eq!(answer.into_inner().acknowledged_sequence, 5);
    assert_eq!(
        control.status().await.reports.unwrap_or_default().dropped,
        3
    );
    // A restarted proxy counts from 1 again.
    let next = FakeProxy::new(control, "fake", "2");
    next.send(1, vec![outcome(&snapshot, "a", OutcomeClass::Success)])
        .await
        .expect("a new life");
    assert_eq!(
        counts(control.endpoint("a").await.stats.unwrap_or_default())[0],
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_outcomes_are_counted_and_blame_nobody() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let snapshot = proxy.snapshot("default").await;
    let seen = outcome(&snapshot, "a", OutcomeClass::Auth);
    let view = snapshot.view.unwrap_or_default();
    let strange = vec![
        Outcome {
            endpoint: "no-such-endpoint".to_owned(),
            ..seen.clone()
        },
        Outcome {
            class: 4711,
            ..seen.clone()
        },
        Outcome {
            class: OutcomeClass::Request.into(),
            http_status: 400,
            ..seen.clone()
        },
        Outcome {
            class: OutcomeClass::Cancelled.into(),
            count: 0,
            ..seen.clone()
        },
        Outcome {
            generation: seen.generation - 1,
            ..seen.clone()
        },
        Outcome {
            generation: u64::MAX,
            ..seen.clone()
        },
        Outcome {
            view: Some(View {
                term: view.term + 9,
                revision: u64::MAX,
            }),
            class: OutcomeClass::Success.into(),
            ..seen
        },
    ];
    let sent = strange.len() as u64;
    assert_eq!(proxy.report(strange).await.acknowledged_sequence, sent);
    let health = control.endpoint("a").await.health.unwrap_or_default();
    assert_eq!(health.state(), HealthState::Healthy, "{health:?}");
    let counts = control.status().await.reports.unwrap_or_default();
    // One endpoint does not exist, and nobody can have seen a view to come.
    assert_eq!(
        counts.applied + counts.stale + counts.unknown_endpoint,
        sent,
        "{counts:?}"
    );
    assert_eq!(counts.unknown_endpoint, 2, "{counts:?}");
    assert_eq!(control.queue_stats().await.total_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_created_again_never_meets_its_past() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let past = proxy.snapshot("default").await;
    let mut client = control.endpoints();
    let delete = DeleteEndpointRequest {
        name: "a".to_owned(),
        ..Default::default()
    };
    client.delete_endpoint(delete).await.expect("it exists");
    client
        .create_endpoint(create(endpoint("a")))
        .await
        .expect("the name is free");
    proxy
        .report(vec![outcome(&past, "a", OutcomeClass::Auth)])
        .await;
    assert_eq!(control.state("a").await, HealthState::Unknown);
    let stats = control.endpoint("a").await.stats.unwrap_or_default();
    assert_eq!(counts(stats), [0, 0, 0, 0, 1]);
    assert_eq!(control.queue_stats().await.total_failed, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_from_before_a_pause_does_not_end_it() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let snapshot = proxy.snapshot("default").await;
    let limited = Outcome {
        http_status: 429,
        retry_after_ms: Some(300_000),
        ..outcome(&snapshot, "a", OutcomeClass::RateLimited)
    };
    proxy.report(vec![limited.clone()]).await;
    let paused = control
        .eventually_is("a", HealthState::Degraded)
        .await
        .health
        .unwrap_or_default();
    proxy
        .report(vec![outcome(&snapshot, "a", OutcomeClass::Success)])
        .await;
    assert_eq!(control.state("a").await, HealthState::Degraded);
    // Nor does an older, shorter wish shorten it.
    let shorter = Outcome {
        retry_after_ms: Some(1000),
        age_ms: 60_000,
        ..limited
    };
    proxy.report(vec![shorter]).await;
    let health = control.endpoint("a").await.health.unwrap_or_default();
    assert_eq!(health.state(), HealthState::Degraded);
    let until = |health: &Health| health.until_time.map_or(0, |until| until.seconds);
    assert!(
        until(&health) >= until(&paused) - 1,
        "{health:?}, after {paused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_proxy_s_own_trouble_stays_its_own() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let control = testbed.control();
    let mut lonely = FakeProxy::new(control, "lonely", "1");
    let _watch = lonely.watch("default", None).await.expect("a watch");
    let snapshot = lonely.snapshot("default").await;
    let checks = testbed.upstream("a").check_requests();
    lonely
        .report(vec![outcome(&snapshot, "a", OutcomeClass::Connect)])
        .await;
    testbed.upstream("a").checked(checks + 1).await; // The control plane looks for itself, and finds nothing.
    control
        .eventually("a", "checked", |endpoint| {
            endpoint
                .health
                .as_ref()
                .is_some_and(|health| !health.checking)
        })
        .await;
    assert_eq!(control.state("a").await, HealthState::Healthy);
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "a"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_in_the_same_trouble_are_believed() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let gate = Gate::new();
    testbed
        .upstream("a")
        .answer_checks(Checks::EchoBehind(gate.clone()));
    let mut proxies = [
        FakeProxy::new(control, "one", "1"),
        FakeProxy::new(control, "two", "1"),
    ];
    let mut watches = Vec::new();
    for proxy in &proxies {
        watches.push(proxy.watch("default", None).await.expect("a watch"));
    }
    let snapshot = proxies[0].snapshot("default").await;
    proxies[0]
        .report(vec![outcome(&snapshot, "a", OutcomeClass::Timeout)])
        .await;
    gate.reached_by(1).await; // The control plane's own check is on its way, and stays there.
    let suspected = control.endpoint("a").await.health.unwrap_or_default();
    assert_eq!(suspected.state(), HealthState::Healthy);
    assert_eq!(suspected.suspecting_proxies, ["one"]);
    proxies[1]
        .report(vec![outcome(&snapshot, "a", OutcomeClass::Timeout)])
        .await;
    control.eventually_is("a", HealthState::Unhealthy).await;
    gate.open();
    assert_eq!(control.queue_stats().await.total_failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_with_one_name_both_count() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let twins = [
        FakeProxy::new(control, "twin", "1"),
        FakeProxy::new(control, "twin", "2"),
    ];
    let mut watches = Vec::new();
    for twin in &twins {
        watches.push(twin.watch("default", None).await.expect("a watch"));
        let snapshot = twin.snapshot("default").await;
        twin.send(1, vec![outcome(&snapshot, "a", OutcomeClass::Success)])
            .await
            .expect("taken");
    }
    assert_eq!(
        counts(control.endpoint("a").await.stats.unwrap_or_default())[0],
        2
    );
    eventually("both twins are shown as such", async || {
        let listed = control
            .proxies()
            .list_proxies(ListProxiesRequest::default())
            .await;
        let proxies = listed
            .map_err(|status| status.to_string())?
            .into_inner()
            .proxies;
        match proxies.len() == 2 && proxies.iter().all(|proxy| proxy.duplicate_id) {
            true => Ok(()),
            false => Err(format!("{proxies:?}")),
        }
    })
    .await;
}
