//! The harness itself: a test is worth no more than what it stands on.

use hyper::Method;
use qcc_tests::{
    Answer, Checks, Gate, Relay, Upstream,
    client::{Call, Volley},
};

const CHECK: &str = r#"{"messages": [{"role": "user", "content": "Reply with the code: K7Q2ZD"}]}"#;

fn address(upstream: &Upstream) -> std::net::SocketAddr {
    upstream
        .url()
        .trim_start_matches("http://")
        .parse()
        .expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_answers_as_it_is_told() {
    let upstream = Upstream::start().await;
    let call = Call::new(address(&upstream), Method::POST, "/v1/messages?beta=true");
    upstream.respond(401);
    upstream.respond_once(Answer::stream(["data: 1\n\n".into(), "data: 2\n\n".into()]));
    assert_eq!(
        call.clone().message(true).await.text(),
        "data: 1\n\ndata: 2\n\n"
    );
    call.clone().await.expect_status(401);
    upstream.respond(Answer::reset());
    call.clone()
        .send()
        .await
        .expect_err("the connection was reset");
    upstream.respond(Answer::status(200).cut());
    call.clone().send().await.expect_err("the body was cut");
    assert_eq!(upstream.client_requests(), 4);
    assert_eq!(upstream.last_request().target, "/v1/messages?beta=true");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_tells_checks_from_clients() {
    let upstream = Upstream::start().await;
    let call = Call::new(address(&upstream), Method::POST, "/v1/messages");
    let check = call.clone().body(CHECK);
    upstream.respond_once(429);
    assert!(check.clone().await.text().contains("K7Q2ZD"));
    upstream.answer_checks(Checks::WrongEcho);
    assert!(!check.clone().await.text().contains("K7Q2ZD"));
    call.message(false).await.expect_status(429);
    assert_eq!(
        (upstream.client_requests(), upstream.check_requests()),
        (1, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_counts_what_is_in_flight_and_who_hangs_up() {
    let upstream = Upstream::start().await;
    let gate = Gate::new();
    upstream.respond(Answer::status(200).behind(&gate));
    let call = Call::new(address(&upstream), Method::GET, "/");
    let volley = Volley::fire(vec![call.clone(); 7]);
    gate.reached_by(7).await;
    let leaver = Volley::fire([call]);
    gate.reached_by(8).await;
    drop(leaver);
    qcc_tests::eventually(
        "the upstream saw one client leave",
        async || match upstream.disconnects() {
            1 => Ok(()),
            count => Err(count),
        },
    )
    .await;
    gate.open();
    volley.expect_all(200).await;
    assert_eq!(upstream.in_flight_peak(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_passes_stalls_and_cuts() {
    let upstream = Upstream::start().await;
    let relay = Relay::start(address(&upstream)).await;
    let call = Call::new(relay.address(), Method::GET, "/");
    call.clone().await.expect_status(200);
    relay.stall();
    let volley = Volley::fire([call.clone()]);
    upstream.received(2).await;
    relay.heal();
    volley.expect_all(200).await;
    relay.cut();
    call.clone().send().await.expect_err("the relay is cut");
    relay.heal();
    call.await.expect_status(200);
}
