//! Child processes: this program again, in another role.
//!
//! A child prints its address once it is ready, and ends when its standard input
//! does: none is left behind, however this process ends.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{forwarding, machine::spawn_on};

/// Tells a child from its parent.
const FLAG: &str = "--role";

/// What a child is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Be `qcc-proxy`, for the control plane at this address.
    Proxy(SocketAddr),
    /// Be the floor, for the upstream at this address.
    Forwarder(SocketAddr),
}

/// Returns the role that the command line gives to this process.
pub(crate) fn role(arguments: &[String]) -> Option<Role> {
    let [flag, name, address] = arguments else {
        return None;
    };
    let address = address.parse().ok().filter(|_| flag == FLAG)?;
    match name.as_str() {
        "proxy" => Some(Role::Proxy(address)),
        "forwarder" => Some(Role::Forwarder(address)),
        _ => None,
    }
}

impl Role {
    fn arguments(&self) -> [String; 3] {
        let (name, address) = match self {
            Self::Proxy(address) => ("proxy", address),
            Self::Forwarder(address) => ("forwarder", address),
        };
        [FLAG.into(), name.into(), address.to_string()]
    }

    /// Plays the role until the parent has gone.
    pub(crate) fn run(self) {
        let stop = CancellationToken::new();
        let orphaned = stop.clone();
        std::thread::spawn(move || {
            // Whatever ends it: there is nobody any more.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            orphaned.cancel();
        });
        // As both binaries have it; a child on one core gets one worker.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("the system has room for a runtime");
        runtime.block_on(async {
            match self {
                Self::Proxy(control) => forwarding::proxy::run(control, stop).await,
                Self::Forwarder(upstream) => forwarding::forwarder::run(upstream, stop).await,
            }
        });
        runtime.shutdown_background();
    }
}

/// A running child on a core of its own.
pub(crate) struct Process {
    child: Child,
    /// Held open for as long as the child is to live.
    stdin: Option<ChildStdin>,
    address: SocketAddr,
}

impl Process {
    /// Starts a child and waits until it is ready.
    pub(crate) fn spawn(core: usize, role: Role) -> Self {
        // A child inherits the core of the thread that starts it.
        let spawned = spawn_on(core, "spawn", move || {
            Command::new(env::current_exe().expect("a running program has a path"))
                .args(role.arguments())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("this program can be run")
        });
        let mut child = spawned.join().expect("the spawning thread does not panic");
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the child prints its address");
        Self {
            child,
            stdin,
            address: line.trim().parse().expect("the child is ready"),
        }
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the processor time that its threads have taken, to the nanosecond.
    pub(crate) fn processor_time(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(tasks).expect("the child runs");
        let nanoseconds = tasks.filter_map(|task| {
            // A thread may end meanwhile; those that matter do not.
            let schedstat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            schedstat.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends by itself; an error would mean that it has already.
        let _ = self.child.wait();
    }
}
