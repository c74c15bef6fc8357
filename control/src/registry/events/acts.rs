//! Events from what operators do.

use std::collections::BTreeSet;

use super::{
    super::{
        Action, Change, ClusterName, EndpointName, Moment, Registry, Resource, State, View,
        endpoint::Turn,
    },
    Event, EventKind, Group,
    transition::about,
};

/// A declaration that changes more of one kind than this is told in one event for each
/// kind: a large import must not push everything else out of the log.
const TOLD_ONE_BY_ONE_MAX: usize = 20;

impl Registry {
    /// Logs what an operator did to an endpoint, which was in the state `was`.
    pub(in crate::registry) fn log_endpoint_act(
        &mut self,
        kind: EventKind,
        name: &EndpointName,
        was: Option<State>,
        fields: &[&str],
        turn: Turn,
    ) {
        let Some(endpoint) = self.endpoints.get(name) else {
            return;
        };
        let admin_state = fields
            .contains(&"admin_state")
            .then_some(endpoint.spec.admin_state);
        let event = Event {
            from: was,
            to: (kind != EventKind::EndpointDeleted).then(|| endpoint.health.state()),
            fields: fields.iter().map(|field| (*field).into()).collect(),
            admin_state,
            ..about(kind, endpoint, turn)
        };
        self.log_act(event);
    }

    /// Logs what an operator did to a cluster.
    pub(in crate::registry) fn log_cluster_act(
        &mut self,
        kind: EventKind,
        name: &ClusterName,
        turn: Turn,
    ) {
        let mut event = Event::new(kind, turn.now, turn.view);
        event.cluster = Some(name.clone());
        if kind == EventKind::ClusterUpdated {
            // There is nothing else in a cluster that could have changed.
            event.fields = vec!["policy".into()];
        }
        self.log_act(event);
    }

    /// Logs an act of the operator whose mutation is being applied.
    fn log_act(&mut self, event: Event) {
        let operator = self.acting.clone().map(Box::new);
        self.log().append(Event { operator, ..event });
    }

    /// Logs what a declaration changed since `before`.
    pub(in crate::registry) fn log_changes(
        &mut self,
        changes: &[Change],
        before: &Self,
        turn: Turn,
    ) {
        for (kind, of_kind) in by_kind(changes) {
            if of_kind.len() <= TOLD_ONE_BY_ONE_MAX {
                for change in of_kind {
                    self.log_change(kind, change, before, turn);
                }
                continue;
            }
            let mut group = Group::default();
            let mut clusters = BTreeSet::new();
            for change in &of_kind {
                if let Resource::Endpoint(name) = &change.resource {
                    group.add(name);
                    let endpoint = self.endpoints.get(name).or(before.endpoints.get(name));
                    clusters.extend(endpoint.map(|endpoint| endpoint.spec.cluster.clone()));
                }
            }
            let mut event = Event::new(kind, turn.now, turn.view);
            event.count = of_kind.len() as u64;
            event.group = Some(Box::new(group));
            event.cluster = clusters.pop_first().filter(|_| clusters.is_empty());
            self.log_act(event);
        }
    }

    fn log_change(&mut self, kind: EventKind, change: &Change, before: &Self, turn: Turn) {
        let mut event = Event::new(kind, turn.now, turn.view);
        event.fields = change.fields.clone();
        match &change.resource {
            Resource::Cluster(name) => event.cluster = Some(name.clone()),
            Resource::Endpoint(name) => {
                event.endpoint = Some(name.clone());
                let (was, is) = (before.endpoints.get(name), self.endpoints.get(name));
                event.from = was.map(|endpoint| endpoint.health.state());
                event.to = is.map(|endpoint| endpoint.health.state());
                if let Some(endpoint) = is.or(was) {
                    event.cluster = Some(endpoint.spec.cluster.clone());
                    event.generation = endpoint.generation;
                    if change.fields.iter().any(|field| field == "admin_state") {
                        event.admin_state = Some(endpoint.spec.admin_state);
                    }
                }
            }
        }
        self.log_act(event);
    }

    /// Logs that a new life of the control plane has begun.
    pub(in crate::registry) fn log_start(&mut self, now: Moment, view: View) {
        let event = Event::new(EventKind::ControlStarted, now, view);
        self.log().append(event);
    }
}

fn by_kind(changes: &[Change]) -> Vec<(EventKind, Vec<&Change>)> {
    let mut kinds: Vec<(EventKind, Vec<&Change>)> = Vec::new();
    for change in changes {
        let kind = match (&change.resource, change.action) {
            (_, Action::Unchanged) => continue,
            (Resource::Cluster(_), Action::Created) => EventKind::ClusterCreated,
            (Resource::Cluster(_), Action::Updated) => EventKind::ClusterUpdated,
            (Resource::Cluster(_), Action::Deleted) => EventKind::ClusterDeleted,
            (Resource::Endpoint(_), Action::Created) => EventKind::EndpointCreated,
            (Resource::Endpoint(_), Action::Updated) => EventKind::EndpointUpdated,
            (Resource::Endpoint(_), Action::Deleted) => EventKind::EndpointDeleted,
        };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, of_kind)) => of_kind.push(change),
            None => kinds.push((kind, vec![change])),
        }
    }
    kinds
}
