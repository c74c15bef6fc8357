//! What people are told of what happens, and by whom.

use qcc_proto::v1::HealthState;
use qcc_tests::{Testbed, eventually};

/// `qcc-ctl proxy diff` about the first proxy: exit code and output.
async fn diff(testbed: &Testbed) -> (i32, String) {
    let proxy = testbed.proxy(0).admin_url();
    let output = testbed.ctl(&["proxy", "diff", "--proxy", &proxy]).await;
    (output.code, output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_s_view_can_be_compared_with_the_control_plane_s() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .relayed()
        .proxies(1)
        .await;
    testbed.settled().await;
    let (code, text) = diff(&testbed).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("proxy proxy-0"), "{text}");

    testbed.relay().cut();
    let changes: [&[&str]; 2] = [
        &["endpoints", "update", "a", "--weight", "7"],
        &["endpoints", "disable", "b"],
    ];
    for change in changes {
        testbed.ctl(change).await.expect_code(0);
    }
    let (code, text) = diff(&testbed).await;
    assert_eq!(code, 1, "{text}");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split("   ").collect())
        .collect();
    let differs = |row: [&str; 4]| {
        rows.iter().any(|cells| {
            let cells = cells.iter().map(|cell| cell.trim());
            cells.filter(|cell| !cell.is_empty()).eq(row)
        })
    };
    assert!(differs(["a", "weight", "7", "100"]), "{text}");
    assert!(
        differs(["b", "admin state", "disabled", "enabled"]),
        "{text}"
    );
    assert!(text.contains("2 revisions behind"), "{text}");

    testbed.relay().heal();
    eventually("the proxy catches up", async || {
        match diff(&testbed).await {
            (0, _) => Ok(()),
            (_, text) => Err(text),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_has_seen_alone_is_shown_as_its_own_mark() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .relayed()
        .proxies(1)
        .await;
    testbed.settled().await;
    testbed.relay().cut();
    testbed.upstream("a").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    let (code, text) = diff(&testbed).await;
    assert_eq!(code, 1, "{text}");
    let differences: Vec<_> = text
        .lines()
        .skip_while(|line| !line.starts_with("ENDPOINT"))
        .collect();
    assert_eq!(differences.len(), 2, "{text}");
    assert!(
        differences[1].starts_with("a          local mark   healthy         auth"),
        "{text}"
    );
    // The proxy can be asked although the control plane has lost sight of it.
    let shown = testbed
        .ctl(&["proxies", "get", "proxy-0"])
        .await
        .expect_code(0);
    let marked = |line: &str| line.starts_with("a ") && line.contains("healthy   -       auth");
    assert!(shown.stdout.lines().any(marked), "{shown:?}");
    let shown = testbed
        .ctl(&["proxies", "get", "proxy-0", "-o", "json"])
        .await;
    let endpoint = &shown.expect_code(0).json()["endpoints"][0];
    assert_eq!(endpoint["local_mark"]["cause"], "CAUSE_AUTH", "{endpoint}");

    testbed.relay().heal();
    testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    testbed.settled().await;
    let (code, text) = diff(&testbed).await;
    assert_eq!(code, 0, "what both know is no difference: {text}");

    testbed.proxy(0).kill();
    let shown = testbed
        .ctl(&["proxies", "get", "proxy-0"])
        .await
        .expect_code(0);
    assert!(
        shown
            .stderr
            .contains("does not answer at its admin address"),
        "{shown:?}"
    );
}
