//! How programs stop: nothing that was begun is lost, unless its time is over.

use std::net::SocketAddr;

use hyper::Method;
use qcc_proto::v1::{DrainProxyRequest, HealthState, VerifyEndpointRequest};
use qcc_tests::{
    Answer, Checks, Gate, Piece, Process, Proxy, Testbed, by_shell, client::Call, eventually,
};
use rustix::process::{Signal, kill_process};

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n";
const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";

/// Asks for a drain that gives running requests next to no time.
async fn drain_at_once(proxy: &Proxy) {
    let at_once = DrainProxyRequest {
        timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 50_000_000,
        }),
    };
    proxy.admin().drain_proxy(at_once).await.expect("an answer");
}

async fn refuses_connections(proxy: &Proxy) {
    refuses(proxy.http_address()).await;
}

async fn refuses(address: SocketAddr) {
    eventually("new connections are refused", async || {
        match Call::new(address, Method::GET, "/").send().await {
            Err(_) => Ok(()),
            Ok(response) => Err(format!("{response:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_begun_is_finished_and_reported_before_a_proxy_ends() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let gate = Gate::new();
    let answer = Answer::text("hello").behind(&gate);
    testbed.upstream("a").respond(answer);
    let proxy = testbed.proxy(0);
    let running = tokio::spawn(proxy.message().send());
    testbed.upstream("a").received(1).await;
    proxy.signal(Signal::TERM);
    refuses_connections(proxy).await;
    let ready = Call::new(proxy.admin_address(), Method::GET, "/readyz");
    ready.await.expect_status(503);
    gate.open();
    let response = running.await.expect("no panic").expect("an answer");
    let response = response.expect_status(200);
    assert!(response.text().contains("hello"), "{response:?}");
    assert_eq!(response.header("connection"), Some("close"));
    assert!(proxy.ended().await.success());
    // No later than that: the report was acknowledged.
    let stats = testbed.control().endpoint("a").await.stats;
    let stats = stats.unwrap_or_default();
    assert_eq!((stats.attempts, stats.successes), (1, 1));
    assert_eq!(testbed.logs().find("not delivered"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_still_waits_for_an_answer_when_the_drain_is_over_is_told_so() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(Answer::hang());
    let proxy = testbed.proxy(0);
    let anthropic = tokio::spawn(proxy.message().send());
    let openai = tokio::spawn(proxy.post("/v1/chat/completions").message(false).send());
    testbed.upstream("a").received(2).await;
    drain_at_once(proxy).await;
    for (answer, shape) in [(anthropic, "/error/type"), (openai, "/error/code")] {
        let answer = answer.await.expect("no panic").expect("an answer");
        let answer = answer.expect_status(503);
        assert_eq!(answer.header("x-qcc-error"), Some("draining"));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(body.pointer(shape).is_some(), "{body}");
    }
    assert!(proxy.ended().await.success());
    assert_eq!(testbed.control().state("a").await, HealthState::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_drain_cuts_off_says_so() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let never = Gate::new();
    let steps = [START.into(), DELTA.into(), Piece::Wait(never.clone())];
    testbed.upstream("a").respond(Answer::stream(steps));
    let proxy = testbed.proxy(0);
    let mut stream = proxy.message().open().await.expect("an answer");
    stream.expect(&[START, DELTA].concat()).await;
    drain_at_once(proxy).await;
    let mut rest = Vec::new();
    while let Ok(Some(piece)) = stream.next().await {
        rest.extend_from_slice(&piece);
    }
    let rest = String::from_utf8(rest).expect("text");
    assert!(rest.contains("event: error\ndata: {"), "{rest}");
    assert!(rest.contains("the proxy is stopping"), "{rest}");
    assert!(proxy.ended().await.success());
    never.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_control_plane_at_once_and_takes_nothing_back() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let (control, gate) = (testbed.control(), Gate::new());
    let before = control.endpoint("a").await;
    testbed
        .upstream("a")
        .answer_checks(Checks::EchoBehind(gate.clone()));
    let mut client = control.endpoints();
    let verdict = tokio::spawn(async move {
        let request = VerifyEndpointRequest { name: "a".into() };
        client.verify_endpoint(request).await
    });
    gate.reached_by(1).await; // A stop waits for this answer.
    let signal = || kill_process(control.id(), Signal::TERM).expect("it runs");
    signal();
    eventually("it stops", async || {
        match testbed.logs().find("control plane stopping").len() {
            0 => Err("not yet"),
            _ => Ok(()),
        }
    })
    .await;
    signal();
    let status = control.ended().await;
    assert_eq!(status.code(), Some(1), "{status}");
    let unanswered = verdict.await.expect("no panic");
    unanswered.expect_err("nobody is there to answer");

    control.start().await;
    let after = control.endpoint("a").await;
    assert_eq!(after.generation, before.generation);
    assert_eq!(control.state("a").await, HealthState::Healthy);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(Answer::hang());
    let waiting = testbed.proxy(0).messages(1);
    testbed.upstream("a").received(1).await;
    testbed.proxy(0).signal(Signal::TERM);
    refuses_connections(testbed.proxy(0)).await;
    let status = testbed.proxy(0).stop().await; // Sends the second one.
    assert_eq!(status.code(), Some(1), "{status}");
    drop(waiting);
    assert_eq!(testbed.control().state("a").await, HealthState::Healthy);
}

/// Starts `qcc-ctl up` in front of endpoint `a`, from a shell. Returns also where it takes
/// requests.
async fn up(testbed: &Testbed, script: &str) -> (Process, SocketAddr) {
    let dir = testbed.dir();
    let (ready_file, resources) = (dir.join("up.json"), dir.join("up.toml"));
    let url = testbed.upstream("a").url();
    let text = format!("[[endpoints]]\nname = \"a\"\nbase_url = \"{url}\"\n");
    std::fs::write(&resources, text).expect("the file can be written");
    let mut command = testbed.command("qcc-ctl");
    command.arg("up");
    for flag in ["--listen", "--admin-listen", "--control-listen"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.arg("--data-dir").arg(dir.join("up"));
    command.arg("--ready-file").arg(&ready_file);
    command.arg("--apply").arg(&resources);
    let mut up = testbed.spawn("up", &mut by_shell(script, &command));
    let ready = up.ready(&ready_file).await;
    let http = ready["http"].as_str().expect("an address");
    (up, http.parse().expect("an address"))
}

#[tokio::test(flavor = "multi_thread")]
async fn up_whose_terminal_is_closed_finishes_what_has_begun() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let gate = Gate::new();
    let answer = Answer::text("hello").behind(&gate);
    testbed.upstream("a").respond(answer);
    // As on a terminal that is gone, to write is an error.
    let (mut up, http) = up(&testbed, r#"exec "$0" "$@" 2>/dev/full"#).await;
    let call = Call::new(http, Method::POST, "/v1/messages").message(false);
    let running = tokio::spawn(call.send());
    testbed.upstream("a").received(1).await;
    up.signal(Signal::HUP);
    refuses(http).await;
    up.signal(Signal::HUP); // From the shell, and as that ends.
    gate.open();
    let response = running.await.expect("no panic").expect("an answer");
    assert!(response.expect_status(200).text().contains("hello"));
    let status = up.ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_that_is_to_outlive_its_terminal_does() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let (up, http) = up(&testbed, r#"exec nohup "$0" "$@""#).await;
    up.signal(Signal::HUP);
    let call = Call::new(http, Method::POST, "/v1/messages").message(false);
    call.await.expect_status(200);
    assert!(up.stop().await.success());
}
