//! Whether a request fails wherever it goes, and is itself to blame.
//!
//! ```text
//!               fails in a way that may be its own fault
//!   Unsuspected -----------------------------------------> Held: others keep away
//!        ^                                                  |  |
//!        |   next verdict is of another kind, the request   |  | next endpoint:
//!        |   ends, or it takes too long: the evidence stands|  | fails alike
//!        +--------------------------------------------------+  v
//!                                                    Suspect: nobody is to blame
//!                                                              | a later endpoint
//!                                                              v answers well
//!                                                    all of the evidence stands
//! ```
//!
//! Two ways of failing may be the request's own fault: it kills its connection (nothing
//! comes back but its end), or it is refused in the same words, 402 or 403 with the same
//! error type. That both endpoints are at fault, in the same way at the same time, is
//! possible too. Two things tell it: the request is served by a third endpoint, or other
//! requests fail in the same way with none served in between (`held::Suspects`).
//!
//! A connection that had been used before may have been closed for being idle. It counts
//! as killed all the same: if it was not, nobody is to blame either.

use std::time::{Duration, Instant};

use super::attempt::Judged;
use crate::seeded::{Bug, seeded};

/// How long evidence is held at least, for the next endpoint to fail alike. Below the
/// default `queue_timeout`: a request that waits for the endpoint hears either way.
const HOLD_MIN: Duration = Duration::from_secs(1);

/// How long evidence is held at most: the default wait for a response head.
const HOLD_MAX: Duration = Duration::from_secs(30);

/// A way of failing that may be the request's own fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Symptom {
    /// The connection broke after the request was sent, before a head.
    Killed,
    /// It was refused access.
    Refused {
        /// In this way.
        http_status: u16,
        /// In these words; empty if there were none.
        error_type: String,
    },
}

/// What one request is suspected of. Dropping it lets what is held stand.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    /// Evidence that the next verdict decides.
    held: Option<Box<(Judged, Symptom)>>,
    /// What the request does to whomever it meets, once that is known.
    symptom: Option<Symptom>,
    /// Evidence that was put down to the request.
    excused: Vec<Judged>,
}

impl Suspicion {
    /// Takes the verdict of one more attempt. `symptom`: it was held, because it may be
    /// the request's own fault. `request` tells requests apart.
    ///
    /// Returns whether the request has become suspect by it, so that neither of the two
    /// endpoints is blamed.
    pub(crate) fn take(
        &mut self,
        judged: Judged,
        symptom: Option<Symptom>,
        request: impl Fn() -> u64,
    ) -> bool {
        let Some(symptom) = symptom else {
            self.stand(); // Before the newer evidence, in order.
            return false;
        };
        if self.symptom.as_ref() == Some(&symptom) {
            self.excuse(judged, request());
            return false;
        }
        match self.held.take() {
            Some(held) if held.1 == symptom && is_elsewhere(&held.0, &judged) => {
                let (before, _) = *held;
                let request = request();
                self.symptom = Some(symptom);
                let (first, second) = (self.excuse(before, request), self.excuse(judged, request));
                first && second
            }
            before => {
                drop(before);
                self.held = Some(Box::new((judged, symptom)));
                false
            }
        }
    }

    /// Says that an endpoint has answered the request well: those that failed it before
    /// are to blame.
    pub(crate) fn clear(&mut self) {
        self.stand();
        self.symptom = None;
        for judged in self.excused.drain(..) {
            if !seeded(Bug::BlameNotTurned) {
                judged.accuse();
            }
        }
    }

    /// Lets what is held stand, and returns whether there was something.
    pub(crate) fn stand(&mut self) -> bool {
        self.held.take().is_some()
    }

    /// Returns whether the next verdict decides what evidence is worth.
    pub(crate) fn is_open(&self) -> bool {
        self.held.is_some()
    }

    /// Returns until when evidence is held; `None` if none is. What kills a request's
    /// connection after so long will take about as long at the next endpoint.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let (took, at) = self.held.as_ref()?.0.times();
        Some(at + (HOLD_MIN + 2 * took).min(HOLD_MAX))
    }

    /// Returns what was put down to the request.
    pub(crate) fn excused(&self) -> &[Judged] {
        &self.excused
    }

    fn excuse(&mut self, mut judged: Judged, request: u64) -> bool {
        let is_excused = !seeded(Bug::SuspectNotSuspected) && judged.excuse(request);
        if is_excused {
            self.excused.push(judged);
        }
        is_excused
    }
}

fn is_elsewhere(one: &Judged, other: &Judged) -> bool {
    one.endpoint().name != other.endpoint().name
}
