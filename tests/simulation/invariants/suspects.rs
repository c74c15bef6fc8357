//! Whose fault it is that a request fails wherever it goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use qcc_control::registry::ProxyKey;
use qcc_dataplane::simulation::Reply;

use super::{Judge, Violation, counts::Ended};
use crate::position::Generation;

/// Different requests in a row that may be to blame in one endpoint's place.
const IN_A_ROW_MAX: usize = 2;

/// An endpoint and its generation, as a run of a proxy knows them.
pub(super) type Known = (ProxyKey, String, Generation);

/// What requests are suspected of.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    cases: BTreeMap<(ProxyKey, u64), Case>,
    /// Requests that were to blame since an endpoint last answered well.
    blamed: BTreeMap<Known, BTreeSet<u64>>,
    /// Attempts that are their requests' own fault.
    excused: BTreeMap<(ProxyKey, Ended), u64>,
}

/// One request.
#[derive(Debug)]
struct Case {
    /// Tells it from others.
    fingerprint: u64,
    /// What its next attempt decides.
    held: Option<(Evidence, Symptom)>,
    /// What it does to whomever it meets.
    symptom: Option<Symptom>,
    /// What it was blamed for.
    excused: Vec<Evidence>,
}

/// An attempt that has ended, and when, on the proxy's clock.
#[derive(Debug, Clone)]
pub(crate) struct Evidence {
    pub(crate) ended: Ended,
    pub(crate) chosen_at: Instant,
    pub(crate) at: Instant,
}

/// A way of failing that may be the request's own fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symptom {
    Killed,
    Denied(&'static str),
}

/// Returns the way in which an attempt has failed that may be its request's own fault.
pub(crate) fn symptom(reply: &Reply) -> Option<Symptom> {
    match reply {
        Reply::Killed => Some(Symptom::Killed),
        Reply::Denied(error_type) => Some(Symptom::Denied(error_type)),
        Reply::Head(..) | Reply::Broken | Reply::Timeout | Reply::Refused => None,
    }
}

impl Suspects {
    /// Notes that an endpoint has answered well: who was blamed, was rightly.
    pub(super) fn acquit(&mut self, known: &Known) {
        self.blamed.remove(known);
    }

    /// Notes that a run of a proxy has ended.
    pub(super) fn died(&mut self, proxy: &ProxyKey) {
        self.cases.retain(|(of, _), _| of != proxy);
        self.blamed.retain(|(of, ..), _| of != proxy);
        self.excused.retain(|(of, _), _| of != proxy);
    }

    /// Whether a request holds something against an endpoint.
    pub(super) fn is_held(&self, (proxy, name, generation): &Known) -> bool {
        let mut cases = self
            .cases
            .range((proxy.clone(), 0)..=(proxy.clone(), u64::MAX));
        cases.any(|(_, case)| {
            let held = case.held.as_ref();
            held.is_some_and(|(Evidence { ended, .. }, _)| {
                ended.endpoint == *name && ended.generation == *generation
            })
        })
    }

    /// Puts an attempt down to its request; gives it back if too many were to blame.
    fn excuse(&mut self, key: &(ProxyKey, u64), evidence: Evidence) -> Option<Evidence> {
        let Some(case) = self.cases.get_mut(key) else {
            return Some(evidence);
        };
        let ended = &evidence.ended;
        let known = (key.0.clone(), ended.endpoint.clone(), ended.generation);
        let blamed = self.blamed.entry(known).or_default();
        if blamed.len() >= IN_A_ROW_MAX && !blamed.contains(&case.fingerprint) {
            return Some(evidence);
        }
        blamed.insert(case.fingerprint);
        *(self.excused.entry((key.0.clone(), ended.clone()))).or_default() += 1;
        case.excused.push(evidence);
        None
    }
}

impl Judge {
    /// Notes that a request begins.
    pub(crate) fn begins(&mut self, proxy: &ProxyKey, request: u64, fingerprint: u64) {
        let case = Case {
            fingerprint,
            held: None,
            symptom: None,
            excused: Vec::new(),
        };
        self.suspects.cases.insert((proxy.clone(), request), case);
    }

    /// Notes that an attempt of a request has ended.
    pub(crate) fn ended(
        &mut self,
        proxy: &ProxyKey,
        request: u64,
        evidence: Evidence,
        symptom: Option<Symptom>,
    ) {
        let now = evidence.at;
        let key = (proxy.clone(), request);
        let case = self.suspects.cases.get_mut(&key);
        let Some((case, symptom)) = case.zip(symptom) else {
            self.release(proxy, request, now);
            return self.finished(proxy, evidence, now);
        };
        if case.symptom == Some(symptom) {
            return self.excuse(&key, [evidence], now);
        }
        let endpoint = &evidence.ended.endpoint;
        match case.held.take() {
            Some((before, like)) if like == symptom && before.ended.endpoint != *endpoint => {
                case.symptom = Some(symptom);
                self.excuse(&key, [before, evidence], now);
            }
            before => {
                case.held = Some((evidence, symptom));
                if let Some((before, _)) = before {
                    self.finished(proxy, before, now);
                }
            }
        }
    }

    /// Notes that what a request holds stands, or that it has ended.
    pub(crate) fn stood(&mut self, proxy: &ProxyKey, request: u64, now: Instant) {
        self.release(proxy, request, now);
    }

    /// Notes that an endpoint serves a request: those that did not are to blame.
    pub(crate) fn served(&mut self, proxy: &ProxyKey, request: u64, now: Instant) {
        self.release(proxy, request, now);
        let case = self.suspects.cases.get_mut(&(proxy.clone(), request));
        let Some(case) = case else { return };
        case.symptom = None;
        for evidence in std::mem::take(&mut case.excused) {
            let key = (proxy.clone(), evidence.ended.clone());
            if let Some(excused) = self.suspects.excused.get_mut(&key) {
                *excused -= 1;
            }
            self.finished(proxy, evidence, now);
        }
    }

    fn excuse<const N: usize>(
        &mut self,
        key: &(ProxyKey, u64),
        evidence: [Evidence; N],
        now: Instant,
    ) {
        for evidence in evidence {
            if let Some(evidence) = self.suspects.excuse(key, evidence) {
                self.finished(&key.0, evidence, now);
            }
        }
    }

    fn release(&mut self, proxy: &ProxyKey, request: u64, now: Instant) {
        let case = self.suspects.cases.get_mut(&(proxy.clone(), request));
        if let Some((held, _)) = case.and_then(|case| case.held.take()) {
            self.finished(proxy, held, now);
        }
    }

    /// Judges a report of an attempt that nobody has to hear of.
    pub(super) fn accuses(&self, proxy: &ProxyKey, ended: &Ended) -> Result<(), Violation> {
        let excused = self.suspects.excused.get(&(proxy.clone(), ended.clone()));
        if excused.is_some_and(|excused| *excused > 0) {
            return Err(Violation::new(
                "R-16 a request that fails alike at two endpoints is to blame itself",
                format!("{} blames `{}`", proxy.id, ended.endpoint),
            ));
        }
        Ok(())
    }
}
