//! The writer: one thread that owns the registry and the store.
//!
//! It waits for commands or for the next deadline, applies what has come, commits it
//! all at once, publishes, and only then answers. A commit blocks, which is why it has
//! a thread of its own and readers have the [`Feed`].
//!
//! Evidence alone is published before its commit: other data planes keep away from a
//! rejected key while the disk is still busy. What a crash takes back of it was never
//! acknowledged, so whoever saw it reports it again.
//!
//! Callers hold a [`Handle`]. Its mailbox is bounded and "full" is an answer; the last
//! quarter of it is out of reach for reports, so that operators get through a flood.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::{
    clock::RegistryClock,
    feed::Feed,
    histogram::Histogram,
    records,
    registry::{
        self, Answer, CheckId, CheckOrder, Clock, Conclusion, Effect, EndpointName, Health, Moment,
        Mutation, Operator, ProxyKey, Receipt, Registry, ReportBatch, Request, Settlement,
        Snapshot, Verdict, View,
    },
    seeded::{Bug, seeded},
    store::{self, Keep},
};

/// Commands that wait at most. Each is small but for report batches, of which a
/// well-behaved proxy has one under way.
const MAILBOX: usize = 4096;

/// How long the writer leaves a core to those who pass evidence on, before it takes that
/// core for a commit that lasts several times as long. To give the core up without a
/// time is not enough: the scheduler may hand it straight back.
const HEAD_START: Duration = Duration::from_micros(20);

/// Commands that one commit takes at most, so that the first of them is not kept
/// waiting by the last.
const TURN_MAX: usize = 1024;

/// A request to the writer that was not carried out.
#[derive(Debug, Clone)]
pub enum Error {
    /// The rules forbid it.
    Refused(registry::Error),
    /// Too much is waiting; try again soon.
    Full,
    /// The writer has stopped before it came to this.
    Stopped,
    /// The store failed: whether the change will be there after a restart is unknown.
    OutcomeUnknown,
}

/// Something for the checker to do.
#[derive(Debug)]
pub enum Job {
    /// Run this check and bring back its verdict.
    Check(Box<CheckOrder>),
    /// Give this one up, if it is still under way.
    GiveUp(CheckId),
}

/// Something for the writer to do.
pub(crate) enum Command {
    Mutate {
        operator: Operator,
        mutation: Mutation,
        request: Option<Request>,
        reply: Reply<Answer>,
    },
    Rehearse {
        mutation: Mutation,
        reply: Reply<(Answer, Box<Snapshot>)>,
    },
    Verify {
        name: EndpointName,
        reply: Reply<Option<Conclusion>>,
    },
    Report {
        proxy: ProxyKey,
        batch: ReportBatch,
        reply: Reply<(Receipt, View)>,
    },
    Connect {
        proxy: ProxyKey,
        reply: Reply<(Receipt, View)>,
    },
    Disconnect {
        proxy: ProxyKey,
    },
    Verdict {
        endpoint: EndpointName,
        check: CheckId,
        verdict: Verdict,
    },
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// The verbs that the writer understands.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Command>,
    commits: Arc<Histogram>,
}

/// The writer, before it runs.
pub struct Writer {
    registry: Registry,
    store: Box<dyn Keep>,
    clock: RegistryClock,
    mailbox: mpsc::Receiver<Command>,
    feed: Arc<Feed>,
    /// Not bounded, but taken up at once; what waits for its turn is given up when it
    /// is void, so that there are never more checks than endpoints.
    jobs: mpsc::UnboundedSender<Job>,
    /// How long commits took.
    commits: Arc<Histogram>,
    /// Who waits for the verdict on an endpoint.
    waiting: BTreeMap<EndpointName, Vec<Reply<Option<Conclusion>>>>,
    /// [`HEAD_START`] while it runs; a turn by hand waits for nobody.
    head_start: Duration,
}

/// Sends one answer, given how the commit ended.
type Delivery = Box<dyn FnOnce(Result<View, Error>) + Send>;

/// Answers that go out once their turn is durable.
#[derive(Default)]
struct Answers(Vec<Delivery>);

impl Handle {
    /// Applies a mutation that `operator` asked for.
    pub async fn mutate(
        &self,
        operator: Operator,
        mutation: Mutation,
        request: Option<Request>,
    ) -> Result<Answer, Error> {
        self.ask(|reply| Command::Mutate {
            operator,
            mutation,
            request,
            reply,
        })
        .await
    }

    /// Returns what a mutation would come to, and the state after it.
    pub async fn rehearse(&self, mutation: Mutation) -> Result<(Answer, Box<Snapshot>), Error> {
        self.ask(|reply| Command::Rehearse { mutation, reply })
            .await
    }

    /// Checks an endpoint now. Returns `None` if the endpoint or its generation went
    /// away meanwhile.
    pub async fn verify(&self, name: EndpointName) -> Result<Option<Conclusion>, Error> {
        self.ask(|reply| Command::Verify { name, reply }).await
    }

    /// Applies a batch of outcomes.
    pub async fn report(
        &self,
        proxy: ProxyKey,
        batch: ReportBatch,
    ) -> Result<(Receipt, View), Error> {
        if self.mailbox.capacity() < MAILBOX / 4 {
            return Err(Error::Full);
        }
        self.ask(|reply| Command::Report {
            proxy,
            batch,
            reply,
        })
        .await
    }

    /// Notes a data plane's stream, until the lease is dropped.
    pub async fn connect(&self, proxy: ProxyKey) -> Result<(Lease, Receipt, View), Error> {
        let (reply, answer) = oneshot::channel();
        let name = proxy.clone();
        self.send(Command::Connect { proxy: name, reply })?;
        // From here on it counts, whether or not anybody waits for the answer.
        let lease = Lease {
            handle: self.clone(),
            proxy,
        };
        let (receipt, view) = answer.await.unwrap_or(Err(Error::Stopped))?;
        Ok((lease, receipt, view))
    }

    /// Brings back a verdict. Waits for room: a verdict cannot be asked for again.
    pub async fn conclude(&self, endpoint: EndpointName, check: CheckId, verdict: Verdict) {
        // A writer that is gone needs no verdicts.
        let _ = self
            .mailbox
            .send(Command::Verdict {
                endpoint,
                check,
                verdict,
            })
            .await;
    }

    /// Returns how many commands wait for the writer.
    pub(crate) fn waiting(&self) -> usize {
        MAILBOX - self.mailbox.capacity()
    }

    /// Returns how long commits took.
    pub(crate) fn commits(&self) -> &Histogram {
        &self.commits
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.unwrap_or(Err(Error::Stopped))
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        self.mailbox.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Full,
            mpsc::error::TrySendError::Closed(_) => Error::Stopped,
        })
    }
}

/// A data plane's registration: it counts as connected while this lives.
#[derive(Debug)]
pub struct Lease {
    handle: Handle,
    proxy: ProxyKey,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (mailbox, proxy) = (self.handle.mailbox.clone(), self.proxy.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // A writer that is gone has no connections to count.
                let _ = mailbox.send(Command::Disconnect { proxy }).await;
            });
        }
    }
}

/// Opens the registry on a store and returns its writer, its handle and its feed, and
/// where its check orders come out.
pub fn new(
    store: impl Keep + 'static,
    term: u64,
    saved: registry::Saved,
    seed: registry::Seed,
) -> (Writer, Handle, Arc<Feed>, mpsc::UnboundedReceiver<Job>) {
    let base = saved
        .meta
        .as_ref()
        .map_or(Clock::default(), |meta| meta.clock);
    let clock = RegistryClock::resume(base);
    let registry = Registry::new(term, saved, seed, clock.now());
    let feed = Arc::new(Feed::new(
        registry.snapshot(),
        registry.events().clone(),
        clock,
    ));
    let (mailbox, commands) = mpsc::channel(MAILBOX);
    let (jobs, jobs_out) = mpsc::unbounded_channel();
    let commits = Arc::new(Histogram::default());
    let writer = Writer {
        registry,
        store: Box::new(store),
        clock,
        mailbox: commands,
        feed: feed.clone(),
        jobs,
        commits: Arc::clone(&commits),
        waiting: BTreeMap::new(),
        head_start: Duration::ZERO,
    };
    (writer, Handle { mailbox, commits }, feed, jobs_out)
}

impl Writer {
    /// Makes durable what has come of the time between two lives, before anybody asks.
    ///
    /// # Errors
    ///
    /// As [`Writer::run`].
    pub fn begin(&mut self) -> Result<(), store::Error> {
        self.turn(&mut Vec::new())
    }

    /// Works until every handle is gone.
    ///
    /// # Errors
    ///
    /// Returns the store's error: nothing was acknowledged after it, and nothing may
    /// be until a new process has read what is on disk.
    pub fn run(mut self) -> Result<(), store::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without I/O needs nothing that can fail");
        let mut commands = Vec::with_capacity(TURN_MAX);
        self.head_start = HEAD_START;
        loop {
            let deadline = self.registry.poll_timeout();
            let received = runtime.block_on(async {
                let received = self.mailbox.recv_many(&mut commands, TURN_MAX);
                match deadline {
                    Some(deadline) => {
                        let wait = deadline.since(self.clock.now().clock);
                        tokio::time::timeout(wait, received).await.ok()
                    }
                    None => Some(received.await),
                }
            });
            if received == Some(0) {
                self.registry.finish_counting();
                return self.turn(&mut commands);
            }
            self.turn(&mut commands)?;
        }
    }

    /// Returns when a turn is due although nobody asks for one.
    #[cfg(feature = "simulation")]
    pub(crate) fn poll_timeout(&self) -> Option<Clock> {
        self.registry.poll_timeout()
    }

    /// Returns the registry, whatever of it is stored and shown.
    #[cfg(feature = "simulation")]
    pub(crate) fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// One turn: apply, settle, commit and publish, answer.
    pub(crate) fn turn(&mut self, commands: &mut Vec<Command>) -> Result<(), store::Error> {
        let now = self.clock.now();
        let mut answers = Answers::default();
        for command in commands.drain(..) {
            self.apply(command, now, &mut answers);
        }
        self.registry.advance(now);
        self.dismiss(&mut answers);
        let mut settlement = self.registry.settle();
        settlement.evidence_only |= seeded(Bug::PromiseBeforeCommit);
        let comes_first = settlement.evidence_only;
        if comes_first && self.publish(&mut settlement) {
            self.feed.announce();
            // Those who pass it on go first, where there is no core to spare.
            std::thread::sleep(self.head_start);
        }
        if seeded(Bug::EventBeforeCommit) {
            self.feed.publish_events(self.registry.events().clone());
        }
        if seeded(Bug::AnswerBeforeCommit) {
            std::mem::take(&mut answers).send(Ok(self.registry.view()));
        }
        if let Err(error) = self.commit(&settlement) {
            error!(%error, "store failed");
            answers.send(Err(Error::OutcomeUnknown));
            return Err(error);
        }
        let has_news = !comes_first && self.publish(&mut settlement);
        if !settlement.dirty.events.is_empty() {
            self.feed.publish_events(self.registry.events().clone());
        }
        answers.send(Ok(self.registry.view()));
        if has_news {
            // Whoever asked for it is answered before everybody is told.
            self.feed.announce();
        }
        for effect in settlement.effects {
            self.perform(effect);
        }
        Ok(())
    }

    fn apply(&mut self, command: Command, now: Moment, answers: &mut Answers) {
        match command {
            Command::Mutate {
                operator,
                mutation,
                request,
                reply,
            } => {
                let answer = self.registry.mutate_as(operator, mutation, request, now);
                answers.push(reply, answer.map_err(Error::Refused), |answer, _| answer);
            }
            Command::Rehearse { mutation, reply } => {
                let answer = self
                    .registry
                    .rehearse(mutation, now)
                    .map(|(answer, state)| (answer, Box::new(state.snapshot())));
                answers.push(reply, answer.map_err(Error::Refused), |answer, _| answer);
            }
            Command::Verify { name, reply } => {
                match self
                    .registry
                    .mutate(Mutation::Verify { name: name.clone() }, None, now)
                {
                    Ok(_) => {
                        let waiting = self.waiting.entry(name).or_default();
                        waiting.retain(|reply| !reply.is_closed());
                        waiting.push(reply);
                    }
                    Err(error) => {
                        answers.push(reply, Err(Error::Refused(error)), |answer, _| answer);
                    }
                }
            }
            Command::Report {
                proxy,
                batch,
                reply,
            } => {
                let receipt = self.registry.report(&proxy, batch, now);
                answers.push(reply, Ok(receipt), |receipt, view| (receipt, view));
            }
            Command::Connect { proxy, reply } => {
                let receipt = self.registry.connect(&proxy, now);
                answers.push(reply, Ok(receipt), |receipt, view| (receipt, view));
            }
            Command::Disconnect { proxy } => self.registry.disconnect(&proxy),
            Command::Verdict {
                endpoint,
                check,
                verdict,
            } => {
                let conclusion = self.registry.conclude(&endpoint, check, verdict, now);
                // The verdict of a check that was given up is nobody's answer.
                if conclusion.is_some() {
                    for reply in self.waiting.remove(&endpoint).unwrap_or_default() {
                        answers.push(reply, Ok(conclusion.clone()), |conclusion, _| conclusion);
                    }
                }
            }
        }
    }

    /// Answers those who wait for a check that is not under way any more.
    fn dismiss(&mut self, answers: &mut Answers) {
        let registry = &self.registry;
        self.waiting.retain(|name, replies| {
            let running = registry
                .endpoint(name)
                .is_some_and(|e| e.checks.running.is_some());
            if !running {
                for reply in replies.drain(..) {
                    answers.push(reply, Ok(None), |conclusion, _| conclusion);
                }
            }
            running
        });
    }

    /// Shows the present state, and returns whether there is news in it.
    fn publish(&self, settlement: &mut Settlement) -> bool {
        let publication = settlement.publication.take();
        let has_news = publication.is_some();
        if settlement.dirty.any {
            self.feed.publish(self.registry.snapshot(), publication);
        }
        has_news
    }

    fn commit(&mut self, settlement: &Settlement) -> Result<(), store::Error> {
        if !settlement.dirty.any {
            return Ok(());
        }
        let batch = records::batch(&self.registry, &settlement.dirty);
        let started = Instant::now();
        self.store.commit(&batch)?;
        self.commits.observe(started.elapsed());
        Ok(())
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            // Without a checker the process is ending.
            Effect::Check(order) => drop(self.jobs.send(Job::Check(order))),
            Effect::GiveUp(id) => drop(self.jobs.send(Job::GiveUp(id))),
            Effect::Moved {
                endpoint,
                health,
                generation,
            } => {
                let (generation, revision) = (generation.0, self.registry.view().revision);
                match health {
                    Health::Unhealthy(incident) => {
                        warn!(%endpoint, cause = %incident.cause, generation, revision, "endpoint ejected");
                    }
                    Health::Degraded { cause, .. } => {
                        info!(%endpoint, %cause, generation, revision, "endpoint paused");
                    }
                    Health::Healthy { .. } => {
                        info!(%endpoint, generation, revision, "endpoint healthy");
                    }
                    Health::Unknown { .. } => {
                        info!(%endpoint, generation, revision, "endpoint starts anew");
                    }
                }
            }
        }
    }
}

impl Answers {
    fn push<T: Send + 'static, U: Send + 'static>(
        &mut self,
        reply: Reply<U>,
        result: Result<T, Error>,
        finish: fn(T, View) -> U,
    ) {
        self.0.push(Box::new(move |committed| {
            let answer = match (result, committed) {
                (Ok(value), Ok(view)) => Ok(finish(value, view)),
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
            // Whoever asked may have gone away meanwhile.
            let _ = reply.send(answer);
        }));
    }

    fn send(self, committed: Result<View, Error>) {
        for answer in self.0 {
            answer(committed.clone());
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Full => f.write_str("the control plane has too much to do"),
            Self::Stopped => f.write_str("the control plane is stopping"),
            Self::OutcomeUnknown => {
                f.write_str("the store failed: whether the change took effect is unknown")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::{Mutex, PoisonError},
    };

    use super::*;
    use crate::store::{Batch, Change, Table};

    /// Notes which tables are written, or fails.
    #[derive(Clone, Default)]
    struct Disk {
        commits: Arc<Mutex<Vec<Vec<Table>>>>,
        fails: bool,
    }

    impl Keep for Disk {
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

    fn life(disk: Disk) -> (Writer, Arc<Feed>) {
        let seed = registry::Seed {
            registry_id: "registry".into(),
            salt: vec![1],
        };
        let (writer, _, feed, _) = new(disk, 1, registry::Saved::default(), seed);
        (writer, feed)
    }

    #[test]
    fn a_life_is_on_disk_before_anybody_asks_about_it() {
        let disk = Disk::default();
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
        let fails = Disk {
            fails: true,
            ..Disk::default()
        };
        let (mut writer, _) = life(fails);
        assert!(writer.begin().is_err());
    }
}
