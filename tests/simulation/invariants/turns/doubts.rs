//! Evidence that has to come from two.

use std::{collections::BTreeMap, time::Duration};

use qcc_control::registry::{Clock, Endpoint, Policy, Snapshot};

use super::super::{Asked, counts::Ledger, is_failure, is_local};

/// By how much a doubt may wait longer for another one than the rules say.
pub(super) const ROUNDING: Duration = Duration::from_millis(500);

/// Evidence as it came in, by endpoint and generation.
#[derive(Debug, Default)]
pub(in super::super) struct Doubts {
    /// Witnesses of local-origin evidence, and when they were last heard.
    local: BTreeMap<(String, u64), BTreeMap<String, Clock>>,
    /// When a failure last arrived, and in which turn.
    pub(super) failed: BTreeMap<(String, u64), u64>,
    /// Turns so far.
    pub(super) turns: u64,
}

impl Doubts {
    /// Notes what a turn was asked to apply.
    pub(in super::super) fn note(
        &mut self,
        asked: &[Asked],
        before: Option<&Snapshot>,
        clock: Clock,
        ledger: &Ledger,
    ) {
        self.turns += 1;
        for news in &ledger.news {
            let class = news.outcome.facts.outcome;
            let key = (news.outcome.endpoint.clone(), news.outcome.generation.0);
            if is_local(class) {
                let witnesses = self.local.entry(key.clone()).or_default();
                witnesses.insert(news.proxy.id.to_string(), clock);
            }
            if is_failure(class) {
                self.failed.insert(key, self.turns);
            }
        }
        for asked in asked {
            if let Asked::Verdict {
                endpoint, verdict, ..
            } = asked
                && is_local(verdict.facts.outcome)
                && let Some(endpoint) = before.and_then(|b| b.endpoints.get(endpoint))
            {
                let key = (endpoint.spec.name.to_string(), endpoint.generation.0);
                let witnesses = self.local.entry(key).or_default();
                witnesses.insert("check".into(), clock);
            }
        }
    }

    /// Returns how many have lately said that an endpoint fails, by evidence of their own side.
    pub(super) fn witnesses(&self, endpoint: &Endpoint, rules: &Policy, clock: Clock) -> usize {
        let key = (endpoint.spec.name.to_string(), endpoint.generation.0);
        let window = rules.corroboration_window + ROUNDING;
        let recent = |at: &&Clock| clock.since(**at) <= window;
        self.local
            .get(&key)
            .map_or(0, |witnesses| witnesses.values().filter(recent).count())
    }
}
