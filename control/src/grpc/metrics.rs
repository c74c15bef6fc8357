//! What the control plane says to Prometheus, and whether it is ready. The README lists
//! the series.
//!
//! Everything is read when it is asked for: from the newest snapshot, from the sessions,
//! and from a few counters. No label holds a URL, a key, or the name of anybody but an
//! endpoint.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qcc_proto::{
    exposition::{ENDPOINTS_MAX, Kind, Page},
    plain::Pages,
    v1,
};

use super::Api;
use crate::registry::{AdminState, Cause, Endpoint, Health, Snapshot};

/// One series of each endpoint: its name, kind, meaning, and how it is read.
type Series = (&'static str, Kind, &'static str, fn(&Endpoint) -> u64);

const ENDPOINT_SERIES: [Series; 6] = [
    (
        "qcc_control_endpoint_healthy",
        Kind::Gauge,
        "Whether the endpoint is healthy.",
        |endpoint| u64::from(matches!(endpoint.health, Health::Healthy { .. })),
    ),
    (
        "qcc_control_endpoint_attempts_total",
        Kind::Counter,
        "Attempts that were reported in its present generation's time, over its life.",
        |endpoint| endpoint.stats.attempts,
    ),
    (
        "qcc_control_endpoint_successes_total",
        Kind::Counter,
        "Attempts that succeeded.",
        |endpoint| endpoint.stats.successes,
    ),
    (
        "qcc_control_endpoint_failures_total",
        Kind::Counter,
        "Attempts that failed by a fault of endpoint, credential or way.",
        |endpoint| endpoint.stats.failures,
    ),
    (
        "qcc_control_endpoint_throttled_total",
        Kind::Counter,
        "Attempts that the provider was too busy for.",
        |endpoint| endpoint.stats.throttled,
    ),
    (
        "qcc_control_endpoint_checks_total",
        Kind::Counter,
        "Checks that were made.",
        |endpoint| endpoint.stats.checks,
    ),
];

impl Pages for Api {
    fn metrics(&self) -> String {
        let mut page = Page::default();
        let snapshot = self.feed.snapshot();
        self.process(&mut page);
        self.writer(&mut page);
        self.data_planes(&mut page, &snapshot);
        state(&mut page, &snapshot);
        endpoints(&mut page, &snapshot);
        page.into_text()
    }

    fn ready(&self) -> Result<(), &'static str> {
        if self.stop.is_cancelled() {
            return Err("stopping");
        }
        Ok(())
    }
}

impl Api {
    fn process(&self, page: &mut Page) {
        page.family(
            "qcc_control_build_info",
            Kind::Gauge,
            "The version that runs.",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        page.gauge(
            "qcc_control_start_time_seconds",
            "When the process started, since the epoch.",
            since_epoch(self.started),
        );
        self.reloader.metrics(page);
        page.counter(
            "qcc_control_tls_failures_total",
            "Connections without a handshake, plaintext to TLS and the reverse included.",
            self.door.failures(),
        );
    }

    fn writer(&self, page: &mut Page) {
        page.gauge(
            "qcc_control_commands_waiting",
            "Commands in the writer's mailbox.",
            self.handle.waiting(),
        );
        let commits = self.handle.commits();
        page.family(
            "qcc_control_commit_duration_seconds",
            Kind::Histogram,
            "How long a commit to the store took.",
        )
        .histogram(commits.buckets(), commits.sum());
    }

    fn data_planes(&self, page: &mut Page, snapshot: &Snapshot) {
        let proxies = self.proxies(snapshot.view);
        let mut family = page.family(
            "qcc_control_proxies",
            Kind::Gauge,
            "Proxies by how current they are; gone ones of the last hour.",
        );
        for (label, state) in [
            ("synced", v1::SyncState::Synced),
            ("stale", v1::SyncState::Stale),
            ("gone", v1::SyncState::Gone),
        ] {
            let count = proxies
                .iter()
                .filter(|(_, proxy)| proxy.sync_state() == state);
            family.sample(&[("state", label)], count.count());
        }
        let propagation = self.sessions.propagation();
        page.family(
            "qcc_control_propagation_seconds",
            Kind::Histogram,
            "Time from a view's publication to a proxy's word that it has applied it.",
        )
        .histogram(propagation.buckets(), propagation.sum);

        let reports = snapshot.report_counts;
        let mut family = page.family(
            "qcc_control_outcomes_total",
            Kind::Counter,
            "Reported outcomes by what became of them, since the start.",
        );
        for (label, count) in [
            ("applied", reports.applied),
            ("duplicate", reports.duplicate),
            ("stale", reports.stale),
            ("unknown_endpoint", reports.unknown_endpoint),
        ] {
            family.sample(&[("result", label)], count);
        }
        page.counter(
            "qcc_control_outcomes_dropped_total",
            "Outcomes that proxies had to drop, as far as they said so, since the start.",
            reports.dropped,
        );
    }
}

fn state(page: &mut Page, snapshot: &Snapshot) {
    page.gauge(
        "qcc_control_term",
        "The term of the newest view: one life of the control plane.",
        snapshot.view.term,
    );
    page.gauge(
        "qcc_control_revision",
        "The revision of the newest view.",
        snapshot.view.revision,
    );
    page.gauge("qcc_control_clusters", "Clusters.", snapshot.clusters.len());
    let totals = snapshot.totals;
    for (name, help, value) in [
        (
            "qcc_control_queue_failed_total",
            "Incidents that entered the failure queue, ever.",
            totals.failed,
        ),
        (
            "qcc_control_queue_verified_total",
            "Checks of queued endpoints that ended, ever.",
            totals.verified,
        ),
        (
            "qcc_control_queue_recovered_total",
            "Checks that brought an endpoint back, ever.",
            totals.recovered,
        ),
        (
            "qcc_control_queue_still_failed_total",
            "Checks after which an endpoint stayed in the queue, ever.",
            totals.still_failed,
        ),
        (
            "qcc_control_checks_total",
            "Checks made, since the start.",
            snapshot.check_counts.made,
        ),
        (
            "qcc_control_checks_refused_total",
            "Checks that were due but over the endpoint's budget, since the start.",
            snapshot.check_counts.refused,
        ),
    ] {
        page.counter(name, help, value);
    }
}

fn endpoints(page: &mut Page, snapshot: &Snapshot) {
    let all = || snapshot.endpoints.values();
    let count = |is: &dyn Fn(&Endpoint) -> bool| all().filter(|endpoint| is(endpoint)).count();
    page.gauge(
        "qcc_control_queue_length",
        "Endpoints in the failure queue.",
        count(&|endpoint| endpoint.health.incident().is_some()),
    );
    page.gauge(
        "qcc_control_checks_running",
        "Checks under way or waiting for their turn.",
        count(&|endpoint| endpoint.checks.running.is_some()),
    );
    health(page, snapshot);
    let mut family = page.family(
        "qcc_control_endpoints_wanted",
        Kind::Gauge,
        "Endpoints by the operator's wish.",
    );
    for (label, wish) in [
        ("enabled", AdminState::Enabled),
        ("draining", AdminState::Draining),
        ("disabled", AdminState::Disabled),
    ] {
        let count = count(&|endpoint| endpoint.spec.admin_state == wish);
        family.sample(&[("admin_state", label)], count);
    }

    page.gauge(
        "qcc_control_endpoints_without_series",
        "Endpoints that have no series of their own in this page: those behind the first 1000.",
        snapshot.endpoints.len().saturating_sub(ENDPOINTS_MAX),
    );
    for (name, kind, help, read) in ENDPOINT_SERIES {
        let mut family = page.family(name, kind, help);
        for endpoint in all().take(ENDPOINTS_MAX) {
            let label = endpoint.spec.name.to_string();
            family.sample(&[("endpoint", &label)], read(endpoint));
        }
    }
}

/// Every combination that there can be, also where there is none: an alert must not depend
/// on a series that appears with the incident.
fn health(page: &mut Page, snapshot: &Snapshot) {
    let mut counts: Vec<(&str, Option<Cause>, u64)> =
        vec![("unknown", None, 0), ("healthy", None, 0)];
    for state in ["degraded", "unhealthy"] {
        counts.extend(Cause::ALL.map(|cause| (state, Some(cause), 0)));
    }
    for endpoint in snapshot.endpoints.values() {
        let state = match endpoint.health {
            Health::Unknown { .. } => "unknown",
            Health::Healthy { .. } => "healthy",
            Health::Degraded { .. } => "degraded",
            Health::Unhealthy(_) => "unhealthy",
        };
        let cause = endpoint.health.cause();
        let known = counts
            .iter_mut()
            .find(|(of, why, _)| (*of, *why) == (state, cause));
        if let Some((.., count)) = known {
            *count += 1;
        }
    }
    let mut family = page.family(
        "qcc_control_endpoints",
        Kind::Gauge,
        "Endpoints by state, and by the cause of what is not healthy.",
    );
    for (state, cause, count) in counts {
        let cause = cause.map_or_else(|| "none".to_owned(), |cause| cause.to_string());
        family.sample(&[("state", state), ("cause", &cause)], count);
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
