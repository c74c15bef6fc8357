//! Proxies, operators and a control plane, moved on step by step.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::super::*;

pub(super) const ENDPOINTS: [&str; 2] = ["a", "b"];
pub(super) const PROXIES: [&str; 3] = ["p", "q", "r"];

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A proxy takes the newest view.
    Sync { proxy: usize },
    /// A proxy chooses an endpoint under the view it holds.
    Begin { proxy: usize, endpoint: usize },
    /// An attempt ends.
    Finish {
        attempt: usize,
        class: OutcomeClass,
        retry_after: Option<u64>,
    },
    /// A proxy sends what is not acknowledged; the answer may be lost.
    Send { proxy: usize, answer_lost: bool },
    /// A check is answered.
    Answer {
        check: usize,
        passed: bool,
        class: OutcomeClass,
    },
    /// An operator acts.
    Operate { endpoint: usize, act: Act },
    /// Time passes.
    Wait { millis: u64 },
    /// The control plane is killed and starts again from what it stored.
    Restart,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Enable,
    Disable,
    Drain,
    Eject,
    Restore,
    RemoveFailure,
    Verify,
    RotateKey,
    DeleteAndCreate,
}

#[derive(Debug, Clone)]
struct Attempt {
    proxy: usize,
    endpoint: &'static str,
    generation: Generation,
    view: View,
}

struct Proxy {
    key: ProxyKey,
    held: Option<Snapshot>,
    acknowledged: u64,
    pending: Vec<Outcome>,
}

pub(super) struct World {
    pub(super) registry: Registry,
    pub(super) now: Moment,
    proxies: Vec<Proxy>,
    attempts: Vec<Attempt>,
    pub(super) orders: Vec<CheckOrder>,
    pub(super) incidents: u64,
    keys: u32,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Moment {
            clock: Clock(1_000),
            wall_ms: 0,
        };
        let registry = Registry::new(1, Saved::default(), seed(), now);
        let proxies = PROXIES
            .iter()
            .map(|id| Proxy {
                key: ProxyKey {
                    id: ProxyId::new(id),
                    incarnation: "1".into(),
                },
                held: None,
                acknowledged: 0,
                pending: Vec::new(),
            })
            .collect();
        let mut world = Self {
            registry,
            now,
            proxies,
            attempts: Vec::new(),
            orders: Vec::new(),
            incidents: 0,
            keys: 0,
        };
        for index in 0..world.proxies.len() {
            let key = world.proxies[index].key.clone();
            world.registry.connect(&key, now);
        }
        for name in ENDPOINTS {
            let spec = world.spec(name);
            world
                .registry
                .mutate(Mutation::CreateEndpoint(spec), None, now)
                .expect("the name is free");
        }
        world.settle();
        world
    }

    fn spec(&mut self, name: &str) -> Spec {
        self.keys += 1;
        Spec {
            name: name.try_into().expect("a valid name"),
            cluster: ClusterName::default_cluster(),
            base_url: "https://api.example".into(),
            api_key: Some(ApiKey::new(format!("key-{}", self.keys))),
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

    pub(super) fn endpoint(&self, name: &str) -> Arc<Endpoint> {
        self.registry
            .endpoints
            .get(name)
            .expect("it always exists")
            .clone()
    }

    pub(super) fn settle(&mut self) {
        let settlement = self.registry.settle();
        for effect in settlement.effects {
            if let Effect::Check(order) = effect {
                self.orders.push(*order);
            }
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Sync { proxy } => self.proxies[proxy].held = Some(self.registry.snapshot()),
            Step::Begin { proxy, endpoint } => {
                let Some(held) = &self.proxies[proxy].held else {
                    return;
                };
                let Some(seen) = held.endpoints.get(ENDPOINTS[endpoint]) else {
                    return;
                };
                self.attempts.push(Attempt {
                    proxy,
                    endpoint: ENDPOINTS[endpoint],
                    generation: seen.generation,
                    view: held.view,
                });
            }
            Step::Finish {
                attempt,
                class,
                retry_after,
            } => {
                if self.attempts.is_empty() {
                    return;
                }
                let attempt = self.attempts.swap_remove(attempt % self.attempts.len());
                let facts = Facts {
                    retry_after: retry_after.map(Duration::from_millis),
                    ..Facts::of(class)
                };
                self.proxies[attempt.proxy].pending.push(Outcome {
                    endpoint: attempt.endpoint.into(),
                    generation: attempt.generation,
                    view: attempt.view,
                    count: 1,
                    facts,
                    age: Duration::ZERO,
                });
            }
            Step::Send { proxy, answer_lost } => self.send(proxy, answer_lost),
            Step::Answer {
                check,
                passed,
                class,
            } => {
                if self.orders.is_empty() {
                    return;
                }
                let order = self.orders.swap_remove(check % self.orders.len());
                let class = if passed { OutcomeClass::Success } else { class };
                let verdict = Verdict {
                    passed,
                    facts: Facts::of(class),
                };
                self.registry
                    .conclude(&order.endpoint, order.id, verdict, self.now);
            }
            Step::Operate { endpoint, act } => self.operate(ENDPOINTS[endpoint], act),
            Step::Wait { millis } => {
                self.now.clock = self.now.clock.after(Duration::from_millis(millis));
                self.registry.advance(self.now);
            }
            Step::Restart => {
                let term = self.registry.term + 1;
                let saved = saved(&self.registry);
                self.registry = Registry::new(term, saved, seed(), self.now);
                self.orders.clear();
                for index in 0..self.proxies.len() {
                    let key = self.proxies[index].key.clone();
                    self.registry.connect(&key, self.now);
                }
            }
        }
    }

    /// Sends everything that is not acknowledged, twice if the first answer is lost;
    /// the second time must change nothing.
    fn send(&mut self, proxy: usize, answer_lost: bool) {
        let batch = ReportBatch {
            first_sequence: self.proxies[proxy].acknowledged + 1,
            dropped: 0,
            registry_id: None,
            outcomes: self.proxies[proxy].pending.clone(),
        };
        let key = self.proxies[proxy].key.clone();
        let receipt = self.registry.report(&key, batch.clone(), self.now);
        let state = state(&self.registry);
        let again = self.registry.report(&key, batch, self.now);
        assert_eq!(receipt, again, "a repeated report is acknowledged alike");
        assert_eq!(
            state,
            self::state(&self.registry),
            "a repeated report changes nothing"
        );
        if !answer_lost {
            let proxy = &mut self.proxies[proxy];
            let done = (receipt.acknowledged - proxy.acknowledged) as usize;
            proxy.pending.drain(..done);
            proxy.acknowledged = receipt.acknowledged;
        }
    }

    fn operate(&mut self, name: &'static str, act: Act) {
        let endpoint: EndpointName = name.try_into().expect("a valid name");
        let admin = |state| Mutation::SetAdminState {
            name: name.try_into().expect("valid"),
            state,
        };
        let mutation = match act {
            Act::Enable => admin(AdminState::Enabled),
            Act::Disable => admin(AdminState::Disabled),
            Act::Drain => admin(AdminState::Draining),
            Act::Eject => Mutation::Eject {
                name: endpoint,
                reason: "maintenance".into(),
                hold: Duration::from_secs(10),
            },
            Act::Restore => Mutation::Restore { name: endpoint },
            Act::RemoveFailure => Mutation::RemoveFailure { name: endpoint },
            Act::Verify => Mutation::Verify { name: endpoint },
            Act::RotateKey => {
                let spec = self.spec(name);
                let key = KeyChange::Set(spec.api_key.clone());
                Mutation::UpdateEndpoint {
                    spec,
                    key,
                    etag: None,
                }
            }
            Act::DeleteAndCreate => {
                let spec = self.spec(name);
                let delete = Mutation::DeleteEndpoint {
                    name: endpoint,
                    etag: None,
                    allow_missing: false,
                };
                self.registry
                    .mutate(delete, None, self.now)
                    .expect("it exists");
                Mutation::CreateEndpoint(spec)
            }
        };
        // A refusal (not queued, disabled) is an answer like any other.
        let _ = self.registry.mutate(mutation, None, self.now);
        self.registry.advance(self.now);
    }
}

/// What a store would hand back.
pub(in crate::registry) fn saved(registry: &Registry) -> Saved {
    let endpoint = |(name, endpoint): (&EndpointName, &Arc<Endpoint>)| {
        let json = serde_json::to_string(&**endpoint).expect("it serialises");
        let mut read: Endpoint = serde_json::from_str(&json).expect("it reads back");
        Arc::make_mut(&mut read.spec).api_key = endpoint.spec.api_key.clone();
        if let (Some(read), Some(staged)) = (&mut read.staged, &endpoint.staged) {
            read.key = staged.key.clone();
        }
        (name.clone(), Arc::new(read))
    };
    Saved {
        meta: Some(registry.meta.clone()),
        clusters: registry
            .clusters
            .iter()
            .map(|(n, c)| (n.clone(), (**c).clone()))
            .collect(),
        endpoints: registry.endpoints.iter().map(endpoint).collect(),
        proxies: registry
            .proxies
            .iter()
            .map(|(key, record)| {
                (
                    key.clone(),
                    ProxyRecord {
                        connections: 0,
                        ..record.clone()
                    },
                )
            })
            .collect(),
        requests: BTreeMap::new(),
        events: registry
            .events()
            .entries
            .iter()
            .map(|(id, event)| (*id, Event::clone(event)))
            .collect(),
    }
}

pub(in crate::registry) fn seed() -> Seed {
    Seed {
        registry_id: "r".into(),
        salt: Vec::new(),
    }
}

/// Everything that a repeated report must not change.
fn state(registry: &Registry) -> String {
    let endpoints: Vec<_> = registry.endpoints.values().map(|e| (**e).clone()).collect();
    format!(
        "{endpoints:?} {:?} {:?} {:?}",
        registry.meta.totals, registry.meta.generation, registry.publication
    )
}
