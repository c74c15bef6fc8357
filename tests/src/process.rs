//! Child processes: started, watched, stopped, and never left behind.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    network::Host,
    wait::{LIMIT, eventually},
};

/// Everything that the children of one test have ever printed.
#[derive(Clone, Default)]
pub struct Logs(Arc<Mutex<Vec<Log>>>);

struct Log {
    name: String,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Logs {
    fn open(&self, name: &str) -> Arc<Mutex<Vec<u8>>> {
        let bytes = Arc::default();
        lock(&self.0).push(Log {
            name: name.to_owned(),
            bytes: Arc::clone(&bytes),
        });
        bytes
    }

    /// Adds a text that did not come from a child, so that it is searched too.
    pub fn record(&self, name: &str, text: &str) {
        lock(&self.open(name)).extend_from_slice(text.as_bytes());
    }

    /// Returns what each child has printed, by name, in the order of their starts.
    pub fn texts(&self) -> Vec<(String, String)> {
        lock(&self.0)
            .iter()
            .map(|log| {
                (
                    log.name.clone(),
                    String::from_utf8_lossy(&lock(&log.bytes)).into_owned(),
                )
            })
            .collect()
    }

    /// Returns the lines that contain `needle`, each with the child's name.
    pub fn find(&self, needle: &str) -> Vec<String> {
        self.texts()
            .iter()
            .flat_map(|(name, text)| text.lines().map(move |line| format!("{name}: {line}")))
            .filter(|line| line.contains(needle))
            .collect()
    }
}

/// A running child process. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` with its output going to `logs` under `name`.
    pub fn spawn(name: &str, command: &mut Command, logs: &Logs) -> Self {
        let program = command.get_program().to_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to run {}: {error}", program.display()));
        let log = logs.open(name);
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(keep(stdout, Arc::clone(&log)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(keep(stderr, Arc::clone(&log)));
        }
        Self {
            name: name.to_owned(),
            child,
            log,
            readers,
        }
    }

    /// Waits until the child has written its ready file, and returns the content.
    ///
    /// # Panics
    ///
    /// If the child ends first, or takes too long.
    pub async fn ready(&mut self, file: &Path) -> serde_json::Value {
        eventually(&format!("{} is ready", self.name), async || {
            if let Ok(text) = std::fs::read_to_string(file) {
                return Ok(serde_json::from_str(&text).expect("a ready file is one JSON object"));
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!(
                    "{} ended before it was ready ({status}):\n{}",
                    self.name,
                    self.output()
                );
            }
            Err(self.output())
        })
        .await
    }

    /// Returns what the child has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&lock(&self.log)).into_owned()
    }

    /// Its process id.
    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it has ended, if it has.
    pub fn ending(&mut self) -> Option<ExitStatus> {
        // Asking fails only for a child that somebody else has waited for.
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal. If it is to stop, waits until every thread has.
    pub fn signal(&self, signal: Signal) {
        // The child may have ended by itself; then there is nobody to tell.
        if kill_process(self.id(), signal).is_err() || signal != Signal::STOP {
            return;
        }
        let start = Instant::now();
        while !self.stopped() {
            assert!(start.elapsed() < LIMIT, "{} does not stop", self.name);
            std::thread::yield_now();
        }
    }

    /// Whether every thread has stopped, or ended.
    fn stopped(&self) -> bool {
        let threads = format!("/proc/{}/task", self.id().as_raw_nonzero());
        let Ok(threads) = std::fs::read_dir(threads) else {
            return true;
        };
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("stat"));
            // The state follows the name, which may hold anything but ends here.
            let state = status.as_ref().ok().and_then(|it| it.rsplit(") ").next());
            state.is_none_or(|state| state.starts_with(['T', 'Z', 'X']))
        })
    }

    /// Waits for the child to end by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = eventually(&format!("{} ended", self.name), async || {
            match self.child.try_wait() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err(format!("still running:\n{}", self.output())),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        self.join();
        status
    }

    /// Asks the child to stop, and waits until it has.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Kills the child on the spot.
    pub fn kill(self) {
        drop(self);
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the child has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }
}

/// Returns the path of one of the product's binaries.
///
/// # Panics
///
/// If it has not been built: `cargo test -p qcc-tests` alone does not build it.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests run from target/<profile>/deps");
    let path = profile.join(name);
    assert!(
        path.exists(),
        "no {}: run `cargo test --workspace` or `cargo build --workspace` first",
        path.display()
    );
    path
}

/// Where processes run, and with what around them. By default on loopback.
#[derive(Clone, Default)]
pub(crate) struct Place {
    /// A machine of its own.
    pub(crate) host: Option<Host>,
    /// What is added to the environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Place {
    /// Any free port there.
    pub(crate) fn any_port(&self) -> SocketAddr {
        let ip = self.host.as_ref().map_or(Ipv4Addr::LOCALHOST, Host::ip);
        (ip, 0).into()
    }

    /// The machine.
    pub(crate) fn host(&self) -> &Host {
        self.host
            .as_ref()
            .expect("the testbed was built `on` a network")
    }

    /// Returns a command for one of the product's binaries there.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = match &self.host {
            None => command(name),
            Some(host) => {
                let mut command = free_of_settings(Command::new("ip"));
                let place = ["netns", "exec", host.namespace()];
                command.args(place).arg(binary(name));
                command
            }
        };
        if self.host.is_some() {
            // Nobody but the test is there.
            command.arg("--insecure-listen");
        }
        let environment = self.environment.iter();
        command.envs(environment.map(|(name, value)| (name, value)));
        command
    }
}

/// Returns a command for one of the product's binaries.
pub(crate) fn command(name: &str) -> Command {
    free_of_settings(Command::new(binary(name)))
}

/// Returns a command by which a shell runs another one, which is `"$0" "$@"` in its script.
pub fn by_shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    hand_over(command, &mut shell);
    shell
}

/// Makes a command the last arguments of another one, in the same environment.
pub(crate) fn hand_over(inner: &Command, outer: &mut Command) {
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
}

/// Takes away the settings that the person who runs the tests may have.
fn free_of_settings(mut command: Command) -> Command {
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy().to_ascii_lowercase();
        if name.starts_with("qcc_") || name.ends_with("_proxy") {
            command.env_remove(&key);
        }
    }
    command
}

fn keep(mut from: impl Read + Send + 'static, log: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => lock(&log).extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })
}

/// Locks a mutex whose content is whole after any panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
