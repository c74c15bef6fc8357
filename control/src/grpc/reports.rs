//! What data planes send, as the registry's types.

use std::time::Duration;

use qcc_proto::v1;
use tonic::Status;

use super::{
    convert::read_outcome_class,
    error::{Violations, invalid},
};
use crate::registry::{Facts, Generation, Outcome, ProxyId, ProxyKey, ReportBatch, View};

/// Outcomes in one batch.
const OUTCOMES_MAX: usize = 10_000;

/// The end of all sequence numbers. Behind the last number that 64 bits hold there is no
/// next one by which what was applied could be told from what is new.
const SEQUENCE_END: u64 = 1 << 63;

/// Reads who is speaking.
pub(crate) fn proxy(identity: Option<&v1::ProxyIdentity>) -> Result<ProxyKey, Status> {
    let identity = identity.ok_or_else(|| invalid("proxy", "must be set"))?;
    let id_char = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    let incarnation_char = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut violations = Violations::default();
    if !(1..=128).contains(&identity.id.len()) || !identity.id.chars().all(id_char) {
        violations.add("proxy.id", "must be 1-128 characters of `[A-Za-z0-9._:-]`");
    }
    if !(1..=64).contains(&identity.incarnation.len())
        || !identity.incarnation.chars().all(incarnation_char)
    {
        violations.add(
            "proxy.incarnation",
            "must be 1-64 characters of `[A-Za-z0-9-]`",
        );
    }
    violations.none(ProxyKey {
        id: ProxyId::new(&identity.id),
        incarnation: identity.incarnation.as_str().into(),
    })
}

/// Reads a batch of outcomes. What a single outcome says is not checked but bounded:
/// a report is news, and refusing one would stop all behind it.
pub(crate) fn batch(batch: v1::ReportBatch) -> Result<ReportBatch, Status> {
    if batch.outcomes.len() > OUTCOMES_MAX {
        return Err(invalid("batch.outcomes", "must be at most 10,000"));
    }
    if batch.first_sequence == 0 && !batch.outcomes.is_empty() {
        return Err(invalid("batch.first_sequence", "must be at least 1"));
    }
    let end = (batch.first_sequence).saturating_add(batch.outcomes.len() as u64);
    if end > SEQUENCE_END {
        return Err(invalid("batch.first_sequence", "must be below 2^63"));
    }
    Ok(ReportBatch {
        first_sequence: batch.first_sequence,
        dropped: batch.dropped,
        registry_id: (!batch.registry_id.is_empty()).then(|| batch.registry_id.into()),
        outcomes: batch.outcomes.into_iter().map(outcome).collect(),
    })
}

fn outcome(outcome: v1::Outcome) -> Outcome {
    let class = read_outcome_class(outcome.class());
    Outcome {
        generation: Generation(outcome.generation),
        view: view(outcome.view),
        count: outcome.count.max(1),
        facts: Facts {
            outcome: class,
            http_status: u16::try_from(outcome.http_status).unwrap_or_default(),
            error_type: outcome.error_type,
            retry_after: outcome.retry_after_ms.map(Duration::from_millis),
            detail: outcome.detail,
            upstream_request_id: outcome.upstream_request_id,
        },
        age: Duration::from_millis(outcome.age_ms),
        endpoint: outcome.endpoint,
    }
}

/// Reads a view; unset means the one before the first.
pub(super) fn view(view: Option<v1::View>) -> View {
    let view = view.unwrap_or_default();
    View {
        term: view.term,
        revision: view.revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_number_has_a_next_one() {
        let outcomes = vec![v1::Outcome::default(); 2];
        let read = |first_sequence| {
            batch(v1::ReportBatch {
                first_sequence,
                outcomes: outcomes.clone(),
                ..Default::default()
            })
        };
        assert!(read(SEQUENCE_END - 2).is_ok());
        for first in [0, SEQUENCE_END - 1, u64::MAX] {
            let refusal = read(first).expect_err("it is refused");
            assert!(refusal.message().contains("batch.first_sequence"));
        }
    }
}
