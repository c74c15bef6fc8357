//! Child processes: this program again, in another role.
//!
//! A child prints its address once it is ready, and ends when its standard input
//! does: none is left behind, however this process ends.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use qcc_proto::v1::WatchSnapshotsResponse;
use tokio_util::sync::CancellationToken;

use crate::{
    awake,
    bare::Bare,
    forwarding,
    machine::{self, spawn_on},
    memory, server,
};

/// Tells a child from its parent.
const FLAG: &str = "--role";

/// What a child is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Be `qcc-proxy`, for the control plane at this address.
    Proxy(SocketAddr),
    /// Be the floor of a proxy, for the upstream at this address.
    Forwarder(SocketAddr),
    /// Keep a server that is somebody else's: where it will listen, and its command.
    Keeper(SocketAddr, Vec<String>),
    /// Be `qcc-control`, on the store in this directory.
    Control(PathBuf),
    /// Be the floor of a control plane.
    Bare,
    /// Hold what the control plane at this address says of its endpoints, as the
    /// messages that say it.
    Holder(SocketAddr),
    /// Keep a processor from sleeping.
    Awake,
}

/// Returns the role that the command line gives to this process.
pub(crate) fn role(arguments: &[String]) -> Option<Role> {
    let [flag, name, about] = arguments else {
        return None;
    };
    if flag != FLAG {
        return None;
    }
    match name.as_str() {
        "proxy" => Some(Role::Proxy(about.parse().ok()?)),
        "forwarder" => Some(Role::Forwarder(about.parse().ok()?)),
        "keeper" => {
            let (address, command) = serde_json::from_str(about).ok()?;
            Some(Role::Keeper(address, command))
        }
        "control" => Some(Role::Control(about.into())),
        "bare" => Some(Role::Bare),
        "awake" => Some(Role::Awake),
        "holder" => Some(Role::Holder(about.parse().ok()?)),
        _ => None,
    }
}

impl Role {
    pub(crate) fn arguments(&self) -> [String; 3] {
        let (name, about) = match self {
            Self::Proxy(address) => ("proxy", address.to_string()),
            Self::Forwarder(address) => ("forwarder", address.to_string()),
            Self::Keeper(address, command) => {
                let about = serde_json::json!([address, command]);
                ("keeper", about.to_string())
            }
            Self::Control(directory) => ("control", directory.display().to_string()),
            Self::Bare => ("bare", String::new()),
            Self::Holder(address) => ("holder", address.to_string()),
            Self::Awake => ("awake", String::new()),
        };
        [FLAG.into(), name.into(), about]
    }

    /// Plays the role until the parent has gone.
    pub(crate) fn run(self) {
        match &self {
            Self::Keeper(address, command) => return forwarding::keeper::run(*address, command),
            Self::Awake => return awake::run(),
            _ => {}
        }
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
                Self::Keeper(..) | Self::Awake => {} // They need no runtime, and have ended above.
                Self::Control(directory) => control(&directory, stop).await,
                Self::Bare => {
                    // A watch that begins with nothing could not be told from none.
                    let opening = WatchSnapshotsResponse::default();
                    let bare = Bare::bind(&[opening], None).await;
                    announce(bare.address());
                    bare.run_until(stop).await;
                }
                Self::Holder(control) => memory::hold(control, stop).await,
            }
        });
        runtime.shutdown_background();
    }
}

/// Does what the `main` of `qcc-control` does, without flags and logs.
async fn control(directory: &Path, stop: CancellationToken) {
    let control = qcc_control::start(server::config(directory)).await;
    let control = control.expect("the store can be opened");
    announce(control.address());
    let served = control.run_until(stop).await;
    served.expect("the control plane serves until it is stopped");
}

/// Tells the parent that requests can be served.
pub(crate) fn announce(address: SocketAddr) {
    let mut stdout = std::io::stdout();
    // A parent that has gone needs no address.
    let _ = writeln!(stdout, "{address}").and_then(|()| stdout.flush());
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

    /// Returns the kernel's number of it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the processor time that its threads have taken, to the nanosecond.
    pub(crate) fn processor_time(&self) -> Duration {
        machine::processor_time(&format!("/proc/{}/task", self.child.id()), |_| true)
    }

    /// Returns the memory that is its own and holds data: neither programs nor files,
    /// in KiB.
    pub(crate) fn memory(&self) -> f64 {
        machine::memory(self.id(), "RssAnon:")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends by itself; an error would mean that it has already.
        let _ = self.child.wait();
    }
}
