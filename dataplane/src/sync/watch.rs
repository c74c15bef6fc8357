//! Views in: follows `WatchSnapshots` and hands each new view to the router.

use std::time::Instant;

use http::Uri;
use qcc_proto::v1::{
    WatchSnapshotsRequest, WatchSnapshotsResponse,
    health_sync_service_client::HealthSyncServiceClient,
};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};
use tracing::{debug, info, warn};

use super::{
    Address, Client, Error,
    convert::Clocks,
    link::SILENCE_MAX,
    replica::{Applied, Replica},
};

/// The contract's bound for `WatchSnapshotsResponse.planned_checks`.
const PLANNED_MAX: usize = 1000;

/// One stream of views.
pub(crate) struct Watch<'a> {
    client: &'a Client,
    url: &'a Uri,
    replica: &'a mut Replica,
    up_since: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(client: &'a Client, url: &'a Uri, replica: &'a mut Replica) -> Self {
        Self {
            client,
            url,
            replica,
            up_since: None,
        }
    }

    /// Returns when something that fits was first heard.
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.up_since
    }

    /// Follows the stream until it ends.
    pub(super) async fn run(&mut self, rpc: HealthSyncServiceClient<Channel>) -> Error {
        match self.follow(rpc).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow(
        &mut self,
        mut rpc: HealthSyncServiceClient<Channel>,
    ) -> Result<std::convert::Infallible, Error> {
        let request = self.request();
        let opened = timeout(SILENCE_MAX, rpc.watch_snapshots(request)).await;
        let opened = opened.map_err(|_| Error::Silent)?;
        let mut stream = opened.map_err(|status| self.refused(status))?.into_inner();
        loop {
            let message = timeout(SILENCE_MAX, stream.message()).await;
            let message = message.map_err(|_| Error::Silent)?;
            let message = message.map_err(|status| self.refused(status))?;
            self.apply(message.ok_or(Error::Ended)?, Instant::now())?;
        }
    }

    /// Begins a new stream, and returns what to open it with.
    pub(crate) fn request(&mut self) -> WatchSnapshotsRequest {
        let resume_from = self.replica.open();
        WatchSnapshotsRequest {
            proxy: Some(self.client.identity.clone()),
            cluster: self.client.cluster.clone(),
            resume_from,
            registry_id: self.replica.registry_id().to_owned(),
        }
    }

    /// Applies a message that came at `now`.
    pub(crate) fn apply(
        &mut self,
        mut message: WatchSnapshotsResponse,
        now: Instant,
    ) -> Result<(), Error> {
        let clocks = Clocks {
            clock_ms: message.clock_ms,
            received: now,
        };
        let planned = std::mem::take(&mut message.planned_checks);
        let mut left_out = Vec::new();
        let applied = self.replica.apply(message, now, &mut left_out);
        for endpoint in left_out {
            warn!(endpoint = %endpoint.name, error = %endpoint.error, "endpoint left out");
        }
        let view = match applied.map_err(Error::OutOfStep)? {
            Applied::Partial => return Ok(()),
            Applied::Current => None,
            Applied::View(update) => {
                let (view, reset) = (update.view, update.reset);
                if reset {
                    warn!(%view, "the control plane has forgotten what we had; starting over");
                }
                debug!(%view, endpoints = update.endpoints.len(), "view applied");
                self.client.router.publish(update);
                Some(view)
            }
        };
        self.client.router.testify(now);
        let planned = planned.iter().take(PLANNED_MAX);
        let planned = planned.map(|it| (&*it.endpoint, clocks.deadline(it.due_clock_ms)));
        self.client.router.expect_checks(planned);
        self.client.link.confirmed(self.url, view, now);
        if self.up_since.is_none() {
            self.up_since = Some(now);
            let view = self.client.link.state().view.unwrap_or_default();
            info!(url = %Address(self.url), %view, "in step with the control plane");
        }
        Ok(())
    }

    /// A control plane that does not know our view cannot resume from it.
    fn refused(&mut self, status: Status) -> Error {
        if status.code() == Code::OutOfRange {
            self.replica.restart();
        }
        Error::Call(status)
    }
}
