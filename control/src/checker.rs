//! Carries out the writer's check orders, in parallel and bounded.

use std::sync::Arc;

use qcc_proto::v1;
use secrecy::SecretString;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    actor::Handle,
    grpc::read_outcome_class,
    registry::{self, ApiKey, CheckOrder, CredentialScheme, Facts, OutcomeClass, Verdict},
    verifier::{CheckKind, CheckRequest, CheckResult, Verifier},
};

/// Checks at a time over all endpoints. Enough to look after a large fleet, and far
/// below what one process may have open.
const PARALLEL_MAX: usize = 64;

/// Runs checks until there are no more orders.
pub(crate) async fn run(
    verifier: Verifier,
    handle: Handle,
    mut orders: mpsc::UnboundedReceiver<CheckOrder>,
) {
    let verifier = Arc::new(verifier);
    let slots = Arc::new(Semaphore::new(PARALLEL_MAX));
    while let Some(order) = orders.recv().await {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
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
    CheckRequest {
        base_url: order.base_url,
        api_key: order
            .api_key
            .as_ref()
            .map(|key| SecretString::from(ApiKey::expose(key))),
        credential_scheme: match order.credential_scheme {
            CredentialScheme::XApiKey => v1::CredentialScheme::XApiKey,
            CredentialScheme::Bearer => v1::CredentialScheme::Bearer,
        },
        api: match order.api {
            registry::ApiFlavor::Anthropic => v1::ApiFlavor::Anthropic,
            registry::ApiFlavor::OpenAi => v1::ApiFlavor::Openai,
            registry::ApiFlavor::Http => v1::ApiFlavor::Http,
        },
        check: match order.check.kind {
            registry::CheckKind::Conversation { model, max_tokens } => {
                CheckKind::Conversation { model, max_tokens }
            }
            registry::CheckKind::Http {
                method,
                path,
                expected_statuses,
                body,
            } => CheckKind::Http {
                method,
                path,
                expected_statuses,
                body,
            },
            // The registry orders no check of the kind `none`.
            registry::CheckKind::Tcp | registry::CheckKind::None => CheckKind::Tcp,
        },
        timeout: order.check.timeout,
    }
}

fn verdict(result: CheckResult) -> Verdict {
    Verdict {
        passed: result.passed,
        facts: Facts {
            outcome: read_outcome_class(result.outcome),
            http_status: result.http_status,
            error_type: result.error_type,
            retry_after: result.retry_after,
            detail: result.detail,
            upstream_request_id: result.upstream_request_id,
        },
    }
}

/// A check that did not end by itself says nothing about its endpoint.
fn broken() -> Verdict {
    let facts = Facts::of(OutcomeClass::Request);
    Verdict {
        passed: false,
        facts: Facts {
            detail: "the check broke off".into(),
            ..facts
        },
    }
}
