//! The data plane of qcc: an HTTP reverse proxy that decides locally.
//!
//! - [`routing`]: the core; which endpoint gets an attempt, and what is learned.
//! - [`reports`]: what is owed to the control plane.
//! - [`counters`]: lifetime counts.

mod counters;
mod reports;
mod routing;
