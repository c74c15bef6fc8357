//! One connection to one control plane, which carries both streams.

use std::time::{Duration, Instant};

use http::Uri;
use qcc_proto::{
    tls::{self, Trust},
    v1::health_sync_service_client::HealthSyncServiceClient,
};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::{Client, Error, replica::Replica, reporter, watch::Watch};

/// Longer than any healthy network needs, short enough for the next address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Without pings a connection whose peer has vanished stays stuck for good, even
/// after the network has healed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The control plane keeps messages below 1 MiB; this leaves room for other makes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// One connection.
pub(super) struct Session<'a> {
    client: &'a Client,
    url: &'a Uri,
    watch: Watch<'a>,
}

impl<'a> Session<'a> {
    pub(super) fn new(client: &'a Client, url: &'a Uri, replica: &'a mut Replica) -> Self {
        Self {
            client,
            url,
            watch: Watch::new(client, url, replica),
        }
    }

    /// Connects and runs both streams, until one of them ends.
    pub(super) async fn run(&mut self) -> Error {
        let rpc = match connect(self.url, &self.client.trust).await {
            Ok(rpc) => rpc,
            Err(error) => return error,
        };
        let reports = reporter::run(
            rpc.clone(),
            &self.client.identity,
            &self.client.outbox,
            &self.client.link,
        );
        let error = tokio::select! {
            error = self.watch.run(rpc) => error,
            error = reports => error,
        };
        let was_refused = matches!(error, Error::Call(_)) && self.up_since().is_none();
        match was_refused && tls::is_wanted(self.url).await {
            true => Error::TlsWanted,
            false => error,
        }
    }

    /// Returns when the control plane first answered.
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.watch.up_since()
    }
}

async fn connect(url: &Uri, trust: &Trust) -> Result<HealthSyncServiceClient<Channel>, Error> {
    let endpoint = Endpoint::from(url.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channel = timeout(2 * CONNECT_TIMEOUT, tls::connect(&endpoint, trust)).await;
    let channel = channel
        .map_err(|_| Error::Silent)?
        .map_err(Error::Connect)?;
    Ok(HealthSyncServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}
