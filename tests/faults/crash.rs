//! Crashes at every system call that writes: whatever was acknowledged is there
//! afterwards, and what is there is what was sent, up to some point.
//!
//! Power failures, which lose what was written but not synced, are shown beside the
//! store itself; here it is the real process, killed by `strace`.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZero,
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use qcc_proto::v1::{
    Check, CreateEndpointRequest, DeleteEndpointRequest, Endpoint, GetSnapshotResponse,
    ListEndpointsRequest, NoCheck, OutcomeClass, UpdateEndpointRequest, View, check,
};
use qcc_tests::{
    ControlPlane, FakeProxy, Fault, Injection, Logs, Process, eventually, outcome, possible,
};
use tempfile::TempDir;
use tonic::Status;

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

/// More changes than any case needs before its fault.
const STEPS_MAX: u32 = 2_000;

/// What is sent after a storage error, to see that nothing is acknowledged any more.
const AFTERTHOUGHTS: u32 = 3;

/// An endpoint that the reports are about.
const REPORTED: &str = "reported";

/// What an operator's endpoints look like: weights by name.
type Weights = BTreeMap<String, u32>;

/// One change that an operator makes, the same whenever it is asked for.
struct Step<'a> {
    operator: &'a str,
    number: u32,
}

impl Step<'_> {
    /// Endpoints live for three steps; every fourth one stays.
    fn name(&self) -> String {
        format!("{}-{}", self.operator, self.number / 3)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: self.name(),
            base_url: "http://127.0.0.1:9".to_owned(),
            weight: Some(1 + self.number % 100),
            check: Some(Check {
                kind: Some(check::Kind::None(NoCheck {})),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn request_id(&self) -> String {
        format!("{}/{}", self.operator, self.number)
    }

    async fn send(&self, control: &ControlPlane) -> Result<(), Status> {
        let mut client = control.endpoints();
        match self.number % 3 {
            0 => {
                let request = CreateEndpointRequest {
                    endpoint: Some(self.endpoint()),
                    request_id: self.request_id(),
                    ..Default::default()
                };
                client.create_endpoint(request).await.map(drop)
            }
            1 => {
                let request = UpdateEndpointRequest {
                    endpoint: Some(self.endpoint()),
                    update_mask: Some(prost_types::FieldMask {
                        paths: vec!["weight".to_owned()],
                    }),
                    request_id: self.request_id(),
                    ..Default::default()
                };
                client.update_endpoint(request).await.map(drop)
            }
            _ if self.stays() => Ok(()),
            _ => {
                let request = DeleteEndpointRequest {
                    name: self.name(),
                    request_id: self.request_id(),
                    ..Default::default()
                };
                client.delete_endpoint(request).await.map(drop)
            }
        }
    }

    fn stays(&self) -> bool {
        (self.number / 3).is_multiple_of(4)
    }

    fn apply(&self, weights: &mut Weights) {
        let weight = 1 + self.number % 100;
        match self.number % 3 {
            0 | 1 => drop(weights.insert(self.name(), weight)),
            _ if self.stays() => {}
            _ => drop(weights.remove(&self.name())),
        }
    }
}

/// What an operator has been told, and what it has asked for.
struct Progress {
    operator: String,
    /// The answer to everything before this step has been seen.
    acknowledged: u32,
}

impl Progress {
    fn step(&self, number: u32) -> Step<'_> {
        Step {
            operator: &self.operator,
            number,
        }
    }

    /// The state that a number of steps leads to.
    fn after(&self, steps: u32) -> Weights {
        let mut weights = Weights::new();
        for number in 0..steps {
            self.step(number).apply(&mut weights);
        }
        weights
    }

    /// Sends one step after the other until one is not answered, and then a few
    /// more, none of which may be.
    async fn make(&mut self, control: &ControlPlane) {
        for number in self.acknowledged..STEPS_MAX {
            if self.step(number).send(control).await.is_err() {
                for late in number + 1..=number + AFTERTHOUGHTS {
                    let step = self.step(late);
                    if late % 3 == 2 && step.stays() {
                        continue; // Nothing is sent.
                    }
                    step.send(control)
                        .await
                        .expect_err("nothing is acknowledged after an error");
                }
                return;
            }
            self.acknowledged = number + 1;
        }
        panic!("{} was never disturbed", self.operator);
    }

    /// Checks what was recovered, and brings about what was not acknowledged.
    async fn verify(&mut self, control: &ControlPlane, recovered: &Weights, case: Injection) {
        let prefix = format!("{}-", self.operator);
        let found: Weights = recovered
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, weight)| (name.clone(), *weight))
            .collect();
        let (told, one_more) = (
            self.after(self.acknowledged),
            self.after(self.acknowledged + 1),
        );
        assert!(
            found == told || found == one_more,
            "{case}: {} was told of {} steps, which is {told:?}; found {found:?}",
            self.operator,
            self.acknowledged
        );
        let repeated = self.step(self.acknowledged).send(control).await;
        repeated.unwrap_or_else(|status| {
            panic!("{case}: what was not answered cannot be repeated: {status}")
        });
        self.acknowledged += 1;
    }
}

/// A data plane that reports, one batch after the other.
struct Reporter {
    proxy: FakeProxy,
    acknowledged: u64,
    /// The newest view that came with an acknowledgement.
    view: View,
}

/// Outcomes in a batch.
const BATCH: u64 = 2;

impl Reporter {
    fn new(control: &ControlPlane) -> Self {
        Self {
            proxy: FakeProxy::new(control, "reporter", "1"),
            acknowledged: 0,
            view: View::default(),
        }
    }

    async fn send(&mut self, snapshot: &GetSnapshotResponse) -> Result<(), Status> {
        let success = outcome(snapshot, REPORTED, OutcomeClass::Success);
        let batch = vec![success; BATCH as usize];
        let receipt = self.proxy.send(self.acknowledged + 1, batch).await?;
        assert_eq!(receipt.acknowledged_sequence, self.acknowledged + BATCH);
        self.acknowledged += BATCH;
        self.view = receipt.view.unwrap_or_default();
        Ok(())
    }

    /// Reports until a batch is not answered, and then a few more.
    async fn make(&mut self, snapshot: &GetSnapshotResponse) {
        for _ in 0..STEPS_MAX {
            if self.send(snapshot).await.is_err() {
                for _ in 0..AFTERTHOUGHTS {
                    let late = self.send(snapshot).await;
                    late.expect_err("nothing is acknowledged after an error");
                }
                return;
            }
        }
        panic!("the reporter was never disturbed");
    }

    /// Checks that what was acknowledged counts once, and what was not at most once.
    async fn verify(&mut self, control: &ControlPlane, case: Injection) {
        let before = attempts(control).await;
        assert!(
            before == self.acknowledged || before == self.acknowledged + BATCH,
            "{case}: {} outcomes were acknowledged, {before} count",
            self.acknowledged
        );
        let snapshot = self.proxy.snapshot("default").await;
        let repeated = self.send(&snapshot).await;
        repeated.unwrap_or_else(|status| panic!("{case}: {status}"));
        assert_eq!(attempts(control).await, self.acknowledged, "{case}");
    }
}

async fn attempts(control: &ControlPlane) -> u64 {
    let reported = control.endpoint(REPORTED).await;
    reported.stats.unwrap_or_default().attempts
}

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

/// The weights of all endpoints.
async fn weights(control: &ControlPlane) -> Weights {
    let mut weights = Weights::new();
    let mut request = ListEndpointsRequest {
        page_size: 1000,
        ..Default::default()
    };
    loop {
        let page = control.endpoints().list_endpoints(request.clone()).await;
        let page = page.expect("a page").into_inner();
        for endpoint in page.endpoints {
            weights.insert(endpoint.name, endpoint.weight.unwrap_or_default());
        }
        if page.next_page_token.is_empty() {
            return weights;
        }
        request.page_token = page.next_page_token;
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
