//! The data plane of qcc: an HTTP reverse proxy that decides locally.
//!
//! - [`routing`]: the core; which endpoint gets an attempt, and what is learned.
//! - [`reports`]: what is owed to the control plane.
//! - [`proxy`]: the HTTP data path.
//! - [`sync`]: in step with the control plane.

mod proxy;
mod reports;
mod routing;
mod sync;
