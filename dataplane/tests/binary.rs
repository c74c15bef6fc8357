//! `qcc-proxy` as a process: its command line, its exit codes, its signals.

#![allow(clippy::unwrap_used)] // Nothing but tests here.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Runs it to its end.
fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().unwrap()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qcc-proxy"));
    command.env_remove("QCC_CONTROL").env_remove("QCC_LOG");
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn help_goes_to_stdout() {
    let output = run(&["--help"]);
    assert_eq!(code(&output), 0);
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("--admin-listen")
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    assert_eq!(code(&run(&["--no-such-flag"])), 2);
    assert_eq!(code(&run(&["--listen", "here"])), 2);
}

#[test]
fn a_wrong_file_is_a_configuration_error() {
    let (_dir, path) = file("lisen = '127.0.0.1:0'");
    let output = run(&["--config", &path]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("lisen"), "{}", stderr(&output));
    assert!(stderr(&output).contains(&path), "{}", stderr(&output));
    for path in ["/no/such/file", "/dev/zero"] {
        let output = run(&["--config", path]);
        assert_eq!(code(&output), 78);
        assert!(stderr(&output).contains(path), "{}", stderr(&output));
    }
}

#[test]
fn a_configuration_can_be_checked_without_being_run() {
    let (_dir, path) = file("control = ['http://127.0.0.1:7870']\ndrain_timeout = '5s'");
    assert_eq!(code(&run(&["--check-config", "--config", &path])), 0);
    assert_eq!(code(&run(&["--check-config", "--log", "a=b=c"])), 78);
}

#[test]
fn other_machines_are_not_listened_to_by_accident() {
    let output = run(&["--listen", "0.0.0.0:0", "--check-config"]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("--insecure-listen"));
    let on_purpose = [
        "--listen",
        "0.0.0.0:0",
        "--insecure-listen",
        "--check-config",
    ];
    assert_eq!(code(&run(&on_purpose)), 0);
}

#[test]
fn an_address_in_use_is_a_runtime_failure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&["--listen", &address]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
fn it_says_where_it_listens_and_stops_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready.json");
    fs::write(&ready, "of an earlier run").unwrap();
    let mut child = command()
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--control", "http://127.0.0.1:1", "--ready-file"])
        .arg(&ready)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    log.read_line(&mut first).unwrap();
    let record: serde_json::Value = serde_json::from_str(&first).unwrap();
    for key in ["http", "admin"] {
        assert!(
            record[key].as_str().unwrap().starts_with("127.0.0.1:"),
            "{first}"
        );
    }
    assert!(!ready.exists(), "without a view it is not ready");

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("stopped"), "{rest}");
}
