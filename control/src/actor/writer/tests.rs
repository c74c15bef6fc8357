//! What is shown when, and what is durable by then.

use std::{
    future::poll_fn,
    path::PathBuf,
    sync::{Mutex, PoisonError, mpsc},
    task::Poll,
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::*;
use crate::{
    actor::{self, Handle},
    registry::{
        self, AdminState, ClusterName, Facts, Outcome, OutcomeClass, ProxyId, ProxyKey,
        ReportBatch, Saved, Seed, Spec,
    },
    store::{Change, Table},
};

/// Notes which tables are written, or fails.
#[derive(Clone, Default)]
struct Notes {
    commits: Arc<Mutex<Vec<Vec<Table>>>>,
    fails: bool,
}

impl Keep for Notes {
    fn commit(&mut self, batch: &Batch) -> Result<(), store::Error> {
        if self.fails {
            let path = PathBuf::from("disk");
            return Err(store::Error::Poisoned { path });
        }
        let tables = batch.changes.iter().filter_map(|change| match change {
            Change::Put(record) => Some(record.table),
            Change::Delete(..) => None,
        });
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.push(tables.collect());
        Ok(())
    }
}

/// Is busy with each commit until it is let go on.
struct Busy(mpsc::Receiver<()>);

impl Keep for Busy {
    fn commit(&mut self, _: &Batch) -> Result<(), store::Error> {
        // Whoever has gone keeps nobody waiting.
        let _ = self.0.recv();
        Ok(())
    }
}

fn seed() -> Seed {
    Seed {
        registry_id: "registry".into(),
        salt: vec![1],
    }
}

fn life(disk: Notes) -> (Writer, Arc<Feed>) {
    let (writer, _, feed, _) = actor::new(disk, 1, Saved::default(), seed());
    (writer, feed)
}

#[test]
fn a_life_is_on_disk_before_anybody_asks_about_it() {
    let disk = Notes::default();
    let (mut writer, feed) = life(disk.clone());
    writer.begin().expect("the disk works");
    let commits = disk.commits.lock().unwrap_or_else(PoisonError::into_inner);
    let first = commits.first().expect("there is a commit");
    for table in [Table::Meta, Table::Clusters, Table::Events] {
        assert!(first.contains(&table), "{table:?} of {first:?}");
    }
    assert!(feed.snapshot().view.revision > 0);
    assert_eq!(feed.events().borrow().entries.len(), 1);
}

#[test]
fn a_life_that_cannot_be_stored_does_not_begin() {
    let fails = Notes {
        fails: true,
        ..Notes::default()
    };
    let (mut writer, _) = life(fails);
    assert!(writer.begin().is_err());
}

/// A writer at work whose disk is busy until the test says otherwise.
struct Work {
    go_on: mpsc::Sender<()>,
    handle: Handle,
    feed: Arc<Feed>,
    ended: JoinHandle<Result<(), store::Error>>,
    _jobs: tokio::sync::mpsc::UnboundedReceiver<Job>,
}

fn work() -> Work {
    let (go_on, waits) = mpsc::channel();
    let (writer, handle, feed, jobs) = actor::new(Busy(waits), 1, Saved::default(), seed());
    let writing = writer.start().expect("there is room for a thread");
    Work {
        go_on,
        handle,
        feed,
        ended: tokio::spawn(writing),
        _jobs: jobs,
    }
}

impl Work {
    /// Asks for an endpoint `a`.
    fn create(&self) -> JoinHandle<()> {
        let spec = Spec {
            name: EndpointName::try_from("a").expect("a valid name"),
            cluster: ClusterName::default_cluster(),
            base_url: "https://a.example".into(),
            api_key: None,
            priority: 1,
            weight: 100,
            max_failures: None,
            timeout: None,
            admin_state: AdminState::Enabled,
            check: None,
            labels: BTreeMap::new(),
            allow_plaintext: false,
        };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let create = Mutation::CreateEndpoint(spec);
            let created = handle.mutate(Default::default(), create, None).await;
            created.expect("it is valid");
        })
    }

    /// Reports that `a` has rejected its key. Returns what is acknowledged.
    fn reject(&self) -> JoinHandle<u64> {
        let snapshot = self.feed.snapshot();
        let rejection = Outcome {
            endpoint: "a".into(),
            generation: snapshot.endpoints["a"].generation,
            view: snapshot.view,
            count: 1,
            facts: Facts {
                http_status: 401,
                ..Facts::of(OutcomeClass::Auth)
            },
            age: Duration::ZERO,
        };
        let batch = ReportBatch {
            first_sequence: 1,
            dropped: 0,
            registry_id: None,
            outcomes: vec![rejection],
        };
        let proxy = ProxyKey {
            id: ProxyId::new("p"),
            incarnation: "1".into(),
        };
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let reported = handle.report(proxy, batch).await;
            reported.expect("it is taken").0.acknowledged
        })
    }

    /// Lets the disk finish one commit.
    fn commit(&self) {
        self.go_on.send(()).expect("the disk is there");
    }

    async fn ends(self) {
        drop((self.handle, self.go_on));
        let ended = self.ended.await.expect("the writer does not panic");
        ended.expect("the disk works");
    }
}

#[tokio::test]
async fn evidence_is_shown_while_the_disk_is_busy_and_answered_afterwards() {
    let work = work();
    let created = work.create();
    work.commit();
    created.await.expect("it is created");

    let mut views = work.feed.subscribe();
    views.mark_unchanged();
    let reported = work.reject();
    views.changed().await.expect("there is a feed");
    let snapshot = work.feed.snapshot();
    assert!(snapshot.endpoints["a"].health.incident().is_some());
    assert!(!reported.is_finished(), "it is not durable yet");
    work.commit();
    assert_eq!(reported.await.expect("it is answered"), 1);
    work.ends().await;
}

#[tokio::test]
async fn a_promise_is_shown_once_it_is_durable() {
    let work = work();
    let created = work.create();
    while work.handle.waiting() > 0 {
        yield_now().await; // Until the writer has taken it.
    }
    assert!(work.feed.snapshot().endpoints.is_empty());
    assert!(!created.is_finished());
    work.commit();
    created.await.expect("it is created");
    assert!(work.feed.snapshot().endpoints.contains_key("a"));
    work.ends().await;
}

#[tokio::test]
async fn every_stream_is_told_of_a_promise_however_many_there_are() {
    const STREAMS: usize = 3 * STREAMS_AT_ONCE + 1;
    let work = work();
    let before = work.feed.view();
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (feed, mut news) = (Arc::clone(&work.feed), work.feed.subscription());
        streams.spawn(poll_fn(move |context| {
            news.listen(context.waker());
            match feed.view() > before {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        }));
    }
    while work.feed.subscribers() < STREAMS {
        yield_now().await; // Until all of them listen.
    }
    let created = work.create();
    work.commit();
    created.await.expect("it is created");
    let told = timeout(Duration::from_secs(30), streams.join_all());
    told.await.expect("nobody is forgotten");
    work.ends().await;
}

#[test]
fn a_turn_takes_so_many_outcomes_and_no_command_after_them() {
    let report = |outcomes: usize| {
        let outcome = Outcome {
            endpoint: "a".into(),
            generation: registry::Generation(1),
            view: View::default(),
            count: 1,
            facts: Facts::of(OutcomeClass::Success),
            age: Duration::ZERO,
        };
        Command::Report {
            proxy: ProxyKey {
                id: ProxyId::new("p"),
                incarnation: "1".into(),
            },
            batch: ReportBatch {
                first_sequence: 1,
                dropped: 0,
                registry_id: None,
                outcomes: vec![outcome; outcomes],
            },
            reply: tokio::sync::oneshot::channel().0,
        }
    };
    let taken = |sizes: &[usize]| {
        let commands: Vec<_> = sizes.iter().map(|size| report(*size)).collect();
        together(&commands)
    };
    assert_eq!(taken(&[]), 0);
    assert_eq!(taken(&[1, 2, 3]), 3);
    assert_eq!(taken(&[OUTCOMES_MAX, 1]), 1);
    assert_eq!(taken(&[OUTCOMES_MAX + 1, 1]), 1, "one is taken in any case");
    assert_eq!(taken(&[1, OUTCOMES_MAX - 1, 1]), 2);
}
