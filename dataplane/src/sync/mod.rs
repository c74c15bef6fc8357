//! Keeps this process in step with the control plane, and never lets a request wait
//! for it.
//!
//! - [`session`]: one connection, from the list of addresses, for both streams.
//! - [`watch`]: views in. [`replica`]: the rules by which they are applied.
//! - [`reporter`]: reports out, until they are acknowledged.
//! - [`convert`]: from the wire to the core.
//! - [`link`]: how current we are. [`backoff`]: when to try again.
//!
//! While the control plane is away the last view and this process's own marks are
//! what is routed by, and reports wait in the outbox. On return the watch resumes
//! where it stopped, and whatever was not acknowledged is sent again.

mod backoff;
pub(crate) mod convert;
mod link;
mod replica;
mod reporter;
mod session;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use qcc_proto::{tls::Trust, v1::ProxyIdentity};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::{reports::Outbox, routing::Router, view_file::Kept};
use backoff::Backoff;
pub(crate) use convert::Clocks;
pub(crate) use link::{Address, Link, LinkState};
use replica::OutOfStep;
pub(crate) use replica::Replica;
use session::Session;
#[cfg(feature = "simulation")]
pub(crate) use {backoff::Backoff as Waits, reporter::Conversation, watch::Watch};

/// A connection that lasted so long worked. One that breaks sooner may break again
/// and again, and must not be opened anew without a pause.
const STEADY: Duration = Duration::from_secs(5);

/// How long a control plane has to bring the first view before one that was kept is used
/// instead. One that is there needs milliseconds; one that hangs must not be waited for.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// What keeps in step, and what it needs to know.
#[derive(Debug)]
pub(crate) struct Client {
    /// The control planes, to be tried in turn. Not empty.
    pub control_urls: Vec<Uri>,
    /// Who vouches for them.
    pub trust: Trust,
    /// Who we are.
    pub identity: ProxyIdentity,
    /// The cluster we serve.
    pub cluster: String,
    /// Learns of views.
    pub router: Router,
    /// Holds what is to be reported.
    pub outbox: Arc<Outbox>,
    /// Learns how current we are.
    pub link: Link,
    /// A view that an earlier process kept, for when no control plane answers.
    pub kept: Option<Kept>,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Error {
    /// It could not be opened.
    Connect(tonic::transport::Error),
    /// It was spoken to in the clear, and speaks TLS.
    TlsWanted,
    /// A call failed.
    Call(tonic::Status),
    /// The control plane ended a stream.
    Ended,
    /// Nothing was heard for too long.
    Silent,
    /// It brought no first view, and there is one that was kept.
    NoView,
    /// The views do not fit together.
    OutOfStep(OutOfStep),
    /// The control plane misses reports that it had acknowledged, again and again.
    SequenceGap,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => match innermost(error) {
                Some(reason) => write!(f, "connect: {reason}"),
                None => write!(f, "connect: {error}"),
            },
            Self::Call(status) => write!(f, "{}: {}", status.code(), status.message()),
            Self::TlsWanted => f.write_str("it speaks TLS: its address must say https://"),
            Self::Ended => f.write_str("the control plane ended the stream"),
            Self::Silent => f.write_str("nothing heard for 15 s"),
            Self::NoView => f.write_str("no view within 2 s"),
            Self::OutOfStep(error) => write!(f, "out of step: {error}"),
            Self::SequenceGap => f.write_str("the control plane misses reports"),
        }
    }
}

impl Client {
    /// Stays connected, for as long as the future is polled.
    pub(crate) async fn run(mut self) {
        let mut replica = Replica::default();
        let mut kept = self.kept.take();
        let mut untried = self.control_urls.len();
        let patience = sleep(START_PATIENCE);
        let mut patience = std::pin::pin!(patience);
        let mut backoff = Backoff::new(self.control_urls.len());
        let mut is_known_to_be_away = false;
        for url in self.control_urls.iter().cycle() {
            let mut session = Session::new(&self, url, &mut replica);
            let error = {
                let mut run = std::pin::pin!(session.run());
                loop {
                    tokio::select! {
                        biased;
                        error = &mut run => break error,
                        // It is large, holds keys, and is of no use any more.
                        () = self.link.ready(), if kept.is_some() => kept = None,
                        () = patience.as_mut(), if kept.is_some() => {
                            untried = 1;
                            break Error::NoView;
                        }
                    }
                }
            };
            let up_since = session.up_since();
            self.link.lost();
            let url = Address(url);
            untried = untried.saturating_sub(1);
            if untried == 0
                && let Some(kept) = kept.take().filter(|_| self.link.state().view.is_none())
            {
                self.restore(kept, &mut replica);
            }
            if up_since.is_some() {
                let view = self.link.state().view.unwrap_or_default();
                warn!(%url, %error, %view, "control plane lost; serving from the last view");
            } else if !is_known_to_be_away {
                warn!(%url, %error, "no control plane");
            } else {
                debug!(%url, %error, "no control plane"); // It may be away for long.
            }
            is_known_to_be_away = up_since.is_none();
            if up_since.is_some_and(|since| since.elapsed() >= STEADY) {
                backoff.reset();
            }
            sleep(backoff.next(rand::random())).await;
        }
    }
}

impl Client {
    /// Serves from what an earlier process kept.
    pub(crate) fn restore(&self, kept: Kept, replica: &mut Replica) {
        let (view, age) = (kept.view, kept.age);
        let update = replica.restore(kept);
        let endpoints = update.endpoints.len();
        self.router.publish(update);
        self.link.restored(view, age, Instant::now());
        warn!(
            %view,
            endpoints,
            age_s = age.as_secs(),
            "no control plane answers; serving from the view that was kept, which may be out of date"
        );
    }
}

/// Finds the reason behind tonic's "transport error".
fn innermost(error: &dyn std::error::Error) -> Option<&dyn std::error::Error> {
    let mut reason = error.source()?;
    while let Some(deeper) = reason.source() {
        reason = deeper;
    }
    Some(reason)
}
