//! The log of the fake control plane: three events, one of which goes on while it is watched.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use qcc_proto::v1::{self, EventKind, event_service_server::EventService};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

pub(super) struct Log {
    watches: Arc<Mutex<Vec<v1::WatchEventsRequest>>>,
}

pub(super) fn service(watches: Arc<Mutex<Vec<v1::WatchEventsRequest>>>) -> Log {
    Log { watches }
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_769_864_400 + seconds,
        nanos: 0,
    })
}

fn event(id: u64, kind: EventKind) -> v1::Event {
    let time = at(i64::try_from(id).expect("a small number"));
    v1::Event {
        id,
        kind: kind.into(),
        time,
        last_time: time,
        count: 1,
        endpoint: "e-2".to_owned(),
        cluster: "default".to_owned(),
        generation: 3,
        view: Some(v1::View {
            term: 1,
            revision: 40 + id,
        }),
        ..Default::default()
    }
}

/// The events that have happened, the newest first.
pub(super) fn all() -> Vec<v1::Event> {
    let mut created = event(1, EventKind::EndpointCreated);
    created.operator = "eva@desk".to_owned();
    let mut ejected = event(2, EventKind::EndpointEjected);
    ejected.set_cause(v1::Cause::Auth);
    ejected.evidence = Some(v1::Evidence {
        proxy: "p-1".to_owned(),
        ..super::evidence()
    });
    let late = event(3, EventKind::FailuresSuppressed);
    vec![late, ejected, created]
}

/// The last of them goes on.
fn more() -> v1::Event {
    v1::Event {
        replaces: 3,
        count: 58,
        time: at(3),
        ..event(4, EventKind::FailuresSuppressed)
    }
}

#[tonic::async_trait]
impl EventService for Log {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let before: u64 = request.page_token.parse().unwrap_or(u64::MAX);
        // Two at a time, however many are asked for.
        let size = usize::try_from(request.page_size).map_or(2, |size| size.min(2));
        let mut events: Vec<_> = all()
            .into_iter()
            .filter(|event| event.id < before)
            .filter(|event| request.endpoint.is_empty() || event.endpoint == request.endpoint)
            .filter(|event| request.kinds.is_empty() || request.kinds.contains(&event.kind))
            .collect();
        let more = events.len() > size;
        events.truncate(size);
        let last = events.last().filter(|_| more);
        let next_page_token = last.map_or_else(String::new, |event| event.id.to_string());
        Ok(Response::new(v1::ListEventsResponse {
            events,
            next_page_token,
            oldest_id: 1,
        }))
    }

    type WatchEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

    /// The first stream brings nothing new and breaks, the second one goes on, behind a gap.
    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let mut watches = self.watches.lock().expect("no test has panicked");
        watches.push(request.into_inner());
        let step = |events: Vec<v1::Event>, position, gap| v1::WatchEventsResponse {
            registry_id: String::new(),
            events,
            position,
            gap,
        };
        let stream: Self::WatchEventsStream = if watches.len() == 1 {
            let steps = [
                Ok(step(Vec::new(), 3, false)),
                Err(Status::unavailable("a restart")),
            ];
            Box::pin(tokio_stream::iter(steps))
        } else {
            let steps = [Ok(step(vec![more()], 4, true))];
            Box::pin(tokio_stream::iter(steps).chain(tokio_stream::pending()))
        };
        Ok(Response::new(stream))
    }
}
