//! `qcc-ctl endpoints watch`

use std::{collections::BTreeMap, time::SystemTime};

use qcc_proto::v1::{self, endpoint_service_client::EndpointServiceClient as Client};
use tonic::{Status, Streaming, transport::Channel};

use super::{
    super::{
        Answer, Context,
        stream::{self, Reader},
    },
    show,
};
use crate::{
    args::{Format, change::OfCluster},
    error::Error,
    table::{Cell, Table},
    text,
};

/// Shows endpoints, then every change, until interrupted.
pub(super) async fn run(
    OfCluster { cluster }: OfCluster,
    context: &Context,
) -> Result<Answer, Error> {
    let mut screen = Screen {
        context,
        cluster,
        resume_from: None,
        registry_id: String::new(),
        shown: BTreeMap::new(),
        fresh: None,
        widths: Vec::new(),
    };
    stream::follow(&mut screen, context).await
}

/// What has been shown, so that a second snapshot shows only what is new in it.
struct Screen<'a> {
    context: &'a Context,
    cluster: String,
    /// The last view that was shown whole.
    resume_from: Option<v1::View>,
    /// The registry that it is of.
    registry_id: String,
    shown: BTreeMap<String, v1::Endpoint>,
    /// The snapshot under way, part by part.
    fresh: Option<BTreeMap<String, v1::Endpoint>>,
    widths: Vec<usize>,
}

impl Reader for Screen<'_> {
    type Step = v1::WatchEndpointsResponse;

    async fn open(&self, channel: Channel) -> Result<Streaming<Self::Step>, Status> {
        let request = self.context.control.request(v1::WatchEndpointsRequest {
            cluster: self.cluster.clone(),
            resume_from: self.resume_from,
            registry_id: self.registry_id.clone(),
        });
        let response = Client::new(channel).watch_endpoints(request).await?;
        Ok(response.into_inner())
    }

    fn take(&mut self, step: Self::Step) -> Result<(), Error> {
        self.show(&step)?;
        if !step.more {
            self.resume_from = step.view;
            self.registry_id = step.registry_id;
        }
        Ok(())
    }

    fn broke(&mut self) {
        self.fresh = None;
    }

    fn start_over(&mut self) -> bool {
        self.registry_id.clear();
        self.resume_from.take().is_some()
    }
}

impl Screen<'_> {
    fn show(&mut self, step: &v1::WatchEndpointsResponse) -> Result<(), Error> {
        let output = &self.context.output;
        if matches!(output.format, Format::Json | Format::Yaml) {
            return output.stream_document("WatchEndpointsResponse", step);
        }
        let (changed, removed) = self.apply(step);
        if output.format == Format::Name {
            return output.names(
                changed
                    .iter()
                    .map(|endpoint| super::reference(&endpoint.name)),
            );
        }
        let mut table = Table::new(&[
            "VIEW", "NAME", "CLUSTER", "STATE", "CAUSE", "NEXT", "EVIDENCE",
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
    fn apply(
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
