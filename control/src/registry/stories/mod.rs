//! The rules, one story each, with time made by hand.

mod checks;
mod doubts;
mod evidence;
mod history;
mod operators;
mod pauses;
mod rotation;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    properties::{saved, seed},
    *,
};

/// A registry with endpoints in the default cluster, and whoever talks to it.
struct Story {
    registry: Registry,
    now: Moment,
    sent: BTreeMap<&'static str, u64>,
    orders: Vec<CheckOrder>,
}

/// An attempt under way: what was chosen, and under which view.
#[derive(Clone, Copy)]
struct Chosen {
    name: &'static str,
    generation: Generation,
    view: View,
}

impl Story {
    fn new(endpoints: &[&'static str], proxies: &[&'static str]) -> Self {
        let now = Moment {
            clock: Clock(1_000),
            wall_ms: 0,
        };
        let registry = Registry::new(1, Saved::default(), seed(), now);
        let mut story = Self {
            registry,
            now,
            sent: BTreeMap::new(),
            orders: Vec::new(),
        };
        for proxy in proxies {
            story.registry.connect(&key(proxy), now);
        }
        for name in endpoints {
            story
                .mutate(Mutation::CreateEndpoint(spec(name)))
                .expect("the name is free");
        }
        story
    }

    /// All endpoints have passed their first check.
    fn healthy(endpoints: &[&'static str], proxies: &[&'static str]) -> Self {
        let mut story = Self::new(endpoints, proxies);
        for order in std::mem::take(&mut story.orders) {
            story.answer(&order, true, OutcomeClass::Success);
        }
        story
    }

    fn mutate(&mut self, mutation: Mutation) -> Result<Answer, Error> {
        let answer = self.registry.mutate(mutation, None, self.now);
        self.settle();
        answer
    }

    fn settle(&mut self) {
        self.registry.advance(self.now);
        for effect in self.registry.settle().effects {
            if let Effect::Check(order) = effect {
                self.orders.push(*order);
            }
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now.clock = self.now.clock.after(span);
        self.settle();
    }

    fn choose(&self, name: &'static str) -> Chosen {
        Chosen {
            name,
            generation: self.endpoint(name).generation,
            view: self.registry.view(),
        }
    }

    fn report(&mut self, proxy: &'static str, chosen: Chosen, facts: Facts) {
        let sequence = self.sent.entry(proxy).or_default();
        *sequence += 1;
        let outcome = Outcome {
            endpoint: chosen.name.into(),
            generation: chosen.generation,
            view: chosen.view,
            count: 1,
            facts,
            age: Duration::ZERO,
        };
        let batch = ReportBatch {
            first_sequence: *sequence,
            dropped: 0,
            registry_id: None,
            outcomes: vec![outcome],
        };
        self.registry.report(&key(proxy), batch, self.now);
        self.settle();
    }

    /// A proxy chooses, and reports at once.
    fn see(&mut self, proxy: &'static str, name: &'static str, class: OutcomeClass) {
        let chosen = self.choose(name);
        self.report(proxy, chosen, Facts::of(class));
    }

    fn answer(&mut self, order: &CheckOrder, passed: bool, class: OutcomeClass) {
        let verdict = Verdict {
            passed,
            facts: Facts::of(class),
        };
        self.registry
            .conclude(&order.endpoint, order.id, verdict, self.now);
        self.settle();
    }

    /// Waits for the next check and takes its order.
    fn next_check(&mut self) -> CheckOrder {
        for _ in 0..1000 {
            if let Some(order) = self.orders.pop() {
                return order;
            }
            self.wait(Duration::from_secs(1));
        }
        panic!("no check in a thousand seconds");
    }

    fn endpoint(&self, name: &str) -> &Arc<Endpoint> {
        self.registry.endpoints.get(name).expect("it exists")
    }

    fn cause(&self, name: &str) -> Option<Cause> {
        self.endpoint(name).health.cause()
    }

    fn is_healthy(&self, name: &str) -> bool {
        matches!(self.endpoint(name).health, Health::Healthy { .. })
    }

    fn totals(&self) -> QueueTotals {
        self.registry.meta.totals
    }
}

fn key(proxy: &str) -> ProxyKey {
    ProxyKey {
        id: ProxyId::new(proxy),
        incarnation: "1".into(),
    }
}

fn spec(name: &str) -> Spec {
    Spec {
        name: name.try_into().expect("a valid name"),
        cluster: ClusterName::default_cluster(),
        base_url: "https://api.example".into(),
        api_key: Some(ApiKey::new("key".into())),
        priority: 1,
        weight: 100,
        max_failures: None,
        timeout: None,
        admin_state: AdminState::Enabled,
        check: None,
        labels: BTreeMap::new(),
        allow_plaintext: false,
    }
}

fn name(text: &str) -> EndpointName {
    text.try_into().expect("a valid name")
}
