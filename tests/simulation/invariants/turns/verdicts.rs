//! What a check has found, and what that may change.

use qcc_control::registry::{Endpoint, OutcomeClass};

use super::super::{Asked, Judge, Violation};

impl Judge {
    /// Returns the verdict that this turn brings on an endpoint.
    pub(super) fn verdict(&self, asked: &[Asked], was: &Endpoint) -> Option<Verdict> {
        asked.iter().find_map(|asked| match asked {
            Asked::Verdict {
                id,
                check,
                endpoint,
                verdict,
            } if *endpoint == was.spec.name => Some(Verdict {
                id: *id,
                passed: verdict.passed,
                class: verdict.facts.outcome,
                key: check.as_ref().map(|check| check.key.clone()),
                generation: check.as_ref().map(|check| check.generation),
                given_up: check.as_ref().is_none_or(|check| check.given_up),
                begun: check.as_ref().map_or(0, |check| check.turn),
            }),
            _ => None,
        })
    }

    /// Judges that a verdict that changes something may do so.
    pub(super) fn verdict_counts(
        &self,
        verdict: &Verdict,
        was: &Endpoint,
    ) -> Result<(), Violation> {
        let name = &was.spec.name;
        is_in_its_generation(verdict, was)?;
        let key = (name.to_string(), was.generation.0);
        let failed = self.doubts.failed.get(&key).copied().unwrap_or_default();
        if verdict.passed && failed > verdict.begun {
            return Err(Violation::new(
                "R-15 a failure after its start voids a check that passed",
                format!("check {} of `{name}`", verdict.id),
            ));
        }
        Ok(())
    }
}

/// A verdict and its check.
#[derive(Debug)]
pub(super) struct Verdict {
    id: u64,
    pub(super) passed: bool,
    pub(super) class: OutcomeClass,
    /// What it asked with.
    pub(super) key: Option<String>,
    generation: Option<u64>,
    given_up: bool,
    /// The turn in which it began.
    begun: u64,
}

/// Judges that a verdict is about the present generation. What failed with a key that
/// goes says nothing of the one that comes.
pub(super) fn is_in_its_generation(verdict: &Verdict, was: &Endpoint) -> Result<(), Violation> {
    let name = &was.spec.name;
    if verdict.generation != Some(was.generation.0) || verdict.given_up {
        return Err(Violation::new(
            "R-15 a verdict counts in its generation only",
            format!(
                "check {} of `{name}` was of {:?}, which is in {}",
                verdict.id, verdict.generation, was.generation.0
            ),
        ));
    }
    Ok(())
}
