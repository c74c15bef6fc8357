//! How the daemons start, and how they refuse to.

use std::{fs, net::TcpListener, process::Command};

use qcc_tests::{Testbed, by_shell};

const DAEMONS: [&str; 2] = ["qcc-control", "qcc-proxy"];

/// A daemon with all that it needs to start.
fn daemon(testbed: &Testbed, name: &str) -> Command {
    let mut command = testbed.command(name);
    if name == "qcc-control" {
        command.arg("--data-dir").arg(testbed.dir().join("another"));
    } else {
        command.args([
            "--control",
            &testbed.control().url(),
            "--admin-listen",
            "127.0.0.1:0",
        ]);
    }
    command
}

/// Runs a daemon that refuses to start, and returns its exit code and its words.
async fn refused(testbed: &Testbed, name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = daemon(testbed, name);
    command.args(arguments);
    let mut process = testbed.spawn(name, &mut command);
    let status = process.ended().await;
    (status.code(), process.output())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_flags_are_refused() {
    let testbed = Testbed::start().unchecked().await;
    for name in DAEMONS {
        let (code, output) = refused(&testbed, name, &["--colour", "blue"]).await;
        assert_eq!(code, Some(2), "{name}: {output}");
        assert!(output.contains("--colour"), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_refused_with_key_and_rule_but_without_the_value() {
    let testbed = Testbed::start().unchecked().await;
    let file = testbed.dir().join("wrong.toml");
    let path = file.to_str().expect("a plain path");
    for name in DAEMONS {
        for (text, named) in [
            (
                "lisden = \"127.0.0.1:0\"\n",
                "line 1: unknown field `lisden`",
            ),
            ("\nlisten = 7\n", "line 2: `listen`: must be "),
            (
                "insecure_listen = \"sk-1\"\n",
                "line 1: `insecure_listen`: must be a boolean",
            ),
            ("insecure_listen = sk-1\n", "line 1: `insecure_listen`: "),
        ] {
            fs::write(&file, text).expect("the file can be written");
            let (code, output) = refused(&testbed, name, &["--config", path]).await;
            assert_eq!(code, Some(78), "{name} {text}: {output}");
            assert!(output.contains(named), "{name} {text}: {output}");
            // A key that was put into the wrong place is not for a journal.
            assert!(!output.contains("sk-1"), "{name} {text}: {output}");
        }
        let (code, output) = refused(&testbed, name, &["--config", "/nowhere.toml"]).await;
        assert_eq!(code, Some(78), "{name}: {output}");
        assert!(output.contains("/nowhere.toml"), "{name}: {output}");
        fs::write(&file, "listen = \"127.0.0.1:0\"\n").expect("the file can be written");
        let (code, output) = refused(&testbed, name, &["--config", path, "--check-config"]).await;
        assert_eq!(code, Some(0), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listening_for_everybody_needs_a_word_of_its_own() {
    let testbed = Testbed::start().unchecked().await;
    for name in DAEMONS {
        let (code, output) = refused(&testbed, name, &["--listen", "0.0.0.0:0"]).await;
        assert_eq!(code, Some(78), "{name}: {output}");
        assert!(output.contains("--insecure-listen"), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_is_named() {
    let testbed = Testbed::start().unchecked().await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken
        .local_addr()
        .expect("a listener has an address")
        .to_string();
    for name in DAEMONS {
        let (code, output) = refused(&testbed, name, &["--listen", &address]).await;
        assert_eq!(code, Some(1), "{name}: {output}");
        assert!(output.contains(&address), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_another_machine_is_named() {
    let testbed = Testbed::start().unchecked().await;
    let elsewhere = "192.0.2.1:7870"; // Of documentation: nobody has it.
    for name in DAEMONS {
        let arguments = ["--insecure-listen", "--listen", elsewhere];
        let (code, output) = refused(&testbed, name, &arguments).await;
        assert_eq!(code, Some(1), "{name}: {output}");
        assert!(output.contains(elsewhere), "{name}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_applies_a_file_at_its_start() {
    let mut testbed = Testbed::start().unchecked().await;
    let url = testbed.add_upstream("a").await.url();
    let resources = testbed.dir().join("resources.toml");
    fs::write(testbed.dir().join("a.key"), "key-from-file\n").expect("the file can be written");
    let text =
        format!("[[endpoints]]\nname = \"a\"\nbase_url = \"{url}\"\napi_key_file = \"a.key\"\n");
    fs::write(&resources, text).expect("the file can be written");
    let ready_file = testbed.dir().join("applied.json");
    let mut command = daemon(&testbed, "qcc-control");
    command
        .args(["--listen", "127.0.0.1:0", "--apply"])
        .arg(&resources);
    command.arg("--ready-file").arg(&ready_file);
    let mut control = testbed.spawn("applied", &mut command);
    let ready = control.ready(&ready_file).await;
    let address = ready["grpc"].as_str().expect("an address").to_owned();
    let url = format!("http://{address}");
    testbed
        .ctl(&["--control", &url, "wait", "endpoint/a", "--for", "healthy"])
        .await
        .expect_code(0);
    let requests = testbed.upstream("a").requests();
    assert_eq!(requests[0].header("x-api-key"), Some("key-from-file"));
    let first_lines: Vec<_> = control
        .output()
        .lines()
        .take(5)
        .map(str::to_owned)
        .collect();
    assert!(
        first_lines.iter().any(|line| line.contains(&address)),
        "{first_lines:?}"
    );
    assert!(control.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let testbed = Testbed::start().unchecked().await;
    for name in DAEMONS {
        let ready_file = testbed.dir().join(name).with_extension("json");
        let mut command = daemon(&testbed, name);
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--ready-file").arg(&ready_file);
        let mut command = by_shell(r#"exec "$0" "$@" 2>/dev/full"#, &command);
        let mut process = testbed.spawn(name, &mut command);
        process.ready(&ready_file).await;
        let status = process.stop().await;
        assert!(status.success(), "{name}: {status}");
    }
}
