//! An endpoint comes back on evidence, and on nothing else.

use std::time::Duration;

use qcc_proto::v1::{
    Cause, Check, DisableEndpointRequest, EjectEndpointRequest, ExplainProxyEndpointRequest,
    HealthState, HttpCheck, NoCheck, OutcomeClass, RemoveFailureRequest, RestoreEndpointRequest,
    VerificationSchedule, VerifyEndpointRequest, VerifyEndpointResponse, check,
};
use qcc_tests::{Answer, Checks, FakeProxy, Gate, Testbed, outcome};
use tonic::{Code, Status};

fn verify(
    testbed: &Testbed,
    name: &str,
) -> impl Future<Output = Result<VerifyEndpointResponse, Status>> + Send + 'static {
    let mut client = testbed.control().endpoints();
    let request = VerifyEndpointRequest {
        name: name.to_owned(),
    };
    async move { Ok(client.verify_endpoint(request).await?.into_inner()) }
}

fn cause_of(endpoint: &qcc_proto::v1::Endpoint) -> Cause {
    endpoint
        .health
        .as_ref()
        .map_or(Cause::Unspecified, qcc_proto::v1::Health::cause)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_code_brings_an_endpoint_back() {
    let testbed = Testbed::start()
        .eager_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    upstream.respond(401);
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    let failed = control.eventually_is("a", HealthState::Unhealthy).await;

    // It answers again, with 200, but not with what it was asked for.
    upstream.answer_checks(Checks::WrongEcho);
    upstream.respond(200);
    upstream.checked(upstream.check_requests() + 3).await;
    let kept_out = control.eventually("a", "kept out by its checks", |endpoint| {
        cause_of(endpoint) == Cause::CheckFailed
    });
    assert_eq!(kept_out.await.generation, failed.generation);
    assert_eq!(control.state("a").await, HealthState::Unhealthy);
    assert_eq!(
        testbed
            .proxy(1)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    assert_eq!(upstream.client_requests(), 1);

    upstream.answer_checks(Checks::Echo);
    let recovered = control.eventually_is("a", HealthState::Healthy).await;
    assert!(recovered.generation > failed.generation);
    let stats = control.queue_stats().await;
    assert_eq!(
        (stats.length, stats.total_failed, stats.total_recovered),
        (0, 1, 1),
        "{stats:?}"
    );
    assert_eq!(
        stats.total_verified,
        stats.total_recovered + stats.total_still_failed,
        "{stats:?}"
    );
    for proxy in testbed.proxies() {
        proxy
            .eventually_sees("a", "selectable", |endpoint| endpoint.selectable)
            .await;
        assert_eq!(proxy.message().await.expect_status(200).served_by(), "a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_when_the_next_check_may_bring_an_endpoint_back() {
    let testbed = Testbed::start()
        .policy(|policy| {
            let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
            policy.verification = Some(VerificationSchedule {
                first: seconds(60),
                max: seconds(300),
                auth_max: seconds(300),
                per_hour_max: Some(60),
            });
        })
        .endpoints(["a"])
        .proxies(1)
        .await;
    let (control, proxy, upstream) = (testbed.control(), testbed.proxy(0), testbed.upstream("a"));
    upstream.respond(401);
    proxy.message().await.expect_status(502);
    control.eventually_is("a", HealthState::Unhealthy).await;
    testbed.settled().await;
    let told = async || {
        let refused = proxy.message().await.expect_status(503);
        let seconds = refused.header("retry-after").and_then(|it| it.parse().ok());
        seconds.unwrap_or_else(|| panic!("no seconds in {refused:?}"))
    };
    let first: u64 = told().await;
    assert!(
        (30..=62).contains(&first),
        "in 60 s, or a little less: {first}"
    );

    // A check that fails makes no view, but moves the next one: twice as far off.
    let view = control.view().await;
    let verdict = verify(&testbed, "a").await.expect("a verdict");
    assert!(!verdict.passed, "{verdict:?}");
    let later = async {
        while told().await < 80 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let told_in_time = tokio::time::timeout(Duration::from_secs(30), later).await;
    told_in_time.expect("the proxy is told with the next bookmark");
    assert_eq!(control.view().await, view);
    let request = ExplainProxyEndpointRequest { name: "a".into() };
    let why = proxy.admin().explain_proxy_endpoint(request).await;
    let why = why.expect("the proxy answers").into_inner();
    let next_in = why.next_in.expect("the next check is planned").seconds;
    assert!((60..=120).contains(&next_in), "{next_in}");
    assert!(
        why.summary.contains("unhealthy: auth, next check in "),
        "{}",
        why.summary
    );
    assert_eq!(upstream.client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_during_a_check_wins_over_its_success() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    let gate = Gate::new();
    upstream.answer_checks(Checks::EchoBehind(gate.clone()));
    let verdict = tokio::spawn(verify(&testbed, "a"));
    gate.reached_by(1).await;

    upstream.respond(401);
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    control.eventually_is("a", HealthState::Unhealthy).await;
    gate.open();
    let verdict = verdict.await.expect("no panic").expect("a verdict");
    assert!(!verdict.passed, "{verdict:?}");
    let evidence = verdict.evidence.clone().unwrap_or_default();
    assert_eq!(
        evidence.outcome(),
        OutcomeClass::Success,
        "the code was right: {verdict:?}"
    );
    let endpoint = control.endpoint("a").await;
    assert_eq!(cause_of(&endpoint), Cause::Auth);
    assert_eq!(control.queue_stats().await.total_recovered, 0);
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    assert_eq!(upstream.client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_during_a_check_joins_it() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let upstream = testbed.upstream("a");
    let before = upstream.check_requests();
    let gate = Gate::new();
    upstream.answer_checks(Checks::EchoBehind(gate.clone()));
    let verdicts: Vec<_> = (0..5)
        .map(|_| tokio::spawn(verify(&testbed, "a")))
        .collect();
    gate.reached_by(1).await;
    testbed
        .control()
        .eventually("a", "being checked", |endpoint| {
            endpoint
                .health
                .as_ref()
                .is_some_and(|health| health.checking)
        })
        .await;
    gate.open();
    for verdict in verdicts {
        let verdict = verdict.await.expect("no panic").expect("a verdict");
        assert!(verdict.passed, "{verdict:?}");
    }
    // A verdict that came before the last of them asked leads to one more check.
    let checks = upstream.check_requests() - before;
    assert!(
        (1..=4).contains(&checks),
        "{checks} checks for five who asked together"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_check_is_evidence_of_its_own() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(401);
    let verdict = verify(&testbed, "a").await.expect("a verdict");
    assert!(!verdict.passed);
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(cause_of(&endpoint), Cause::Auth);
    testbed.proxy(0).eventually_avoids("a").await;
    assert_eq!(testbed.control().queue_stats().await.total_failed, 1);
    testbed.proxy(0).message().await.expect_status(503);
    assert_eq!(testbed.upstream("a").client_requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_endpoint_is_not_checked() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let request = DisableEndpointRequest {
        name: "a".to_owned(),
        reason: String::new(),
    };
    testbed
        .control()
        .endpoints()
        .disable_endpoint(request)
        .await
        .expect("the endpoint exists");
    let before = testbed.upstream("a").check_requests();
    let status = verify(&testbed, "a").await.expect_err("it is disabled");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert_eq!(testbed.upstream("a").check_requests(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_check_time_alone_starts_a_new_generation() {
    let none = Check {
        kind: Some(check::Kind::None(NoCheck {})),
        ..Default::default()
    };
    let builder = Testbed::start()
        .eager_checks()
        .policy(|policy| policy.check = Some(none));
    let testbed = builder.endpoints(["a", "b"]).proxies(1).await;
    let (control, proxy) = (testbed.control(), testbed.proxy(0));
    let before = control.endpoint("a").await.generation;
    testbed.upstream("a").respond_once(401);
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    let after = control.eventually("a", "in a new generation", |endpoint| {
        endpoint.generation > before
    });
    let after = after.await.generation;
    assert_eq!(control.queue_stats().await.total_failed, 1);
    assert_eq!(testbed.upstream("a").check_requests(), 0);
    proxy
        .eventually_sees("a", "in its new generation", |seen| {
            seen.generation == after
        })
        .await;
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "a");
    control.eventually_is("a", HealthState::Healthy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_check_passes_on_the_expected_status_only() {
    let http = HttpCheck {
        path: "/check?cheap=1".to_owned(),
        expected_statuses: vec![204],
        ..Default::default()
    };
    let check = Check {
        kind: Some(check::Kind::Http(http)),
        ..Default::default()
    };
    let builder = Testbed::start().patient_checks().endpoint("a", |endpoint| {
        endpoint.check = Some(check);
    });
    let testbed = builder.unchecked().proxies(1).await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    control.eventually_is("a", HealthState::Unhealthy).await; // Its first check got a 200.
    upstream.answer_checks(Checks::Answer(Answer::bytes(204, "text/plain", "")));
    let verdict = verify(&testbed, "a").await.expect("a verdict");
    assert!(verdict.passed, "{verdict:?}");
    let requests = upstream.requests();
    let request = requests.last().expect("a check has arrived");
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("GET", "/check?cheap=1")
    );
    assert_eq!(request.header("x-api-key"), Some("key-of-a"));
    upstream.answer_checks(Checks::Answer(Answer::status(200)));
    let verdict = verify(&testbed, "a").await.expect("a verdict");
    assert!(!verdict.passed, "{verdict:?}");
    let endpoint = control.eventually_is("a", HealthState::Unhealthy).await;
    assert_eq!(cause_of(&endpoint), Cause::CheckFailed);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_success_of_a_client_lifts_an_ejection() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let before = proxy.snapshot("default").await;
    proxy
        .report(vec![outcome(&before, "a", OutcomeClass::Auth)])
        .await;
    control.eventually_is("a", HealthState::Unhealthy).await;
    // Not even one whose attempt knew of the mark.
    let after = proxy.snapshot("default").await;
    let success = |snapshot| outcome(snapshot, "a", OutcomeClass::Success);
    proxy.report(vec![success(&before), success(&after)]).await;
    assert_eq!(control.state("a").await, HealthState::Unhealthy);
    assert_eq!(control.failures().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_from_before_a_restore_is_void() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let control = testbed.control();
    let mut proxy = FakeProxy::new(control, "fake", "1");
    let before = proxy.snapshot("default").await;
    let rejected = outcome(&before, "a", OutcomeClass::Auth);
    proxy.report(vec![rejected.clone()]).await;
    control.eventually_is("a", HealthState::Unhealthy).await;
    let restore = RestoreEndpointRequest {
        name: "a".to_owned(),
        ..Default::default()
    };
    let restored = control
        .endpoints()
        .restore_endpoint(restore)
        .await
        .expect("it exists");
    let restored = restored.into_inner().endpoint.unwrap_or_default();
    proxy.report(vec![rejected.clone(), rejected]).await;
    let endpoint = control.endpoint("a").await;
    assert_ne!(
        endpoint.health.clone().unwrap_or_default().state(),
        HealthState::Unhealthy
    );
    assert!(endpoint.generation >= restored.generation);
    assert_eq!(endpoint.stats.unwrap_or_default().stale, 2);

    // Taking an entry out of the queue is the same.
    let rejected = outcome(&before, "b", OutcomeClass::Auth);
    proxy.report(vec![rejected.clone()]).await;
    control.eventually_is("b", HealthState::Unhealthy).await;
    let remove = RemoveFailureRequest {
        endpoint: "b".to_owned(),
    };
    control
        .queue()
        .remove_failure(remove.clone())
        .await
        .expect("it is queued");
    proxy.report(vec![rejected]).await;
    assert_ne!(control.state("b").await, HealthState::Unhealthy);
    let status = control
        .queue()
        .remove_failure(remove)
        .await
        .expect_err("it is not queued");
    assert_eq!(status.code(), Code::NotFound);
    let stats = control.queue_stats().await;
    assert_eq!((stats.length, stats.total_failed), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_s_ejection_holds_against_passing_checks() {
    let testbed = Testbed::start()
        .eager_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    let control = testbed.control();
    let eject = EjectEndpointRequest {
        name: "a".to_owned(),
        reason: "maintenance".to_owned(),
        ..Default::default()
    };
    let ejected = control
        .endpoints()
        .eject_endpoint(eject)
        .await
        .expect("it exists");
    let ejected = ejected.into_inner().endpoint.unwrap_or_default();
    assert_eq!(cause_of(&ejected), Cause::Operator);
    testbed.proxy(0).eventually_avoids("a").await;
    assert_eq!(
        testbed
            .proxy(0)
            .message()
            .await
            .expect_status(200)
            .served_by(),
        "b"
    );
    let entry = control.failures().await.remove(0);
    let due = entry.due_time.expect("a check is planned").seconds;
    assert!(
        due - entry.first_failure_time.unwrap_or_default().seconds >= 290,
        "{entry:?}"
    );

    let restore = RestoreEndpointRequest {
        name: "a".to_owned(),
        ..Default::default()
    };
    control
        .endpoints()
        .restore_endpoint(restore)
        .await
        .expect("it exists");
    assert!(control.endpoint("a").await.generation > ejected.generation);
    testbed
        .proxy(0)
        .eventually_sees("a", "selectable", |endpoint| endpoint.selectable)
        .await;
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
