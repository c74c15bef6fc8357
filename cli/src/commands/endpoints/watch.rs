//! `qcc-ctl endpoints watch`

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use qcc_proto::v1::{self, endpoint_service_client::EndpointServiceClient as Client};
use tonic::{Code, Streaming};

use super::{
    super::{Answer, Context},
    show,
};
use crate::{
    args::{Format, endpoints::Watch},
    error::Error,
    table::{Cell, Table},
    text,
};

/// Pauses between attempts to reconnect: doubling from the first to the last.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_LAST: Duration = Duration::from_secs(5);
/// Bookmarks come every few seconds; after this long without one the stream is dead.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Shows endpoints, then every change, until interrupted. A break is bridged: the next stream goes on
/// from the last view that was shown.
pub(super) async fn run(Watch { cluster }: Watch, context: &Context) -> Result<Answer, Error> {
    let channel = context.control.channel().await?;
    let mut screen = Screen {
        context,
        shown: BTreeMap::new(),
        fresh: None,
        widths: Vec::new(),
    };
    let mut resume_from = None;
    let mut pause = RECONNECT_FIRST;
    let (mut connected, mut ever_connected) = (false, false);
    loop {
        let request = v1::WatchEndpointsRequest {
            cluster: cluster.clone(),
            resume_from,
        };
        let opened = Client::new(channel.clone()).watch_endpoints(request).await;
        let status = match opened {
            Ok(stream) => {
                if ever_connected {
                    context.output.note("connected again");
                }
                (connected, ever_connected) = (true, true);
                pause = RECONNECT_FIRST;
                follow(stream.into_inner(), &mut screen, &mut resume_from).await?
            }
            Err(status) => status,
        };
        match status.code() {
            // A view from the future: the control plane has lost its data, so start over.
            Code::OutOfRange if resume_from.is_some() => resume_from = None,
            Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::ResourceExhausted
                if ever_connected =>
            {
                if connected {
                    let reason = text::clean(status.message());
                    tracing::debug!(%reason, "the watch broke");
                    context.output.note("lost the control plane; trying again");
                }
                connected = false;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RECONNECT_LAST);
                // A snapshot that was cut off is worth nothing.
                screen.fresh = None;
            }
            _ => return Err(context.control.refused(&status)),
        }
    }
}

/// Shows what the stream brings, and returns why it ended.
async fn follow(
    mut stream: Streaming<v1::WatchEndpointsResponse>,
    screen: &mut Screen<'_>,
    resume_from: &mut Option<v1::View>,
) -> Result<tonic::Status, Error> {
    loop {
        match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
            Ok(Ok(Some(step))) => {
                screen.show(&step)?;
                if !step.more {
                    *resume_from = step.view;
                }
            }
            Ok(Ok(None)) => return Ok(tonic::Status::unavailable("the stream ended")),
            Ok(Err(status)) => return Ok(status),
            Err(_) => return Ok(tonic::Status::unavailable("it has fallen silent")),
        }
    }
}

/// What has been shown, so that a second snapshot shows only what is new in it.
struct Screen<'a> {
    context: &'a Context,
    shown: BTreeMap<String, v1::Endpoint>,
    /// The snapshot under way, part by part.
    fresh: Option<BTreeMap<String, v1::Endpoint>>,
    widths: Vec<usize>,
}

impl Screen<'_> {
    fn show(&mut self, step: &v1::WatchEndpointsResponse) -> Result<(), Error> {
        let output = &self.context.output;
        if matches!(output.format, Format::Json | Format::Yaml) {
            return output.stream_document("WatchEndpointsResponse", step);
        }
        let (changed, removed) = self.take(step);
        if output.format == Format::Name {
            return output.names(
                changed
                    .iter()
                    .map(|endpoint| super::reference(&endpoint.name)),
            );
        }
        let mut table = Table::new(&[
            "VIEW",
            "NAME",
            "CLUSTER",
            "STATE",
            "CAUSE",
            "NEXT CHECK",
            "EVIDENCE",
        ]);
        for endpoint in &changed {
            table.row(row(step.view.as_ref(), endpoint));
        }
        for endpoint in &removed {
            let view = text::view(step.view.as_ref());
            table.row(vec![
                view.into(),
                text::clean(&endpoint.name).into(),
                text::clean(&endpoint.cluster).into(),
                "deleted".into(),
            ]);
        }
        if table.is_empty() {
            Ok(())
        } else {
            output.continue_table(&table, &mut self.widths)
        }
    }

    /// Applies a step; returns what people have not seen yet.
    fn take(
        &mut self,
        step: &v1::WatchEndpointsResponse,
    ) -> (Vec<v1::Endpoint>, Vec<v1::Endpoint>) {
        let by_name = step
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.name.clone(), endpoint.clone()));
        match step.kind() {
            v1::WatchKind::Snapshot => {
                let mut snapshot = self.fresh.take().unwrap_or_default();
                snapshot.extend(by_name);
                if step.more {
                    self.fresh = Some(snapshot);
                    return (Vec::new(), Vec::new());
                }
                let before = std::mem::replace(&mut self.shown, snapshot);
                let changed = self
                    .shown
                    .values()
                    .filter(|now| before.get(&now.name) != Some(*now))
                    .cloned()
                    .collect();
                let removed = before
                    .into_values()
                    .filter(|old| !self.shown.contains_key(&old.name))
                    .collect();
                (changed, removed)
            }
            v1::WatchKind::Delta => {
                self.shown.extend(by_name);
                let removed = step
                    .removed_endpoints
                    .iter()
                    .filter_map(|name| self.shown.remove(name))
                    .collect();
                (step.endpoints.clone(), removed)
            }
            v1::WatchKind::Bookmark | v1::WatchKind::Unspecified => (Vec::new(), Vec::new()),
        }
    }
}

fn row(view: Option<&v1::View>, endpoint: &v1::Endpoint) -> Vec<Cell> {
    let health = endpoint.health.as_ref();
    let evidence = health.and_then(|health| health.evidence.as_ref());
    let mut row = vec![text::view(view).into()];
    row.extend(show::watched(endpoint, SystemTime::now()));
    row.push(
        evidence
            .map_or_else(|| text::NOTHING.to_owned(), text::evidence)
            .into(),
    );
    row
}
