//! Endpoints as people see them.

use std::time::SystemTime;

use qcc_proto::v1;

use crate::{
    output::tone,
    table::{Cell, Table, Tone},
    text,
};

const HEADER: [&str; 6] = ["NAME", "CLUSTER", "STATE", "CAUSE", "SINCE", "NEXT"];
const WIDE: [&str; 7] = [
    "BASE URL",
    "KEY",
    "PRIORITY",
    "WEIGHT",
    "GENERATION",
    "IN VIEW",
    "EVIDENCE",
];

/// All endpoints, one a row.
pub(super) fn table(endpoints: &[v1::Endpoint], wide: bool) -> Table {
    let now = SystemTime::now();
    let header = if wide {
        [&HEADER[..], &WIDE[..]].concat()
    } else {
        HEADER.to_vec()
    };
    let mut table = Table::new(&header);
    for endpoint in endpoints {
        let mut row = cells(endpoint, now);
        if wide {
            row.extend(wide_cells(endpoint));
        }
        table.row(row);
    }
    table
}

/// State in one word: health, or the operator's wish where it rules.
fn state_cell(endpoint: &v1::Endpoint) -> Cell {
    let state = endpoint
        .health
        .as_ref()
        .map(v1::Health::state)
        .unwrap_or_default();
    match endpoint.admin_state() {
        v1::AdminState::Enabled | v1::AdminState::Unspecified => {
            Cell::new(text::state(state), tone(state))
        }
        wish => Cell::new(
            format!("{}, {}", text::state(state), text::admin_state(wish)),
            Tone::Doubtful,
        ),
    }
}

/// The columns of a plain table.
fn cells(endpoint: &v1::Endpoint, now: SystemTime) -> Vec<Cell> {
    let since = endpoint
        .health
        .as_ref()
        .and_then(|health| health.since_time.as_ref());
    let mut cells = watched(endpoint, now);
    cells.insert(HEADER.len() - 2, text::since(now, since).into());
    cells
}

/// The columns of a table that changes, where "since" is always now.
pub(super) fn watched(endpoint: &v1::Endpoint, now: SystemTime) -> Vec<Cell> {
    let health = endpoint.health.clone().unwrap_or_default();
    vec![
        text::clean(&endpoint.name).into(),
        text::clean(&endpoint.cluster).into(),
        state_cell(endpoint),
        text::cause(health.cause()).into(),
        next(&health, now).into(),
    ]
}

/// What comes next by itself: the end of a pause, after which requests go there again, or a
/// check.
fn next(health: &v1::Health, now: SystemTime) -> String {
    let is_paused = health.state() == v1::HealthState::Degraded;
    let end = (health.until_time.as_ref()).filter(|_| is_paused);
    if text::left(now, end).is_some_and(|left| !left.is_zero()) {
        return format!("pause ends {}", text::until(now, end));
    }
    match (health.checking, health.next_check_time.as_ref()) {
        (false, None) => text::NOTHING.to_owned(),
        (checking, time) => format!("check {}", text::next_check(now, checking, time)),
    }
}

fn wide_cells(endpoint: &v1::Endpoint) -> Vec<Cell> {
    let health = endpoint.health.clone().unwrap_or_default();
    let evidence = health
        .evidence
        .as_ref()
        .map_or_else(|| text::NOTHING.to_owned(), text::evidence);
    vec![
        text::clean(&endpoint.base_url).into(),
        fingerprint(endpoint).into(),
        text::number(endpoint.priority).into(),
        text::number(endpoint.weight).into(),
        endpoint.generation.to_string().into(),
        text::view(health.view.as_ref()).into(),
        evidence.into(),
    ]
}

/// State and cause: `unhealthy: auth`.
pub(super) fn summary(endpoint: &v1::Endpoint) -> String {
    summary_cell(endpoint).paint(false)
}

/// The same in its colour.
pub(super) fn summary_cell(endpoint: &v1::Endpoint) -> Cell {
    let state = state_cell(endpoint);
    let health = endpoint.health.as_ref();
    match health.map(v1::Health::cause).unwrap_or_default() {
        v1::Cause::Unspecified => state,
        cause => state.followed_by(&format!(": {}", text::cause(cause))),
    }
}

/// Everything about one endpoint.
pub(super) fn properties(endpoint: &v1::Endpoint) -> Vec<(&'static str, Cell)> {
    let now = SystemTime::now();
    let health = endpoint.health.clone().unwrap_or_default();
    let mut rows: Vec<(&'static str, Cell)> = vec![
        ("name", text::clean(&endpoint.name).into()),
        ("cluster", text::clean(&endpoint.cluster).into()),
        ("state", state_cell(endpoint)),
    ];
    if health.cause() != v1::Cause::Unspecified {
        rows.push(("cause", text::cause(health.cause()).into()));
    }
    rows.push(("since", ago(now, health.since_time.as_ref()).into()));
    if health.until_time.is_some() {
        rows.push((
            "paused until",
            text::until(now, health.until_time.as_ref()).into(),
        ));
    }
    rows.extend(evidence_rows(&health));
    rows.push((
        "failures in a row",
        health.consecutive_failures.to_string().into(),
    ));
    rows.push((
        "next check",
        text::next_check(now, health.checking, health.next_check_time.as_ref()).into(),
    ));
    rows.push((
        "proven",
        if health.proven {
            "yes"
        } else {
            "not yet in this generation"
        }
        .into(),
    ));
    rows.push(("generation", endpoint.generation.to_string().into()));
    rows.push(("in view", text::view(health.view.as_ref()).into()));
    rows.push(("base url", text::clean(&endpoint.base_url).into()));
    rows.push(("key", fingerprint(endpoint).into()));
    if let Some(pending) = pending(endpoint, now) {
        rows.push(("new key", pending.into()));
    }
    rows.push(("priority", text::number(endpoint.priority).into()));
    rows.push(("weight", text::number(endpoint.weight).into()));
    if endpoint.max_failures.is_some() {
        rows.push(("max failures", text::number(endpoint.max_failures).into()));
    }
    if let Some(timeout) = &endpoint.timeout {
        rows.push(("first byte timeout", text::wire_span(Some(timeout)).into()));
    }
    if let Some(check) = &endpoint.check {
        rows.push(("check", super::super::clusters::check(check).into()));
    }
    for (key, value) in &endpoint.labels {
        rows.push(("label", text::clean(&format!("{key}={value}")).into()));
    }
    let stats = endpoint.stats.unwrap_or_default();
    rows.push(("attempts", attempts(&stats).into()));
    rows.push((
        "checks",
        format!(
            "{} made, {} refused since the hour's budget was spent",
            stats.checks, stats.checks_refused
        )
        .into(),
    ));
    rows.push(("created", ago(now, endpoint.create_time.as_ref()).into()));
    rows.push(("changed", ago(now, endpoint.update_time.as_ref()).into()));
    rows.push(("etag", text::or_nothing(&endpoint.etag).into()));
    rows
}

/// What the state rests on, and on whose word.
pub(super) fn evidence_rows(health: &v1::Health) -> Vec<(&'static str, Cell)> {
    let mut rows: Vec<(&'static str, Cell)> = Vec::new();
    if let Some(evidence) = &health.evidence {
        rows.push(("evidence", text::evidence(evidence).into()));
        rows.push(("seen by", reporter(health.cause(), evidence).into()));
        if evidence.retry_after.is_some() {
            rows.push((
                "asked to wait",
                text::wire_span(evidence.retry_after.as_ref()).into(),
            ));
        }
        if !evidence.upstream_request_id.is_empty() {
            rows.push((
                "upstream request",
                text::clean(&evidence.upstream_request_id).into(),
            ));
        }
    }
    if !health.suspecting_proxies.is_empty() {
        rows.push((
            "suspected by",
            text::clean(&health.suspecting_proxies.join(", ")).into(),
        ));
    }
    rows
}

fn attempts(stats: &v1::EndpointStats) -> String {
    let v1::EndpointStats {
        attempts,
        successes,
        failures,
        throttled,
        stale,
        ..
    } = stats;
    format!("{attempts}: {successes} ok, {failures} failed, {throttled} throttled, {stale} stale")
}

fn reporter(cause: v1::Cause, evidence: &v1::Evidence) -> String {
    match (cause, evidence.proxy.as_str()) {
        (v1::Cause::Operator, _) => return "an operator".to_owned(),
        (_, "") => return "control plane".to_owned(),
        (_, _) => {}
    }
    format!(
        "proxy {} at view {}",
        text::clean(&evidence.proxy),
        text::view(evidence.view.as_ref())
    )
}

/// The key's fingerprint, and that of one which waits to take its place.
fn fingerprint(endpoint: &v1::Endpoint) -> String {
    let Some(credential) = &endpoint.credential else {
        return "none".to_owned();
    };
    let present = text::or_nothing(&credential.fingerprint);
    if credential.pending_fingerprint.is_empty() {
        return present;
    }
    format!(
        "{present} (new: {})",
        text::clean(&credential.pending_fingerprint)
    )
}

/// What the new key waits for, if there is one.
fn pending(endpoint: &v1::Endpoint, now: SystemTime) -> Option<String> {
    let credential = endpoint.credential.as_ref()?;
    let until = credential.pending_until_time.as_ref()?;
    Some(format!(
        "{} takes over when a check has proven it, at the latest {}",
        text::or_nothing(&credential.pending_fingerprint),
        text::until(now, Some(until))
    ))
}

fn ago(now: SystemTime, time: Option<&prost_types::Timestamp>) -> String {
    match text::since(now, time) {
        none if none == text::NOTHING => none,
        span => format!("{span} ago"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ejected() -> v1::Endpoint {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        let at = |seconds| {
            Some(prost_types::Timestamp {
                seconds,
                nanos: 999_999_999,
            })
        };
        v1::Endpoint {
            name: "us-1".to_owned(),
            cluster: "default".to_owned(),
            base_url: "https://us\u{1b}[2J".to_owned(),
            credential: Some(v1::Credential {
                api_key: "canary".to_owned(),
                fingerprint: "12ab34cd".to_owned(),
                ..v1::Credential::default()
            }),
            generation: 3,
            health: Some(v1::Health {
                state: v1::HealthState::Unhealthy.into(),
                cause: v1::Cause::Auth.into(),
                since_time: at(now - 43),
                next_check_time: at(now + 18),
                evidence: Some(v1::Evidence {
                    http_status: 401,
                    proxy: "p1".to_owned(),
                    ..Default::default()
                }),
                view: Some(v1::View {
                    term: 1,
                    revision: 42,
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_row_tells_state_cause_and_what_comes_next() {
        let table = table(&[ejected()], false);
        let text = table.render(&table.widths(), true, false);
        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("NAME   CLUSTER   STATE       CAUSE   SINCE   NEXT")
        );
        let row = lines.next().unwrap();
        assert!(
            row.starts_with("us-1   default   unhealthy   auth    42s     check in 1"),
            "{row}"
        );
    }

    #[test]
    fn a_pause_ends_and_then_the_next_check_counts() {
        let now = SystemTime::now();
        let at = |seconds| Some((now + Duration::from_secs(seconds)).into());
        let mut health = v1::Health {
            state: v1::HealthState::Degraded.into(),
            until_time: at(7),
            next_check_time: at(67),
            ..v1::Health::default()
        };
        assert_eq!(next(&health, now), "pause ends in 7s");
        let later = now + Duration::from_secs(8);
        assert_eq!(next(&health, later), "check in 59s");
        health.checking = true;
        assert_eq!(next(&health, later), "check running");
        assert_eq!(next(&v1::Health::default(), now), "-");
    }

    #[test]
    fn wide_rows_add_evidence_and_never_a_key() {
        let table = table(&[ejected()], true);
        let text = table.render(&table.widths(), true, false);
        assert!(
            text.contains("https://us[2J") && text.contains("12ab34cd") && text.contains("1.42"),
            "{text}"
        );
        assert!(
            text.contains("http 401") && !text.contains("canary") && !text.contains('\u{1b}'),
            "{text}"
        );
    }

    #[test]
    fn the_operators_wish_is_part_of_the_state() {
        let mut endpoint = ejected();
        endpoint.set_admin_state(v1::AdminState::Draining);
        assert_eq!(summary(&endpoint), "unhealthy, draining: auth");
    }
}
