//! Runs `qcc-ctl` as a person would.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::process::{Logs, command};

/// What a run of `qcc-ctl` came to.
#[derive(Debug)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// What it wrote for programs and people.
    pub stdout: String,
    /// What it wrote for people only.
    pub stderr: String,
}

impl Output {
    /// Fails the test unless this is the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// The output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs `qcc-ctl` with these arguments, environment and standard input.
pub(crate) async fn run(
    arguments: &[&str],
    environment: &[(&str, &str)],
    stdin: &str,
    logs: &Logs,
) -> Output {
    let mut command = command("qcc-ctl");
    command.args(arguments).envs(environment.iter().copied());
    let stdin = stdin.to_owned();
    let output = tokio::task::spawn_blocking(move || finish(&mut command, &stdin)).await;
    let output = output.expect("the command's thread does not panic");
    let name = format!("qcc-ctl {}", arguments.join(" "));
    logs.record(&name, &output.stdout);
    logs.record(&name, &output.stderr);
    output
}

fn finish(command: &mut Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qcc-ctl can be run");
    if let Some(mut input) = child.stdin.take() {
        // A command that does not read its input may be gone already.
        let _ = input.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output().expect("qcc-ctl ends");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
