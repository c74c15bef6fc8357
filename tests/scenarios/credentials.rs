//! A rejected key is found once, and the whole fleet stops using it.

use qcc_proto::v1::{Cause, Credential, Endpoint, HealthState, UpdateEndpointRequest};
use qcc_tests::{
    Answer, Gate, Testbed,
    client::{Response, Volley},
    eventually,
};

#[tokio::test(flavor = "multi_thread")]
async fn few_of_a_hundred_requests_meet_an_unproven_bad_endpoint() {
    few_meet_an_unproven_bad_endpoint(Answer::status(401)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_of_a_hundred_requests_meet_a_rejection_in_chunks() {
    few_meet_an_unproven_bad_endpoint(Answer::status(401).chunked()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_of_a_hundred_requests_meet_a_rejection_that_claims_to_be_a_stream() {
    let rejection = Answer::status(401)
        .header("content-type", "text/event-stream")
        .chunked();
    few_meet_an_unproven_bad_endpoint(rejection).await;
}

async fn few_meet_an_unproven_bad_endpoint(rejection: Answer) {
    let testbed = Testbed::start()
        .unchecked()
        .endpoints(["bad", "good"])
        .proxies(1)
        .await;
    let (bad, good) = (testbed.upstream("bad"), testbed.upstream("good"));
    let gate = Gate::new();
    bad.respond(rejection.behind(&gate));

    // Nobody is told about the bad key before all others have been served.
    let volley = testbed.proxy(0).messages(100);
    good.received(96).await;
    gate.open();
    volley.expect_all(200).await;
    assert!(
        bad.client_requests() <= 4,
        "{} reached it",
        bad.client_requests()
    );

    let before = bad.client_requests();
    testbed.proxy(0).messages(100).expect_all(200).await;
    assert_eq!(bad.client_requests(), before);
    let endpoint = testbed
        .control()
        .eventually_is("bad", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Auth);
    testbed.settled().await;
    assert_eq!(testbed.control().queue_stats().await.total_failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_take_turns_at_an_unproven_endpoint() {
    let builder = Testbed::start()
        .unchecked()
        .endpoints(["a"])
        .policy(|policy| {
            policy.queue_timeout = Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            });
        });
    let testbed = builder.proxies(1).await;
    let (proxy, gate) = (testbed.proxy(0), Gate::new());
    testbed
        .upstream("a")
        .respond(Answer::status(200).behind(&gate));
    let volley = proxy.messages(20);
    eventually("all requests have arrived at the proxy", async || {
        let status = proxy.status().await.map_err(|status| status.to_string())?;
        match status.active_requests {
            20 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    gate.reached_by(4).await;
    assert_eq!(gate.arrivals(), 4);
    gate.open();
    volley.expect_all(200).await;
    assert_eq!(testbed.upstream("a").client_requests(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_turn_forever() {
    let builder = Testbed::start()
        .unchecked()
        .endpoints(["a"])
        .policy(|policy| {
            policy.queue_timeout = Some(prost_types::Duration {
                seconds: 0,
                nanos: 100_000_000,
            });
        });
    let testbed = builder.proxies(1).await;
    let (proxy, gate) = (testbed.proxy(0), Gate::new());
    testbed
        .upstream("a")
        .respond(Answer::status(200).behind(&gate));
    let served = proxy.messages(4);
    gate.reached_by(4).await;
    for response in proxy.messages(10).expect_all(503).await {
        assert!(response.header("retry-after").is_some(), "{response:?}");
    }
    gate.open();
    served.expect_all(200).await;
    assert_eq!(testbed.upstream("a").client_requests(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_rejected_at_one_proxy_is_never_tried_by_another() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["bad", "good"])
        .proxies(2)
        .await;
    testbed.upstream("bad").respond(401);
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(response.served_by(), "good");
    testbed.proxy(1).eventually_avoids("bad").await;

    let calls = (0..100).map(|request| testbed.proxy(request % 2).message());
    Volley::fire(calls).expect_all(200).await;
    assert_eq!(testbed.upstream("bad").client_requests(), 1); // The second proxy never had to find out.
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_later_never_tries_a_rejected_key() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["bad", "good"])
        .proxies(1)
        .await;
    testbed.upstream("bad").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    testbed
        .control()
        .eventually_is("bad", HealthState::Unhealthy)
        .await;

    let late = testbed.add_proxy().await;
    testbed.proxy(late).messages(100).expect_all(200).await;
    assert_eq!(testbed.upstream("bad").client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn successes_from_before_the_rejection_change_nothing() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["bad", "good"])
        .proxies(1)
        .await;
    let (control, proxy, bad) = (testbed.control(), testbed.proxy(0), testbed.upstream("bad"));
    proxy.message().await.expect_status(200);
    proxy
        .eventually_sees("bad", "proven", |endpoint| !endpoint.unproven)
        .await;

    let gate = Gate::new();
    bad.respond(Answer::status(200).behind(&gate));
    let in_session = |request: usize| match request % 3 {
        0 => proxy.message(),
        1 => proxy
            .message()
            .header("x-conversation-id", &format!("talk-{request}")),
        _ => proxy
            .message()
            .header("x-claude-code-session-id", &format!("session-{request}")),
    };
    let parked = Volley::fire((0..200).map(in_session));
    gate.reached_by(200).await;
    bad.respond(401);
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "good");
    control.eventually_is("bad", HealthState::Unhealthy).await;

    gate.open();
    parked.expect_all(200).await;
    testbed.settled().await;
    assert_eq!(control.state("bad").await, HealthState::Unhealthy);
    let seen = proxy.endpoint("bad").await.expect("the proxy answers");
    assert!(!seen.selectable, "{seen:?}");
    let reached = bad.client_requests();
    let again = Volley::fire((0..30).map(in_session)).expect_all(200).await;
    assert!(again.iter().all(|response| response.served_by() == "good"));
    assert_eq!((reached, bad.client_requests()), (202, 202));
    assert_eq!(control.queue_stats().await.total_failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_on_its_own_keeps_to_a_rejection_that_it_saw() {
    a_proxy_on_its_own_keeps_to_what_it_saw(Answer::status(401)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_on_its_own_keeps_to_a_pause_that_it_was_asked_for() {
    let pause = Answer::status(429).header("retry-after", "300");
    a_proxy_on_its_own_keeps_to_what_it_saw(pause).await;
}

async fn a_proxy_on_its_own_keeps_to_what_it_saw(refusal: Answer) {
    let builder = Testbed::start().patient_checks().endpoints(["bad", "good"]);
    let testbed = builder.relayed().proxies(1).await;
    let (proxy, bad) = (testbed.proxy(0), testbed.upstream("bad"));
    proxy.message().await.expect_status(200);
    proxy
        .eventually_sees("bad", "proven", |endpoint| !endpoint.unproven)
        .await;
    let gate = Gate::new();
    bad.respond(Answer::status(200).behind(&gate));
    let parked = proxy.messages(50);
    gate.reached_by(50).await;

    // Nobody tells the proxy anything from here on.
    testbed.relay().cut();
    bad.respond(refusal);
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "good");
    gate.open();
    parked.expect_all(200).await;
    proxy
        .eventually_sees("bad", "idle", |endpoint| endpoint.in_flight == 0)
        .await;
    for response in proxy.messages(50).expect_all(200).await {
        assert_eq!(response.served_by(), "good");
    }
    assert_eq!(bad.client_requests(), 52);

    testbed.relay().heal();
    testbed.settled().await;
    let state = testbed.control().state("bad").await;
    assert!(
        matches!(state, HealthState::Unhealthy | HealthState::Degraded),
        "{state:?}"
    );
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bad_endpoints_are_two_failures_however_often_they_are_met() {
    let builder = Testbed::start()
        .unchecked()
        .endpoints(["bad-1", "bad-2", "good"]);
    let testbed = builder.relayed().proxies(3).await;
    let control = testbed.control();
    testbed.upstream("bad-1").respond(401);
    testbed.upstream("bad-2").respond(401);
    for request in 0..10 {
        match request {
            2 => testbed.relay().cut(),
            5 => testbed.relay().heal(),
            _ => {}
        }
        testbed
            .proxy(request % 3)
            .message()
            .await
            .expect_status(200);
    }
    testbed.settled().await;
    let stats = control.queue_stats().await;
    assert_eq!((stats.total_failed, stats.length), (2, 2), "{stats:?}");

    for restart in 0..5 {
        if restart % 2 == 0 {
            control.kill();
            control.start().await;
        } else {
            control.restart().await;
        }
        assert_eq!(control.queue_stats().await, stats);
    }
    for proxy in testbed.proxies() {
        proxy.message().await.expect_status(200);
    }
    testbed.settled().await;
    assert_eq!(control.queue_stats().await, stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_key_is_rejected_clients_hear_so_at_once() {
    // Whoever waited for any of these would still be waiting when the test ends.
    let builder = Testbed::start()
        .patient_checks()
        .endpoints(["bad-1", "bad-2"])
        .policy(|policy| {
            let minute = Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            });
            policy.queue_timeout = minute;
        });
    let testbed = builder.proxies(1).await;
    testbed.upstream("bad-1").respond(401);
    testbed.upstream("bad-2").respond(401);
    let first = testbed.proxy(0).message().await;
    assert!(
        first.status.is_server_error(),
        "a 401 would send the client to log in again: {first:?}"
    );
    let upstream_requests = || {
        testbed.upstream("bad-1").client_requests() + testbed.upstream("bad-2").client_requests()
    };
    assert_eq!(upstream_requests(), 2);

    for response in testbed.proxy(0).messages(100).expect_all(503).await {
        expect_own_error(&response);
    }
    testbed
        .control()
        .eventually_is("bad-1", HealthState::Unhealthy)
        .await;
    testbed
        .control()
        .eventually_is("bad-2", HealthState::Unhealthy)
        .await;
    testbed.settled().await;
    testbed.proxy(0).messages(100).expect_all(503).await;
    assert_eq!(upstream_requests(), 2);
}

fn expect_own_error(response: &Response) {
    let seconds: u64 = response
        .header("retry-after")
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no seconds in `retry-after`: {response:?}"));
    assert!(seconds >= 1);
    let body: serde_json::Value =
        serde_json::from_slice(&response.body).expect("the error is JSON");
    assert_eq!(body["type"], "error", "{body}");
    assert_eq!(body["error"]["type"], "api_error", "{body}");
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("bad-1") && message.contains("bad-2"),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_rejection_of_the_old_key_spares_the_new_one() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    let (control, proxy, upstream) = (testbed.control(), testbed.proxy(0), testbed.upstream("a"));
    proxy.message().await.expect_status(200);
    let gate = Gate::new();
    let rejection = Answer::status(401).behind(&gate);
    upstream.respond_by(move |request| match request.header("x-api-key") {
        Some("new-key") => Answer::status(200),
        _ => rejection.clone(),
    });
    let parked = Volley::fire([proxy.message()]);
    gate.reached_by(1).await;

    let before = control.endpoint("a").await;
    let update = UpdateEndpointRequest {
        endpoint: Some(Endpoint {
            name: "a".to_owned(),
            credential: Some(Credential {
                api_key: "new-key".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    control
        .endpoints()
        .update_endpoint(update)
        .await
        .expect("the update is valid");
    let after = control.eventually_is("a", HealthState::Healthy).await;
    assert!(after.generation > before.generation);
    assert_eq!(after.create_time, before.create_time);
    let known = |seen: &qcc_proto::v1::ProxyEndpoint| seen.generation == after.generation;
    proxy
        .eventually_sees("a", "in its new generation", known)
        .await;

    gate.open();
    let responses = parked.expect_all(200).await;
    assert_eq!(responses[0].served_by(), "b");
    testbed.settled().await;
    let endpoint = control.endpoint("a").await;
    assert_eq!(
        endpoint.health.unwrap_or_default().state(),
        HealthState::Healthy
    );
    assert_eq!(endpoint.stats.unwrap_or_default().stale, 1);
    assert_eq!(control.queue_stats().await.total_failed, 0);
    assert_eq!(proxy.message().await.expect_status(200).served_by(), "a");
    assert_eq!(upstream.last_request().header("x-api-key"), Some("new-key"));
}
