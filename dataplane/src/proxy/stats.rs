//! `/__qcc__/stats`: how this proxy fares, in the fields that QCC's proxy answered with.
//!
//! They mean what they say of this process and its view. What only the control plane
//! knows (how often an endpoint was checked) is empty here.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime},
};

use prost_types::Timestamp;
use qcc_proto::{exposition::ENDPOINTS_MAX, v1::AdminState};
use serde_json::{Value, json};

use super::{Counters, upstream::Upstreams};
use crate::routing::{Entry, Health, Reason, Table};

/// When a process began to serve.
#[derive(Debug)]
pub(super) struct Start {
    time: SystemTime,
    at: Instant,
}

impl Start {
    pub(super) fn now() -> Self {
        Self {
            time: SystemTime::now(),
            at: Instant::now(),
        }
    }
}

/// Says how a proxy fares. `table`: by which view, if there is one whose endpoints clients
/// may know. The first [`ENDPOINTS_MAX`] by name are listed, all are counted.
pub(super) fn stats(
    start: &Start,
    counters: &Counters,
    upstreams: &Upstreams,
    table: Option<&Table>,
) -> Value {
    let now = Instant::now();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut stats = json!({
        "total_requests": count(&counters.requests),
        "successful_requests": count(&counters.relayed),
        "failed_requests": count(&counters.own_errors),
        "start_time": Timestamp::from(start.time).to_string(),
        "uptime": now.saturating_duration_since(start.at).as_secs_f64(),
        "last_used_endpoint_id": null,
        "endpoints": [],
        "total_endpoints": 0,
        "healthy_endpoints": 0,
        "failed_endpoints": [],
        "failure_queue_size": 0,
        "endpoint_verify_counts": {},
    });
    let Some(table) = table else {
        return stats;
    };
    let entries = || table.by_name();
    let is_healthy = |entry: &&Entry| entry.selectable(table.policy(), now).is_ok();
    let is_queued = |entry: &&Entry| matches!(entry.routed.health, Health::Unhealthy { .. });
    let described = entries().take(ENDPOINTS_MAX);
    let described: Vec<_> = described.map(|entry| describe(entry, table, now)).collect();
    let queued = entries().filter(is_queued).take(ENDPOINTS_MAX);
    let queued: Vec<_> = queued.map(|entry| &*entry.routed.endpoint.name).collect();
    stats["last_used_endpoint_id"] = json!(upstreams.last_used().as_deref());
    stats["endpoints"] = described.into();
    stats["total_endpoints"] = table.len().into();
    stats["healthy_endpoints"] = entries().filter(is_healthy).count().into();
    stats["failed_endpoints"] = queued.into();
    stats["failure_queue_size"] = entries().filter(is_queued).count().into();
    stats
}

fn describe(entry: &Entry, table: &Table, now: Instant) -> Value {
    let (routed, totals) = (&entry.routed, entry.live.totals());
    let refusal = entry.selectable(table.policy(), now).err();
    let attempts = totals.attempts.load(Ordering::Relaxed);
    let successes = totals.successes.load(Ordering::Relaxed);
    let in_flight = u64::from(entry.live.in_flight());
    let finished = attempts.saturating_sub(in_flight);
    let rate = match finished {
        0 => 100.0,
        _ => (successes as f64 / finished as f64 * 100.0).min(100.0),
    };
    json!({
        "id": &*routed.endpoint.name,
        "base_url": routed.endpoint.base_url.to_string(),
        "priority": routed.priority,
        "weight": routed.weight,
        "enabled": routed.admin == AdminState::Enabled,
        "is_healthy": refusal.is_none(),
        "health_status": {
            "status": status(routed.health, refusal),
            "consecutive_failures": entry.live.mark().failures.max(routed.failures),
            "total_requests": attempts,
            "failed_requests": finished.saturating_sub(successes),
            "success_rate": rate,
            "last_error": refusal.map(|reason| reason.to_string()),
        },
    })
}

/// The view's word, or what this proxy has seen if that is worse.
fn status(health: Health, refusal: Option<Reason>) -> &'static str {
    match (health, refusal) {
        (Health::Unhealthy { .. }, _) => "unhealthy",
        (_, Some(Reason::Rejected | Reason::Suspended { .. })) => "unhealthy",
        (Health::Degraded { .. }, _) | (_, Some(Reason::Paused { .. })) => "degraded",
        (Health::Unknown, _) => "unknown",
        (Health::Healthy, _) => "healthy",
    }
}
