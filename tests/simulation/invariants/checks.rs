//! What is asked of endpoints, and how often.

use std::collections::{BTreeMap, BTreeSet};

use qcc_control::registry::{Check, CheckKind, Endpoint, EndpointName, Policy, Snapshot, Verdict};

use super::{Asked, Judge, Violation, rules};

/// Checks that were made. No run lasts an hour.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    spent: BTreeMap<EndpointName, u32>,
    /// Whose next check an operator has asked for, whatever it costs.
    wanted: BTreeSet<EndpointName>,
}

impl Budgets {
    /// Notes that nobody knows what was found on disk.
    pub(super) fn forget(&mut self) {
        self.spent.clear();
    }
}

impl Judge {
    /// Notes what operators want to be checked, and who is new.
    pub(super) fn demanded(&mut self, asked: &[Asked], after: &Snapshot) {
        let before = self.now.as_ref();
        let is_new =
            |name: &EndpointName| before.is_none_or(|before| !before.endpoints.contains_key(name));
        self.budgets.spent.retain(|name, _| !is_new(name));
        for asked in asked {
            match asked {
                Asked::Verify(name) => {
                    self.budgets.wanted.insert(name.clone());
                }
                Asked::Operator {
                    names,
                    demands: true,
                    ..
                } if names.is_empty() => {
                    self.budgets.wanted.extend(after.endpoints.keys().cloned());
                }
                Asked::Operator {
                    names,
                    demands: true,
                    ..
                } => {
                    self.budgets.wanted.extend(names.iter().cloned());
                }
                _ => {}
            }
        }
    }

    /// Judges that a check begins.
    pub(crate) fn check_begins(
        &mut self,
        now: &Snapshot,
        name: &EndpointName,
        check: &Check,
    ) -> Result<(), Violation> {
        let rules = rules(now);
        if check.kind == CheckKind::None {
            return Err(Violation::new(
                "C-1 where there is no check nobody is asked",
                format!("`{name}`"),
            ));
        }
        let due = now
            .endpoints
            .get(name)
            .map(|endpoint| check_of(endpoint, rules));
        if due.is_some_and(|due| due != check) {
            return Err(Violation::new(
                "C-1 what is asked is what the rules say",
                format!("`{name}` is asked {check:?}, not {due:?}"),
            ));
        }
        let spent = self.budgets.spent.entry(name.clone()).or_default();
        let wanted = self.budgets.wanted.remove(name);
        if !wanted && *spent >= rules.verification.per_hour_max {
            return Err(Violation::new(
                "C-2 an hour has as many checks as the rules say",
                format!("`{name}` was checked {spent} times, and is checked again"),
            ));
        }
        *spent += 1;
        Ok(())
    }
}

/// Judges what a check has asked, and been answered: what costs something only once what
/// costs nothing has passed.
pub(crate) fn asked_in_order(
    check: &Check,
    asked: &[(CheckKind, Verdict)],
) -> Result<(), Violation> {
    let precheck = check.precheck.clone().map(CheckKind::Http);
    let due: Vec<CheckKind> = precheck.into_iter().chain([check.kind.clone()]).collect();
    let questions = asked.iter().map(|(question, _)| question);
    let in_order = questions.zip(&due).all(|(asked, due)| asked == due);
    let before_last = asked.iter().rev().skip(1);
    let passed = before_last.fold(true, |passed, (_, verdict)| passed && verdict.passed);
    let complete = asked.len() == due.len() || asked.last().is_some_and(|(_, it)| !it.passed);
    if in_order && passed && complete {
        return Ok(());
    }
    Err(Violation::new(
        "C-3 what costs something is asked once what costs nothing has passed",
        format!("{asked:?} of {due:?}"),
    ))
}

/// Returns how an endpoint is checked.
pub(super) fn check_of<'a>(endpoint: &'a Endpoint, rules: &'a Policy) -> &'a Check {
    endpoint.spec.check.as_deref().unwrap_or(&rules.check)
}
