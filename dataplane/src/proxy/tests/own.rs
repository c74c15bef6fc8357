//! What we answer ourselves.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use http::Uri;
use qcc_proto::{client_keys, v1::View};
use serde_json::{Value, json};

use super::harness::*;
use crate::{client_keys::ClientKeys, proxy::Settings};

#[tokio::test]
async fn hello_and_health_are_never_forwarded() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    for (request, status) in [
        ("HEAD / ", 200),
        ("GET / ", 200),
        ("HEAD /api/hello ", 200),
        ("GET /__qcc__/health ", 200),
        ("GET /__qcc__/ready ", 200),
        ("GET /__qcc__/none ", 404),
        ("CONNECT proxy:443 ", 405),
        ("TRACE / ", 405),
        ("OPTIONS * ", 200),
        ("GET /v1/../admin ", 400),
        ("GET /v1/%2e%2e/admin ", 400),
    ] {
        let got = proxy
            .send(format!(
                "{request}HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(got.status(), status, "{request}");
    }
    for fields in ["", "host: a\r\nhost: b\r\n"] {
        let got = proxy
            .send(format!("GET /v1/models HTTP/1.1\r\n{fields}\r\n"))
            .await;
        assert_eq!(
            (got.status(), got.header("connection")),
            (400, Some("close"))
        );
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.counters.relayed.load(Relaxed), 0);
}

#[tokio::test]
async fn the_host_of_an_absolute_target_does_not_matter() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let got = proxy
        .send("GET http://evil.example/v1/models HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert_eq!(got.text(), "ok");
    assert!(upstream.requests()[0].starts_with(b"GET /v1/models HTTP/1.1\r\n"));
}

#[tokio::test]
async fn stats_have_the_fields_that_qcc_had_and_are_true() {
    let bad = Upstream::always(answer(401, "", "")).await;
    let good = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&bad, &good]).await;
    for _ in 0..3 {
        assert_eq!(proxy.post().await.status(), 200);
    }
    let ask = "GET /__qcc__/stats HTTP/1.1\r\nhost: a\r\n\r\n";
    let got = proxy.send(ask).await;
    assert_eq!(got.header("content-type"), Some("application/json"));
    let stats: Value = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(stats["total_requests"], 3); // Asking for them is none.
    assert_eq!(stats["successful_requests"], 3);
    assert_eq!(stats["failed_requests"], 0);
    assert!(stats["start_time"].as_str().unwrap().starts_with("20"));
    assert!(stats["uptime"].as_f64().unwrap() >= 0.0);
    assert_eq!(stats["last_used_endpoint_id"], "e1");
    assert_eq!(stats["total_endpoints"], 2);
    assert_eq!(stats["healthy_endpoints"], 1);
    assert_eq!(stats["failed_endpoints"], json!([])); // The view does not know it yet.
    assert_eq!(stats["failure_queue_size"], 0);
    assert_eq!(stats["endpoint_verify_counts"], json!({}));
    let [first, second] = stats["endpoints"].as_array().unwrap().as_slice() else {
        panic!("two endpoints");
    };
    assert_eq!((&first["id"], &second["id"]), (&json!("e0"), &json!("e1")));
    assert_eq!(first["is_healthy"], false);
    assert_eq!(first["health_status"]["status"], "unhealthy");
    assert_eq!(first["health_status"]["failed_requests"], 1);
    assert_eq!(second["enabled"], true);
    assert_eq!(second["priority"], 1);
    assert_eq!(second["health_status"]["status"], "healthy");
    assert_eq!(second["health_status"]["success_rate"], 100.0);
    assert!(!got.text().contains("sk-"));

    let proxy = Proxy::with(&[&good], |options| options.policy.expose_headers = false).await;
    let stats: Value = serde_json::from_slice(&proxy.send(ask).await.body).unwrap();
    assert_eq!(stats["endpoints"], json!([])); // Not for clients to know.
}

#[tokio::test]
async fn only_who_has_a_client_key_reaches_endpoints() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let digest = client_keys::digest(b"qcc_ours");
    std::fs::write(file.path(), client_keys::line("eva", &digest)).unwrap();
    let keys = ClientKeys::load(file.path()).unwrap();
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.client_keys = Some(keys);
    })
    .await;
    let send = async |start: &str, fields: &str| {
        let request =
            format!("{start} HTTP/1.1\r\nhost: a\r\n{fields}content-length: 2\r\n\r\n{{}}");
        proxy.send(request).await
    };
    for (fields, reason) in [
        ("", "client_key_required"),
        ("authorization: Basic qcc_ours\r\n", "client_key_required"),
        ("api-key: qcc_ours\r\n", "client_key_required"),
        ("x-api-key: qcc_theirs\r\n", "client_key_rejected"),
        (
            "authorization: Bearer qcc_theirs\r\n",
            "client_key_rejected",
        ),
    ] {
        for start in ["POST /v1/messages", "GET /v1/models", "GET /__qcc__/stats"] {
            let got = send(start, fields).await;
            assert_eq!(got.status(), 401, "{start} {fields}");
            assert_eq!(got.header("x-qcc-error"), Some(reason), "{start} {fields}");
            assert_eq!(got.header("x-should-retry"), Some("false"));
            assert!(!got.text().contains("qcc_ours") && !got.text().contains("qcc_theirs"));
        }
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(proxy.counters.unauthenticated.load(Relaxed), 15);
    assert_eq!(proxy.counters.own_errors.load(Relaxed), 15);
    for start in ["HEAD /", "GET /__qcc__/health", "GET /__qcc__/ready"] {
        let got = proxy
            .send(format!(
                "{start} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(got.status(), 200, "{start}");
    }
    for fields in [
        "x-api-key: qcc_ours\r\n",
        "authorization: Bearer qcc_ours\r\n",
        "x-api-key: qcc_theirs\r\nauthorization: Bearer qcc_ours\r\n",
    ] {
        assert_eq!(send("POST /v1/messages", fields).await.status(), 200);
        assert_eq!(send("GET /__qcc__/stats", fields).await.status(), 200);
    }
    assert_eq!(upstream.requests().len(), 3);
    for request in upstream.requests() {
        let request = String::from_utf8_lossy(&request).to_lowercase();
        assert!(request.contains("x-api-key: sk-e0\r\n"), "{request}");
        assert!(!request.contains("qcc_ours"), "{request}");
        assert!(!request.contains("qcc_theirs"), "{request}");
        assert!(!request.contains("authorization"), "{request}");
    }
}

#[tokio::test]
async fn without_a_view_it_is_not_ready_and_says_so() {
    let proxy = Proxy::without_a_view(Settings::default()).await;
    let ready = proxy
        .send("GET /__qcc__/ready HTTP/1.1\r\nhost: a\r\n\r\n")
        .await;
    assert_eq!(ready.status(), 503);
    let got = proxy.post().await;
    assert_eq!(
        (got.status(), got.header("x-qcc-error")),
        (503, Some("no_view"))
    );
    assert_eq!(got.header("retry-after"), Some("1"));
    assert!(got.text().contains("\"type\":\"error\""));
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let many = "x: 1\r\n".repeat(200);
    let long = format!("x: {}\r\n", "1".repeat(100_000));
    for fields in [many, long] {
        let got = proxy
            .send(format!(
                "GET /v1/models HTTP/1.1\r\nhost: a\r\n{fields}\r\n"
            ))
            .await;
        assert_eq!(got.status(), 431);
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn clients_that_do_not_get_to_the_point_are_closed() {
    let proxy = Proxy::without_a_view(Settings {
        header_read_timeout: Duration::from_millis(100),
        ..Settings::default()
    })
    .await;
    for start in ["", "P", "POST / HTTP/1.1\r\nho"] {
        let mut client = proxy.connect().await;
        client.write(start).await;
        assert_eq!(client.answer().await.head, "", "{start:?}");
    }
}

#[tokio::test]
async fn an_answer_says_by_which_view_and_how_old_it_is_if_that_matters() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let view = View {
        term: 3,
        revision: 14,
    };
    let control = Uri::from_static("http://127.0.0.1:1");
    proxy.link.confirmed(&control, Some(view), Instant::now());
    assert_eq!(proxy.post().await.header("x-qcc-revision"), Some("3.14"));
    let hour = Duration::from_secs(3600);
    proxy.link.restored(view, hour, Instant::now());
    let got = proxy.post().await;
    let revision = got.header("x-qcc-revision").unwrap();
    assert!(revision.starts_with("3.14; age=360"), "{revision}");
    assert!(revision.ends_with("; stale"), "{revision}");
    proxy.link.confirmed(&control, None, Instant::now());
    assert_eq!(proxy.post().await.header("x-qcc-revision"), Some("3.14"));
}
