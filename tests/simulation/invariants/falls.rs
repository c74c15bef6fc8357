//! What has to take an endpoint out, and what must not yet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use qcc_control::registry::{
    Cause, Clock, Endpoint, EndpointName, OutcomeClass, Policy, Snapshot, View,
};

use super::{Asked, Judge, Violation, counts::News, is_local, is_pause, turns::is_operators};

/// By how much a doubt may wait less for another one than the rules say.
const ROUNDING: Duration = Duration::from_millis(500);

/// What was reported of each endpoint in each generation.
#[derive(Debug, Default)]
pub(super) struct Rows {
    by_endpoint: BTreeMap<(String, u64), Row>,
}

/// What was reported of one endpoint in one generation, as its judge counts it: too many
/// where it is asked whether there were enough, and too few where there were too many.
#[derive(Debug, Default)]
struct Row {
    /// Counted failures since a success that certainly has ended the row.
    at_most: u32,
    /// Counted failures since anything that may have ended it.
    at_least: u32,
    /// The newest view under which one of them was chosen.
    newest: Option<View>,
    /// Proxies that have no answer from it, and when they said so last.
    doubts: BTreeMap<String, Clock>,
    /// Why it has to be out after this turn.
    condemned: Option<Violation>,
}

impl Rows {
    /// Notes that the control plane starts: what it had not stored is forgotten.
    pub(super) fn restarted(&mut self) {
        for row in self.by_endpoint.values_mut() {
            row.interrupted();
        }
    }

    /// Notes news of a turn that may have been lost, checks that have failed among them.
    pub(super) fn may_have_seen(
        &mut self,
        news: &[News],
        asked: &[Asked],
        before: Option<&Snapshot>,
    ) {
        for (name, was) in before.iter().flat_map(|before| &before.endpoints) {
            let has_failed = checked(asked, name) == Some(false);
            self.row(name.as_str(), was.generation.0).at_most += u32::from(has_failed);
        }
        for news in news {
            let row = self.row(&news.outcome.endpoint, news.outcome.generation.0);
            row.at_most += u32::from(is_counted(news.outcome.facts.outcome));
            row.newest = row.newest.max(Some(news.outcome.view));
        }
    }

    fn row(&mut self, name: &str, generation: u64) -> &mut Row {
        let key = (name.to_owned(), generation);
        self.by_endpoint.entry(key).or_default()
    }
}

impl Row {
    fn interrupted(&mut self) {
        self.at_least = 0;
        self.doubts.clear();
        self.condemned = None;
    }

    fn take(&mut self, news: &News, is: &Endpoint, rules: &Policy, alone: bool, clock: Clock) {
        let (class, view) = (news.outcome.facts.outcome, news.outcome.view);
        if class == OutcomeClass::Success {
            if view >= is.mark.view && Some(view) >= self.newest {
                self.at_most = 0;
            }
            self.at_least = 0;
            self.doubts.clear();
        } else if is_pause(class) {
            self.at_least = 0;
        } else if class == OutcomeClass::Auth {
            self.condemn("R-16 whose key was rejected is out at once", "a 401");
        } else if is_counted(class) {
            self.at_most += 1;
            self.newest = self.newest.max(Some(view));
            if view >= is.mark.cleared {
                self.at_least += 1;
            }
            if self.at_least >= failures_max(is, rules) {
                self.condemn("R-16 failures in a row take an endpoint out", "as many");
            }
        } else if is_local(class) {
            self.doubts.insert(news.proxy.id.to_string(), clock);
            let window = rules.corroboration_window.saturating_sub(ROUNDING);
            let recent = |at: &&Clock| clock.since(**at) <= window;
            if self.doubts.values().filter(recent).count() >= 2 {
                self.condemn("I-32 two that agree are believed", "two proxies' word");
            } else if alone {
                self.condemn("I-32 whom nobody can contradict is believed", "its proxy");
            }
        }
    }

    fn condemn(&mut self, invariant: &'static str, by: &str) {
        self.condemned = Some(Violation::new(invariant, by));
    }
}

impl Judge {
    /// Judges that whoever has to be out after a turn is, and whoever fell had reason to.
    pub(super) fn fell_duly(
        &mut self,
        before: &Arc<Snapshot>,
        after: &Arc<Snapshot>,
        asked: &[Asked],
        clock: Clock,
    ) -> Result<(), Violation> {
        // Those of before: whoever changes them does nothing else in that turn.
        let rules = super::rules(before);
        for (name, is) in &after.endpoints {
            let Some(was) = before.endpoints.get(name) else {
                continue;
            };
            let row = self.rows.row(name.as_str(), was.generation.0);
            let news = self.ledger.news.iter().filter(|news| {
                news.outcome.endpoint == name.as_str() && news.outcome.generation == was.generation
            });
            for news in news {
                row.take(news, is, rules, self.alone, clock);
            }
            let failed = checked(asked, name);
            row.at_most += u32::from(failed == Some(false));
            let out = is.health.incident().is_some();
            let fell = out && was.health.incident().is_none();
            let counted = matches!(
                is.health.cause(),
                Some(Cause::Forbidden | Cause::ServerError | Cause::StreamBroken)
            );
            let allowed = failures_max(was, rules);
            if fell && counted && row.at_most < allowed {
                return Err(Violation::new(
                    "R-16 fewer failures than allowed take no endpoint out",
                    format!("`{name}` fell after {} of {allowed}", row.at_most),
                ));
            }
            let condemned = row.condemned.take();
            let disturbed =
                failed.is_some() || is_operators(asked, name) || is.generation != was.generation;
            if disturbed || out {
                row.interrupted();
            } else if let Some(reason) = condemned {
                return Err(Violation::new(
                    reason.invariant,
                    format!("`{name}` is still in after {}", reason.how),
                ));
            }
        }
        Ok(())
    }
}

/// Returns the counted failures in a row that take an endpoint out.
fn failures_max(endpoint: &Endpoint, rules: &Policy) -> u32 {
    endpoint.spec.max_failures.unwrap_or(rules.max_failures)
}

/// Returns how checks of an endpoint have ended in a turn; `None`: none has.
fn checked(asked: &[Asked], name: &EndpointName) -> Option<bool> {
    asked.iter().fold(None, |so_far, asked| match asked {
        Asked::Verdict {
            endpoint, verdict, ..
        } if endpoint == name => Some(so_far.unwrap_or(true) && verdict.passed),
        _ => so_far,
    })
}

/// Returns whether an outcome counts towards those in a row that take an endpoint out.
fn is_counted(class: OutcomeClass) -> bool {
    use OutcomeClass as C;
    matches!(class, C::Forbidden | C::ServerError | C::StreamBroken)
}
