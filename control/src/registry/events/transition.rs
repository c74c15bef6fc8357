//! Events from what differs in an endpoint.
//!
//! That something has happened is noted as it does, together with the endpoint as it is
//! then; the event is made of it, and logged, when nobody waits for the turn any more.

use std::sync::Arc;

use super::{
    super::{
        Cause, Endpoint, EndpointName, Generation, Health, Moment, Operator, Policy, Registry,
        State, Witness, endpoint::Turn,
    },
    Event, EventKind, EventLog, Fold, Group,
};
use crate::seeded::{Bug, seeded};

/// The label whose value names an endpoint's provider.
const PROVIDER: &str = "provider";

/// What an endpoint was before a change.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Before {
    generation: Generation,
    state: State,
    cause: Option<Cause>,
    /// Whose doubts still stood.
    doubters: Vec<Witness>,
}

/// What has happened to an endpoint and is not in the log yet.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Unlogged {
    kind: EventKind,
    before: Before,
    after: Arc<Endpoint>,
    /// Who did it, if somebody did.
    operator: Option<Operator>,
    turn: Turn,
}

/// What a change came to.
struct Transition {
    event: Event,
    /// What the endpoint was paused for, if no more than that pause began or ended.
    pause: Option<Cause>,
}

impl Before {
    pub(in crate::registry) fn of(endpoint: &Endpoint, policy: &Policy, turn: Turn) -> Self {
        let standing = endpoint.doubts.iter().filter(|doubt| {
            turn.now.clock.since(doubt.observed.clock) <= policy.corroboration_window
        });
        Self {
            generation: endpoint.generation,
            state: endpoint.health.state(),
            cause: endpoint.health.cause(),
            doubters: standing.map(|doubt| doubt.witness.clone()).collect(),
        }
    }

    /// Whether an endpoint has moved to another state or generation.
    pub(in crate::registry) fn has_moved(&self, endpoint: &Endpoint) -> bool {
        (self.generation, self.state) != (endpoint.generation, endpoint.health.state())
    }

    /// Returns what a change came to, for the log; `None` if there is nothing to tell.
    pub(in crate::registry) fn unlogged(
        self,
        endpoint: &Arc<Endpoint>,
        operator: Option<&Operator>,
        turn: Turn,
    ) -> Option<Unlogged> {
        Some(Unlogged {
            kind: self.kind(endpoint)?,
            before: self,
            after: Arc::clone(endpoint),
            operator: operator.cloned(),
            turn,
        })
    }

    fn kind(&self, endpoint: &Endpoint) -> Option<EventKind> {
        let state = endpoint.health.state();
        Some(if endpoint.generation != self.generation {
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
        } else if endpoint.health.cause() != self.cause {
            EventKind::CauseChanged
        } else if let Some(newest) = endpoint.doubts.last()
            && !self.doubters.contains(&newest.witness)
        {
            EventKind::EndpointDoubted
        } else {
            return None;
        })
    }
}

impl Unlogged {
    fn transition(self) -> Transition {
        let Self {
            kind,
            before,
            after: endpoint,
            operator,
            turn,
        } = self;
        let state = endpoint.health.state();
        let cause = endpoint.health.cause();
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
        let pause = match (before.state, state) {
            _ if endpoint.generation != before.generation || operator.is_some() => None,
            (State::Healthy | State::Unknown, State::Degraded) => cause,
            (State::Degraded, State::Healthy) => before.cause,
            _ => None,
        };
        let event = Event {
            from: Some(before.state),
            to: Some(state),
            cause,
            evidence: evidence.cloned().map(Box::new),
            until_wall_ms,
            operator: operator.map(Box::new),
            ..about(kind, &endpoint, turn)
        };
        Transition { event, pause }
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

/// Makes the first event at an endpoint of a provider that is busy, or not any more, one
/// that can be about several.
fn of_provider(event: Event, provider: String, name: &EndpointName, begins: bool) -> Event {
    let mut group = Group {
        provider,
        ..Group::default()
    };
    group.add(name);
    let event = Event {
        group: Some(Box::new(group)),
        ..event
    };
    if begins {
        Event {
            kind: EventKind::ProviderBusy,
            endpoint: None,
            generation: Generation::default(),
            ..event
        }
    } else {
        event
    }
}

impl Registry {
    /// Returns the log, with all in it that has happened.
    pub(in crate::registry) fn log(&mut self) -> &mut EventLog {
        for unlogged in std::mem::take(&mut self.unlogged) {
            self.log_transition(unlogged);
        }
        &mut self.events
    }

    /// Logs a transition. Overloads of one provider are one event, however many of its
    /// endpoints say so, and so are their ends. An endpoint that is paused again and
    /// again is told once and then counted.
    fn log_transition(&mut self, unlogged: Unlogged) {
        let endpoint = Arc::clone(&unlogged.after);
        let Transition { event, pause } = unlogged.transition();
        let (Some(cause), Some(name)) = (pause, event.endpoint.clone()) else {
            let is_ejection = event.kind == EventKind::EndpointEjected;
            if is_ejection && seeded(Bug::EventForgotten) {
                return;
            }
            if is_ejection && seeded(Bug::EventTwice) {
                self.events.append(event.clone());
            }
            self.events.append(event);
            return;
        };
        let provider = endpoint.spec.labels.get(PROVIDER);
        let provider = provider
            .filter(|provider| cause == Cause::Overloaded && !provider.is_empty())
            .cloned();
        let begins = event.kind == EventKind::EndpointPaused;
        let (now, until, generation) = (event.time, event.until_wall_ms, event.generation);
        let fold = match (provider.clone(), event.cluster.clone()) {
            (Some(provider), Some(cluster)) if begins => Fold::ProviderBusy(cluster, provider),
            (Some(provider), Some(cluster)) => Fold::ProviderWell(cluster, provider),
            _ if begins => Fold::Paused(name.clone(), generation, cause),
            _ => Fold::Healthy(name.clone(), generation),
        };
        let first = || match provider {
            Some(provider) => of_provider(event, provider, &name, begins),
            None => event,
        };
        self.events.fold(fold, now, first, |known| {
            known.count += 1;
            known.until_wall_ms = known.until_wall_ms.max(until);
            if let Some(group) = &mut known.group {
                group.add(&name);
            }
            if known.group.is_some() && known.endpoint.as_ref() != Some(&name) {
                // It is about more than the one that was first.
                known.endpoint = None;
                known.generation = Generation::default();
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
        let Some(endpoint) = self.endpoints.get(name).cloned() else {
            return;
        };
        let endpoint = endpoint.as_ref();
        let generation = endpoint.generation;
        let fold = match kind {
            EventKind::FailuresSuppressed => Fold::Suppressed(name.clone(), generation),
            EventKind::CheckRefused => Fold::Refused(name.clone(), generation),
            EventKind::NewCredentialRejected => Fold::NewCredential(name.clone(), generation),
            _ => Fold::Stale(name.clone(), generation),
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
        self.log()
            .fold(fold, now, first, |event| event.count += count);
    }

    /// Logs what was counted and not yet told: nobody will do it later.
    pub fn finish_counting(&mut self) {
        self.log().flush();
    }
}
