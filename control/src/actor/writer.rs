//! The writer's turns, and the loop that takes them.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use tokio::{
    runtime::{Handle as Runtime, RuntimeFlavor},
    sync::mpsc,
    task::{block_in_place, yield_now},
    time::{Instant, Sleep, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Command, Error, Job, Reply,
    disk::Disk,
    herald::{Herald, STREAMS_AT_ONCE},
};
use crate::{
    clock::RegistryClock,
    feed::Feed,
    histogram::Histogram,
    records,
    registry::{
        Conclusion, Effect, EndpointName, Health, Moment, Mutation, Publication, Registry,
        Settlement, Snapshot, View,
    },
    seeded::{Bug, seeded},
    store::{self, Batch, Keep},
};

/// Commands that one commit takes at most, so that the first of them is not kept
/// waiting by the last.
const TURN_MAX: usize = 1024;

/// Outcomes after which a turn takes no further command: a few milliseconds, for which
/// nothing else is done by the thread that takes it.
const OUTCOMES_MAX: usize = 10_000;

/// Endpoints of which a turn's records are made without keeping other tasks waiting.
const RECORDS_AT_ONCE: usize = 100;

/// How long a commit waits for streams to say something.
const HEAD_START_MAX: Duration = Duration::from_millis(2);

/// How far ahead the writer looks when nothing is due.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// The writer, before it runs.
pub struct Writer {
    state: State,
    store: Box<dyn Keep>,
    mailbox: mpsc::Receiver<Command>,
    /// How long commits took.
    commits: Arc<Histogram>,
}

/// What the writer owns, but for the store.
pub(super) struct State {
    registry: Registry,
    clock: RegistryClock,
    feed: Arc<Feed>,
    /// Not bounded, but taken up at once; what waits for its turn is given up when it
    /// is void, so that there are never more checks than endpoints.
    jobs: mpsc::UnboundedSender<Job>,
    /// Who waits for the verdict on an endpoint.
    waiting: BTreeMap<EndpointName, Vec<Reply<Option<Conclusion>>>>,
}

/// What has been applied in a turn, and is not settled yet.
struct Applied {
    answers: Answers,
    /// What everybody saw before, if it was evidence and all data planes have been told.
    told: Option<Arc<Snapshot>>,
}

/// A turn that has been settled, and of which nothing is durable yet.
struct Turn {
    settlement: Settlement,
    answers: Answers,
    /// It was evidence, and everybody has been told.
    is_told: bool,
}

/// Sends one answer, given how the commit ended.
type Delivery = Box<dyn FnOnce(Result<View, Error>) + Send>;

/// Answers that go out once their turn is durable.
#[derive(Default)]
struct Answers(Vec<Delivery>);

impl Writer {
    pub(super) fn new(
        state: State,
        store: Box<dyn Keep>,
        mailbox: mpsc::Receiver<Command>,
        commits: Arc<Histogram>,
    ) -> Self {
        Self {
            state,
            store,
            mailbox,
            commits,
        }
    }

    /// Makes durable what has come of the time between two lives, before anybody asks.
    ///
    /// # Errors
    ///
    /// As [`Writer::start`].
    pub fn begin(&mut self) -> Result<(), store::Error> {
        self.turn(&mut Vec::new())
    }

    /// Starts the thread that waits for the disk, and returns the writer's work, which
    /// ends when every handle is gone.
    ///
    /// The work returns the store's error: nothing was acknowledged after it, and nothing
    /// may be until a new process has read what is on disk.
    ///
    /// # Errors
    ///
    /// Returns the system's error if there is no room for a thread.
    pub fn start(self) -> io::Result<impl Future<Output = Result<(), store::Error>> + Send> {
        let Self {
            state,
            store,
            mailbox,
            commits,
        } = self;
        let disk = Disk::start(store, commits)?;
        Ok(async move {
            let ended = run(state, mailbox, &disk).await;
            disk.close().await;
            ended
        })
    }

    /// One turn by hand: apply, commit and publish, answer.
    pub(crate) fn turn(&mut self, commands: &mut Vec<Command>) -> Result<(), store::Error> {
        let applied = self.state.take(commands.drain(..));
        let turn = self.state.settle(applied);
        let stored = match self.state.records(&turn) {
            Some(batch) => self.store.commit(&batch),
            None => Ok(()),
        };
        if self.state.finish(turn, stored)? {
            self.state.feed.announce();
        }
        Ok(())
    }

    /// Returns when a turn is due although nobody asks for one.
    #[cfg(feature = "simulation")]
    pub(crate) fn poll_timeout(&self) -> Option<crate::registry::Clock> {
        self.state.registry.poll_timeout()
    }

    /// Returns the registry, whatever of it is stored and shown.
    #[cfg(feature = "simulation")]
    pub(crate) fn registry(&mut self) -> &mut Registry {
        &mut self.state.registry
    }
}

/// Takes turns until every handle is gone.
async fn run(
    mut state: State,
    mut mailbox: mpsc::Receiver<Command>,
    disk: &Disk,
) -> Result<(), store::Error> {
    let herald = Herald::start(Arc::clone(&state.feed));
    let mut commands = Vec::with_capacity(TURN_MAX);
    let mut alarm = pin!(sleep_until(Instant::now() + LONG));
    let mut is_last = false;
    while !is_last {
        if commands.is_empty() {
            state.set(alarm.as_mut());
            tokio::select! {
                biased;
                received = mailbox.recv_many(&mut commands, TURN_MAX) => is_last = received == 0,
                () = &mut alarm => {}
            }
        }
        if is_last {
            state.registry.finish_counting();
        }
        let together = together(&commands);
        let wide = commands[..together].iter().any(Command::is_wide);
        let applied = aside(wide, || state.take(commands.drain(..together)));
        if applied.told.is_some() {
            state.give_way().await;
        }
        let turn = aside(wide, || state.settle(applied));
        let wide = turn.settlement.dirty.endpoints.len() > RECORDS_AT_ONCE;
        let stored = match aside(wide, || state.records(&turn)) {
            Some(batch) => disk.commit(batch).await,
            None => Ok(()),
        };
        if state.finish(turn, stored)? {
            // Whoever asked for it is answered before everybody is told.
            yield_now().await;
            state.feed.announce_to_others();
            herald.tell();
        }
    }
    Ok(())
}

/// Returns how many of these commands one turn takes.
fn together(commands: &[Command]) -> usize {
    let mut outcomes = 0;
    let is_too_much = |command: &Command| {
        let before = outcomes;
        if let Command::Report { batch, .. } = command {
            outcomes += batch.outcomes.len();
        }
        before > 0 && outcomes > OUTCOMES_MAX
    };
    let end = commands.iter().position(is_too_much);
    end.unwrap_or(commands.len())
}

/// Does what may take long without keeping the other tasks of this thread waiting, where
/// the runtime has threads to spare.
fn aside<T>(takes_long: bool, work: impl FnOnce() -> T) -> T {
    if takes_long && Runtime::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return block_in_place(work);
    }
    work()
}

impl State {
    pub(super) fn new(
        registry: Registry,
        clock: RegistryClock,
        feed: Arc<Feed>,
        jobs: mpsc::UnboundedSender<Job>,
    ) -> Self {
        Self {
            registry,
            clock,
            feed,
            jobs,
            waiting: BTreeMap::new(),
        }
    }

    /// Sets an alarm for the next deadline. It may go off too early, never too late: most
    /// turns move deadlines back, and that is no reason to touch a timer.
    fn set(&self, alarm: Pin<&mut Sleep>) {
        let wait = self.registry.poll_timeout().map_or(LONG, |deadline| {
            deadline.since(self.clock.now().clock).min(LONG)
        });
        let due = Instant::now() + wait;
        if due < alarm.deadline() || alarm.is_elapsed() {
            alarm.reset(due);
        }
    }

    /// Applies commands and what is due. Shows what they come to if that is evidence and
    /// nothing else, and does nothing before that which can be done after it.
    fn take(&mut self, commands: impl Iterator<Item = Command>) -> Applied {
        let now = self.clock.now();
        let mut answers = Answers::default();
        for command in commands {
            self.apply(command, now, &mut answers);
        }
        self.registry.advance(now);
        let told = self.registry.reveal().map(|publication| {
            let before = self.publish(Some(publication));
            self.feed.announce_to_streams();
            before
        });
        Applied { answers, told }
    }

    /// Ends a turn: from here on it can be stored.
    fn settle(&mut self, applied: Applied) -> Turn {
        let Applied { mut answers, told } = applied;
        let is_told = told.is_some();
        if is_told {
            self.feed.announce_to_others();
        }
        drop(told);
        self.dismiss(&mut answers);
        let settlement = self.registry.settle();
        if seeded(Bug::EventBeforeCommit) {
            self.feed.publish_events(self.registry.events().clone());
        }
        if seeded(Bug::AnswerBeforeCommit) {
            std::mem::take(&mut answers).send(Ok(self.registry.view()));
        }
        Turn {
            settlement,
            answers,
            is_told,
        }
    }

    /// Lets those go first who pass on what was shown: what comes next takes several times
    /// as long as they do, where there is no core to spare.
    async fn give_way(&self) {
        yield_now().await;
        let begun = Instant::now();
        for _ in 0..=self.feed.subscribers() / STREAMS_AT_ONCE {
            yield_now().await;
            if begun.elapsed() > HEAD_START_MAX {
                return;
            }
        }
    }

    /// Returns what a turn has to store.
    fn records(&self, turn: &Turn) -> Option<Batch> {
        let dirty = &turn.settlement.dirty;
        dirty.any.then(|| records::batch(&self.registry, dirty))
    }

    /// Shows and answers what is durable now. Returns whether there is news in it of which
    /// nobody has been told.
    fn finish(
        &mut self,
        turn: Turn,
        stored: Result<(), store::Error>,
    ) -> Result<bool, store::Error> {
        let Turn {
            settlement,
            answers,
            is_told,
        } = turn;
        if let Err(error) = stored {
            error!(%error, "store failed");
            answers.send(Err(Error::OutcomeUnknown));
            return Err(error);
        }
        let has_news = settlement.publication.is_some();
        if settlement.dirty.any && !is_told {
            self.publish(settlement.publication);
        }
        if !settlement.dirty.events.is_empty() {
            self.feed.publish_events(self.registry.events().clone());
        }
        answers.send(Ok(self.registry.view()));
        for effect in settlement.effects {
            self.perform(effect);
        }
        Ok(has_news)
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
            Command::Disconnect { proxy } => self.registry.disconnect(&proxy, now),
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

    /// Shows the present state, and returns what was shown before.
    fn publish(&self, publication: Option<Publication>) -> Arc<Snapshot> {
        self.feed.publish(self.registry.snapshot(), publication)
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

impl Command {
    /// Whether it may concern more than one endpoint, and so take long.
    fn is_wide(&self) -> bool {
        match self {
            Self::Mutate { mutation, .. } | Self::Rehearse { mutation, .. } => match mutation {
                Mutation::Apply(_)
                | Mutation::UpdateCluster { .. }
                | Mutation::VerifyFailures { .. }
                | Mutation::ClearFailures { .. } => true,
                Mutation::CreateEndpoint(_)
                | Mutation::UpdateEndpoint { .. }
                | Mutation::DeleteEndpoint { .. }
                | Mutation::SetAdminState { .. }
                | Mutation::Eject { .. }
                | Mutation::Restore { .. }
                | Mutation::Verify { .. }
                | Mutation::RemoveFailure { .. }
                | Mutation::CreateCluster { .. }
                | Mutation::DeleteCluster { .. } => false,
            },
            Self::Report { batch, .. } => batch.outcomes.len() > OUTCOMES_MAX / 10,
            Self::Verify { .. }
            | Self::Connect { .. }
            | Self::Disconnect { .. }
            | Self::Verdict { .. } => false,
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
