//! Carries out the writer's check orders, in parallel and bounded.

use std::sync::Arc;

use qcc_proto::v1;
use secrecy::SecretString;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    actor::Handle,
    registry::{CheckOrder, Facts, OutcomeClass, Verdict},
    verifier::{CheckRequest, CheckResult, Verifier},
};

/// Checks at a time over all endpoints. Enough to look after a large fleet, and far
/// below what one process may have open.
const PARALLEL_MAX: usize = 64;

/// Runs checks until there are no more orders.
pub async fn run(verifier: Verifier, handle: Handle, mut orders: mpsc::UnboundedReceiver<CheckOrder>) {
    let verifier = Arc::new(verifier);
    let slots = Arc::new(Semaphore::new(PARALLEL_MAX));
    while let Some(order) = orders.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (verifier, handle) = (verifier.clone(), handle.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let (endpoint, id) = (order.endpoint.clone(), order.id);
            let task = tokio::spawn(async move { verifier.check(request(order)).await });
            // A check that panicked must not leave its endpoint checked for ever.
            let verdict = task.await.map_or_else(|_| broken(), verdict);
            tracing::debug!(%endpoint, passed = verdict.passed, facts = ?verdict.facts, "check ended");
            handle.conclude(endpoint, id, verdict).await;
        });
    }
}

fn request(order: CheckOrder) -> CheckRequest {
    unimplemented!()
}
