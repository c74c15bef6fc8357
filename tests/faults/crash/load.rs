//! Operators and a data plane that go on until they are not answered, and know what they
//! were told.

use std::collections::BTreeMap;

use qcc_proto::v1::{
    Check, CreateEndpointRequest, DeleteEndpointRequest, Endpoint, GetSnapshotResponse,
    ListEndpointsRequest, NoCheck, OutcomeClass, UpdateEndpointRequest, View, check,
};
use qcc_tests::{ControlPlane, FakeProxy, Injection, outcome};
use tonic::Status;

/// More changes than any case needs before its fault.
const STEPS_MAX: u32 = 2_000;

/// What is sent after a storage error, to see that nothing is acknowledged any more.
const AFTERTHOUGHTS: u32 = 3;

/// An endpoint that the reports are about.
pub(super) const REPORTED: &str = "reported";

/// What an operator's endpoints look like: weights by name.
pub(super) type Weights = BTreeMap<String, u32>;

/// One change that an operator makes, the same whenever it is asked for.
pub(super) struct Step<'a> {
    pub(super) operator: &'a str,
    pub(super) number: u32,
}

impl Step<'_> {
    /// Endpoints live for three steps; every fourth one stays.
    fn name(&self) -> String {
        format!("{}-{}", self.operator, self.number / 3)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            name: self.name(),
            base_url: "http://127.0.0.1:9".to_owned(),
            weight: Some(1 + self.number % 100),
            check: Some(Check {
                kind: Some(check::Kind::None(NoCheck {})),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn request_id(&self) -> String {
        format!("{}/{}", self.operator, self.number)
    }

    pub(super) async fn send(&self, control: &ControlPlane) -> Result<(), Status> {
        let mut client = control.endpoints();
        match self.number % 3 {
            0 => {
                let request = CreateEndpointRequest {
                    endpoint: Some(self.endpoint()),
                    request_id: self.request_id(),
                    ..Default::default()
                };
                client.create_endpoint(request).await.map(drop)
            }
            1 => {
                let request = UpdateEndpointRequest {
                    endpoint: Some(self.endpoint()),
                    update_mask: Some(prost_types::FieldMask {
                        paths: vec!["weight".to_owned()],
                    }),
                    request_id: self.request_id(),
                    ..Default::default()
                };
                client.update_endpoint(request).await.map(drop)
            }
            _ if self.stays() => Ok(()),
            _ => {
                let request = DeleteEndpointRequest {
                    name: self.name(),
                    request_id: self.request_id(),
                    ..Default::default()
                };
                client.delete_endpoint(request).await.map(drop)
            }
        }
    }

    fn stays(&self) -> bool {
        (self.number / 3).is_multiple_of(4)
    }

    fn apply(&self, weights: &mut Weights) {
        let weight = 1 + self.number % 100;
        match self.number % 3 {
            0 | 1 => drop(weights.insert(self.name(), weight)),
            _ if self.stays() => {}
            _ => drop(weights.remove(&self.name())),
        }
    }
}

/// What an operator has been told, and what it has asked for.
pub(super) struct Progress {
    pub(super) operator: String,
    /// The answer to everything before this step has been seen.
    pub(super) acknowledged: u32,
}

impl Progress {
    fn step(&self, number: u32) -> Step<'_> {
        Step {
            operator: &self.operator,
            number,
        }
    }

    /// The state that a number of steps leads to.
    fn after(&self, steps: u32) -> Weights {
        let mut weights = Weights::new();
        for number in 0..steps {
            self.step(number).apply(&mut weights);
        }
        weights
    }

    /// Sends one step after the other until one is not answered, and then a few
    /// more, none of which may be.
    pub(super) async fn make(&mut self, control: &ControlPlane) {
        for number in self.acknowledged..STEPS_MAX {
            if self.step(number).send(control).await.is_err() {
                for late in number + 1..=number + AFTERTHOUGHTS {
                    let step = self.step(late);
                    if late % 3 == 2 && step.stays() {
                        continue; // Nothing is sent.
                    }
                    step.send(control)
                        .await
                        .expect_err("nothing is acknowledged after an error");
                }
                return;
            }
            self.acknowledged = number + 1;
        }
        panic!("{} was never disturbed", self.operator);
    }

    /// Checks what was recovered, and brings about what was not acknowledged.
    pub(super) async fn verify(
        &mut self,
        control: &ControlPlane,
        recovered: &Weights,
        case: Injection,
    ) {
        let prefix = format!("{}-", self.operator);
        let found: Weights = recovered
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, weight)| (name.clone(), *weight))
            .collect();
        let (told, one_more) = (
            self.after(self.acknowledged),
            self.after(self.acknowledged + 1),
        );
        assert!(
            found == told || found == one_more,
            "{case}: {} was told of {} steps, which is {told:?}; found {found:?}",
            self.operator,
            self.acknowledged
        );
        let repeated = self.step(self.acknowledged).send(control).await;
        repeated.unwrap_or_else(|status| {
            panic!("{case}: what was not answered cannot be repeated: {status}")
        });
        self.acknowledged += 1;
    }
}

/// A data plane that reports, one batch after the other.
pub(super) struct Reporter {
    pub(super) proxy: FakeProxy,
    acknowledged: u64,
    /// The newest view that came with an acknowledgement.
    pub(super) view: View,
}

/// Outcomes in a batch.
const BATCH: u64 = 2;

impl Reporter {
    pub(super) fn new(control: &ControlPlane) -> Self {
        Self {
            proxy: FakeProxy::new(control, "reporter", "1"),
            acknowledged: 0,
            view: View::default(),
        }
    }

    async fn send(&mut self, snapshot: &GetSnapshotResponse) -> Result<(), Status> {
        let success = outcome(snapshot, REPORTED, OutcomeClass::Success);
        let batch = vec![success; BATCH as usize];
        let receipt = self.proxy.send(self.acknowledged + 1, batch).await?;
        assert_eq!(receipt.acknowledged_sequence, self.acknowledged + BATCH);
        self.acknowledged += BATCH;
        self.view = receipt.view.unwrap_or_default();
        Ok(())
    }

    /// Reports until a batch is not answered, and then a few more.
    pub(super) async fn make(&mut self, snapshot: &GetSnapshotResponse) {
        for _ in 0..STEPS_MAX {
            if self.send(snapshot).await.is_err() {
                for _ in 0..AFTERTHOUGHTS {
                    let late = self.send(snapshot).await;
                    late.expect_err("nothing is acknowledged after an error");
                }
                return;
            }
        }
        panic!("the reporter was never disturbed");
    }

    /// Checks that what was acknowledged counts once, and what was not at most once.
    pub(super) async fn verify(&mut self, control: &ControlPlane, case: Injection) {
        let before = attempts(control).await;
        assert!(
            before == self.acknowledged || before == self.acknowledged + BATCH,
            "{case}: {} outcomes were acknowledged, {before} count",
            self.acknowledged
        );
        let snapshot = self.proxy.snapshot("default").await;
        let repeated = self.send(&snapshot).await;
        repeated.unwrap_or_else(|status| panic!("{case}: {status}"));
        assert_eq!(attempts(control).await, self.acknowledged, "{case}");
    }
}

async fn attempts(control: &ControlPlane) -> u64 {
    let reported = control.endpoint(REPORTED).await;
    reported.stats.unwrap_or_default().attempts
}

/// The weights of all endpoints.
pub(super) async fn weights(control: &ControlPlane) -> Weights {
    let mut weights = Weights::new();
    let mut request = ListEndpointsRequest {
        page_size: 1000,
        ..Default::default()
    };
    loop {
        let page = control.endpoints().list_endpoints(request.clone()).await;
        let page = page.expect("a page").into_inner();
        for endpoint in page.endpoints {
            weights.insert(endpoint.name, endpoint.weight.unwrap_or_default());
        }
        if page.next_page_token.is_empty() {
            return weights;
        }
        request.page_token = page.next_page_token;
    }
}
