//! Outcomes that the writer applies, called in process, with its store on.
//!
//! The floor is what any single writer with waiting callers costs: the same batches
//! over a tokio channel to a thread that looks at none of them, swaps an `ArcSwap` and
//! answers. It makes nothing durable, so at a batch of 1 the ratio is that of the disk.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use arc_swap::ArcSwap;
use qcc_control::{
    actor::{self, Handle},
    feed::Feed,
    records,
    registry::{
        AdminState, ApiFlavor, Check, CheckKind, ClusterName, EndpointName, Generation, Mutation,
        Operator, Outcome, Policy, ProxyId, ProxyKey, ReportBatch, ReportCounts, Seed, Spec, View,
    },
    store::{Options, Store},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use crate::{
    figure::{Figure, Goal, compare},
    machine::{self, Cores, SCRATCH, spawn_on},
    outcomes::{ENDPOINTS, Mix, turn},
    throughput::{self, Reporter},
};

/// Data planes that report at the same time: what one commit can gather.
const REPORTERS: usize = 64;

/// Outcomes that one of them sends at a time.
const BATCHES: [u64; 3] = [1, 100, 1000];

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    let mut figures = Vec::new();
    for mix in Mix::ALL {
        let runtime = machine::runtime();
        let writer = Writer::start(cores.measured);
        let floor = Floor::start(cores.measured);
        let mut ours: Vec<_> = runtime.block_on(writer.reporters(mix));
        let mut bare: Vec<_> = floor.reporters(mix);
        for batch in BATCHES {
            let before = writer.counts();
            let [samples] = compare(
                || [throughput::measure(&runtime, &mut ours, batch)],
                || [throughput::measure(&runtime, &mut bare, batch)],
            );
            let name = format!("writer: batches of {batch}, {}", mix.describe());
            let figure = Figure::rate(name, "outcomes/s", "channel, thread, pointer", samples)
                .note(stale(before, writer.counts()));
            figures.push(match batch {
                1000 => figure.goal(Goal::AtLeast(300_000.0)),
                _ => figure,
            });
        }
        drop((ours, bare));
        writer.stop();
        floor.stop();
    }
    figures
}

/// A writer on a store of its own.
struct Writer {
    handle: Handle,
    feed: Arc<Feed>,
    thread: JoinHandle<()>,
    _data: TempDir,
}

impl Writer {
    fn start(core: usize) -> Self {
        let data = tempfile::tempdir_in(SCRATCH).expect("the build's directory can be written");
        let options = Options::new(data.path());
        let (store, loaded) = Store::open(&options).expect("an empty directory takes a store");
        let saved = records::load(loaded.records).expect("a new store has no records");
        let seed = Seed {
            registry_id: "bench".into(),
            salt: vec![7; 16],
        };
        let (writer, handle, feed, _) = actor::new(store, loaded.term, saved, seed);
        let thread = spawn_on(core, "writer", move || {
            let writing = writer.start().expect("there is room for a thread");
            let ended = machine::runtime().block_on(writing);
            ended.expect("the store works")
        });
        Self {
            handle,
            feed,
            thread,
            _data: data,
        }
    }

    async fn reporters(&self, mix: Mix) -> Vec<OurReporter> {
        let accepted = "a valid configuration is accepted";
        let policy = Mutation::UpdateCluster {
            name: ClusterName::default_cluster(),
            policy: policy(),
            etag: None,
        };
        self.handle
            .mutate(Operator::default(), policy, None)
            .await
            .expect(accepted);
        for name in ENDPOINTS {
            let create = Mutation::CreateEndpoint(spec(name));
            self.handle
                .mutate(Operator::default(), create, None)
                .await
                .expect(accepted);
        }
        let snapshot = self.feed.snapshot();
        let generations: Arc<[Generation]> = ENDPOINTS
            .iter()
            .filter_map(|name| snapshot.endpoints.get(*name))
            .map(|endpoint| endpoint.generation)
            .collect();
        (0..REPORTERS)
            .map(|number| OurReporter {
                handle: self.handle.clone(),
                key: ProxyKey {
                    id: ProxyId::new(&format!("proxy-{number}")),
                    incarnation: "bench".into(),
                },
                work: Work::new(mix, snapshot.view, Arc::clone(&generations)),
            })
            .collect()
    }

    fn counts(&self) -> ReportCounts {
        self.feed.snapshot().report_counts
    }

    /// Stops it, and sees that nothing was doubled or misunderstood.
    fn stop(self) {
        let counts = self.counts();
        assert_eq!((counts.duplicate, counts.unknown_endpoint), (0, 0));
        drop(self.handle);
        self.thread.join().expect("the writer does not panic");
    }
}

/// Tells how many outcomes were older than what was known: where views follow each other
/// quickly, many were chosen under one that is past.
fn stale(before: ReportCounts, after: ReportCounts) -> String {
    let stale = after.stale - before.stale;
    let all = stale + after.applied - before.applied;
    match stale {
        0 => String::new(),
        _ => format!("{} % stale", stale * 100 / all),
    }
}

/// Never ejects: an endpoint in the failure queue would be another state to measure.
fn policy() -> Policy {
    Policy {
        max_failures: 1000,
        check: Check {
            precheck: None,
            kind: CheckKind::None,
            timeout: Duration::from_secs(1),
        },
        ..Policy::of(ApiFlavor::Anthropic)
    }
}

fn spec(name: &str) -> Spec {
    Spec {
        name: EndpointName::try_from(name).expect("a valid name"),
        cluster: ClusterName::default_cluster(),
        base_url: "https://api.example".into(),
        api_key: None,
        priority: 1,
        weight: 100,
        max_failures: None,
        timeout: None,
        admin_state: AdminState::Enabled,
        check: None,
        labels: Default::default(),
        allow_plaintext: false,
    }
}

/// What a reporter has to say next.
struct Work {
    mix: Mix,
    generations: Arc<[Generation]>,
    view: View,
    sent: u64,
}

impl Work {
    fn new(mix: Mix, view: View, generations: Arc<[Generation]>) -> Self {
        Self {
            mix,
            generations,
            view,
            sent: 0,
        }
    }

    fn next(&mut self, outcomes: u64) -> ReportBatch {
        let first = self.sent + 1;
        self.sent += outcomes;
        let outcome = |sequence: u64| -> Outcome {
            let generation = self.generations[turn(sequence)];
            self.mix.outcome(sequence, self.view, generation)
        };
        ReportBatch {
            first_sequence: first,
            dropped: 0,
            registry_id: None,
            outcomes: (first..=self.sent).map(outcome).collect(),
        }
    }
}

struct OurReporter {
    handle: Handle,
    key: ProxyKey,
    work: Work,
}

impl Reporter for OurReporter {
    async fn report(&mut self, outcomes: u64) {
        let batch = self.work.next(outcomes);
        let reported = self.handle.report(self.key.clone(), batch).await;
        let (receipt, view) = reported.expect("the writer takes a report");
        assert_eq!(receipt.acknowledged, self.work.sent);
        self.work.view = view;
    }
}

/// The floor: a channel, a thread, a swapped pointer.
struct Floor {
    mailbox: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

/// A batch, and where its answer goes.
type Command = (ReportBatch, oneshot::Sender<u64>);

/// As many as the writer takes.
const MAILBOX: usize = 4096;
const TURN_MAX: usize = 1024;

impl Floor {
    fn start(core: usize) -> Self {
        let (mailbox, mut commands) = mpsc::channel::<Command>(MAILBOX);
        let run = move || {
            let published = ArcSwap::from_pointee(0);
            let mut turn = Vec::with_capacity(TURN_MAX);
            machine::runtime().block_on(async {
                while commands.recv_many(&mut turn, TURN_MAX).await > 0 {
                    let applied: usize = turn.iter().map(|(batch, _)| batch.outcomes.len()).sum();
                    let total = **published.load() + applied;
                    published.store(Arc::new(total));
                    for (batch, answer) in turn.drain(..) {
                        let last = batch.first_sequence + batch.outcomes.len() as u64 - 1;
                        answer.send(last).expect("a reporter waits for its answer");
                    }
                }
            });
        };
        Self {
            mailbox,
            thread: spawn_on(core, "floor", run),
        }
    }

    fn reporters(&self, mix: Mix) -> Vec<BareReporter> {
        let generations: Arc<[Generation]> = ENDPOINTS.map(|_| Generation(1)).into();
        (0..REPORTERS)
            .map(|_| BareReporter {
                mailbox: self.mailbox.clone(),
                work: Work::new(mix, View::default(), Arc::clone(&generations)),
            })
            .collect()
    }

    fn stop(self) {
        drop(self.mailbox);
        self.thread.join().expect("the floor does not panic");
    }
}

struct BareReporter {
    mailbox: mpsc::Sender<Command>,
    work: Work,
}

impl Reporter for BareReporter {
    async fn report(&mut self, outcomes: u64) {
        let (answer, answered) = oneshot::channel();
        let command = (self.work.next(outcomes), answer);
        self.mailbox
            .try_send(command)
            .expect("there is room for all reporters");
        let acknowledged = answered.await.expect("every batch is answered");
        assert_eq!(acknowledged, self.work.sent);
    }
}
