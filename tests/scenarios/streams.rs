//! Streams of events, and what becomes of models on their way.

use qcc_proto::v1::{Cause, HealthState};
use qcc_tests::{Answer, Testbed};

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n";
const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";

fn error(error_type: &str) -> String {
    let error = serde_json::json!({
        "type": "error",
        "error": { "type": error_type, "message": "m" },
    });
    format!("event: error\ndata: {error}\n\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rejected_inside_of_a_stream_is_out_for_everybody() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    let rejection = error("authentication_error");
    let steps = [START.into(), rejection.as_str().into()];
    testbed.upstream("a").respond(Answer::stream(steps));
    let whole = [START.into(), DELTA.into()];
    testbed.upstream("b").respond(Answer::stream(whole));
    let response = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    assert_eq!(response.text(), [START, DELTA].concat());
    let endpoint = testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Auth);
    testbed.proxy(1).eventually_avoids("a").await;
    let response = testbed.proxy(1).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    assert_eq!(testbed.upstream("a").client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_gives_models_other_names() {
    let builder = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .policy(|policy| {
            let alias = ("fast".to_owned(), "small-20261001".to_owned());
            policy.model_aliases = [alias].into_iter().collect();
        });
    let testbed = builder.proxies(1).await;
    let body = "{ \"model\": \"fast\",\n \"messages\": [] }";
    let call = testbed.proxy(0).post("/v1/messages/count_tokens");
    call.body(body).await.expect_status(200);
    let request = testbed.upstream("a").last_request();
    let expected = body.replace("fast", "small-20261001");
    assert_eq!(request.body, expected.as_bytes());
}
