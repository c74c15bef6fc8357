//! The machine, and which part of it does what.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde_json::{Value, json};
use tokio::runtime::{self, Runtime};

/// Where benches may write: on the same file system as the build, not in memory.
pub(crate) const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

/// Who runs where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    /// Clients, upstreams, stand-ins for proxies.
    pub(crate) load: usize,
    /// What is measured, and nothing else.
    pub(crate) measured: usize,
    /// How many there are.
    count: usize,
}

/// How much of the machine others take from now on: figures measured beside other work
/// are worth less.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// In ticks of the kernel, as all of these.
    everybody: u64,
    ourselves: u64,
    total: u64,
}

/// What somebody who reads a figure has to know.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: Cores,
    processor: String,
    kernel: String,
}

impl Cores {
    /// Takes the first and the last of those that this process may use. They are the
    /// same if there is one only; then figures are worth little.
    pub(crate) fn of_this_process() -> Self {
        let allowed = sched_getaffinity(None).expect("the kernel knows where it runs us");
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let load = usable.next().expect("we run somewhere");
        Self {
            load,
            measured: usable.next_back().unwrap_or(load),
            count: allowed.count() as usize,
        }
    }
}

/// Keeps the calling thread, and all that it will start, on one core.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("a core that we may use can be chosen");
}

/// Starts a thread on one core.
pub(crate) fn spawn_on<T: Send + 'static>(
    core: usize,
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        pin(core);
        run()
    });
    thread.expect("the system has room for a thread")
}

/// Lets the calling thread, and all that it will start, have what others on their core leave.
pub(crate) fn stand_back() {
    setpriority_process(None, 19).expect("anybody may stand back");
}

/// Lets this process, and those that it will start, open as many files as it may: each
/// connection takes two, one for either end.
pub(crate) fn raise_file_limit() {
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).expect("a limit can be raised to its maximum");
}

/// Returns the threads of this process, by the kernel's numbers.
pub(crate) fn threads() -> BTreeSet<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("this process runs");
    tasks
        .filter_map(|task| task.ok()?.file_name().into_string().ok())
        .collect()
}

/// Returns the processor time that some of a process's threads have taken, to the
/// nanosecond. `tasks` is the process's directory of threads.
pub(crate) fn processor_time(tasks: &str, wanted: impl Fn(&str) -> bool) -> Duration {
    let tasks = fs::read_dir(tasks).expect("the process runs");
    let nanoseconds = tasks.filter_map(|task| {
        let task = task.ok()?;
        if !task.file_name().to_str().is_some_and(&wanted) {
            return None;
        }
        // A thread may end meanwhile; those that matter do not.
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Returns a process and all that it has started, and they, by the kernel's numbers.
pub(crate) fn family(id: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("the kernel tells of processes");
    let parents: Vec<(u32, u32)> = processes
        .filter_map(|process| {
            let id = process.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            // The name may contain anything but ends with the last parenthesis.
            let (_, rest) = stat.rsplit_once(')')?;
            Some((id, rest.split_whitespace().nth(1)?.parse().ok()?))
        })
        .collect();
    let mut family = vec![id];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(id, _)| *id));
        at += 1;
    }
    family
}

/// Returns a kind of memory that a process has, in KiB, by its name in `/proc`.
pub(crate) fn memory(id: u32, kind: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status"));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(kind));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.expect("the kernel tells the memory of a process")
}

/// Makes a runtime on the calling thread.
pub(crate) fn runtime() -> Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system has room for a runtime")
}

impl Neighbours {
    pub(crate) fn now() -> Self {
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal.
        let total = sum(&machine, 1..9);
        Self {
            everybody: total - sum(&machine, 4..6),
            ourselves: family(std::process::id()).into_iter().map(ticks).sum(),
            total,
        }
    }

    /// Returns the share of the machine that others have had since, in percent.
    pub(crate) fn share(&self) -> u64 {
        let now = Self::now();
        let everybody = now.everybody - self.everybody;
        let others = everybody.saturating_sub(now.ourselves - self.ourselves);
        others * 100 / (now.total - self.total).max(1)
    }
}

/// Returns the time that a process has taken, and those that it started and that have ended.
fn ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name may contain anything but ends with the last parenthesis.
    let (_, stat) = stat.rsplit_once(')').unwrap_or_default();
    sum(stat, 11..15)
}

/// Adds up some of the words of a text, those that are numbers.
fn sum(text: &str, words: Range<usize>) -> u64 {
    text.split_whitespace()
        .take(words.end)
        .skip(words.start)
        .filter_map(|word| word.parse::<u64>().ok())
        .sum()
}

impl Machine {
    pub(crate) fn examine(cores: Cores) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores,
            processor: model.unwrap_or("unknown processor").to_owned(),
            kernel: kernel.trim().to_owned(),
        }
    }

    /// Describes the machine in two lines.
    pub(crate) fn describe(&self) -> String {
        let Cores {
            load,
            measured,
            count,
        } = self.cores;
        let (processor, kernel) = (&self.processor, &self.kernel);
        format!(
            "{count} x {processor}, Linux {kernel}\n\
             measured code on core {measured}, everything else on core {load}"
        )
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores.count,
            "kernel": self.kernel,
        })
    }
}
