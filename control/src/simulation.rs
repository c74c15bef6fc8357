//! A door for simulations, and for nothing else: it drives the real writer, registry,
//! records, feed and updates by hand, one turn at a time, in made-up time.
//!
//! Whoever simulates is the network, the disk, the clock and the checker. Everything
//! runs in the thread that calls; nothing here waits, sleeps or opens anything.
//!
//! [`Bug`] names mistakes that can be switched on for a thread, to see that a
//! simulation finds them. Without the feature there is no such switch.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use qcc_proto::v1;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

pub use crate::{
    actor::Job,
    seeded::{Bug, seed_bug},
};

use crate::{
    actor::{self, Command, Error, Writer},
    checker,
    clock::made_up,
    feed::Feed,
    grpc::{self, Follower, Hearing},
    records,
    registry::{
        Answer, Check, CheckId, CheckKind, Clock, Conclusion, EndpointName, Events, Mutation,
        Operator, ProxyKey, Receipt, ReportBatch, Request, Saved, Seed, Snapshot, Verdict, View,
    },
    store::{self, Batch, Change, Keep, Record, Table},
};

/// Makes it be then, for this thread: the monotonic clock, and the one on the wall.
pub fn set_time(instant: Instant, wall: SystemTime) {
    made_up::set(instant, wall);
}

/// What is on a made-up disk.
pub type Records = BTreeMap<(Table, String), Vec<u8>>;

/// Brings a batch onto a made-up disk.
pub fn write(batch: &Batch, records: &mut Records) {
    for change in &batch.changes {
        match change {
            Change::Put(record) => {
                records.insert((record.table, record.key.clone()), record.value.to_vec());
            }
            Change::Delete(table, key) => {
                records.remove(&(*table, key.clone()));
            }
        }
    }
}

/// Reads what is on a made-up disk.
///
/// # Errors
///
/// Says which record cannot be read.
pub fn load(records: &Records) -> Result<Saved, String> {
    let records = records.iter().map(|((table, key), value)| Record {
        table: *table,
        key: key.clone(),
        value: Zeroizing::new(value.clone()),
    });
    records::load(records.collect()).map_err(|error| error.to_string())
}

/// Returns what a disk says that has failed.
pub fn disk_failed() -> store::Error {
    store::Error::Poisoned {
        path: "made-up".into(),
    }
}

/// A control plane whose turns are taken by hand.
pub struct Control {
    writer: Writer,
    feed: Arc<Feed>,
    jobs: mpsc::UnboundedReceiver<Job>,
    updates: grpc::SharedUpdates,
}

/// Something for the writer to do.
#[derive(Debug)]
pub enum Ask {
    /// An operator's wish.
    Mutate(Box<Mutation>, Option<Request>),
    /// An operator's wish to see an endpoint checked, and the verdict.
    Verify(EndpointName),
    /// A batch of a data plane.
    Report(ProxyKey, ReportBatch),
    /// A stream of a data plane begins.
    Connect(ProxyKey),
    /// A stream of a data plane has ended.
    Disconnect(ProxyKey),
    /// A check has ended.
    Verdict(EndpointName, CheckId, Verdict),
}

/// What the writer answered, once it may be told.
#[derive(Debug)]
pub enum Said {
    /// To [`Ask::Mutate`].
    Mutated(Result<Answer, Error>),
    /// To [`Ask::Report`] and [`Ask::Connect`].
    Received(Result<(Receipt, View), Error>),
    /// Nothing to say, or not yet.
    Nothing,
}

/// What a turn came to.
#[derive(Debug)]
pub struct Turned {
    /// One answer for each question, in order.
    pub said: Vec<Said>,
    /// Checks to run and to give up.
    pub jobs: Vec<Job>,
    /// The disk failed: the process would end here.
    pub failed: bool,
    /// The log of events as readers see it.
    pub events: Events,
}

enum Waiting {
    Mutate(oneshot::Receiver<Result<Answer, Error>>),
    Receive(oneshot::Receiver<Result<(Receipt, View), Error>>),
    /// The verdict comes in a later turn, and nobody waits that long here.
    Verify(#[allow(dead_code)] oneshot::Receiver<Result<Option<Conclusion>, Error>>),
    Nobody,
}

impl Control {
    /// Starts from what is on disk, in a new term, and takes the first turn. Keeps
    /// `events_max` events. Returns what it has found, too.
    ///
    /// # Errors
    ///
    /// Says which record cannot be read.
    pub fn start(
        disk: impl Keep + 'static,
        records: &Records,
        term: u64,
        seed: Seed,
        events_max: usize,
    ) -> Result<(Self, Arc<Snapshot>, Turned), String> {
        let (mut writer, _, feed, jobs) = actor::new(disk, term, load(records)?, seed);
        writer.registry().bound_events(events_max);
        let found = Arc::new(writer.registry().snapshot());
        let mut control = Self {
            writer,
            updates: grpc::SharedUpdates::new(feed.clone()),
            feed,
            jobs,
        };
        let turned = control.turn(Vec::new());
        Ok((control, found, turned))
    }

    /// Takes one turn.
    pub fn turn(&mut self, asks: Vec<Ask>) -> Turned {
        let mut commands = Vec::with_capacity(asks.len());
        let mut waiting = Vec::with_capacity(asks.len());
        for ask in asks {
            let (command, answer) = command(ask);
            commands.push(command);
            waiting.push(answer);
        }
        let failed = self.writer.turn(&mut commands).is_err();
        let said = waiting.into_iter().map(Waiting::said).collect();
        let mut jobs = Vec::new();
        while let Ok(job) = self.jobs.try_recv() {
            jobs.push(job);
        }
        let events = self.feed.events().borrow().clone();
        Turned {
            said,
            jobs,
            failed,
            events,
        }
    }

    /// Returns when a turn is due although nobody asks for one.
    pub fn due(&self) -> Option<Clock> {
        self.writer.poll_timeout()
    }

    /// Returns the present time on the registry's clock.
    pub fn clock(&self) -> Clock {
        self.feed.now().clock
    }

    /// Returns what readers see.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.feed.snapshot()
    }

    /// Returns the writer's own state, whatever of it is stored and shown, and its events.
    pub fn state(&mut self) -> (Snapshot, Events) {
        let registry = self.writer.registry();
        (registry.snapshot(), registry.events().clone())
    }

    /// Begins a stream of updates.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the request.
    pub fn watch(&self, request: &v1::WatchSnapshotsRequest) -> Result<Watcher, String> {
        let proxy = proxy(request.proxy.as_ref())?;
        let follower = self.updates.follow(request);
        let follower = follower.map_err(|status| status.message().to_owned())?;
        Ok(Watcher { proxy, follower })
    }
}

/// Returns what a check asks, in order.
pub fn questions(check: &Check) -> Vec<CheckKind> {
    checker::questions(check)
}

/// Whether the next of a check's questions is asked; if not, this is its verdict.
pub fn goes_on_after(verdict: &Verdict) -> bool {
    checker::goes_on_after(verdict)
}

/// One stream of updates.
pub struct Watcher {
    /// Whose it is.
    pub proxy: ProxyKey,
    follower: Follower,
}

impl Watcher {
    /// Returns the messages that lead to the present state; a bookmark if the data
    /// plane has been told of it.
    pub fn messages(&mut self) -> Vec<Bytes> {
        self.follower.next().collect()
    }

    /// Whether there is more to say than a bookmark.
    pub fn is_behind(&self) -> bool {
        self.follower.is_behind()
    }
}

/// One stream of reports.
pub struct ReportStream {
    /// Whose it is.
    pub proxy: ProxyKey,
    hearing: Hearing,
}

impl ReportStream {
    /// Begins with what [`Ask::Connect`] was answered.
    pub fn new(proxy: ProxyKey, receipt: Receipt, view: View) -> Self {
        Self {
            proxy,
            hearing: Hearing::new(receipt, view),
        }
    }

    /// Takes a message: returns what the writer is to be asked, if anything.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn take(&mut self, batch: v1::ReportBatch, view: View) -> Result<Option<Ask>, String> {
        if grpc::is_sign_of_life(&batch) {
            self.hearing.sign_of_life(view);
            return Ok(None);
        }
        let batch = grpc::report_batch(batch).map_err(|status| status.message().to_owned())?;
        Ok(Some(Ask::Report(self.proxy.clone(), batch)))
    }

    /// Notes what the writer answered.
    pub fn applied(&mut self, receipt: Receipt, view: View) {
        self.hearing.applied(receipt, view);
    }

    /// Returns the answer to the last message.
    pub fn answer(&mut self) -> v1::StreamReportsResponse {
        self.hearing.answer()
    }
}

/// Reads who is speaking.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn proxy(identity: Option<&v1::ProxyIdentity>) -> Result<ProxyKey, String> {
    grpc::report_proxy(identity).map_err(|status| status.message().to_owned())
}

fn command(ask: Ask) -> (Command, Waiting) {
    match ask {
        Ask::Mutate(mutation, request) => {
            let (reply, answer) = oneshot::channel();
            let command = Command::Mutate {
                operator: Operator::default(),
                mutation: *mutation,
                request,
                reply,
            };
            (command, Waiting::Mutate(answer))
        }
        Ask::Verify(name) => {
            let (reply, answer) = oneshot::channel();
            (Command::Verify { name, reply }, Waiting::Verify(answer))
        }
        Ask::Report(proxy, batch) => {
            let (reply, answer) = oneshot::channel();
            let command = Command::Report {
                proxy,
                batch,
                reply,
            };
            (command, Waiting::Receive(answer))
        }
        Ask::Connect(proxy) => {
            let (reply, answer) = oneshot::channel();
            (Command::Connect { proxy, reply }, Waiting::Receive(answer))
        }
        Ask::Disconnect(proxy) => (Command::Disconnect { proxy }, Waiting::Nobody),
        Ask::Verdict(endpoint, check, verdict) => {
            let command = Command::Verdict {
                endpoint,
                check,
                verdict,
            };
            (command, Waiting::Nobody)
        }
    }
}

impl Waiting {
    fn said(self) -> Said {
        match self {
            Self::Mutate(mut answer) => {
                Said::Mutated(answer.try_recv().unwrap_or(Err(Error::Stopped)))
            }
            Self::Receive(mut answer) => {
                Said::Received(answer.try_recv().unwrap_or(Err(Error::Stopped)))
            }
            Self::Verify(_) | Self::Nobody => Said::Nothing,
        }
    }
}
