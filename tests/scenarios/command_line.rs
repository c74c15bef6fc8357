//! `qcc-ctl` as people and scripts use it.

use std::net::{Ipv4Addr, SocketAddr};

use hyper::Method;
use qcc_proto::v1::HealthState;
use qcc_tests::{Answer, Authority, Testbed, client::Call, eventually};
use rustix::process::Signal;
use serde_json::Value;

use crate::metrics::raw;

const README: &str = include_str!("../../README.md");

/// The value at a path of field names.
fn at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().fold(value, |value, &field| &value[field]);
    found
        .as_str()
        .unwrap_or_else(|| panic!("no text at {path:?} in {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_s_life_can_be_led_from_the_command_line() {
    let mut testbed = Testbed::start().patient_checks().proxies(1).await;
    let url = testbed.add_upstream("a").await.url();
    let add = [
        "endpoints",
        "add",
        "a",
        "--base-url",
        &url,
        "--key-stdin",
        "--label",
        "team=red",
    ];
    testbed
        .ctl_with(&add, &[], "the-key\n")
        .await
        .expect_code(0);
    testbed
        .ctl(&["wait", "endpoint/a", "--for", "healthy"])
        .await
        .expect_code(0);
    let shown = testbed
        .ctl(&["endpoints", "get", "a", "-o", "json"])
        .await
        .expect_code(0)
        .json();
    assert_eq!(at(&shown, &["name"]), "a");
    assert_eq!(at(&shown, &["health", "state"]), "HEALTH_STATE_HEALTHY");
    assert_eq!(at(&shown, &["labels", "team"]), "red");
    testbed
        .proxy(0)
        .eventually_sees("a", "selectable", |endpoint| endpoint.selectable)
        .await;
    testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(
        testbed.upstream("a").last_request().header("x-api-key"),
        Some("the-key")
    );

    testbed
        .ctl(&["endpoints", "update", "a", "--weight", "7"])
        .await
        .expect_code(0);
    assert_eq!(testbed.control().endpoint("a").await.weight, Some(7));
    testbed
        .ctl(&["endpoints", "disable", "a"])
        .await
        .expect_code(0);
    testbed.proxy(0).eventually_avoids("a").await;
    testbed
        .ctl(&["endpoints", "verify", "a"])
        .await
        .expect_code(4);
    testbed
        .ctl(&["endpoints", "enable", "a"])
        .await
        .expect_code(0);
    testbed
        .ctl(&["endpoints", "verify", "a"])
        .await
        .expect_code(0);
    testbed.upstream("a").respond(401);
    testbed
        .ctl(&["endpoints", "verify", "a"])
        .await
        .expect_code(1);
    let table = testbed
        .ctl(&["endpoints", "list"])
        .await
        .expect_code(0)
        .stdout;
    assert!(
        table.contains("unhealthy") && table.contains("auth"),
        "{table}"
    );
    let queue = testbed
        .ctl(&["queue", "list", "-o", "name"])
        .await
        .expect_code(0)
        .stdout;
    assert!(queue.trim().ends_with("/a"), "{queue}");
    testbed.upstream("a").respond(200);
    testbed.ctl(&["queue", "verify"]).await.expect_code(0);
    testbed
        .ctl(&["wait", "queue", "--for", "empty"])
        .await
        .expect_code(0);
    let stats = testbed.ctl(&["queue", "stats"]).await.expect_code(0).stdout;
    assert!(stats.contains('1'), "{stats}");
    testbed
        .ctl(&["endpoints", "remove", "a", "--yes"])
        .await
        .expect_code(0);
    testbed.ctl(&["endpoints", "get", "a"]).await.expect_code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_went_wrong() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let cases: [(&[&str], i32); 9] = [
        (&["endpoints", "list"], 0),
        (&["endpoints", "paint"], 2),
        (&["endpoints", "get", "nobody"], 3),
        (
            &["endpoints", "add", "a", "--base-url", "http://127.0.0.1:9"],
            4,
        ),
        (
            &["endpoints", "add", "B", "--base-url", "http://127.0.0.1:9"],
            2,
        ),
        (
            &["endpoints", "update", "a", "--weight", "9", "--etag", "old"],
            4,
        ),
        (&["clusters", "remove", "default", "--yes"], 4),
        (
            &[
                "--control",
                "http://127.0.0.1:1",
                "--timeout",
                "1s",
                "status",
            ],
            6,
        ),
        (
            &[
                "wait",
                "endpoint/a",
                "--for",
                "unhealthy",
                "--timeout",
                "200ms",
            ],
            6,
        ),
    ];
    for (arguments, code) in cases {
        let output = testbed.ctl(arguments).await.expect_code(code);
        assert_eq!(
            output.stderr.contains("error:"),
            code != 0,
            "{arguments:?}: {output:?}"
        );
        if code != 0 {
            assert_eq!(output.stdout, "", "{arguments:?}");
        }
    }
}

/// Flags whose help states a default, with it.
fn defaults(help: &str) -> Vec<String> {
    let mut flag = "";
    let mut stated = Vec::new();
    for line in help.lines().map(str::trim) {
        if line.starts_with("--") {
            flag = line.split(' ').next().unwrap_or_default();
        }
        let default = (line.strip_suffix(']')).and_then(|line| line.rsplit_once("[default: "));
        if let Some((_, value)) = default
            && !value.starts_with("by ")
        {
            stated.push(format!("{flag}={value}"));
        }
    }
    stated
}

#[tokio::test(flavor = "multi_thread")]
async fn the_defaults_that_are_stated_are_those_in_force() {
    let testbed = Testbed::start().await;
    let help = testbed.ctl(&["clusters", "add", "--help"]).await;
    let (help, _) = help.stdout.split_once("Global options:").expect("them");
    let stated = defaults(help);
    assert!(
        stated.contains(&"--max-failures=3".to_owned()),
        "{stated:?}"
    );
    let add = ["clusters", "add", "stated"].into_iter();
    let add: Vec<_> = add.chain(stated.iter().map(String::as_str)).collect();
    testbed.ctl(&add).await.expect_code(0);
    let mut policies = Vec::new();
    for name in ["default", "stated"] {
        let get = ["clusters", "get", name, "-o", "json"];
        let mut cluster = testbed.ctl(&get).await.expect_code(0).json();
        policies.push(cluster["policy"].take());
    }
    assert_eq!(policies[0], policies[1]);

    let (_, file) = README.split_once("\n[[clusters]]\n").expect("an example");
    let (file, _) = file.split_once("\n[[endpoints]]\n").expect("its end");
    let file = format!("[[clusters]]\n{file}");
    let diff = ["diff", "-f", "-"];
    testbed.ctl_with(&diff, &[], &file).await.expect_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_can_be_applied_and_changes_nothing() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let exported = testbed.ctl(&["export"]).await.expect_code(0).stdout;
    let file = testbed.dir().join("resources.toml");
    std::fs::write(&file, &exported).expect("the file can be written");
    let file = file.to_str().expect("a plain path");
    testbed
        .ctl(&["diff", "-f", file, "--prune"])
        .await
        .expect_code(0);
    let view = testbed.control().view().await;
    testbed
        .ctl(&["apply", "-f", file, "--prune"])
        .await
        .expect_code(0);
    assert_eq!(testbed.control().view().await, view);

    let changed = exported.replace("name = \"b\"", "name = \"c\"");
    testbed
        .ctl_with(&["diff", "-f", "-", "--prune"], &[], &changed)
        .await
        .expect_code(1);
    let dry = testbed
        .ctl_with(&["apply", "-f", "-", "--prune", "--dry-run"], &[], &changed)
        .await;
    dry.expect_code(0);
    assert_eq!(testbed.control().view().await, view);
    testbed
        .ctl_with(&["apply", "-f", "-", "--prune"], &[], &changed)
        .await
        .expect_code(0);
    let names = testbed
        .ctl(&["endpoints", "list", "-o", "name"])
        .await
        .expect_code(0)
        .stdout;
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        ["endpoint/a", "endpoint/c"]
    );
    assert_eq!(
        testbed.ctl(&["export"]).await.expect_code(0).stdout,
        changed
    );
    // What was not touched has kept its life.
    assert_eq!(testbed.control().state("a").await, HealthState::Healthy);

    let wrong = "[[endpoints]]\nname = \"d\"\nbase_url = \"http://127.0.0.1:9\"\nwieght = 3\n";
    let output = testbed
        .ctl_with(&["apply", "-f", "-"], &[], wrong)
        .await
        .expect_code(2);
    assert!(
        output.stderr.contains("wieght") && output.stderr.contains("weight"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_precheck_is_set_exported_and_compared_like_any_other_setting() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let check = [
        "clusters",
        "update",
        "default",
        "--check",
        "conversation",
        "--precheck-path",
        "/v1/models?limit=1",
    ];
    testbed.ctl(&check).await.expect_code(0);
    let shown = testbed.ctl(&["clusters", "get", "default"]).await;
    let shown = shown.expect_code(0).stdout;
    assert!(
        shown.contains(", after http GET /v1/models?limit=1"),
        "{shown}"
    );
    let exported = testbed.ctl(&["export"]).await.expect_code(0).stdout;
    let diff = ["diff", "-f", "-", "--prune"];
    testbed.ctl_with(&diff, &[], &exported).await.expect_code(0);
    let changed = exported.replace("/v1/models?limit=1", "/v1/other");
    let output = testbed.ctl_with(&diff, &[], &changed).await.expect_code(1);
    assert!(output.stdout.contains("cluster/default"), "{output:?}");
    testbed
        .ctl_with(&["apply", "-f", "-"], &[], &changed)
        .await
        .expect_code(0);
    let wrong = testbed
        .ctl(&[&check[..], &["--precheck-method", "PUT"]].concat())
        .await
        .expect_code(2);
    assert!(
        wrong.stderr.contains("policy.check.precheck.method"),
        "{wrong:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_waits_is_shown_until_it_is_proven() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    testbed.upstream("a").respond_by(|request| {
        let is_new = request.header("x-api-key") == Some("new-key");
        Answer::status(if is_new { 401 } else { 200 })
    });
    let rotate = [
        "endpoints",
        "update",
        "a",
        "--key-stdin",
        "--overlap",
        "10m",
    ];
    testbed
        .ctl_with(&rotate, &[], "new-key")
        .await
        .expect_code(0);
    let shown = testbed
        .ctl(&["endpoints", "get", "a"])
        .await
        .expect_code(0)
        .stdout;
    assert!(shown.contains("new key "), "{shown}");
    assert!(
        shown.contains("takes over when a check has proven it, at the latest in "),
        "{shown}"
    );
    let list = testbed.ctl(&["endpoints", "list", "-o", "wide"]).await;
    assert!(list.expect_code(0).stdout.contains(" (new: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_can_be_asked_and_drained() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let admin = testbed.proxy(0).admin_url();
    let proxy = [("QCC_PROXY", admin.as_str())];
    testbed.proxy(0).message().await.expect_status(200);
    let ask = ["proxy", "status", "-o", "json"];
    let status = testbed
        .ctl_with(&ask, &proxy, "")
        .await
        .expect_code(0)
        .json();
    assert_eq!(at(&status, &["id"]), "proxy-0");
    let ask = ["proxy", "endpoints"];
    let table = testbed
        .ctl_with(&ask, &proxy, "")
        .await
        .expect_code(0)
        .stdout;
    assert!(table.lines().any(|line| line.starts_with("a ")), "{table}");
    testbed
        .ctl(&["wait", "proxies", "--for", "synced"])
        .await
        .expect_code(0);
    let table = testbed
        .ctl(&["proxies", "list"])
        .await
        .expect_code(0)
        .stdout;
    assert!(table.contains("proxy-0"), "{table}");
    testbed.ctl(&["status", "--check"]).await.expect_code(0);
    testbed
        .ctl_with(&["proxy", "drain"], &proxy, "")
        .await
        .expect_code(0);
    assert!(testbed.proxy(0).ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_changes_as_lines() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let mut command = testbed.command("qcc-ctl");
    command
        .args(["endpoints", "watch", "-o", "json"])
        .env("QCC_CONTROL", testbed.control().url());
    let mut watch = testbed.spawn("watch", &mut command);
    let lines = |text: &str| {
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .map(|line| line.to_string())
            .collect::<Vec<_>>()
    };
    eventually("the watch shows what there is", async || {
        match watch.output() {
            output if lines(&output).iter().any(|line| line.contains("\"a\"")) => Ok(()),
            output => Err(output),
        }
    })
    .await;
    testbed
        .ctl(&["endpoints", "drain", "a"])
        .await
        .expect_code(0);
    eventually("the watch shows the change", async || {
        match watch.output() {
            output
                if lines(&output)
                    .iter()
                    .any(|line| line.contains("ADMIN_STATE_DRAINING")) =>
            {
                Ok(())
            }
            output => Err(output),
        }
    })
    .await;
    watch.signal(Signal::INT);
    assert_eq!(watch.ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn up_is_fit_for_other_machines_with_tls_and_client_keys() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let dir = testbed.dir();
    let authority = Authority::new();
    let (cert, key) = authority.write(dir, "proxy", "127.0.0.1");
    let (file, ready_file) = (dir.join("clients"), dir.join("up.json"));
    let keys = file.to_str().expect("a plain path");
    let add = ["client-keys", "add", "eva", "--file", keys];
    let added = testbed.ctl(&add).await.expect_code(0);
    let mut command = testbed.command("qcc-ctl");
    command.args(["up", "--listen", "0.0.0.0:0", "--tls-cert", &cert]);
    command.args(["--tls-key", &key, "--client-keys-file", keys]);
    command.args(["--allow-host", "metrics.example"]);
    for flag in ["--admin-listen", "--control-listen"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.arg("--data-dir").arg(dir.join("up"));
    command.arg("--ready-file").arg(&ready_file);
    let mut up = testbed.spawn("up", &mut command);
    let ready = up.ready(&ready_file).await;
    let address = |name: &str| -> SocketAddr { at(&ready, &[name]).parse().expect("an address") };
    let call = |key: &str| {
        let here = (Ipv4Addr::LOCALHOST, address("http").port()).into();
        let call = Call::new(here, Method::GET, "/v1/models").header("x-api-key", key);
        call.over(authority.trusted(&["http/1.1"]))
    };
    call("of-nobody").await.expect_status(401);
    // It is let in: that there is no endpoint is all that is wrong.
    call(added.stdout.trim()).await.expect_status(503);
    for name in ["grpc", "admin"] {
        let get = "GET /healthz HTTP/1.1\r\nhost: metrics.example\r\nconnection: close\r\n\r\n";
        assert_eq!(raw(address(name), get).await, "HTTP/1.1 200 OK", "{name}");
    }
    assert!(up.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn up_runs_everything_in_one_process() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let (ready_file, data) = (testbed.dir().join("up.json"), testbed.dir().join("up"));
    let resources = testbed.dir().join("up.toml");
    let url = testbed.upstream("a").url();
    let text =
        format!("[[endpoints]]\nname = \"a\"\nbase_url = \"{url}\"\napi_key_env = \"UP_KEY\"\n");
    std::fs::write(&resources, text).expect("the file can be written");
    let mut command = testbed.command("qcc-ctl");
    command.arg("up").env("UP_KEY", "up-key");
    for flag in ["--listen", "--admin-listen", "--control-listen"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command
        .arg("--data-dir")
        .arg(data)
        .arg("--ready-file")
        .arg(&ready_file);
    command.arg("--apply").arg(&resources);
    let mut up = testbed.spawn("up", &mut command);
    let ready = up.ready(&ready_file).await;
    let http = at(&ready, &["http"]).parse().expect("an address");
    let call = qcc_tests::client::Call::new(http, hyper::Method::POST, "/v1/messages");
    call.message(false).await.expect_status(200);
    assert_eq!(
        testbed.upstream("a").last_request().header("x-api-key"),
        Some("up-key")
    );
    let control = format!("http://{}", at(&ready, &["grpc"]));
    testbed
        .ctl(&["--control", &control, "endpoints", "get", "a"])
        .await
        .expect_code(0);
    // It has no file to read again, and says so, and who has.
    let admin = format!("http://{}", at(&ready, &["admin"]));
    for reload in [
        &["--control", &control, "reload"][..],
        &["proxy", "reload", "--proxy", &admin],
    ] {
        let refused = testbed.ctl(reload).await.expect_code(4);
        let said = "`qcc-control` and `qcc-proxy` can do it; `qcc-ctl up` cannot";
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert!(up.stop().await.success());
}
