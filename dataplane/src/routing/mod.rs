//! Decides which endpoint gets an attempt, and learns from what it came to.
//!
//! - [`endpoint`], [`policy`]: what a view says.
//! - [`table`], [`block`]: one view in preference order, immutable.
//! - [`mark`], [`held`]: what this process has seen itself; the state machine.
//! - [`gate`]: whether a mark keeps anybody away.
//! - [`live`]: the mark and the in-flight counts, beside the tables.
//! - [`router`]: the newest table, and who waits for a change.
//! - [`admission`]: whether an endpoint may be tried now.
//! - [`selection`]: one client request's way through the endpoints.
//! - [`draw`]: whom a strategy draws. [`chance`]: what is left to chance.
//! - [`home`]: where the requests of a session go.
//! - [`last_resort`]: which endpoints are tried although they are out.
//! - [`affinity`]: where a session belongs. [`places`]: where sessions are, remembered.
//! - [`pace`]: how an endpoint fares, and how much of its share it gets.
//! - [`attempt`]: one try at one endpoint, from choice to outcome.
//! - [`budget`]: how many tries may follow a first one.
//! - [`suspicion`]: whether a request fails wherever it goes, and is itself to blame.
//! - [`reason`]: why an endpoint is not selected.
//! - [`outlook`]: that nothing can be chosen, remembered for a moment.
//!
//! The way of one client request:
//!
//! ```text
//! router.begin() -> Routing
//! loop: routing.next(now)
//!   Attempt      send the request there
//!                  attempt.answered()            a 2xx head: the endpoint is proven
//!                  attempt.finish(outcome, now)  marks, wakes, reports
//!                  attempt.hold(outcome, now)    the same, unless the request is to blame
//!                  or drop it                    the client went away
//!   Wait         router.changed(), or until      a place may be free
//!   Exhausted    this request is out of endpoints
//!   Unavailable  so is everybody: say why, and when to come back
//! ```
//!
//! This is a core: no I/O, no clock, no logging, and of the wire only its
//! vocabulary (the enums and [`View`](qcc_proto::v1::View)). Time comes in as `now`,
//! randomness as a seed. Selection takes no lock: the table is swapped atomically,
//! marks and counts are atomics.
//!
//! A request pins the table that it first selects from, and goes through no other;
//! but an endpoint that the newest table shuts out is not selected from an older
//! one either, and marks act on all requests at once. Where a policy asks for it,
//! [`last_resort`] has exceptions, none of them for a rejected key.

mod admission;
mod affinity;
mod attempt;
mod block;
mod budget;
mod chance;
mod draw;
mod endpoint;
mod gate;
mod held;
mod home;
mod last_resort;
mod live;
mod mark;
mod outlook;
mod pace;
mod places;
mod policy;
mod reason;
mod router;
mod selection;
mod suspicion;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use affinity::Session;
pub(crate) use attempt::{Attempt, Judged, Outcome, Witness};
pub(crate) use budget::Hearing;
pub(crate) use endpoint::{Endpoint, Health, Routed};
pub(crate) use last_resort::Leniency;
pub(crate) use mark::Block;
pub(crate) use policy::{
    ATTEMPTS_MAX, Affinity, CoolDowns, Policy, RetryBudget, ReturnPolicy, Strategy, Timeouts,
    UpstreamProtocol, Verification,
};
pub(crate) use reason::{Reason, Unavailable};
pub(crate) use router::{Changes, Router, Update};
pub(crate) use selection::{Next, Routing};
pub(crate) use suspicion::{Suspicion, Symptom};
pub(crate) use table::{Entry, Generation, Table};
