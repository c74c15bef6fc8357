//! What people are told of what happens, and by whom.

use qcc_proto::v1::HealthState;
use qcc_tests::{Testbed, eventually};
use rustix::process::Signal;
use serde_json::Value;

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
    let proxy = testbed.proxy(0).admin_url();
    let explain = ["endpoints", "explain", "a", "--proxy", &proxy];
    let shown = testbed.ctl(&explain).await.expect_code(0).stdout;
    let tells = |name: &str, what: &str| {
        let mut lines = shown.lines();
        lines.any(|line| line.starts_with(name) && line.contains(what))
    };
    assert!(tells("used ", "no"), "{shown}");
    assert!(tells("why ", "`a` takes no new requests"), "{shown}");
    assert!(tells("evidence ", "http 401"), "{shown}");
    assert!(tells("seen ", "here, "), "{shown}");
    assert!(
        tells("own mark ", "auth until there is a newer generation"),
        "{shown}"
    );
    assert!(tells("state in view ", "healthy"), "{shown}");
    let nobody = ["endpoints", "explain", "c", "--proxy", &proxy];
    testbed.ctl(&nobody).await.expect_code(3);
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
        shown.stderr.contains("its own marks are not known"),
        "{shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_the_story_of_an_incident() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    let act = ["endpoints", "disable", "a", "--operator", "eva@desk"];
    let why = ["--reason", "its key has leaked"];
    let disabled = testbed.ctl(&[&act[..], &why].concat()).await;
    disabled.expect_code(0);
    let events = testbed.ctl(&["events", "--endpoint", "a"]).await;
    let text = events.expect_code(0).stdout;
    let lines: Vec<_> = text.lines().skip(1).collect();
    for (line, parts) in lines.iter().zip([
        &["   created   "][..],
        &["   healthy   "],
        &["   ejected   ", "   auth: 401", "seen by proxy-0 at view "],
        &[
            "   updated   ",
            "   disabled, by eva@desk: \"its key has leaked\"",
        ],
    ]) {
        let told = parts.iter().all(|part| line.contains(part));
        assert!(told, "{parts:?} in {text}");
    }
    assert_eq!(lines.len(), 4, "{text}");
    let only = testbed
        .ctl(&["events", "--kind", "ejected", "-o", "name"])
        .await
        .expect_code(0);
    assert_eq!(only.stdout.lines().count(), 1, "{only:?}");
    let tune = ["clusters", "update", "default", "--max-failures", "5"];
    testbed.ctl(&tune).await.expect_code(0);
    let tuned = testbed.ctl(&["events", "--kind", "cluster_updated", "--limit", "1"]);
    let tuned = tuned.await.expect_code(0).stdout;
    assert!(
        tuned.contains("   cluster_updated   cluster default   policy, by "),
        "{tuned}"
    );
    let never = testbed
        .ctl(&["events", "--since", "2200-01-01T00:00:00Z"])
        .await;
    assert_eq!(never.expect_code(0).stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_events_outlives_a_restart_of_the_control_plane() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let mut command = testbed.command("qcc-ctl");
    command
        .args(["events", "--follow", "-o", "json"])
        .env("QCC_CONTROL", testbed.control().url());
    let mut follow = testbed.spawn("follow", &mut command);
    let events = |text: &str| -> Vec<Value> {
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    };
    let shown = async |kind: &str, times: usize| {
        eventually(&format!("{kind} is shown"), async || {
            let output = follow.output();
            let found = events(&output).iter().filter(|e| e["kind"] == kind).count();
            if found == times { Ok(()) } else { Err(output) }
        })
        .await;
    };
    shown("EVENT_KIND_ENDPOINT_CREATED", 1).await;
    testbed
        .ctl(&["endpoints", "drain", "a"])
        .await
        .expect_code(0);
    shown("EVENT_KIND_ENDPOINT_UPDATED", 1).await;
    testbed.control().kill();
    testbed.control().start().await;
    shown("EVENT_KIND_CONTROL_STARTED", 2).await;
    testbed
        .ctl(&["endpoints", "enable", "a"])
        .await
        .expect_code(0);
    shown("EVENT_KIND_ENDPOINT_UPDATED", 2).await;

    let output = follow.output();
    assert!(output.contains("lost the control plane; trying again"));
    assert!(output.contains("connected again"));
    let ids: Vec<u64> = events(&output)
        .iter()
        .map(|event| {
            event["id"]
                .as_str()
                .expect("a text")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(
        ids.is_sorted_by(|a, b| a < b),
        "each once, in order: {ids:?}"
    );
    follow.signal(Signal::INT);
    assert_eq!(follow.ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_says_why_on_whose_word_and_what_comes_next() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("a").respond(401);
    testbed.proxy(0).message().await.expect_status(200);
    testbed
        .control()
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    testbed
        .ctl(&["wait", "proxies", "--for", "synced"])
        .await
        .expect_code(0);
    let text = testbed
        .ctl(&["endpoints", "explain", "a"])
        .await
        .expect_code(0)
        .stdout;
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    assert!(row("state ").ends_with("unhealthy: auth"), "{text}");
    assert!(row("evidence ").contains("http 401"), "{text}");
    assert!(row("seen by ").contains("proxy-0"), "{text}");
    assert!(row("next ").contains(" (in "), "{text}");
    assert!(row("to do ").contains("key"), "{text}");
    assert!(row("proxies behind ").ends_with("none"), "{text}");
    assert!(text.contains("   ejected   a       auth: 401"), "{text}");
    let shown = testbed
        .ctl(&["endpoints", "explain", "a", "-o", "json"])
        .await;
    let shown = shown.expect_code(0).json();
    assert_eq!(shown["endpoint"]["health"]["cause"], "CAUSE_AUTH");
    assert!(!shown.to_string().contains("key-of-a"), "{shown}");
    testbed
        .ctl(&["endpoints", "explain", "nobody"])
        .await
        .expect_code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_how_long_views_take() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    testbed.settled().await;
    testbed
        .ctl(&["endpoints", "drain", "a"])
        .await
        .expect_code(0);
    let text = eventually("a view has been measured", async || {
        let text = testbed.ctl(&["status"]).await.expect_code(0).stdout;
        let has_bar = text.lines().last().is_some_and(|line| line.contains('#'));
        if has_bar { Ok(text) } else { Err(text) }
    })
    .await;
    let row = text.lines().find(|line| line.starts_with("propagation "));
    let row = row.unwrap_or_else(|| panic!("no propagation in {text}"));
    assert!(
        row.contains("p50 within ") && row.contains("p99 within "),
        "{text}"
    );
    assert!(text.contains("1 made, 0 refused"), "{text}");
}
