//! What is typed, what files say, and a control plane that is not there.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{NOWHERE, expect, qcc_ctl, stderr, stdout};

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
