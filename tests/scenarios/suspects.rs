//! Requests that fail wherever they go, and endpoints that fail whatever they are sent.

use qcc_proto::v1::{Cause, HealthState};
use qcc_tests::{Answer, Testbed, client::Volley};

use crate::blame::expect_blameless;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_resets_every_connection_blames_nobody() {
    a_poison_request_blames_nobody(Answer::reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_closes_every_connection_blames_nobody() {
    a_poison_request_blames_nobody(Answer::close).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_denied_alike_everywhere_blames_nobody() {
    a_poison_request_blames_nobody(|| denied("permission_error")).await;
}

/// Endpoints do this to one kind of request, and serve all others.
async fn a_poison_request_blames_nobody(poisoned: fn() -> Answer) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    let bystanders_are_served = async || {
        for proxy in testbed.proxies() {
            let response = proxy.message().await.expect_status(200);
            assert_eq!(
                (response.served_by(), response.header("x-qcc-attempts")),
                ("a", Some("1"))
            );
        }
    };
    for name in ["a", "b"] {
        let respond = move |target: &str| match target.contains("poison") {
            true => poisoned(),
            false => Answer::status(200),
        };
        (testbed.upstream(name)).respond_by(move |request| respond(&request.target));
    }
    bystanders_are_served().await; // Their connections stay, for the poison to meet.
    for proxy in testbed.proxies() {
        let poison = || proxy.post("/v1/messages?poison").message(false);
        for _ in 0..5 {
            let response = poison().await.expect_status(502);
            assert!(response.text().contains("`b`"), "{}", response.text());
            bystanders_are_served().await;
        }
        // Few enough for the retry budget: who may not go on leaves nobody to compare with.
        let many = Volley::fire((0..10).map(|_| poison()));
        many.expect_all(502).await;
        bystanders_are_served().await;
    }
    testbed.settled().await;
    expect_blameless(&testbed, &["a", "b"]).await;
    for proxy in testbed.proxies() {
        let status = proxy.status().await.expect("the proxy answers");
        let counters = status.counters.unwrap_or_default();
        assert_eq!(counters.suspect_requests, 15);
    }
}

/// A 403 with an error type.
fn denied(error_type: &str) -> Answer {
    let body = format!(r#"{{"type":"error","error":{{"type":"{error_type}","message":"no"}}}}"#);
    Answer::bytes(403, "application/json", body)
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_in_different_words_count_against_each_endpoint() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(denied("permission_error"));
    testbed.upstream("b").respond(denied("billing_error"));
    for status in [502, 502, 503] {
        testbed.proxy(0).message().await.expect_status(status);
    }
    for name in ["a", "b"] {
        let endpoint = (testbed.control())
            .eventually_is(name, HealthState::Unhealthy)
            .await;
        let health = endpoint.health.unwrap_or_default();
        assert_eq!(health.cause(), Cause::Forbidden, "{health:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_every_connection_is_left() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(Answer::close());
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    testbed.proxy(0).eventually_avoids("a").await;
    let endpoint = (testbed.control())
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Connect);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_break_whatever_they_are_sent_are_left_for_one_that_works() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b", "c"])
        .policy(|policy| policy.attempts_max = Some(2))
        .proxies(1)
        .await;
    for name in ["a", "b"] {
        testbed.upstream(name).respond(Answer::close());
    }
    // Two requests might be at fault themselves; not one after the other.
    for number in 0..3 {
        let target = format!("/v1/messages?{number}");
        let request = testbed.proxy(0).post(&target).message(false);
        request.await.expect_status(502);
    }
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(
        (response.served_by(), response.header("x-qcc-attempts")),
        ("c", Some("1"))
    );
}
