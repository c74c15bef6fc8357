//! `EventService`, and events as messages.

use std::{collections::BTreeSet, pin::Pin, time::Duration};

use qcc_proto::v1::{self, event_service_server::EventService};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::{
    Api, convert,
    error::{invalid, status, stopping},
    page, validate,
};
use crate::registry::{ClusterName, EndpointName, Event, EventKind, Events, State};

/// How often a watch says that nothing has happened.
const BOOKMARK: Duration = Duration::from_secs(5);

/// Events in one message of a watch. Each is at most a few KiB, mostly far less.
const EVENTS_PER_MESSAGE: usize = 200;

/// Which events are wanted.
#[derive(Debug, Default)]
struct Filter {
    endpoint: Option<EndpointName>,
    cluster: Option<ClusterName>,
    since_wall_ms: u64,
    /// Empty: all.
    kinds: BTreeSet<v1::EventKind>,
}

#[tonic::async_trait]
impl EventService for Api {
    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let filter = Filter::read(
            &request.endpoint,
            &request.cluster,
            request.since_time,
            request.kinds().collect(),
        )?;
        let events = self.feed.events().borrow().clone();
        let newest_first = events.entries.iter().rev();
        let wanted = newest_first.filter(|(_, event)| filter.matches(event));
        let entries = wanted.map(|(id, event)| (format!("{:020}", u64::MAX - id), event));
        let (found, next_page_token) = page::page(entries, request.page_size, &request.page_token)?;
        Ok(Response::new(v1::ListEventsResponse {
            events: found.into_iter().map(|event| message(event)).collect(),
            next_page_token,
            oldest_id: events.entries.get_min().map_or(0, |(id, _)| *id),
        }))
    }

    type WatchEventsStream =
        Pin<Box<dyn Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let request = request.into_inner();
        let filter = Filter::read(
            &request.endpoint,
            &request.cluster,
            request.since_time,
            request.kinds().collect(),
        )?;
        self.is_of_registry(&request.registry_id)?;
        let newest = self.feed.events().borrow().newest();
        let position = match request.after_id {
            Some(id) if id > newest => {
                return Err(status(
                    Code::OutOfRange,
                    format!("`after_id` has not happened: the newest event is {newest}"),
                    "FUTURE_EVENT",
                    &[],
                ));
            }
            Some(id) => id,
            None if request.since_time.is_some() => 0,
            None => newest,
        };
        // Who did not name an event cannot miss one that is gone.
        let asked = request.after_id.is_some();
        Ok(Response::new(Box::pin(watch(
            self.clone(),
            filter,
            position,
            asked,
        ))))
    }
}

/// Yields what happened after `position`, then everything new. `strict` says that what is
/// missing right after `position` is a gap.
fn watch(
    api: Api,
    filter: Filter,
    mut position: u64,
    mut strict: bool,
) -> impl Stream<Item = Result<v1::WatchEventsResponse, Status>> + Send {
    let (messages, stream) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut newest = api.feed.events();
        let registry_id = api.feed.snapshot().registry_id.clone();
        loop {
            let events = newest.borrow_and_update().clone();
            loop {
                let step = step(&events, &filter, &mut position, strict);
                let message = v1::WatchEventsResponse {
                    registry_id: registry_id.to_string(),
                    ..step
                };
                strict = true;
                if messages.send(Ok(message)).await.is_err() {
                    return;
                }
                if position >= events.newest() {
                    break;
                }
            }
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(BOOKMARK) => {}
                () = messages.closed() => return,
                () = api.stop.cancelled() => {
                    let _ = messages.send(Err(stopping())).await;
                    return;
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(stream)
}

/// Returns what the next message of a watch has to say, and moves its position: to the newest
/// event if there is no more.
fn step(
    events: &Events,
    filter: &Filter,
    position: &mut u64,
    strict: bool,
) -> v1::WatchEventsResponse {
    let gap = strict && events.dropped > *position;
    let after = position.saturating_add(1);
    let new = events.entries.range(after..).map(|(_, event)| event);
    let new = new.filter(|event| filter.matches(event));
    let new: Vec<_> = new.take(EVENTS_PER_MESSAGE).collect();
    *position = match new.last() {
        Some(last) if new.len() == EVENTS_PER_MESSAGE => last.id,
        _ => events.newest().max(*position),
    };
    v1::WatchEventsResponse {
        events: new.into_iter().map(|event| message(event)).collect(),
        position: *position,
        gap,
        ..Default::default()
    }
}

impl Filter {
    fn read(
        endpoint: &str,
        cluster: &str,
        since: Option<prost_types::Timestamp>,
        kinds: BTreeSet<v1::EventKind>,
    ) -> Result<Self, Status> {
        if kinds.contains(&v1::EventKind::Unspecified) {
            return Err(invalid("kinds", "must hold known kinds only"));
        }
        let endpoint = (!endpoint.is_empty())
            .then(|| validate::endpoint_name("endpoint", endpoint))
            .transpose()?;
        let since_wall_ms = match since {
            Some(since) => {
                let seconds = u64::try_from(since.seconds)
                    .map_err(|_| invalid("since_time", "must not be before 1970"))?;
                let ms = u64::try_from(since.nanos).unwrap_or_default() / 1_000_000;
                seconds.saturating_mul(1000).saturating_add(ms)
            }
            None => 0,
        };
        Ok(Self {
            endpoint,
            cluster: validate::cluster_filter(cluster)?,
            since_wall_ms,
            kinds,
        })
    }

    fn matches(&self, event: &Event) -> bool {
        let endpoint = self.endpoint.as_ref();
        let cluster = self.cluster.as_ref();
        endpoint.is_none_or(|name| event.concerns(name))
            && cluster.is_none_or(|cluster| event.cluster.as_ref() == Some(cluster))
            && event.last.wall_ms >= self.since_wall_ms
            && (self.kinds.is_empty() || self.kinds.contains(&kind(event.kind)))
    }
}

/// Converts an event.
pub(super) fn message(event: &Event) -> v1::Event {
    let state = |state: Option<State>| state.map_or(v1::HealthState::Unspecified, convert::state);
    let operator = event.operator.as_deref();
    let group = event.group.as_deref();
    v1::Event {
        id: event.id,
        kind: kind(event.kind).into(),
        time: Some(convert::moment(event.time)),
        view: Some(convert::view(event.view)),
        endpoint: event
            .endpoint
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        cluster: event
            .cluster
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        generation: event.generation.0,
        from_state: state(event.from).into(),
        to_state: state(event.to).into(),
        cause: event
            .cause
            .map_or(v1::Cause::Unspecified, convert::cause)
            .into(),
        evidence: event.evidence.as_deref().map(convert::evidence),
        until_time: event.until_wall_ms.map(convert::timestamp),
        operator: operator.map_or_else(String::new, |operator| operator.name.clone()),
        reason: operator.map_or_else(String::new, |operator| operator.reason.clone()),
        count: event.count,
        last_time: Some(convert::moment(event.last)),
        replaces: event.replaces,
        provider: group.map_or_else(String::new, |group| group.provider.clone()),
        endpoints: group.map_or_else(Vec::new, |group| {
            group.endpoints.iter().map(ToString::to_string).collect()
        }),
        endpoint_count: group.map_or(u32::from(event.endpoint.is_some()), |group| {
            group.endpoint_count
        }),
        fields: event.fields.clone(),
        admin_state: event
            .admin_state
            .map_or(v1::AdminState::Unspecified, convert::admin_state)
            .into(),
    }
}

fn kind(kind: EventKind) -> v1::EventKind {
    match kind {
        EventKind::ControlStarted => v1::EventKind::ControlStarted,
        EventKind::EndpointEjected => v1::EventKind::EndpointEjected,
        EventKind::EndpointPaused => v1::EventKind::EndpointPaused,
        EventKind::EndpointHealthy => v1::EventKind::EndpointHealthy,
        EventKind::EndpointRecovered => v1::EventKind::EndpointRecovered,
        EventKind::CauseChanged => v1::EventKind::CauseChanged,
        EventKind::EndpointStartedAnew => v1::EventKind::EndpointStartedAnew,
        EventKind::EndpointDoubted => v1::EventKind::EndpointDoubted,
        EventKind::FailuresSuppressed => v1::EventKind::FailuresSuppressed,
        EventKind::ReportsStale => v1::EventKind::ReportsStale,
        EventKind::ProviderBusy => v1::EventKind::ProviderBusy,
        EventKind::CheckRefused => v1::EventKind::CheckRefused,
        EventKind::NewCredentialRejected => v1::EventKind::NewCredentialRejected,
        EventKind::EndpointCreated => v1::EventKind::EndpointCreated,
        EventKind::EndpointUpdated => v1::EventKind::EndpointUpdated,
        EventKind::EndpointDeleted => v1::EventKind::EndpointDeleted,
        EventKind::ClusterCreated => v1::EventKind::ClusterCreated,
        EventKind::ClusterUpdated => v1::EventKind::ClusterUpdated,
        EventKind::ClusterDeleted => v1::EventKind::ClusterDeleted,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::{Moment, View};

    fn events(ids: impl IntoIterator<Item = u64>, dropped: u64) -> Events {
        let event = |id| {
            let event = Event::new(
                EventKind::ControlStarted,
                Moment::default(),
                View::default(),
            );
            (id, Arc::new(Event { id, ..event }))
        };
        Events {
            entries: ids.into_iter().map(event).collect(),
            dropped,
        }
    }

    fn ids(message: &v1::WatchEventsResponse) -> Vec<u64> {
        message.events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn a_watch_goes_on_where_it_stood_and_says_what_is_gone() {
        let events = events([4, 6, 7], 3);
        let (filter, mut position) = (Filter::default(), 4);
        let message = step(&events, &filter, &mut position, true);
        assert_eq!((ids(&message), position), (vec![6, 7], 7));
        assert!(!message.gap, "5 was replaced, not dropped");
        let message = step(&events, &filter, &mut position, true);
        assert_eq!((ids(&message), message.position), (vec![], 7));

        let mut position = 1;
        let message = step(&events, &filter, &mut position, true);
        assert!(message.gap, "2 and 3 were dropped");
        assert_eq!(ids(&message), [4, 6, 7]);
    }

    #[test]
    fn a_long_history_comes_in_parts() {
        let events = events(1..=450, 0);
        let mut position = 0;
        for (first, last) in [(1, 200), (201, 400), (401, 450)] {
            let message = step(&events, &Filter::default(), &mut position, false);
            assert_eq!((message.position, position), (last, last));
            assert_eq!(ids(&message), (first..=last).collect::<Vec<_>>());
        }
    }
}
