//! What both servers say over plain HTTP, and what they keep from web pages.

use std::{net::SocketAddr, path::Path, process::Command};

use hyper::Method;
use qcc_proto::v1::HealthState;
use qcc_tests::{
    ControlPlane, Logs, Process, Testbed, client::Call, eventually, foreign, metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn admin(testbed: &Testbed) -> SocketAddr {
    let url = testbed.proxy(0).admin_url();
    url.trim_start_matches("http://")
        .parse()
        .expect("an address")
}

/// Two endpoints, one of which has lost its key and failed one request.
async fn incident() -> Testbed {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoint("bad", |endpoint| endpoint.priority = Some(1))
        .endpoint("good", |endpoint| endpoint.priority = Some(2))
        .proxies(1)
        .await;
    testbed.upstream("bad").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    testbed
        .control()
        .eventually_is("bad", HealthState::Unhealthy)
        .await;
    testbed
        .proxy(0)
        .eventually_knows("bad", HealthState::Unhealthy)
        .await;
    testbed
}

#[tokio::test(flavor = "multi_thread")]
async fn both_servers_count_an_incident() {
    let testbed = incident().await;
    let control = testbed.control().address();
    eventually("the proxy is current", async || {
        let metrics = Metrics::of(control).await;
        match metrics.value(r#"qcc_control_proxies{state="synced"}"#) {
            1.0 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    let control = Metrics::of(control).await;
    for (series, expected) in [
        (
            r#"qcc_control_endpoints{state="unhealthy",cause="auth"}"#,
            1.0,
        ),
        (
            r#"qcc_control_endpoints{state="unhealthy",cause="timeout"}"#,
            0.0,
        ),
        ("qcc_control_queue_length", 1.0),
        ("qcc_control_queue_failed_total", 1.0),
        (r#"qcc_control_endpoint_healthy{endpoint="bad"}"#, 0.0),
        (
            r#"qcc_control_endpoint_failures_total{endpoint="bad"}"#,
            1.0,
        ),
        (
            r#"qcc_control_endpoints_wanted{admin_state="enabled"}"#,
            2.0,
        ),
        ("qcc_control_endpoints_without_series", 0.0),
        ("qcc_control_term", 1.0),
    ] {
        assert_eq!(control.value(series), expected, "{series}");
    }
    assert!(control.value("qcc_control_commit_duration_seconds_count") >= 1.0);
    assert!(control.value("qcc_control_start_time_seconds") > 1.7e9);

    let proxy = Metrics::of(admin(&testbed)).await;
    for (series, expected) in [
        ("qcc_proxy_ready", 1.0),
        ("qcc_proxy_control_connected", 1.0),
        ("qcc_proxy_view_stale", 0.0),
        ("qcc_proxy_requests_total", 1.0),
        ("qcc_proxy_relayed_total", 1.0),
        ("qcc_proxy_attempts_total", 2.0),
        ("qcc_proxy_retries_total", 1.0),
        ("qcc_proxy_suspect_requests_total", 0.0),
        ("qcc_proxy_requests_active", 0.0),
        ("qcc_proxy_buffered_bytes", 0.0),
        (r#"qcc_proxy_outcomes_total{class="auth"}"#, 1.0),
        (r#"qcc_proxy_outcomes_total{class="success"}"#, 1.0),
        (r#"qcc_proxy_endpoints{reason="selectable"}"#, 1.0),
        (r#"qcc_proxy_endpoint_selectable{endpoint="bad"}"#, 0.0),
        (r#"qcc_proxy_endpoint_attempts_total{endpoint="bad"}"#, 1.0),
    ] {
        assert_eq!(proxy.value(series), expected, "{series}");
    }
    let revision = control.value("qcc_control_revision");
    assert_eq!(proxy.value("qcc_proxy_view_revision"), revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_parser_reads_the_pages() {
    let Some(python) = foreign::python("prometheus_client", "prometheus-client") else {
        return;
    };
    let testbed = incident().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/metrics.py");
    let mut command = Command::new(python);
    command.arg(script).args([
        testbed.control().address().to_string(),
        admin(&testbed).to_string(),
    ]);
    let mut parser = testbed.spawn("parser", &mut command);
    let status = parser.ended().await;
    assert!(status.success(), "{}", parser.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_tell_alive_from_ready() {
    let mut testbed = Testbed::start().proxies(0).await;
    let control = testbed.control().address();
    for path in ["/healthz", "/readyz"] {
        Call::new(control, Method::GET, path)
            .await
            .expect_status(200);
    }
    testbed.add_proxy().await;
    let admin = admin(&testbed);
    for path in ["/healthz", "/readyz"] {
        Call::new(admin, Method::HEAD, path)
            .await
            .expect_status(200);
    }
    // Losing the control plane costs no readiness.
    testbed.control().kill();
    Call::new(admin, Method::GET, "/readyz")
        .await
        .expect_status(200);
}

/// Sends bytes as they are, and returns the status line of the answer.
pub(crate) async fn raw(server: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(server).await.expect("it listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        !answer.to_ascii_lowercase().contains("access-control"),
        "{answer}"
    );
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_gets_nothing_out_of_a_loopback_port() {
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let list = "/qcc.v1.EndpointService/ListEndpoints";
    let drain = "/qcc.v1.ProxyAdminService/DrainProxy";
    for server in [testbed.control().address(), admin(&testbed)] {
        // Under a name of its own that leads here.
        let rebound = "GET /metrics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
        assert_eq!(
            raw(server, rebound).await,
            "HTTP/1.1 421 Misdirected Request"
        );
        // What needs no question before it, and what pretends to be gRPC.
        for path in [list, drain] {
            for kind in [
                "text/plain",
                "application/grpc",
                "application/grpc-web+proto",
            ] {
                let post = format!(
                    "POST {path} HTTP/1.1\r\nhost: {server}\r\norigin: http://evil.example\r\n\
                     content-type: {kind}\r\ncontent-length: 5\r\nconnection: close\r\n\r\n\0\0\0\0\0"
                );
                let answer = raw(server, &post).await;
                assert_eq!(answer, "HTTP/1.1 415 Unsupported Media Type", "{kind}");
            }
        }
        let question = format!(
            "OPTIONS {list} HTTP/1.1\r\nhost: {server}\r\norigin: http://evil.example\r\n\
             access-control-request-method: POST\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(raw(server, &question).await, "HTTP/1.1 404 Not Found");
    }
    let status = testbed.proxy(0).status().await.expect("it answers gRPC");
    assert!(!status.draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_allowed_may_be_asked_for() {
    let dir = tempfile::tempdir().expect("the system has room");
    let (mut command, ready_file) = ControlPlane::command_in(dir.path());
    command.args(["--allow-host", "qcc.internal"]);
    let mut control = Process::spawn("control", &mut command, &Logs::default());
    let bound = control.ready(&ready_file).await;
    let address = bound["grpc"].as_str().expect("it says where").parse();
    let address = address.expect("it is an address");
    for (host, expected) in [
        ("qcc.internal:7870", "HTTP/1.1 200 OK"),
        ("other.internal:7870", "HTTP/1.1 421 Misdirected Request"),
    ] {
        let get = format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        assert_eq!(raw(address, &get).await, expected, "{host}");
    }
    assert!(control.stop().await.success());

    let (mut command, _) = ControlPlane::command_in(dir.path());
    command.args(["--allow-host", "qcc.internal:7870"]);
    let mut control = Process::spawn("control", &mut command, &Logs::default());
    assert_eq!(control.ended().await.code(), Some(78));
    assert!(control.output().contains("not a host name without a port"));
}
