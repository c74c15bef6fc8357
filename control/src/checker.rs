//! Carries out the writer's check orders, in parallel and bounded.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use qcc_proto::v1;
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};
use tracing::debug;

use crate::{
    actor::{Handle, Job},
    grpc::read_outcome_class,
    registry::{
        self, ApiKey, Check, CheckId, CheckOrder, CredentialScheme, Facts, HttpCheck, OutcomeClass,
        Verdict,
    },
    seeded::{Bug, seeded},
    verifier::{CheckKind, CheckRequest, CheckResult, Verifier},
};

/// Checks at a time over all endpoints. Enough to look after a large fleet, and far
/// below what one process may have open.
const PARALLEL_MAX: usize = 64;

/// Runs checks until there are no more jobs.
pub(crate) async fn run(
    verifier: Verifier,
    handle: Handle,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) {
    let slots = Arc::new(Semaphore::new(PARALLEL_MAX));
    let mut checks = JoinSet::new();
    let mut under_way: BTreeMap<CheckId, AbortHandle> = BTreeMap::new();
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(Job::Check(order)) => {
                    let (verifier, handle) = (verifier.clone(), handle.clone());
                    let (id, slots) = (order.id, slots.clone());
                    let check = checks.spawn(async move {
                        // Nobody closes it.
                        let _slot = slots.acquire_owned().await;
                        check(&verifier, &handle, *order).await;
                        id
                    });
                    under_way.insert(id, check);
                }
                Some(Job::GiveUp(id)) => {
                    if let Some(check) = under_way.remove(&id) {
                        check.abort();
                    }
                }
                None => return,
            },
            Some(ended) = checks.join_next(), if !checks.is_empty() => {
                if let Ok(id) = ended {
                    under_way.remove(&id);
                }
            }
        }
    }
}

async fn check(verifier: &Verifier, handle: &Handle, order: CheckOrder) {
    let (endpoint, id) = (order.endpoint.clone(), order.id);
    // A check that panics must not leave its endpoint checked for ever.
    let verdict = AssertUnwindSafe(ask(verifier, order)).catch_unwind().await;
    let verdict = verdict.unwrap_or_else(|_| broken());
    debug!(%endpoint, passed = verdict.passed, facts = ?verdict.facts, "check ended");
    handle.conclude(endpoint, id, verdict).await;
}

async fn ask(verifier: &Verifier, order: CheckOrder) -> Verdict {
    let mut verdict = broken();
    for question in questions(&order.check) {
        let request = request(&order, kind(&question));
        verdict = verdict_of(verifier.check(request).await);
        if !goes_on_after(&verdict) {
            break;
        }
    }
    verdict
}

/// Returns what a check asks, in order: what costs nothing first, if there is something
/// of that kind.
pub(crate) fn questions(check: &Check) -> Vec<registry::CheckKind> {
    let precheck = check.precheck.clone().map(registry::CheckKind::Http);
    precheck.into_iter().chain([check.kind.clone()]).collect()
}

/// Whether the next question is asked. The last verdict is the check's.
pub(crate) fn goes_on_after(verdict: &Verdict) -> bool {
    verdict.passed || seeded(Bug::FailedPrecheckIgnored)
}

fn kind(question: &registry::CheckKind) -> CheckKind {
    match question {
        registry::CheckKind::Conversation { model, max_tokens } => CheckKind::Conversation {
            model: model.clone(),
            max_tokens: *max_tokens,
        },
        registry::CheckKind::Http(check) => http(check),
        // The registry orders no check of the kind `none`.
        registry::CheckKind::Tcp | registry::CheckKind::None => CheckKind::Tcp,
    }
}

fn http(check: &HttpCheck) -> CheckKind {
    CheckKind::Http {
        method: check.method.clone(),
        path: check.path.clone(),
        expected_statuses: check.expected_statuses.clone(),
        body: check.body.clone(),
    }
}

fn request(order: &CheckOrder, check: CheckKind) -> CheckRequest {
    CheckRequest {
        base_url: order.base_url.clone(),
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
        check,
        timeout: order.check.timeout,
    }
}

fn verdict_of(result: CheckResult) -> Verdict {
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
