//! A configuration that is read again, and is bad.

use std::{fs, net::SocketAddr};

use qcc_tests::{Process, Testbed, eventually, metrics::Metrics};
use rustix::process::Signal;

use crate::story;

/// What is wrong, and what is said of it.
const BAD: [(&str, &[&str]); 7] = [
    ("requests_max = 1\nlisden = 7\n", &["lisden"]),
    (
        "requests_max = 1\nwaiting_max = 'x'\n",
        &["line 2", "waiting_max"],
    ),
    (
        "body_max_bytes = 0\nrequests_max = 0\n",
        &["requests_max", "at least 1"],
    ),
    ("body_max_bytes = 0\ntls_key = '/k'\n", &["tls_cert"]),
    (
        "body_max_bytes = 0\nclient_keys_file = '/no/keys'\n",
        &["client_keys_file", "/no/keys"],
    ),
    ("body_max_bytes = 0\nlog = 'a=b=c'\n", &["log"]),
    ("body_max_bytes = 0\n= \u{1}\n", &["line 2"]),
];

async fn is_told(what: &str, metrics: SocketAddr, name: &str, expected: f64) {
    eventually(what, async || {
        match Metrics::of(metrics).await.value(name) {
            value if value == expected => Ok(()),
            value => Err(format!("{name} is {value}")),
        }
    })
    .await;
}

pub(crate) fn a_bad_configuration_at_a_reload_changes_nothing_and_is_told() {
    story(async {
        let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
        let file = testbed.dir().join("proxy.toml");
        let path = file.display().to_string();
        let write = |text: &str| fs::write(&file, text).expect("the file can be written");
        write("");
        let control = testbed.control().url();
        let flags = ["--config", path.as_str()];
        let index = testbed.add_proxy_with(&[&control], &flags).await;
        let proxy = testbed.proxy(index);
        let (admin, admin_url) = (proxy.admin_address(), proxy.admin_url());
        let successful = "qcc_proxy_config_last_reload_successful";
        let time = "qcc_proxy_config_last_reload_success_timestamp_seconds";
        let loaded = Metrics::of(admin).await.value(time);
        for (text, words) in BAD {
            write(text);
            proxy.signal(Signal::HUP);
            let failed = "configuration not reloaded";
            eventually("it is logged", async || {
                let told = testbed.logs().find(failed);
                let named = |line: &String| words.iter().all(|word| line.contains(word));
                told.iter()
                    .find(|line| named(line))
                    .map(drop)
                    .ok_or(format!("{told:?}"))
            })
            .await;
            is_told("it is counted", admin, successful, 0.0).await;
            let reload = ["proxy", "reload", "--proxy", &admin_url];
            let refused = testbed.ctl(&reload).await.expect_code(4).stderr;
            assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
            assert!(refused.contains("nothing was changed"), "{refused}");
            // With the new settings neither of the two would be served.
            let both = [proxy.message(), proxy.message()].map(|call| call.send());
            let [one, other] = both;
            let (one, other) = tokio::join!(one, other);
            one.expect("an answer").expect_status(200);
            other.expect("an answer").expect_status(200);
            let status = proxy.status().await.expect("the proxy answers");
            let config = status.config.expect("how it stands");
            assert_eq!(config.revision, 1, "{config:?}");
            assert!(config.last_reload_failed, "{config:?}");
            assert!(
                words.iter().all(|word| config.last_failure.contains(word)),
                "{config:?}"
            );
        }
        assert_eq!(Metrics::of(admin).await.value(time), loaded);
        fs::remove_file(&file).expect("it is there");
        let reload = ["proxy", "reload", "--proxy", &admin_url];
        let refused = testbed.ctl(&reload).await.expect_code(4).stderr;
        assert!(refused.contains(&path), "{refused}");

        write("body_max_bytes = 0\n");
        proxy.signal(Signal::HUP);
        is_told("it is over", admin, successful, 1.0).await;
        proxy.message().await.expect_status(413);
        control_plane(&testbed).await;
    });
}

/// The same of a control plane.
async fn control_plane(testbed: &Testbed) {
    let file = testbed.dir().join("control.toml");
    let write = |text: &str| fs::write(&file, text).expect("the file can be written");
    write("");
    let dir = testbed.dir().join("control");
    fs::create_dir(&dir).expect("a directory can be made");
    let (mut command, ready_file) = qcc_tests::ControlPlane::command_in(&dir);
    let mut control: Process = testbed.spawn("reloaded", command.arg("--config").arg(&file));
    let ready = control.ready(&ready_file).await;
    let address = ready["grpc"].as_str().expect("an address");
    let address: SocketAddr = address.parse().expect("an address");
    let url = format!("http://{address}");
    let add = ["endpoints", "add", "b", "--base-url", "http://127.0.0.1:9"];
    let add = [&add[..], &["--key-stdin", "--control", &url]].concat();
    testbed.ctl_with(&add, &[], "key-of-b").await.expect_code(0);
    let successful = "qcc_control_config_last_reload_successful";
    for (text, word) in [
        ("allow_host = ['a']\nlisden = 7\n", "lisden"),
        (
            "allow_host = ['a']\nupstream_ca_file = '/no/ca'\n",
            "/no/ca",
        ),
        (
            "allow_host = ['a']\napply = '/no/resources'\n",
            "/no/resources",
        ),
    ] {
        write(text);
        control.signal(Signal::HUP);
        eventually("it is logged", async || {
            let output = control.output();
            let told = |line: &str| line.contains("not reloaded") && line.contains(word);
            output.lines().any(told).then_some(()).ok_or(output)
        })
        .await;
        is_told("it is counted", address, successful, 0.0).await;
    }
    write("allow_host = ['a']\n");
    control.signal(Signal::HUP);
    is_told("it is over", address, successful, 1.0).await;
    assert!(control.stop().await.success());
}
