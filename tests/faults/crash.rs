//! Crashes at every system call that writes: whatever was acknowledged is there
//! afterwards, and what is there is what was sent, up to some point.
//!
//! Power failures, which lose what was written but not synced, are shown beside the
//! store itself; here it is the real process, killed by `strace`.

mod load;

use std::{
    collections::VecDeque,
    num::NonZero,
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use qcc_proto::v1::{CreateEndpointRequest, Endpoint, View};
use qcc_tests::{ControlPlane, Fault, Injection, Logs, Process, eventually, possible};
use tempfile::TempDir;

use load::{Progress, REPORTED, Reporter, Step, weights};

/// System calls of each kind that are met by a crash, from the first one after the
/// control plane has started.
const CRASHES: u32 = 200;

/// Of those calls, the first and then every so many-th one also fails in a case of
/// its own.
const ERROR_STRIDE: u32 = 8;

/// Operators that change endpoints at the same time, each one thing after the other.
const OPERATORS: usize = 3;

/// Crashes after which a control plane starts over with nothing.
const CRASHES_PER_DIRECTORY: u32 = 25;

/// A control plane that is crashed again and again on the same data.
struct Victim {
    control: ControlPlane,
    operators: Vec<Progress>,
    reporter: Reporter,
    last: View,
    logs: Logs,
    crashes: u32,
    _dir: TempDir,
}

impl Victim {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let logs = Logs::default();
        let control = ControlPlane::alone(dir.path(), &logs).await;
        let reported = Step {
            operator: REPORTED,
            number: 0,
        };
        let request = CreateEndpointRequest {
            endpoint: Some(Endpoint {
                name: REPORTED.to_owned(),
                ..reported.endpoint()
            }),
            ..Default::default()
        };
        let created = control.endpoints().create_endpoint(request).await;
        created.expect("an empty control plane takes it");
        let operators = (0..OPERATORS).map(|number| Progress {
            operator: format!("operator{number}"),
            acknowledged: 0,
        });
        Self {
            operators: operators.collect(),
            reporter: Reporter::new(&control),
            last: control.view().await,
            control,
            logs,
            crashes: 0,
            _dir: dir,
        }
    }

    /// Runs into the fault under load, starts again, and looks at what is left.
    async fn suffer(&mut self, case: Injection) {
        self.crashes += 1;
        let control = &self.control;
        let snapshot = self.reporter.proxy.snapshot("default").await;
        let mut strace = case.attach(control.id(), &self.logs).await;
        let operators = self.operators.iter_mut();
        let (_, (), status) = tokio::join!(
            join_all(operators.map(|operator| operator.make(control))),
            self.reporter.make(&snapshot),
            control.ended(),
        );
        match case.fault {
            Fault::Kill => assert_eq!(status.code(), None, "{case}: {status}"),
            // As any other failure; `strace` does not change it.
            Fault::Error(_) => assert_eq!(status.code(), Some(1), "{case}: {status}"),
        }
        strace.ended().await;

        control.start().await;
        let view = control.view().await;
        assert!(view.term > self.last.term, "{case}: {view}");
        let acknowledged = self.reporter.view;
        assert!(
            view.revision >= self.last.revision && view.revision >= acknowledged.revision,
            "{case}: {view} after {} and {acknowledged}",
            self.last
        );
        let recovered = weights(control).await;
        for operator in &mut self.operators {
            operator.verify(control, &recovered, case).await;
        }
        self.reporter.verify(control, case).await;
        self.last = control.view().await;
    }
}

fn strace_is_there(untested: &str) -> bool {
    possible("strace and ptrace", Injection::possible(), untested)
}

/// Cases that are taken one by one, whoever is free.
struct Cases<T>(Mutex<VecDeque<T>>);

impl<T> Cases<T> {
    fn new(cases: impl IntoIterator<Item = T>) -> Self {
        Self(Mutex::new(cases.into_iter().collect()))
    }

    fn next(&self) -> Option<T> {
        let mut cases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cases.pop_front()
    }
}

/// Does the same on several threads: one more than there are cores, for the time
/// that is spent waiting.
fn in_lanes<T: Send>(work: impl AsyncFn() -> T + Sync) -> Vec<T> {
    let lanes = std::thread::available_parallelism().map_or(1, NonZero::get) + 1;
    let lane = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(work())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let ends = lanes.into_iter().map(|lane| lane.join());
        ends.map(|end| end.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

pub(crate) fn what_was_acknowledged_survives_a_crash_at_any_write() {
    if !strace_is_there("crashes and failures of the disk at each write") {
        return;
    }
    let (kill, sync_fails) = (Fault::Kill, Fault::Error("EIO"));
    let disk_full = Fault::Error("ENOSPC");
    let mut cases = Vec::new();
    for when in 1..=CRASHES {
        let mut add = |call, fault| cases.push(Injection { call, fault, when });
        add("fdatasync", kill);
        add("pwrite64", kill);
        if when.is_multiple_of(ERROR_STRIDE) || when <= ERROR_STRIDE {
            add("fdatasync", sync_fails);
            add("pwrite64", disk_full);
        }
    }
    let cases = Cases::new(cases);
    in_lanes(async || {
        let mut victim = Victim::new().await;
        while let Some(case) = cases.next() {
            if victim.crashes == CRASHES_PER_DIRECTORY {
                victim = Victim::new().await;
            }
            victim.suffer(case).await;
        }
    });
}

/// Starts a control plane that meets the fault, or does not come that far. Whether
/// it has met it.
async fn start_into(case: Injection, dir: &Path, logs: &Logs) -> bool {
    let (command, ready_file) = ControlPlane::command_in(dir);
    let mut process = Process::spawn("traced", &mut case.around(&command), logs);
    let status = eventually("it has started, or ended", async || {
        if ready_file.exists() {
            return Ok(None);
        }
        match process.ending() {
            Some(status) => Ok(Some(status)),
            None => Err(process.output()),
        }
    })
    .await;
    match (status, case.fault) {
        (None, _) => {}
        (Some(status), Fault::Kill) => assert_eq!(status.code(), None, "{case}: {status}"),
        (Some(status), Fault::Error(_)) => assert_eq!(status.code(), Some(1), "{case}: {status}"),
    }
    status.is_some()
}

/// A start that meets a fault, and what a good start finds after it. Whether the
/// fault was met.
async fn start_after(case: Injection, first: bool) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let logs = Logs::default();
    let mut before = View::default();
    if !first {
        let control = ControlPlane::alone(dir.path(), &logs).await;
        let made = Step {
            operator: "before",
            number: 0,
        };
        made.send(&control).await.expect("a good one takes it");
        before = control.view().await;
        control.kill();
    }
    let met = start_into(case, dir.path(), &logs).await;
    let control = ControlPlane::alone(dir.path(), &logs).await;
    let view = control.view().await;
    assert!(
        view.term > before.term && view.revision >= before.revision,
        "{case}: {view} after {before}"
    );
    let found = weights(&control).await;
    assert_eq!(found.len(), usize::from(!first), "{case}: {found:?}");
    let made = Step {
        operator: "after",
        number: 0,
    };
    let made = made.send(&control).await;
    made.unwrap_or_else(|status| panic!("{case}: the start after it is no good: {status}"));
    met
}

/// Crashes a start at each call of a kind, and lets each of them fail. Returns how
/// many there are.
async fn start_into_each(call: &'static str, first: bool) -> u32 {
    let kill = |when| Injection {
        call,
        fault: Fault::Kill,
        when,
    };
    let mut calls = 0;
    while start_after(kill(calls + 1), first).await {
        calls += 1;
    }
    for when in 1..=calls {
        let name = if call.ends_with("sync") {
            "EIO"
        } else {
            "ENOSPC"
        };
        let fault = Fault::Error(name);
        let case = Injection { call, fault, when };
        assert!(start_after(case, first).await, "{case} was not noticed");
    }
    calls
}

pub(crate) fn a_start_that_crashes_is_made_good_by_the_next() {
    if !strace_is_there("crashes and failures of the disk while a control plane starts") {
        return;
    }
    let calls = ["pwrite64", "fdatasync", "fsync", "rename", "ftruncate"];
    let sweeps = Cases::new(
        [true, false]
            .iter()
            .flat_map(|first| calls.map(|call| (call, *first))),
    );
    let met = in_lanes(async || {
        let mut met = 0;
        while let Some((call, first)) = sweeps.next() {
            met += start_into_each(call, first).await;
        }
        met
    });
    let met: u32 = met.into_iter().sum();
    // Sweeps that meet nothing show nothing.
    assert!(met > 50, "{met} calls were met");
}
