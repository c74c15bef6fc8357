//! The rules of the core, with time by hand.

mod last_resort;
mod marks;
mod properties;
mod races;
mod selection;
mod sessions;
mod strategies;
mod suspicion;
mod table;
mod unproven;
mod views;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use qcc_proto::v1::{AdminState, OutcomeClass, View};

use super::{
    Attempt, Endpoint, Health, Judged, Next, Outcome, Policy, Routed, Router, Routing, Suspicion,
    Symptom, Unavailable, Update,
};
use crate::reports::{Outbox, Report};

/// A router whose clock and views are made by hand.
struct Testbed {
    router: Router,
    outbox: Arc<Outbox>,
    policy: Policy,
    endpoints: Vec<Routed>,
    view: View,
    now: Instant,
}

impl Testbed {
    fn new(endpoints: impl IntoIterator<Item = Routed>) -> Self {
        let outbox = Arc::new(Outbox::new(1000));
        let mut testbed = Self {
            router: Router::new(7, Arc::clone(&outbox)),
            outbox,
            policy: Policy::default(),
            endpoints: endpoints.into_iter().collect(),
            view: View {
                term: 1,
                revision: 0,
            },
            now: Instant::now(),
        };
        testbed.publish();
        testbed
    }

    /// Publishes the endpoints as they are now, as the next view.
    fn publish(&mut self) {
        self.view.revision += 1;
        self.publish_as(false);
    }

    fn publish_as(&mut self, reset: bool) {
        let policy = Arc::new(self.policy.clone());
        let endpoints = self.endpoints.iter().cloned().map(Arc::new);
        self.router
            .publish(Update::whole(self.view, policy, endpoints, reset));
    }

    /// Changes an endpoint, and publishes it.
    fn change(&mut self, name: &str, change: impl FnOnce(&mut Routed)) {
        let found = self
            .endpoints
            .iter_mut()
            .find(|e| &*e.endpoint.name == name);
        change(found.unwrap());
        self.publish();
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn begin(&self) -> Routing {
        self.router.begin().unwrap()
    }

    /// What a new client request is told to do.
    fn next(&self) -> Next {
        self.begin().next(self.now)
    }

    /// An attempt of a new client request.
    fn attempt(&self) -> Attempt {
        attempt(self.next())
    }

    /// The endpoint that a new client request would get; the attempt is cancelled.
    fn choice(&self) -> Option<String> {
        match self.next() {
            Next::Attempt(attempt) => Some(name(&attempt)),
            Next::Wait { .. } | Next::Exhausted | Next::Unavailable(_) => None,
        }
    }

    fn finish(&self, attempt: Attempt, class: OutcomeClass) {
        attempt.finish(Outcome::of(class), self.now);
    }

    fn throttle(&self, attempt: Attempt, class: OutcomeClass, retry_after: f64) {
        let outcome = Outcome {
            retry_after: Some(Duration::from_secs_f64(retry_after)),
            ..Outcome::of(class)
        };
        attempt.finish(outcome, self.now);
    }

    /// Why an endpoint is not selectable; empty if it is.
    fn reason(&self, name: &str) -> String {
        let table = self.router.table().unwrap();
        let entry = table.find(name).unwrap();
        match entry.selectable(table.policy(), self.now) {
            Ok(()) => String::new(),
            Err(reason) => reason.to_string(),
        }
    }

    fn reports(&self) -> Vec<Report> {
        let mut buffer = self.outbox.buffer();
        buffer
            .next_batch()
            .map(|batch| batch.reports.clone())
            .unwrap_or_default()
    }
}

/// A healthy, proven endpoint of generation 1.
fn endpoint(name: &str) -> Routed {
    Routed {
        endpoint: Arc::new(Endpoint {
            name: name.into(),
            base_url: Uri::from_static("http://127.0.0.1:1"),
            credential: None,
            first_byte_timeout: Duration::from_secs(30),
            generation: 1,
        }),
        admin: AdminState::Enabled,
        health: Health::Healthy,
        failures: 0,
        failures_max: 3,
        proven: true,
        priority: 1,
        weight: 100,
        since: None,
        summary: None,
    }
}

/// The same, but of lower preference.
fn spare(name: &str) -> Routed {
    Routed {
        priority: 2,
        ..endpoint(name)
    }
}

/// An endpoint that nobody has used yet.
fn unproven(name: &str) -> Routed {
    Routed {
        health: Health::Unknown,
        proven: false,
        ..endpoint(name)
    }
}

/// Starts a new generation.
fn renew(routed: &mut Routed) {
    let mut endpoint = Endpoint::clone(&routed.endpoint);
    endpoint.generation += 1;
    routed.endpoint = Arc::new(endpoint);
}

fn attempt(next: Next) -> Attempt {
    match next {
        Next::Attempt(attempt) => attempt,
        other => panic!("no attempt but {other:?}"),
    }
}

fn name(attempt: &Attempt) -> String {
    attempt.endpoint().name.to_string()
}
