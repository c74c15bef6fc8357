//! A proxy starts from the view that it kept when no control plane answers.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use qcc_proto::v1::{Cause, DisableEndpointRequest, HealthState};
use qcc_tests::{Testbed, client::Response, eventually, metrics::Metrics};

/// Flags for a proxy that keeps its view in the test's directory.
fn keeping(testbed: &Testbed) -> (PathBuf, [String; 2]) {
    let path = testbed.dir().join("kept").join("view");
    let flags = ["--view-file".to_owned(), path.display().to_string()];
    (path, flags)
}

/// Starts a proxy that keeps its view, and waits until it has.
async fn keep(testbed: &mut Testbed) -> (usize, PathBuf, [String; 2]) {
    let (path, flags) = keeping(testbed);
    let url = testbed.control().url();
    let proxy = start(testbed, &url, &flags).await;
    eventually("the view is kept", async || match path.exists() {
        true => Ok(()),
        false => Err(format!("no {}", path.display())),
    })
    .await;
    (proxy, path, flags)
}

async fn start(testbed: &mut Testbed, url: &str, flags: &[String]) -> usize {
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    testbed.add_proxy_with(&[url], &flags).await
}

fn revision(response: &Response) -> &str {
    response
        .header("x-qcc-revision")
        .expect("each answer has one")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_serves_again_while_the_control_plane_is_away() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let (first, path, flags) = keep(&mut testbed).await;
    let response = testbed.proxy(first).message().await.expect_status(200);
    let before = revision(&response).to_owned();
    assert!(!before.contains("stale"), "{before}");
    let url = testbed.control().url();
    testbed.control().kill();
    testbed.proxy(first).kill();

    let second = start(&mut testbed, &url, &flags).await;
    let proxy = testbed.proxy(second);
    proxy.messages(20).expect_all(200).await;
    let response = proxy.message().await.expect_status(200);
    assert_eq!(response.served_by(), "a");
    let stale = revision(&response);
    assert!(
        stale.contains("; age=") && stale.ends_with("; stale"),
        "{stale}"
    );
    let status = proxy.status().await.expect("the proxy answers");
    assert!(
        status.ready && status.stale && status.view_restored,
        "{status:?}"
    );
    assert_eq!(status.connected_control_url, "");
    let admin = proxy.admin_url().replace("http://", "");
    let metrics = Metrics::of(admin.parse().expect("an address")).await;
    for (series, expected) in [
        ("qcc_proxy_ready", 1.0),
        ("qcc_proxy_control_connected", 0.0),
        ("qcc_proxy_view_stale", 1.0),
        ("qcc_proxy_view_restored", 1.0),
    ] {
        assert_eq!(metrics.value(series), expected, "{series}");
    }
    assert_eq!(
        testbed
            .logs()
            .find("serving from the view that was kept")
            .len(),
        1
    );

    // What it finds out meanwhile arrives once.
    testbed.upstream("a").respond(401);
    proxy.messages(10).expect_all(200).await;
    testbed.control().start().await;
    let endpoint = (testbed.control())
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Auth);
    proxy.eventually_knows("a", HealthState::Unhealthy).await;
    proxy.settled(testbed.control().view().await).await;
    assert_eq!(testbed.control().queue_stats().await.total_failed, 1);
    let status = proxy.status().await.expect("the proxy answers");
    assert!(!status.stale && !status.view_restored, "{status:?}");
    let response = proxy.message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    assert!(!revision(&response).contains("stale"));

    for name in [path.clone(), key_of(&path)] {
        let bytes = fs::read(&name).expect("it is there");
        let mode = fs::metadata(&name)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{}", name.display());
        for key in ["key-of-a", "key-of-b"] {
            let found = bytes.windows(key.len()).any(|at| at == key.as_bytes());
            assert!(!found, "{key} is in {}", name.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_was_stopped_keeps_the_last_it_heard() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let (first, _, flags) = keep(&mut testbed).await;
    let request = DisableEndpointRequest {
        name: "a".to_owned(),
        ..Default::default()
    };
    (testbed
        .control()
        .endpoints()
        .disable_endpoint(request)
        .await)
        .expect("it exists");
    testbed.proxy(first).eventually_avoids("a").await;
    assert!(testbed.proxy(first).stop().await.success());
    let url = testbed.control().url();
    testbed.control().kill();

    let second = start(&mut testbed, &url, &flags).await;
    let response = testbed.proxy(second).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_proxy_could_not_tell_of_a_key_its_next_run_tells() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let (first, path, flags) = keep(&mut testbed).await;
    let url = testbed.control().url();
    testbed.control().kill();
    let before = fs::read(&path).expect("it is there");
    testbed.upstream("a").respond(401);
    let response = testbed.proxy(first).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    let asked = testbed.upstream("a").requests().len();
    eventually("the mark is kept", async || match fs::read(&path) {
        Ok(now) if now != before => Ok(()),
        other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
    })
    .await;
    testbed.proxy(first).kill();

    let second = start(&mut testbed, &url, &flags).await;
    let response = testbed.proxy(second).message().await.expect_status(200);
    assert_eq!(response.served_by(), "b");
    testbed.control().start().await;
    let endpoint = (testbed.control())
        .eventually_is("a", HealthState::Unhealthy)
        .await;
    assert_eq!(endpoint.health.unwrap_or_default().cause(), Cause::Auth);
    assert_eq!(testbed.control().queue_stats().await.total_failed, 1);
    assert_eq!(testbed.upstream("a").requests().len(), asked);
}

/// Does something to a kept view that it must not survive.
type Spoil<'a> = dyn Fn(&Path) -> std::io::Result<()> + 'a;

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_cannot_be_trusted_is_not_used() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .relayed()
        .await;
    let (first, path, flags) = keep(&mut testbed).await;
    assert!(testbed.proxy(first).stop().await.success());
    let whole = fs::read(&path).expect("it is there");
    let torn = |path: &Path| fs::write(path, &whole[..whole.len() / 2]);
    let flipped = |path: &Path| {
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 1;
        fs::write(path, bytes)
    };
    let foreign = |path: &Path| fs::write(path, "[[endpoints]]");
    let exposed = |path: &Path| {
        fs::write(path, &whole)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    };
    let cases: [(&str, &Spoil<'_>); 4] = [
        ("it is damaged", &torn),
        ("it is damaged", &flipped),
        ("is not a kept view", &foreign),
        ("is open to other users", &exposed),
    ];
    for (number, (reason, spoil)) in cases.into_iter().enumerate() {
        spoil(&path).expect("the file can be written");
        testbed.relay().cut();
        let relay = testbed.relay().clone();
        let url = format!("http://{}", relay.address());
        let (logs, refused) = (testbed.logs().clone(), "the kept view is not used");
        let healing = async {
            eventually("it says why", async || match logs.find(refused) {
                lines if lines.len() > number && lines[number].contains(reason) => Ok(()),
                lines => Err(lines.join("\n")),
            })
            .await;
            relay.heal();
        };
        let (proxy, ()) = tokio::join!(start(&mut testbed, &url, &flags), healing);
        testbed.proxy(proxy).message().await.expect_status(200);
        let status = testbed
            .proxy(proxy)
            .status()
            .await
            .expect("the proxy answers");
        assert!(!status.view_restored, "{reason}");
        assert!(testbed.proxy(proxy).stop().await.success());
        let is_foreign = reason.contains("not a kept view");
        let kept = fs::read(&path).expect("it is there");
        assert_eq!(
            kept == b"[[endpoints]]",
            is_foreign,
            "case {number}: {reason}"
        );
    }
    let restored = testbed.logs().find("serving from the view that was kept");
    assert!(restored.is_empty(), "{restored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_another_cluster_is_not_used() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let (first, path, _) = keep(&mut testbed).await;
    assert!(testbed.proxy(first).stop().await.success());
    let mut command = testbed.command("qcc-proxy");
    command
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args([
            "--control",
            "http://127.0.0.1:1",
            "--cluster",
            "other",
            "--view-file",
        ])
        .arg(&path);
    let proxy = testbed.spawn("other", &mut command);
    eventually("it says why", async || {
        let output = proxy.output();
        match output.contains("it is of cluster `default`") && output.contains("no control plane") {
            true => Ok(()),
            false => Err(output),
        }
    })
    .await;
    assert!(
        !proxy.output().contains(r#""message":"ready""#),
        "{}",
        proxy.output()
    );
}

fn key_of(path: &Path) -> PathBuf {
    path.with_extension("key")
}
