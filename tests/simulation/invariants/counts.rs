//! Each attempt counts once: from its end in a proxy, over every message that says so,
//! to the numbers of the registry.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use qcc_control::registry::{Health, OutcomeClass, ProxyKey, Snapshot};
use qcc_proto::v1;

use super::{Asked, Evidence, Judge, Violation};
use crate::{
    position::{Generation, Position},
    upstream::class as class_of,
};

/// What was counted, by somebody who counts slowly.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What the present life has applied, of this registry.
    applied: Applied,
    /// What of that is on disk.
    durable: Applied,
    /// Outcomes by the number under which they were sent.
    sent: BTreeMap<(ProxyKey, u64), Sent>,
    /// What each run of a proxy has sent, by number, until it is told that it was taken.
    waiting: BTreeMap<ProxyKey, BTreeMap<u64, u64>>,
    /// Attempts of a run of a proxy that were taken, as it was told.
    taken: BTreeMap<ProxyKey, u64>,
    /// Attempts that ended and have to be reported.
    finished: BTreeMap<ProxyKey, u64>,
    /// The same, by what has to be said of them; without what was sent.
    unsent: BTreeMap<(ProxyKey, Ended), u64>,
    /// Outcomes that the last turn applied for the first time.
    pub(super) news: Vec<News>,
}

/// What was applied.
#[derive(Debug, Clone, Default)]
struct Applied {
    up_to: BTreeMap<ProxyKey, u64>,
    /// Attempts of a run of a proxy.
    of_run: BTreeMap<ProxyKey, u64>,
    /// Attempts at an endpoint.
    attempts: BTreeMap<String, u64>,
}

/// What has to be said of an attempt that has ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ended {
    /// Where it went.
    pub(crate) endpoint: String,
    /// In which generation.
    pub(crate) generation: Generation,
    /// The view under which it was chosen.
    pub(crate) view: Position,
    /// What it came to.
    pub(crate) class: v1::OutcomeClass,
}

/// What a number stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    endpoint: String,
    generation: u64,
    view: Position,
    class: i32,
    count: u32,
}

/// An outcome that was applied for the first time.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) proxy: ProxyKey,
    pub(super) outcome: qcc_control::registry::Outcome,
}

impl Ledger {
    /// Returns what remains where the control plane has lost everything.
    pub(super) fn of_proxies(self) -> Self {
        Self {
            applied: Applied::default(),
            durable: Applied::default(),
            news: Vec::new(),
            ..self
        }
    }

    /// Notes that what was applied is on disk.
    pub(super) fn keep(&mut self) {
        self.durable = self.applied.clone();
    }

    /// Notes that what was applied and is not on disk is lost.
    pub(super) fn take_back(&mut self) {
        self.applied = self.durable.clone();
    }
}

impl Judge {
    /// Notes that an attempt has ended, and that it is evidence from now on.
    pub(super) fn finished(&mut self, proxy: &ProxyKey, evidence: Evidence, now: Instant) {
        self.chosen.ended(proxy, &evidence, now);
        let ended = evidence.ended;
        let class = class_of(ended.class);
        let (endpoint, generation) = (&ended.endpoint, ended.generation);
        if class == OutcomeClass::Auth {
            self.chosen.rejected(proxy, endpoint, generation);
        }
        if !matches!(class, OutcomeClass::Request | OutcomeClass::Cancelled) {
            *self.ledger.finished.entry(proxy.clone()).or_default() += 1;
            let of_kind = self.ledger.unsent.entry((proxy.clone(), ended));
            *of_kind.or_default() += 1;
        }
    }

    /// Notes that a control plane has spoken to a run of a proxy, which is at this view now.
    /// Where that does not know of a rejection that an earlier run has seen, this one owes it.
    pub(crate) fn is_spoken_to(&mut self, proxy: &ProxyKey, view: Position) {
        let inherited = self.chosen.take_inherited(proxy);
        let Some(truth) = self.history.get(&view) else {
            return;
        };
        for (endpoint, generation) in inherited {
            let known = truth.endpoints.get(endpoint.as_str());
            let is_in_use = known.is_some_and(|known| {
                view.generation(known.generation.0) == generation
                    && !matches!(known.health, Health::Unhealthy(_))
            });
            if is_in_use {
                let ended = Ended {
                    endpoint,
                    generation,
                    view,
                    class: v1::OutcomeClass::Auth,
                };
                *self.ledger.finished.entry(proxy.clone()).or_default() += 1;
                let of_kind = self.ledger.unsent.entry((proxy.clone(), ended));
                *of_kind.or_default() += 1;
            }
        }
    }

    /// Judges a batch that a proxy sends.
    pub(crate) fn sent(
        &mut self,
        proxy: &ProxyKey,
        batch: &v1::ReportBatch,
    ) -> Result<(), Violation> {
        for (number, outcome) in (batch.first_sequence..).zip(&batch.outcomes) {
            let sent = Sent {
                endpoint: outcome.endpoint.clone(),
                generation: outcome.generation,
                view: Position::of_wire(&batch.registry_id, outcome.view),
                class: outcome.class,
                count: outcome.count,
            };
            let key = (proxy.clone(), number);
            let Some(before) = self.ledger.sent.get(&key) else {
                self.said_first(proxy, number, outcome, sent.view)?;
                let waiting = self.ledger.waiting.entry(proxy.clone()).or_default();
                waiting.insert(number, u64::from(sent.count));
                self.ledger.sent.insert(key, sent);
                continue;
            };
            if *before != sent {
                return Err(Violation::new(
                    "I-20 a number stands for the same outcome for ever",
                    format!("number {number} of {}: {before:?}, then {sent:?}", proxy.id),
                ));
            }
        }
        Ok(())
    }

    /// Judges a report that is sent for the first time: it names attempts that have ended
    /// so, each of them once.
    fn said_first(
        &mut self,
        proxy: &ProxyKey,
        number: u64,
        outcome: &v1::Outcome,
        view: Position,
    ) -> Result<(), Violation> {
        let ended = Ended {
            endpoint: outcome.endpoint.clone(),
            generation: view.generation(outcome.generation),
            view,
            class: outcome.class(),
        };
        let count = u64::from(outcome.count);
        let key = (proxy.clone(), ended);
        let left = self.ledger.unsent.get(&key).copied().unwrap_or_default();
        let Some(rest) = left.checked_sub(count) else {
            self.accuses(proxy, &key.1)?;
            return Err(Violation::new(
                "R-4 a report names its attempt",
                format!(
                    "number {number} of {} stands for {count} of {:?}, of which {left} have ended",
                    proxy.id, key.1
                ),
            ));
        };
        if rest == 0 {
            self.ledger.unsent.remove(&key);
        } else {
            self.ledger.unsent.insert(key, rest);
        }
        Ok(())
    }

    /// Notes that a run of a proxy has ended: what it has not delivered is lost.
    pub(crate) fn died(&mut self, proxy: &ProxyKey) {
        self.ledger.finished.remove(proxy);
        self.ledger.waiting.remove(proxy);
        self.ledger.taken.remove(proxy);
        self.ledger.unsent.retain(|(of, _), _| of != proxy);
        self.suspects.died(proxy);
    }

    /// Counts what a turn was asked to apply, each number once. What is about another
    /// registry is taken, and changes nothing.
    pub(super) fn count(&mut self, asked: &[Asked]) {
        self.ledger.news.clear();
        let ours = self.now.as_ref().map(|now| now.registry_id.clone());
        for asked in asked {
            let Asked::Report(proxy, batch) = asked else {
                continue;
            };
            let ledger = &mut self.ledger;
            let up_to = ledger.applied.up_to.entry(proxy.clone()).or_default();
            let missing = batch.first_sequence.saturating_sub(*up_to + 1);
            if missing > batch.dropped && *up_to > 0 {
                continue; // Refused whole.
            }
            for (number, outcome) in (batch.first_sequence..).zip(&batch.outcomes) {
                if number <= *up_to {
                    continue;
                }
                *up_to = number;
                if batch.registry_id != ours {
                    continue;
                }
                let of_run = ledger.applied.of_run.entry(proxy.clone()).or_default();
                *of_run += u64::from(outcome.count);
                let attempts = &mut ledger.applied.attempts;
                *attempts.entry(outcome.endpoint.clone()).or_default() += u64::from(outcome.count);
                ledger.news.push(News {
                    proxy: proxy.clone(),
                    outcome: outcome.clone(),
                });
            }
        }
    }

    /// Compares the registry's numbers with those that were counted.
    pub(super) fn counted(&mut self, after: &Arc<Snapshot>) -> Result<(), Violation> {
        let before = self.now.clone();
        let created = |name: &str| {
            let was = before
                .as_ref()
                .and_then(|before| before.endpoints.get(name));
            was.is_none()
        };
        let attempts = &mut self.ledger.applied.attempts;
        attempts.retain(|name, _| after.endpoints.contains_key(name.as_str()));
        if before.is_none() {
            return Ok(()); // A life begins: judged by what was found.
        }
        for (name, endpoint) in &after.endpoints {
            let counted = attempts.entry(name.to_string()).or_default();
            if created(name.as_str()) {
                *counted = 0;
            }
            let told = endpoint.stats.attempts + endpoint.stats.stale;
            if told != *counted {
                return Err(Violation::new(
                    "I-20 each report takes effect once",
                    format!("`{name}` shows {told} attempts, {counted} were reported"),
                ));
            }
        }
        Ok(())
    }

    /// Judges an acknowledgement.
    pub(crate) fn acknowledged(&self, proxy: &ProxyKey, number: u64) -> Result<(), Violation> {
        let durable = self.ledger.durable.up_to.get(proxy).copied();
        let durable = durable.unwrap_or_default();
        if number > durable {
            return Err(Violation::new(
                "I-21 what is acknowledged is durable",
                format!("{number} of {} is, but only {durable} is on disk", proxy.id),
            ));
        }
        Ok(())
    }

    /// Notes that a run of a proxy is told what was taken of its reports.
    pub(crate) fn is_told(&mut self, proxy: &ProxyKey, acknowledged: u64) {
        let Some(waiting) = self.ledger.waiting.get_mut(proxy) else {
            return;
        };
        let left = waiting.split_off(&(acknowledged + 1));
        let taken = std::mem::replace(waiting, left);
        let of_run = self.ledger.taken.entry(proxy.clone()).or_default();
        *of_run += taken.values().sum::<u64>();
    }

    /// Notes that a run of a proxy drops what it has of a registry that is gone, and
    /// judges that it counts that.
    pub(super) fn drops_all(&mut self, proxy: &ProxyKey, dropped: u64) -> Result<(), Violation> {
        self.ledger.waiting.remove(proxy);
        self.adds_up(proxy, dropped)
    }

    /// Judges that all attempts of a run of a proxy are accounted for.
    fn adds_up(&self, proxy: &ProxyKey, dropped: u64) -> Result<(), Violation> {
        let ledger = &self.ledger;
        let finished = ledger.finished.get(proxy).copied().unwrap_or_default();
        let taken = ledger.taken.get(proxy).copied().unwrap_or_default();
        if taken + dropped == finished {
            return Ok(());
        }
        Err(Violation::new(
            "I-23 each attempt is reported once, or counted as dropped",
            format!(
                "{finished} of {} have ended, {taken} were taken and {dropped} dropped; not sent: {:?}",
                proxy.id,
                (ledger.unsent.iter())
                    .filter(|((of, _), _)| of == proxy)
                    .map(|((_, ended), count)| (ended, count))
                    .collect::<Vec<_>>()
            ),
        ))
    }

    /// Judges at the end that nothing is missing: every attempt of a run has been
    /// delivered, or dropped and said so, and those of this registry have taken effect.
    pub(crate) fn delivered(
        &self,
        proxy: &ProxyKey,
        now: Position,
        unacknowledged: usize,
        dropped: u64,
    ) -> Result<(), Violation> {
        if unacknowledged > 0 {
            return Err(Violation::new(
                "I-30 all reports are acknowledged in the end",
                format!("{unacknowledged} of {} are not", proxy.id),
            ));
        }
        let sent: u64 = (self.ledger.sent)
            .range((proxy.clone(), 0)..=(proxy.clone(), u64::MAX))
            .filter(|(_, sent)| sent.view.registry == now.registry)
            .map(|(_, sent)| u64::from(sent.count))
            .sum();
        let applied = self.ledger.durable.of_run.get(proxy).copied();
        if applied.unwrap_or_default() != sent {
            return Err(Violation::new(
                "I-20 each report takes effect once",
                format!("{sent} were sent by {}, {applied:?} took effect", proxy.id),
            ));
        }
        self.adds_up(proxy, dropped)
    }
}
