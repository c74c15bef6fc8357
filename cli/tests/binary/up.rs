//! The whole system in one process.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::{NOWHERE, expect, qcc_ctl, stdout};

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
