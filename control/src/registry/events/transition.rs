//! Events from what differs in an endpoint.

use super::{
    super::{
        Cause, Endpoint, EndpointName, Generation, Health, Moment, Operator, Registry, State,
        endpoint::Turn,
    },
    Event, EventKind, Fold, Group,
};

/// The label whose value names an endpoint's provider.
const PROVIDER: &str = "provider";

/// What an endpoint was before a change.
#[derive(Debug, Clone, Copy)]
pub(in crate::registry) struct Before {
    generation: Generation,
    state: State,
    cause: Option<Cause>,
    doubts: usize,
}

impl Before {
    pub(in crate::registry) fn of(endpoint: &Endpoint) -> Self {
        Self {
            generation: endpoint.generation,
            state: endpoint.health.state(),
            cause: endpoint.health.cause(),
            doubts: endpoint.doubts.len(),
        }
    }

    /// Whether an endpoint has moved to another state or generation.
    pub(in crate::registry) fn has_moved(&self, endpoint: &Endpoint) -> bool {
        (self.generation, self.state) != (endpoint.generation, endpoint.health.state())
    }

    /// Returns what a change came to; `None` if there is nothing to tell.
    pub(in crate::registry) fn event(
        &self,
        endpoint: &Endpoint,
        operator: Option<&Operator>,
        turn: Turn,
    ) -> Option<Event> {
        let state = endpoint.health.state();
        let cause = endpoint.health.cause();
        let kind = if endpoint.generation != self.generation {
            match (self.state, state) {
                (State::Unhealthy, State::Healthy) => EventKind::EndpointRecovered,
                (_, State::Healthy) => EventKind::EndpointHealthy,
                (_, State::Unknown | State::Degraded | State::Unhealthy) => {
                    EventKind::EndpointStartedAnew
                }
            }
        } else if state != self.state {
            match state {
                State::Unhealthy => EventKind::EndpointEjected,
                State::Degraded => EventKind::EndpointPaused,
                State::Healthy => EventKind::EndpointHealthy,
                State::Unknown => EventKind::EndpointStartedAnew,
            }
        } else if cause != self.cause {
            EventKind::CauseChanged
        } else if endpoint.doubts.len() > self.doubts {
            EventKind::EndpointDoubted
        } else {
            return None;
        };
        let evidence = match kind {
            EventKind::EndpointDoubted => endpoint.doubts.last(),
            _ => endpoint.mark.evidence.as_deref(),
        };
        let until = match endpoint.health {
            Health::Degraded { until, .. } => Some(until),
            Health::Unknown { .. } | Health::Healthy { .. } | Health::Unhealthy(_) => None,
        };
        let until_wall_ms = until.map(|until| {
            let wait = until.since(turn.now.clock).as_millis();
            let wait = u64::try_from(wait).unwrap_or(u64::MAX);
            turn.now.wall_ms.saturating_add(wait)
        });
        Some(Event {
            from: Some(self.state),
            to: Some(state),
            cause,
            evidence: evidence.cloned().map(Box::new),
            until_wall_ms,
            operator: operator.cloned().map(Box::new),
            ..about(kind, endpoint, turn)
        })
    }
}

/// Returns an event about an endpoint.
pub(in crate::registry) fn about(kind: EventKind, endpoint: &Endpoint, turn: Turn) -> Event {
    Event {
        endpoint: Some(endpoint.spec.name.clone()),
        cluster: Some(endpoint.spec.cluster.clone()),
        generation: endpoint.generation,
        ..Event::new(kind, turn.now, turn.view)
    }
}

impl Registry {
    /// Logs a transition. Overloads of one provider are one event, however many of its
    /// endpoints say so.
    pub(in crate::registry) fn log_transition(&mut self, event: Event) {
        let provider = match (event.kind, event.cause, &event.endpoint) {
            (EventKind::EndpointPaused, Some(Cause::Overloaded), Some(name)) => self
                .endpoints
                .get(name)
                .and_then(|endpoint| endpoint.spec.labels.get(PROVIDER))
                .filter(|provider| !provider.is_empty())
                .map(|provider| (provider.clone(), name.clone())),
            _ => None,
        };
        let Some((provider, name)) = provider else {
            self.events.append(event);
            return;
        };
        let (now, until) = (event.time, event.until_wall_ms);
        let first = || {
            let mut group = Group {
                provider: provider.clone(),
                ..Group::default()
            };
            group.add(&name);
            Event {
                kind: EventKind::ProviderBusy,
                endpoint: None,
                generation: Generation::default(),
                group: Some(Box::new(group)),
                ..event
            }
        };
        let fold = Fold::Provider(provider.clone());
        self.events.fold(fold, now, first, |busy| {
            busy.count += 1;
            busy.until_wall_ms = busy.until_wall_ms.max(until);
            if let Some(group) = &mut busy.group {
                group.add(&name);
            }
        });
    }

    /// Logs occurrences of one kind at one endpoint, as one event.
    pub(in crate::registry) fn log_repeated(
        &mut self,
        kind: EventKind,
        name: &EndpointName,
        count: u64,
        turn: Turn,
        details: impl FnOnce(&Endpoint, &mut Event),
    ) {
        let Some(endpoint) = self.endpoints.get(name) else {
            return;
        };
        let fold = match kind {
            EventKind::FailuresSuppressed => Fold::Suppressed(name.clone()),
            EventKind::CheckRefused => Fold::Refused(name.clone()),
            EventKind::NewCredentialRejected => Fold::NewCredential(name.clone()),
            _ => Fold::Stale(name.clone()),
        };
        let now: Moment = turn.now;
        let first = || {
            let mut event = Event {
                count,
                ..about(kind, endpoint, turn)
            };
            details(endpoint, &mut event);
            event
        };
        self.events
            .fold(fold, now, first, |event| event.count += count);
    }
}
