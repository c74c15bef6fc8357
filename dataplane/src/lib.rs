//! The data plane of qcc: an HTTP reverse proxy that decides locally.
//!
//! - [`routing`]: the core; which endpoint gets an attempt, and what is learned.
//! - [`reports`]: what is owed to the control plane.
//! - [`proxy`]: the HTTP data path.

mod proxy;
mod reports;
mod routing;
