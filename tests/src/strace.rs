//! Faults injected into the system calls of a process, by `strace`.

use std::{
    fmt,
    process::{Command, Stdio},
};

use rustix::process::Pid;

use crate::{
    process::{Logs, Process, hand_over},
    wait::eventually,
};

/// What happens instead of a system call, or before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed where it stands; the call is not made.
    Kill,
    /// The call fails with this error, once; nothing is done.
    Error(&'static str),
}

/// One fault at one system call.
#[derive(Debug, Clone, Copy)]
pub struct Injection {
    /// Name of the system call.
    pub call: &'static str,
    /// What happens.
    pub fault: Fault,
    /// At which call of this kind by a thread, from 1.
    pub when: u32,
}

impl Injection {
    /// Whether this machine has `strace` and lets it inject faults.
    pub fn possible() -> bool {
        Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", "trace=fsync"])
            .args(["-e", "inject=fsync:error=EIO:when=1", "true"])
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    }

    /// A command that becomes another one, with `strace` beside it.
    pub fn around(self, inner: &Command) -> Command {
        let mut command = Command::new("strace");
        command.args(["-D", "-f"]);
        self.add_to(&mut command);
        hand_over(inner, &mut command);
        command
    }

    /// Injects the fault into a running process; calls are counted from now on.
    pub async fn attach(self, target: Pid, logs: &Logs) -> Process {
        let mut command = Command::new("strace");
        let target = target.as_raw_nonzero().to_string();
        command.args(["-f", "-p", &target]);
        self.add_to(&mut command);
        let mut strace = Process::spawn("strace", &mut command, logs);
        eventually("strace has attached itself", async || {
            let ending = strace.ending();
            assert!(ending.is_none(), "strace gave up:\n{}", strace.output());
            match strace.output() {
                output if output.contains("attached") => Ok(()),
                output => Err(output),
            }
        })
        .await;
        strace
    }

    fn add_to(self, command: &mut Command) {
        let Self { call, fault, when } = self;
        let fault = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
        };
        command
            .args(["-o", "/dev/null", "-e", &format!("trace={call}")])
            .args(["-e", &format!("inject={call}:{fault}:when={when}")]);
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, fault, when } = self;
        write!(f, "{fault:?} at {call} number {when}")
    }
}
