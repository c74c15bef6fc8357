//! The writer: one task that owns the registry, and has a thread wait for the store.
//!
//! It waits for commands or for the next deadline, applies what has come, commits it
//! all at once, publishes, and only then answers (`writer`). A commit blocks, so that
//! is done by a thread of its own (`disk`). Readers have the [`Feed`].
//!
//! Evidence alone is published before its commit: other data planes keep away from a
//! rejected key while the disk is still busy. What a crash takes back of it was never
//! acknowledged, so whoever saw it reports it again.
//!
//! Callers hold a [`Handle`]. Its mailbox is bounded and "full" is an answer; the last
//! quarter of it is out of reach for reports, so that operators get through a flood.

mod disk;
mod herald;
mod writer;

use std::{fmt, sync::Arc};

use tokio::sync::{mpsc, oneshot};

pub use writer::Writer;

use crate::{
    clock::RegistryClock,
    feed::Feed,
    histogram::Histogram,
    registry::{
        self, Answer, CheckId, CheckOrder, Clock, Conclusion, EndpointName, Mutation, Operator,
        ProxyKey, Receipt, Registry, ReportBatch, Request, Snapshot, Verdict, View,
    },
    store::Keep,
};

/// Commands that wait at most. Each is small but for report batches, of which a
/// well-behaved proxy has one under way.
const MAILBOX: usize = 4096;

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
    let state = writer::State::new(registry, clock, feed.clone(), jobs);
    let writer = Writer::new(state, Box::new(store), commands, Arc::clone(&commits));
    (writer, Handle { mailbox, commits }, feed, jobs_out)
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
