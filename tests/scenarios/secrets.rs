//! No key leaves by any door but the upstream's.

use std::path::Path;

use qcc_proto::v1::{
    CreateEndpointRequest, Credential, Endpoint, HealthState, ListEndpointsRequest,
};
use qcc_tests::{Answer, Testbed, eventually};

/// Searched for everywhere. Nothing else in the test contains any part of it.
const CANARY: &str = "sk-canary-4f1c9e77d2b8";
const PART: &str = "canary-4f1c";

fn files_with_the_canary(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_with_the_canary(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path)
            && bytes
                .windows(PART.len())
                .any(|window| window == PART.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_seen_by_its_endpoint_and_by_nobody_else() {
    let builder = Testbed::start()
        .log("trace")
        .eager_checks()
        .endpoint("a", |endpoint| {
            endpoint.credential = Some(Credential {
                api_key: CANARY.to_owned(),
                ..Default::default()
            });
        });
    let mut testbed = builder.endpoints(["b"]).proxies(1).await;
    testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(
        testbed.upstream("a").last_request().header("x-api-key"),
        Some(CANARY)
    );

    // Everything that can go wrong, goes wrong; the provider even repeats the key.
    let rejection = format!(
        "{{\"type\":\"error\",\"error\":{{\"type\":\"authentication_error\",\
         \"message\":\"invalid key {CANARY}\"}}}}"
    );
    let rejection = Answer::bytes(401, "application/json", rejection);
    for answer in [
        Answer::reset(),
        Answer::status(429).header("retry-after", "0"),
        rejection,
    ] {
        testbed.upstream("a").respond(answer);
        testbed.proxy(0).messages(3).expect_all(200).await;
    }
    testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    testbed
        .upstream("a")
        .checked(testbed.upstream("a").check_requests() + 2)
        .await;
    testbed.upstream("a").respond(200);
    testbed
        .control()
        .eventually_is("a", HealthState::Healthy)
        .await;
    testbed.control().kill();
    testbed.control().start().await;
    testbed.settled().await;

    // People ask for everything there is to see.
    let mut shown = Vec::new();
    for format in ["table", "wide", "json", "yaml"] {
        for noun in ["endpoints", "clusters", "queue", "proxies"] {
            let output = testbed
                .ctl(&[noun, "list", "-o", format])
                .await
                .expect_code(0);
            shown.push(output.stdout);
        }
        let output = testbed
            .ctl(&["endpoints", "get", "a", "-o", format])
            .await
            .expect_code(0);
        assert!(output.stdout.contains('a'));
    }
    assert!(shown.iter().all(|text| !text.contains(PART)));
    testbed.ctl(&["export"]).await.expect_code(0);
    testbed.ctl(&["status"]).await.expect_code(0);
    let added = testbed.ctl_with(
        &[
            "endpoints",
            "add",
            "c",
            "--base-url",
            "http://127.0.0.1:9",
            "--key-env",
            "THE_KEY",
        ],
        &[("THE_KEY", CANARY)],
        "",
    );
    added.await.expect_code(0);
    let url = format!("http://user:{CANARY}@127.0.0.1");
    let broken_key = format!("{CANARY}\u{7f}");
    for (url, api_key) in [
        (url.as_str(), CANARY),
        ("http://127.0.0.1", broken_key.as_str()),
    ] {
        let endpoint = Endpoint {
            name: "d".to_owned(),
            base_url: url.to_owned(),
            credential: Some(Credential {
                api_key: api_key.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = CreateEndpointRequest {
            endpoint: Some(endpoint),
            ..Default::default()
        };
        let status = testbed.control().endpoints().create_endpoint(request).await;
        let status = status.expect_err("invalid");
        testbed.logs().record("refusal", &format!("{status:?}"));
        testbed
            .logs()
            .record("refusal", &String::from_utf8_lossy(status.details()));
    }
    let request = ListEndpointsRequest::default();
    let listed = testbed
        .control()
        .endpoints()
        .list_endpoints(request)
        .await
        .expect("a list");
    for endpoint in listed.into_inner().endpoints {
        let credential = endpoint.credential.clone().unwrap_or_default();
        assert_eq!(credential.api_key, "");
        assert_eq!(credential.fingerprint.len(), 8, "{endpoint:?}");
        testbed.logs().record("list", &format!("{endpoint:?}"));
    }
    let late = testbed.add_proxy().await;
    testbed.proxy(late).message().await.expect_status(200);
    let seen = testbed
        .proxy(late)
        .endpoint("a")
        .await
        .expect("the proxy answers");
    testbed.logs().record("proxy", &format!("{seen:?}"));

    let mut files = Vec::new();
    files_with_the_canary(testbed.dir(), &mut files);
    assert_eq!(files, [""; 0]);
    assert!(testbed.logs().find("TRACE").len() + testbed.logs().find("trace").len() > 100);
    assert_eq!(testbed.logs().find(PART), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_never_carries_a_key() {
    let testbed = Testbed::start()
        .unchecked()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let output = testbed
        .ctl(&[
            "endpoints",
            "add",
            "b",
            "--base-url",
            "http://127.0.0.1:9",
            "--key",
            CANARY,
        ])
        .await
        .expect_code(2);
    assert!(!output.stderr.contains(PART), "{}", output.stderr);
    eventually(
        "the refused endpoint does not exist",
        async || match testbed.control().status().await.endpoints {
            1 => Ok(()),
            count => Err(count),
        },
    )
    .await;
}
