//! The binary, as scripts meet it.

mod answers;
mod explanation;
mod fake;
mod up;
mod usage;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

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
