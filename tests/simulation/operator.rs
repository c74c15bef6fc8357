//! Operators: what they ask, and that they ask again when they hear nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use qcc_control::{
    actor,
    registry::{
        AdminState, Answer, ApiKey, ClusterName, Declaration, DeclaredEndpoint, EndpointName,
        KeyChange, Mutation, Request, Spec,
    },
    simulation::Ask,
};

use crate::{
    event::Event,
    invariants::Violation,
    random::Random,
    rules::check,
    time::{MS, S},
    world::World,
};

/// All operators.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    requests: Vec<Pending>,
    /// What was asked for last, of each endpoint that ever was.
    specs: BTreeMap<String, Spec>,
    keys_drawn: u64,
}

/// A request, until it is answered.
#[derive(Debug)]
struct Pending {
    id: Arc<str>,
    mutation: Mutation,
    answer: Option<Result<Answer, actor::Error>>,
    /// It is repeated also when all is calm.
    insists: bool,
}

impl World {
    /// Creates what a run begins with.
    pub(crate) fn set_up(&mut self) -> Result<(), Violation> {
        let rules = self.plain_rules();
        self.request(rules);
        for index in 0..self.plan.endpoints {
            let spec = self.spec(&format!("e{index}"));
            self.request(Mutation::CreateEndpoint(spec));
        }
        Ok(())
    }

    /// Brings the rules back with which the run began, and does not give up.
    pub(crate) fn calm_down(&mut self) {
        let rules = self.plain_rules();
        self.insist(rules);
    }

    /// Asks for everything, or most of it, as if it were for the first time, and does not
    /// give up.
    pub(crate) fn apply_again(&mut self) {
        self.turn_to(format_args!("all is applied again"));
        let rules = self.plain_rules();
        self.insist(rules);
        let mut specs = Vec::new();
        for (name, spec) in self.operator.specs.clone() {
            match self.random.within(0..10) {
                0 => {}
                1..3 => specs.push(self.spec(&name)),
                _ => specs.push(spec),
            }
        }
        self.insist(apply(specs, false));
    }

    /// Plans the next act.
    pub(crate) fn plan_operator(&mut self) {
        if let Some(pace) = self.plan.operator_pace {
            let wait = self.random.within(pace / 4..pace * 2);
            self.after(wait, Event::Operate);
        }
    }

    /// Acts.
    pub(crate) fn operate(&mut self) {
        if self.calm {
            return;
        }
        let name = format!("e{}", self.random.within(0..self.plan.endpoints as u64 + 1));
        let endpoint = endpoint_name(&name);
        let mutation = match self.random.within(0..21) {
            0 => Mutation::CreateEndpoint(self.spec(&name)),
            1 => Mutation::DeleteEndpoint {
                name: endpoint,
                etag: None,
                allow_missing: self.random.percent(50),
            },
            2 | 3 => {
                let spec = self.spec(&name);
                let key = match spec.api_key.clone() {
                    Some(key) if self.random.percent(30) => KeyChange::Stage {
                        key,
                        overlap: Duration::from_secs(self.random.within(1..90)),
                    },
                    key => KeyChange::Set(key),
                };
                // Read before, and perhaps changed since by somebody else.
                let read = self.random.percent(50).then(|| self.judge.etag_read(&name));
                let etag = read.flatten().map(|(etag, read_at)| {
                    let request = request_id(self.operator.requests.len());
                    self.judge.goes_by(request, read_at);
                    etag
                });
                Mutation::UpdateEndpoint { spec, key, etag }
            }
            4 | 5 => Mutation::Eject {
                name: endpoint,
                reason: "maintenance".into(),
                hold: Duration::from_secs(self.random.within(0..40)),
            },
            6 | 7 => Mutation::Restore { name: endpoint },
            8 => Mutation::RemoveFailure { name: endpoint },
            9 => Mutation::ClearFailures { cluster: None },
            10 => Mutation::VerifyFailures { names: Vec::new() },
            11 => Mutation::SetAdminState {
                name: endpoint,
                state: AdminState::Disabled,
            },
            12 => Mutation::SetAdminState {
                name: endpoint,
                state: AdminState::Draining,
            },
            13 | 14 => Mutation::SetAdminState {
                name: endpoint,
                state: AdminState::Enabled,
            },
            15 => {
                let names = ["e0", "e1", &name].map(String::from);
                let mut specs: Vec<Spec> = Vec::new();
                for name in names {
                    if specs.iter().all(|spec| spec.name.as_str() != name) {
                        specs.push(self.spec(&name));
                    }
                }
                apply(specs, self.random.percent(20))
            }
            16..18 if self.plan.rules_change => self.other_rules(),
            _ => {
                self.ask(Ask::Verify(endpoint), None);
                return self.plan_operator();
            }
        };
        self.request(mutation);
        self.plan_operator();
    }

    fn request(&mut self, mutation: Mutation) {
        self.put_request(mutation, false);
    }

    fn insist(&mut self, mutation: Mutation) {
        self.put_request(mutation, true);
    }

    fn put_request(&mut self, mutation: Mutation, insists: bool) {
        let number = self.operator.requests.len();
        self.operator.requests.push(Pending {
            id: request_id(number),
            mutation,
            answer: None,
            insists,
        });
        self.repeat(number);
    }

    /// Asks, or asks again what may or may not have been heard.
    pub(crate) fn repeat(&mut self, number: usize) {
        let pending = &self.operator.requests[number];
        if (self.calm && !pending.insists)
            || matches!(&pending.answer, Some(Ok(_) | Err(actor::Error::Refused(_))))
        {
            return;
        }
        let request = Request {
            id: pending.id.clone(),
            digest: number as u64,
        };
        let ask = Ask::Mutate(Box::new(pending.mutation.clone()), Some(request));
        self.ask(ask, Some(number));
        let again = self.random.span(500 * MS, 5 * S);
        self.after(again, Event::Repeat { request: number });
    }

    /// Takes an answer; it may be lost on the way, and then the request is repeated.
    pub(crate) fn answered(
        &mut self,
        number: usize,
        answer: Result<Answer, actor::Error>,
    ) -> Result<(), Violation> {
        self.turn_to(format_args!("request {number} is answered {answer:?}"));
        self.judge.operator_answered(number, &answer)?;
        if !self.random.percent(20) {
            self.operator.requests[number].answer = Some(answer);
        }
        Ok(())
    }

    /// Returns a configuration with a new key, which the endpoint accepts sooner or
    /// later: sometimes the operator is too early, or mistyped it.
    fn spec(&mut self, name: &str) -> Spec {
        self.operator.keys_drawn += 1;
        let key = format!("key-{}", self.operator.keys_drawn);
        // Once all is calm, the key of whichever request comes last is as good.
        if self.random.percent(80) && !self.calm {
            self.upstreams.accept(name, &key);
        }
        let changes = self.plan.rules_change;
        let own = |random: &mut Random, percent| changes && random.percent(percent);
        let max_failures = own(&mut self.random, 20).then(|| self.random.within(1..6) as u32);
        let check = own(&mut self.random, 40).then(|| Box::new(check(&mut self.random)));
        let plain_timeout = own(&mut self.random, 40);
        let timeout = Duration::from_secs(self.random.within(2..8));
        let spec = Spec {
            name: endpoint_name(name),
            cluster: ClusterName::default_cluster(),
            base_url: format!("https://{name}.example"),
            api_key: Some(ApiKey::new(key)),
            priority: self.random.within(1..3) as u32,
            weight: [50, 100, 100, 300][self.random.index(4)],
            max_failures,
            timeout: (!plain_timeout).then_some(timeout),
            admin_state: AdminState::Enabled,
            check,
            labels: BTreeMap::new(),
            allow_plaintext: false,
        };
        self.operator.specs.insert(name.to_owned(), spec.clone());
        spec
    }

    /// Returns the names of all endpoints that there have been.
    pub(crate) fn names(&self) -> Vec<String> {
        self.operator.specs.keys().cloned().collect()
    }
}

fn request_id(number: usize) -> Arc<str> {
    format!("request-{number}").into()
}

fn apply(specs: Vec<Spec>, prune: bool) -> Mutation {
    let declared = |spec: Spec| DeclaredEndpoint {
        key: KeyChange::Set(spec.api_key.clone()),
        spec,
        admin_state: None,
    };
    Mutation::Apply(Declaration {
        clusters: Vec::new(),
        endpoints: specs.into_iter().map(declared).collect(),
        prune,
    })
}

fn endpoint_name(name: &str) -> EndpointName {
    EndpointName::try_from(name).expect("they are simple")
}
