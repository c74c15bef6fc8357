//! What this process says to Prometheus, and whether it is ready. The README lists the
//! series.
//!
//! Everything is read when it is asked for, from what requests count and mark anyway. No
//! label holds a URL, a key, or the name of anybody but an endpoint.

use std::{
    sync::atomic::Ordering,
    time::{Instant, UNIX_EPOCH},
};

use qcc_proto::{
    exposition::{ENDPOINTS_MAX, Kind, Page},
    plain::Pages,
    v1::OutcomeClass,
};

use super::Admin;
use crate::{
    proxy::Limit,
    routing::{Entry, Reason, Table},
};

/// Why an endpoint is not selected, as a label, and what is.
const REASONS: [&str; 12] = [
    "selectable",
    "disabled",
    "draining",
    "unhealthy",
    "degraded",
    "rejected",
    "paused",
    "suspended",
    "held",
    "unproven",
    "trial",
    "superseded",
];

/// What an attempt comes to, as a label.
const OUTCOMES: [(&str, OutcomeClass); 11] = [
    ("success", OutcomeClass::Success),
    ("auth", OutcomeClass::Auth),
    ("forbidden", OutcomeClass::Forbidden),
    ("rate_limited", OutcomeClass::RateLimited),
    ("overloaded", OutcomeClass::Overloaded),
    ("server_error", OutcomeClass::ServerError),
    ("timeout", OutcomeClass::Timeout),
    ("connect", OutcomeClass::Connect),
    ("stream_broken", OutcomeClass::StreamBroken),
    ("request", OutcomeClass::Request),
    ("cancelled", OutcomeClass::Cancelled),
];

/// One series of each endpoint: its name, kind, meaning, and how it is read.
type Series<'a> = (&'static str, Kind, &'static str, &'a dyn Fn(&Entry) -> u64);

impl Pages for Admin {
    fn metrics(&self) -> String {
        let now = Instant::now();
        let mut page = Page::default();
        self.process(&mut page);
        self.doors(&mut page);
        self.view(&mut page, now);
        self.requests(&mut page);
        self.reports(&mut page);
        if let Some(table) = self.router.table() {
            endpoints(&mut page, &table, now);
        }
        page.into_text()
    }

    fn ready(&self) -> Result<(), &'static str> {
        if self.drain.has_begun() {
            Err("draining")
        } else if self.router.table().is_none() {
            Err("no view yet")
        } else {
            Ok(())
        }
    }
}

impl Admin {
    fn process(&self, page: &mut Page) {
        page.family(
            "qcc_proxy_build_info",
            Kind::Gauge,
            "The version that runs.",
        )
        .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
        page.gauge(
            "qcc_proxy_start_time_seconds",
            "When the process started, since the epoch.",
            self.started.duration_since(UNIX_EPOCH).unwrap_or_default(),
        );
        page.gauge(
            "qcc_proxy_ready",
            "Whether requests are served: there is a view, and no drain.",
            self.ready().is_ok(),
        );
        self.reloader.metrics(page);
    }

    fn doors(&self, page: &mut Page) {
        let mut failures = page.family(
            "qcc_proxy_tls_failures_total",
            Kind::Counter,
            "Connections without a handshake, plaintext to TLS and the reverse included.",
        );
        for (listener, door) in [("clients", &self.client_door), ("admin", &self.door)] {
            failures.sample(&[("listener", listener)], door.failures());
        }
    }

    fn view(&self, page: &mut Page, now: Instant) {
        let link = self.link.state();
        page.gauge(
            "qcc_proxy_control_connected",
            "Whether a control plane is connected.",
            link.connected.is_some(),
        );
        page.gauge(
            "qcc_proxy_view_stale",
            "Whether the view may be out of date.",
            link.is_stale(now),
        );
        let view = link.view.unwrap_or_default();
        page.gauge(
            "qcc_proxy_view_term",
            "The term of the view in use; 0 without one.",
            view.term,
        );
        page.gauge(
            "qcc_proxy_view_revision",
            "The revision of the view in use; 0 without one.",
            view.revision,
        );
        page.gauge(
            "qcc_proxy_view_restored",
            "Whether the view was kept by an earlier process and is not confirmed yet.",
            link.restored.is_some(),
        );
        if let Some(age) = link.age(now) {
            page.gauge(
                "qcc_proxy_view_age_seconds",
                "Time since a control plane last said that the view is current.",
                age,
            );
        }
    }

    fn requests(&self, page: &mut Page) {
        let counters = &self.counters;
        for (name, help, counter) in [
            (
                "qcc_proxy_requests_total",
                "Client requests taken.",
                &counters.requests,
            ),
            (
                "qcc_proxy_relayed_total",
                "Requests that were answered with an endpoint's answer.",
                &counters.relayed,
            ),
            (
                "qcc_proxy_own_errors_total",
                "Requests that were answered with an error of the proxy's own.",
                &counters.own_errors,
            ),
            (
                "qcc_proxy_unauthenticated_total",
                "Requests that came without one of the client keys.",
                &counters.unauthenticated,
            ),
            (
                "qcc_proxy_cancelled_total",
                "Requests whose client went away before the end of the answer.",
                &counters.cancelled,
            ),
            (
                "qcc_proxy_attempts_total",
                "Tries at endpoints.",
                &counters.attempts,
            ),
            (
                "qcc_proxy_retries_total",
                "Tries beyond the first of a request.",
                &counters.retries,
            ),
            (
                "qcc_proxy_retry_budget_exhausted_total",
                "Requests that were not tried again because the retry budget was used up.",
                &counters.over_budget,
            ),
            (
                "qcc_proxy_suspect_requests_total",
                "Requests that failed alike at two endpoints, neither of which was blamed.",
                &counters.suspects,
            ),
        ] {
            page.counter(name, help, counter.load(Ordering::Relaxed));
        }
        page.counter(
            "qcc_proxy_last_resort_attempts_total",
            "Tries at endpoints that were out, as the policy's `last_resort` or `max_ejected_percent` allow.",
            self.router.resorts(),
        );
        page.gauge(
            "qcc_proxy_requests_active",
            "Requests that are being served.",
            counters.active.load(Ordering::Relaxed),
        );
        page.gauge(
            "qcc_proxy_buffered_bytes",
            "Bytes of request bodies that are kept for another try.",
            counters.buffered_bytes.load(Ordering::Relaxed),
        );
        let open = counters.connections.load(Ordering::Relaxed);
        let busy = counters.connections_busy.load(Ordering::Relaxed).min(open);
        let mut family = page.family(
            "qcc_proxy_connections",
            Kind::Gauge,
            "Client connections, with a request and without.",
        );
        family.sample(&[("state", "busy")], busy);
        family.sample(&[("state", "idle")], open - busy);
        let mut family = page.family(
            "qcc_proxy_limits_hit_total",
            Kind::Counter,
            "How often a limit on clients was met.",
        );
        for limit in Limit::ALL {
            family.sample(&[("limit", limit.label())], counters.hits(limit));
        }
        let mut family = page.family(
            "qcc_proxy_outcomes_total",
            Kind::Counter,
            "Attempts by what they came to; a client that goes away leaves its attempt without.",
        );
        for (label, class) in OUTCOMES {
            family.sample(&[("class", label)], self.router.outcomes(class));
        }
    }

    fn reports(&self, page: &mut Page) {
        let buffer = self.outbox.buffer();
        let (pending, dropped) = (buffer.len(), buffer.dropped_total());
        drop(buffer);
        page.gauge(
            "qcc_proxy_reports_pending",
            "Reports that the control plane has not acknowledged.",
            pending,
        );
        page.counter(
            "qcc_proxy_outcomes_dropped_total",
            "Outcomes that were never reported, for want of room or of the registry they were about.",
            dropped,
        );
    }
}

fn endpoints(page: &mut Page, table: &Table, now: Instant) {
    let entries = || table.by_name();
    let mut counts = REASONS.map(|label| (label, 0_u64));
    for entry in entries() {
        let label = label(entry.selectable(table.policy(), now).err());
        let known = counts.iter_mut().find(|(of, _)| *of == label);
        if let Some((_, count)) = known {
            *count += 1;
        }
    }
    let mut family = page.family(
        "qcc_proxy_endpoints",
        Kind::Gauge,
        "Endpoints by why they are not selected now.",
    );
    for (label, count) in counts {
        family.sample(&[("reason", label)], count);
    }
    page.gauge(
        "qcc_proxy_attempts_in_flight",
        "Attempts under way, of the present generations.",
        entries()
            .map(|entry| u64::from(entry.live.in_flight()))
            .sum::<u64>(),
    );
    page.gauge(
        "qcc_proxy_endpoints_without_series",
        "Endpoints that have no series of their own in this page: those behind the first 1000.",
        table.len().saturating_sub(ENDPOINTS_MAX),
    );
    let series: [Series<'_>; 4] = [
        (
            "qcc_proxy_endpoint_selectable",
            Kind::Gauge,
            "Whether the endpoint is selected now.",
            &|entry| u64::from(entry.selectable(table.policy(), now).is_ok()),
        ),
        (
            "qcc_proxy_endpoint_in_flight",
            Kind::Gauge,
            "Attempts under way at the endpoint.",
            &|entry| u64::from(entry.live.in_flight()),
        ),
        (
            "qcc_proxy_endpoint_attempts_total",
            Kind::Counter,
            "Tries at the endpoint.",
            &|entry| entry.live.totals().attempts.load(Ordering::Relaxed),
        ),
        (
            "qcc_proxy_endpoint_successes_total",
            Kind::Counter,
            "Tries at the endpoint that succeeded.",
            &|entry| entry.live.totals().successes.load(Ordering::Relaxed),
        ),
    ];
    for (name, kind, help, read) in series {
        let mut family = page.family(name, kind, help);
        for entry in entries().take(ENDPOINTS_MAX) {
            family.sample(&[("endpoint", &entry.routed.endpoint.name)], read(entry));
        }
    }
}

fn label(refusal: Option<Reason>) -> &'static str {
    match refusal {
        None => "selectable",
        Some(Reason::Disabled) => "disabled",
        Some(Reason::Draining) => "draining",
        Some(Reason::Unhealthy { .. }) => "unhealthy",
        Some(Reason::Degraded { .. }) => "degraded",
        Some(Reason::Rejected) => "rejected",
        Some(Reason::Paused { .. }) => "paused",
        Some(Reason::Suspended { .. }) => "suspended",
        Some(Reason::Held) => "held",
        Some(Reason::Unproven) => "unproven",
        Some(Reason::Trial) => "trial",
        Some(Reason::Superseded) => "superseded",
    }
}
