//! The binary, as scripts meet it.

mod explanation;
mod fake;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::Duration,
};

use fake::FakeControl;
use serde_json::Value;

const COMMANDS: [&[&str]; 40] = [
    &[],
    &["up"],
    &["status"],
    &["endpoints"],
    &["endpoints", "list"],
    &["endpoints", "get"],
    &["endpoints", "explain"],
    &["endpoints", "add"],
    &["endpoints", "update"],
    &["endpoints", "remove"],
    &["endpoints", "enable"],
    &["endpoints", "disable"],
    &["endpoints", "drain"],
    &["endpoints", "eject"],
    &["endpoints", "restore"],
    &["endpoints", "verify"],
    &["endpoints", "watch"],
    &["clusters", "list"],
    &["clusters", "get"],
    &["clusters", "add"],
    &["clusters", "update"],
    &["clusters", "remove"],
    &["queue", "list"],
    &["queue", "stats"],
    &["queue", "verify"],
    &["queue", "remove"],
    &["queue", "clear"],
    &["proxies", "list"],
    &["proxies", "get"],
    &["proxy", "status"],
    &["proxy", "endpoints"],
    &["proxy", "diff"],
    &["proxy", "drain"],
    &["events"],
    &["apply"],
    &["diff"],
    &["export"],
    &["wait"],
    &["import", "qcc"],
    &["version"],
];

/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

fn qcc_ctl(control: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_qcc-ctl"))
        .args(arguments)
        .env("QCC_CONTROL", control)
        .env("QCC_PROXY", NOWHERE)
        .env_remove("QCC_LOG")
        .env("THE_KEY", "canary-of-the-environment")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // A program that does not read its input has closed the pipe, which is its right.
    let _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes());
    child.wait_with_output().expect("the binary ends")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn expect(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        stdout(output),
        stderr(output)
    );
}

#[test]
fn every_command_has_help_and_exit_codes_are_documented() {
    for command in COMMANDS {
        let output = qcc_ctl(NOWHERE, &[command, &["--help"]].concat(), "");
        expect(&output, 0);
        assert!(stdout(&output).contains("Usage: qcc-ctl"), "{command:?}");
    }
    let help = stdout(&qcc_ctl(NOWHERE, &["--help"], ""));
    for line in [
        "  3    not found",
        "  6    not reachable",
        "  130  interrupted",
    ] {
        assert!(help.contains(line), "{line}");
    }
}

#[test]
fn an_unreachable_control_plane_is_6_with_a_hint() {
    for command in [
        &["endpoints", "list"][..],
        &["status"],
        &["export"],
        &["endpoints", "watch"],
        &["events"],
        &["events", "--follow"],
        &["endpoints", "explain", "a"],
        &["proxy", "status"],
        &["proxy", "diff"],
    ] {
        let output = qcc_ctl(NOWHERE, command, "");
        expect(&output, 6);
        let text = stderr(&output);
        assert!(
            text.starts_with("error: no ") && text.contains("127.0.0.1:1`: connection refused"),
            "{text}"
        );
        assert!(text.contains("\nhint: "), "{text}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn errors_are_json_where_answers_are() {
    let output = qcc_ctl(NOWHERE, &["status", "-o", "json"], "");
    expect(&output, 6);
    let error: Value = serde_json::from_str(&stderr(&output)).expect("stderr is one JSON document");
    assert_eq!(
        (&error["error"]["code"], &error["error"]["exit_code"]),
        (&"unreachable".into(), &6.into())
    );
}

#[test]
fn wrong_usage_is_2() {
    for command in [
        &["endpoints", "paint"][..],
        &["endpoints", "list", "--state", "ill"],
        &["endpoints", "update", "a"],
        &[
            "endpoints",
            "update",
            "a",
            "--weight",
            "5",
            "--unset",
            "weight",
        ],
        &[
            "endpoints",
            "add",
            "a",
            "--base-url",
            "https://a",
            "--check",
            "tcp",
            "--check-path",
            "/x",
        ],
        &[
            "endpoints",
            "add",
            "a",
            "--base-url",
            "https://a",
            "--key-stdin",
            "--key-env",
            "X",
        ],
        &["endpoints", "remove", "a"],
        &["queue", "clear"],
        &["wait", "queue", "--for", "healthy"],
        &["apply", "-f", "/nowhere/resources.toml"],
        &["status", "--control", "ftp://a:1"],
        &["status", "--timeout", "5"],
        &["up", "--demo-seconds", "3"],
        &["up", "--listen", "0.0.0.0:0"],
        &["up", "--listen", "0.0.0.0:0", "--client-keys-file", "f"],
        &["up", "--tls-cert", "proxy.pem"],
        &["up", "--allow-host", "a:1"],
    ] {
        let output = qcc_ctl(NOWHERE, command, "");
        expect(&output, 2);
        assert_eq!(stdout(&output), "", "{command:?}");
    }
}

#[test]
fn a_key_on_the_command_line_is_refused_and_not_repeated() {
    for flag in [
        &["--api-key", "canary"][..],
        &["--key=canary"],
        &["--api-key"],
    ] {
        let output = qcc_ctl(NOWHERE, &[&["endpoints", "update", "a"], flag].concat(), "");
        expect(&output, 2);
        let text = stderr(&output);
        assert!(
            text.contains("--key-stdin") && !text.contains("canary"),
            "{text}"
        );
    }
}

#[test]
fn completion_scripts_are_written() {
    for shell in ["bash", "zsh", "fish"] {
        let output = qcc_ctl(NOWHERE, &["completion", shell], "");
        expect(&output, 0);
        assert!(stdout(&output).contains("endpoints"), "{shell}");
    }
}

#[test]
fn a_qcc_file_is_shown_without_its_keys() {
    let sample = r#"{"profiles": {
        "work": {"name": "work", "base_url": "https://eu.example.com", "api_key": "sk-canary-1"},
        "pool": {"name": "pool", "endpoints": [
            {"id": "1a2b3c4d", "base_url": "https://a.example.com", "api_key": "sk-canary-2", "weight": 50, "priority": 2}]}}}"#;
    for format in ["table", "wide", "json", "yaml", "name"] {
        let output = qcc_ctl(
            NOWHERE,
            &["import", "qcc", "-", "--dry-run", "-o", format],
            sample,
        );
        expect(&output, 0);
        let (out, err) = (stdout(&output), stderr(&output));
        assert!(out.contains("work") && out.contains("pool"), "{out}");
        assert!(
            !out.contains("canary") && !err.contains("canary"),
            "{out}{err}"
        );
    }
    expect(
        &qcc_ctl(
            NOWHERE,
            &["import", "qcc", "-", "--dry-run"],
            "{\"profiles\": 5}",
        ),
        2,
    );
}

#[test]
fn a_resources_file_is_refused_with_line_and_rule() {
    let output = qcc_ctl(
        NOWHERE,
        &["apply", "-f", "-"],
        "[[endpoints]]\nname = \"a\"\nbase_url = \"https://a\"\nwieght = 5\n",
    );
    expect(&output, 2);
    assert!(
        stderr(&output)
            .contains("line 4: endpoint `a`: unknown key `wieght`; did you mean `weight`?")
    );
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_qcc-ctl"))
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    expect(&output, 0);
    assert_eq!(stderr(&output), "");
}

#[test]
fn lists_come_whole_and_in_every_format() {
    let control = FakeControl::start();
    let table = qcc_ctl(&control.url, &["endpoints", "list"], "");
    expect(&table, 0);
    let text = stdout(&table);
    assert_eq!(
        text.lines().count(),
        4,
        "a header and three endpoints of two pages: {text}"
    );
    assert_eq!(
        text.lines().next(),
        Some("NAME   CLUSTER   STATE       CAUSE   SINCE   NEXT CHECK")
    );
    assert!(text.contains("e-2    default   unhealthy   auth"), "{text}");
    assert!(
        !text.contains('\u{1b}') && !text.contains("canary"),
        "{text}"
    );

    let json = qcc_ctl(&control.url, &["endpoints", "list", "-o", "json"], "");
    let document: Value = serde_json::from_str(&stdout(&json)).expect("one document");
    let names: Vec<_> = document["endpoints"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|endpoint| &endpoint["name"])
        .collect();
    assert_eq!(names, ["e-1", "e-2", "e-3"]);
    assert_eq!(document["next_page_token"], "");
    assert!(!stdout(&json).contains("canary"));

    let yaml = qcc_ctl(&control.url, &["endpoints", "list", "-o", "yaml"], "");
    assert!(
        stdout(&yaml).starts_with("endpoints:\n- name: e-1\n"),
        "{}",
        stdout(&yaml)
    );
    let names = qcc_ctl(&control.url, &["endpoints", "list", "-o", "name"], "");
    assert_eq!(stdout(&names), "endpoint/e-1\nendpoint/e-2\nendpoint/e-3\n");
    let bare = qcc_ctl(&control.url, &["endpoints", "list", "--no-headers"], "");
    assert_eq!(stdout(&bare).lines().count(), 3);
    let wide = stdout(&qcc_ctl(
        &control.url,
        &["endpoints", "list", "-o", "wide", "--color", "always"],
        "",
    ));
    assert!(
        wide.contains("http 401, authentication_error")
            && wide.contains("\u{1b}[31munhealthy\u{1b}[0m"),
        "{wide}"
    );
}

#[test]
fn an_empty_list_is_a_message_and_no_error() {
    let control = FakeControl::start();
    let output = qcc_ctl(
        &control.url,
        &["endpoints", "list", "--cluster", "empty"],
        "",
    );
    expect(&output, 0);
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str()),
        ("", "no endpoint matches\n")
    );
}

#[test]
fn the_first_control_plane_that_answers_is_used() {
    let control = FakeControl::start();
    let output = qcc_ctl(
        &format!("{NOWHERE},{}", control.url),
        &["endpoints", "get", "e-1", "-o", "json"],
        "",
    );
    expect(&output, 0);
    let endpoint: Value = serde_json::from_str(&stdout(&output)).expect("one document");
    assert_eq!(
        (&endpoint["name"], &endpoint["health"]["state"]),
        (&"e-1".into(), &"HEALTH_STATE_HEALTHY".into())
    );
}

#[test]
fn exit_codes_follow_the_servers_answer() {
    let control = FakeControl::start();
    for (name, code) in [
        ("nobody", 3),
        ("invalid", 2),
        ("exists", 4),
        ("denied", 5),
        ("broken", 1),
        ("away", 6),
    ] {
        let output = qcc_ctl(&control.url, &["endpoints", "get", name], "");
        expect(&output, code);
        assert!(
            stderr(&output).starts_with("error: "),
            "{}",
            stderr(&output)
        );
    }
    let output = qcc_ctl(&control.url, &["endpoints", "get", "invalid"], "");
    assert!(
        stderr(&output).contains("name: must be a name"),
        "{}",
        stderr(&output)
    );
    let output = qcc_ctl(
        &control.url,
        &["endpoints", "get", "slow", "--timeout", "100ms"],
        "",
    );
    expect(&output, 6);
    assert!(
        stderr(&output).contains("within 100ms"),
        "{}",
        stderr(&output)
    );
    let output = qcc_ctl(&control.url, &["endpoints", "verify", "e-2"], "");
    expect(&output, 1);
    assert!(
        stdout(&output).contains("endpoint/e-2 check failed: http 401"),
        "{}",
        stdout(&output)
    );
    assert_eq!(stderr(&output), "", "the answer is no, which is no error");
}

#[test]
fn keys_reach_the_server_from_input_environment_and_file() {
    let control = FakeControl::start();
    let file = std::env::temp_dir().join(format!("qcc-ctl-key-{}", std::process::id()));
    std::fs::write(&file, "canary-of-a-file\n").expect("a file");
    let path = file.to_str().expect("a plain path");
    for (flags, key) in [
        (&["--key-stdin"][..], "canary-of-the-input"),
        (&["--key-env", "THE_KEY"], "canary-of-the-environment"),
        (&["--key-file", path], "canary-of-a-file"),
    ] {
        let output = qcc_ctl(
            &control.url,
            &[&["endpoints", "update", "e-1"], flags].concat(),
            "canary-of-the-input\n",
        );
        expect(&output, 0);
        let request = control.last_update();
        assert_eq!(
            request
                .endpoint
                .expect("an endpoint")
                .credential
                .expect("a credential")
                .api_key,
            key
        );
        assert_eq!(request.update_mask.expect("a mask").paths, ["credential"]);
        assert!(!request.request_id.is_empty());
        assert!(!stdout(&output).contains("canary"), "{}", stdout(&output));
    }
    std::fs::remove_file(&file).expect("the file was there");
}

#[test]
fn a_mutation_is_repeated_once_with_the_same_request_id() {
    let control = FakeControl::start();
    let output = qcc_ctl(
        &control.url,
        &[
            "endpoints",
            "update",
            "flaky",
            "--weight",
            "5",
            "--label",
            "a=b",
        ],
        "",
    );
    expect(&output, 0);
    let requests = control.updates();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
    assert_eq!(
        requests[0].update_mask.clone().expect("a mask").paths,
        ["weight", "labels"]
    );
}

#[test]
fn up_serves_until_it_is_told_to_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let ready_file = dir.path().join("ready.json");
    let mut up = Command::new(env!("CARGO_BIN_EXE_qcc-ctl"))
        .args([
            "up",
            "--control-listen",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .arg("--ready-file")
        .arg(&ready_file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let ready = loop {
        if let Ok(text) = std::fs::read_to_string(&ready_file) {
            break serde_json::from_str::<Value>(&text).expect("one JSON object");
        }
        assert_eq!(
            up.try_wait().expect("a child"),
            None,
            "it ended before it was ready"
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    let control = ready["grpc"].as_str().expect("an address");
    let proxy = ready["admin"].as_str().expect("an address");
    expect(
        &qcc_ctl(control, &["wait", "proxies", "--for", "synced"], ""),
        0,
    );
    let status = qcc_ctl(
        control,
        &["proxy", "status", "--proxy", proxy, "-o", "json"],
        "",
    );
    expect(&status, 0);
    let status: Value = serde_json::from_str(&stdout(&status)).expect("one document");
    assert_eq!(
        (&status["ready"], &status["http_address"]),
        (&true.into(), &ready["http"])
    );
    let terminated = Command::new("kill")
        .arg(up.id().to_string())
        .status()
        .expect("kill runs");
    assert!(terminated.success());
    let output = up.wait_with_output().expect("it ends");
    expect(&output, 0);
    assert!(
        stdout(&output).contains(&format!("http://{control}")),
        "{}",
        stdout(&output)
    );
}

#[test]
fn the_demo_shows_an_ejection() {
    let output = qcc_ctl(
        NOWHERE,
        &[
            "up",
            "--demo",
            "--demo-seconds",
            "7",
            "--control-listen",
            "127.0.0.1:0",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ],
        "",
    );
    expect(&output, 0);
    let text = stdout(&output);
    for part in [
        "the provider revokes north's key",
        "north is unhealthy (auth: http 401",
        "a request met the 401; the client got 200, from ",
        "the failure queue holds north",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(
        !text.contains("the client got status") && !text.contains("demo-key"),
        "{text}"
    );
}
