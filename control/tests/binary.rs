//! The binary's manners: usage, configuration errors, exit codes.

use std::process::{Command, Output};

fn control(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qcc-control"))
        .args(args)
        .env_remove("QCC_CONTROL_CONFIG")
        .output()
        .expect("the binary was built with this test")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_names_every_flag_that_scripts_rely_on() {
    let output = control(&["--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    for flag in [
        "--listen",
        "--data-dir",
        "--config",
        "--apply",
        "--ready-file",
    ] {
        assert!(text.contains(flag), "{flag} is missing from:\n{text}");
    }
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    assert_eq!(control(&["--nonsense"]).status.code(), Some(2));
}

#[test]
fn a_configuration_error_names_key_and_rule() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("control.toml");
    std::fs::write(&file, "listten = \"127.0.0.1:0\"\n").expect("it can be written");
    let output = control(&["--config", &file.to_string_lossy(), "--check-config"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("listten"), "{}", stderr(&output));
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let output = control(&["--listen", "0.0.0.0:0", "--check-config"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        stderr(&output).contains("--insecure-listen"),
        "{}",
        stderr(&output)
    );
    let output = control(&[
        "--listen",
        "0.0.0.0:0",
        "--insecure-listen",
        "--check-config",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = control(&[
        "--listen",
        &address,
        "--data-dir",
        &dir.path().to_string_lossy(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
}
