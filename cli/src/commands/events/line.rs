//! An event as one line.

use std::collections::BTreeSet;

use qcc_proto::v1::{self, Cause, EventKind};

use crate::{
    table::{Cell, Table, Tone},
    text,
};

const HEADER: [&str; 4] = ["TIME", "EVENT", "ABOUT", "DETAILS"];

/// How many of the last events are remembered as shown: what goes on has begun a short while ago.
const REMEMBERED_MAX: usize = 1000;

/// Writes events, and remembers which it has written.
#[derive(Default)]
pub(crate) struct Lines {
    shown: BTreeSet<u64>,
}

impl Lines {
    /// The next lines.
    pub(crate) fn table<'e>(
        &mut self,
        events: impl Iterator<Item = &'e v1::Event>,
        wide: bool,
    ) -> Table {
        let mut header = HEADER.to_vec();
        if wide {
            header.insert(0, "ID");
        }
        let mut table = Table::new(&header);
        for event in events {
            let goes_on = self.shown.remove(&event.replaces);
            self.shown.insert(event.id);
            if self.shown.len() > REMEMBERED_MAX {
                self.shown.pop_first();
            }
            let mut row = cells(event, goes_on);
            if wide {
                row.insert(0, event.id.to_string().into());
            }
            table.row(row);
        }
        table
    }
}

fn cells(event: &v1::Event, goes_on: bool) -> Vec<Cell> {
    // One that stands for many is where its newest occurrence belongs, or time would run backwards.
    let time = match event.count {
        0 | 1 => event.time.as_ref(),
        _ => event.last_time.as_ref().or(event.time.as_ref()),
    };
    let kind = text::event_kind(event.kind());
    let kind = if goes_on { format!("... {kind}") } else { kind };
    vec![
        text::moment(time).into(),
        Cell::new(kind, tone(event.kind())),
        about(event).into(),
        details(event).into(),
    ]
}

fn tone(kind: EventKind) -> Tone {
    match kind {
        EventKind::EndpointEjected => Tone::Bad,
        EventKind::EndpointHealthy | EventKind::EndpointRecovered => Tone::Good,
        EventKind::EndpointPaused
        | EventKind::CauseChanged
        | EventKind::EndpointDoubted
        | EventKind::ProviderBusy
        | EventKind::CheckRefused
        | EventKind::NewCredentialRejected => Tone::Doubtful,
        EventKind::Unspecified
        | EventKind::ControlStarted
        | EventKind::EndpointStartedAnew
        | EventKind::FailuresSuppressed
        | EventKind::ReportsStale
        | EventKind::EndpointCreated
        | EventKind::EndpointUpdated
        | EventKind::EndpointDeleted
        | EventKind::ClusterCreated
        | EventKind::ClusterUpdated
        | EventKind::ClusterDeleted => Tone::Plain,
    }
}

/// What it is about: an endpoint by its bare name, as nearly all events are.
fn about(event: &v1::Event) -> String {
    if !event.endpoint.is_empty() {
        return text::clean(&event.endpoint);
    }
    match (event.provider.as_str(), event.cluster.as_str()) {
        ("", "") => text::NOTHING.to_owned(),
        ("", cluster) => text::clean(&format!("cluster {cluster}")),
        (provider, _) => text::clean(&format!("provider {provider}")),
    }
}

/// Why, on whose word, and what it has led to: `auth: 401 authentication_error, seen by proxy-1 …`.
fn details(event: &v1::Event) -> String {
    let mut parts = Vec::new();
    if event.kind() == EventKind::ControlStarted {
        let term = event.view.unwrap_or_default().term;
        parts.push(format!("term {term}"));
    }
    // An event about one endpoint has named it already.
    if event.endpoint.is_empty() && event.endpoint_count > 0 {
        parts.push(endpoints(event));
    }
    parts.extend(facts(event));
    // What an operator did rests on his word and reason alone.
    let evidence = event.evidence.as_ref();
    if let Some(evidence) = evidence.filter(|_| event.cause() != Cause::Operator) {
        if evidence.retry_after.is_some() {
            let wait = text::wire_span(evidence.retry_after.as_ref());
            parts.push(format!("asked to wait {wait}"));
        }
        parts.push(seen_by(evidence));
        if !evidence.upstream_request_id.is_empty() {
            let id = text::clean(&evidence.upstream_request_id);
            parts.push(format!("upstream request {id}"));
        }
    }
    if event.until_time.is_some() {
        parts.push(format!("until {}", text::moment(event.until_time.as_ref())));
    }
    if event.admin_state() != v1::AdminState::Unspecified {
        parts.push(text::admin_state(event.admin_state()));
    }
    // What it was set to has been said.
    let fields = event.fields.iter().filter(|field| *field != "admin_state");
    parts.extend(fields.map(|field| text::clean(field)));
    parts.extend(by(event));
    parts.push(result(event));
    let mut line = parts.join(", ");
    let more = event.count.saturating_sub(1);
    // One act upon many has named how many.
    let at_once = event.endpoint.is_empty() && event.time == event.last_time;
    if more > 0 && !at_once {
        let since = text::moment(event.time.as_ref());
        line.push_str(&format!(" (+{more} more since {since})"));
    }
    line
}

/// Cause and evidence: `auth: 401 authentication_error`.
fn facts(event: &v1::Event) -> Option<String> {
    let cause = match event.cause() {
        Cause::Operator => return None,
        Cause::Unspecified => None,
        cause => Some(text::cause(cause)),
    };
    let evidence = event.evidence.as_ref().map(text::short_evidence);
    match (cause, evidence) {
        // A success, and what nobody is blamed for, needs no words beside the event's own.
        (None, Some(evidence)) if evidence == "success" => None,
        (Some(cause), Some(evidence)) if cause != evidence => Some(format!("{cause}: {evidence}")),
        (cause, evidence) => cause.or(evidence),
    }
}

/// On whose word: a proxy's, or that of the control plane's own check.
pub(crate) fn seen_by(evidence: &v1::Evidence) -> String {
    if evidence.proxy.is_empty() {
        return "seen by a check".to_owned();
    }
    let proxy = text::clean(&evidence.proxy);
    match &evidence.view {
        Some(view) => format!("seen by {proxy} at view {view}"),
        None => format!("seen by {proxy}"),
    }
}

/// The operator and the reason, as far as they were said.
fn by(event: &v1::Event) -> Option<String> {
    let reason = Some(text::clean(&event.reason)).filter(|reason| !reason.is_empty());
    let operator = Some(text::clean(&event.operator)).filter(|name| !name.is_empty());
    match (operator, reason) {
        (Some(operator), Some(reason)) => Some(format!("by {operator}: \"{reason}\"")),
        (Some(operator), None) => Some(format!("by {operator}")),
        (None, reason) => reason.map(|reason| format!("\"{reason}\"")),
    }
}

/// The view that shows it, and the generation afterwards.
fn result(event: &v1::Event) -> String {
    let view = format!("in view {}", text::view(event.view.as_ref()));
    match event.generation {
        0 => view,
        generation => format!("{view}, generation {generation}"),
    }
}

/// The endpoints of an event about several: `3 endpoints: a, b and 1 more`.
fn endpoints(event: &v1::Event) -> String {
    let named = event.endpoints.len();
    let count = usize::try_from(event.endpoint_count).unwrap_or(usize::MAX);
    let rest = match count.saturating_sub(named) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    let names = text::clean(&event.endpoints.join(" "));
    format!(
        "{}: {names}{rest}",
        text::plural(event.endpoint_count, "endpoint")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp {
            seconds,
            nanos: 5_000_000,
        })
    }

    fn ejected() -> v1::Event {
        v1::Event {
            id: 7,
            kind: EventKind::EndpointEjected.into(),
            time: at(0),
            view: Some(v1::View {
                term: 1,
                revision: 42,
            }),
            endpoint: "eu-1".to_owned(),
            cluster: "default".to_owned(),
            generation: 3,
            cause: Cause::Auth.into(),
            evidence: Some(v1::Evidence {
                outcome: v1::OutcomeClass::Auth.into(),
                http_status: 401,
                error_type: "authentication_error".to_owned(),
                upstream_request_id: "req_1".to_owned(),
                proxy: "p1".to_owned(),
                view: Some(v1::View {
                    term: 1,
                    revision: 41,
                }),
                ..Default::default()
            }),
            count: 1,
            ..Default::default()
        }
    }

    fn lines(events: &[v1::Event]) -> Vec<String> {
        let table = Lines::default().table(events.iter(), false);
        let text = table.render(&[0; 4], false, false);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_tells_what_why_and_on_whose_word() {
        assert_eq!(
            lines(&[ejected()]),
            [
                "1970-01-01T00:00:00.005Z   ejected   eu-1   auth: 401 authentication_error, \
              seen by p1 at view 1.41, upstream request req_1, in view 1.42, generation 3"
            ]
        );
    }

    #[test]
    fn an_act_names_the_operator_and_the_reason() {
        let act = v1::Event {
            kind: EventKind::EndpointUpdated.into(),
            cause: 0,
            evidence: None,
            fields: ["admin_state", "credential", "weight"]
                .map(str::to_owned)
                .to_vec(),
            admin_state: v1::AdminState::Draining.into(),
            operator: "eva@desk\u{1b}[2J".to_owned(),
            reason: "a leak".to_owned(),
            ..ejected()
        };
        let ejected_by_hand = v1::Event {
            kind: EventKind::EndpointEjected.into(),
            cause: Cause::Operator.into(),
            evidence: Some(v1::Evidence {
                detail: "a leak".to_owned(),
                ..Default::default()
            }),
            fields: Vec::new(),
            admin_state: 0,
            ..act.clone()
        };
        assert_eq!(
            lines(&[ejected_by_hand]),
            [
                "1970-01-01T00:00:00.005Z   ejected   eu-1   by eva@desk[2J: \"a leak\", \
              in view 1.42, generation 3"
            ]
        );
        assert_eq!(
            lines(&[act]),
            [
                "1970-01-01T00:00:00.005Z   updated   eu-1   draining, credential, weight, \
              by eva@desk[2J: \"a leak\", in view 1.42, generation 3"
            ]
        );
    }

    #[test]
    fn what_goes_on_is_shown_as_such_at_its_newest_occurrence() {
        let first = v1::Event {
            kind: EventKind::FailuresSuppressed.into(),
            ..ejected()
        };
        let more = v1::Event {
            id: 9,
            replaces: 7,
            count: 58,
            last_time: at(60),
            ..first.clone()
        };
        let lines = lines(&[first, more.clone()]);
        assert!(
            lines[0].contains(":00.005Z   failures_suppressed   "),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("1970-01-01T00:01:00.005Z   ... failures_suppressed   "));
        assert!(lines[1].ends_with(" (+57 more since 1970-01-01T00:00:00.005Z)"));
        // What it continues was not shown: it stands for itself.
        assert!(!super::tests::lines(&[more])[0].contains("..."));
    }

    #[test]
    fn one_act_upon_many_is_one_line_that_counts_them_once() {
        let created = v1::Event {
            kind: EventKind::EndpointCreated.into(),
            endpoint: String::new(),
            cluster: String::new(),
            generation: 0,
            cause: 0,
            evidence: None,
            endpoints: vec!["a".to_owned(), "b".to_owned()],
            endpoint_count: 500,
            count: 500,
            last_time: at(0),
            operator: "eva@desk".to_owned(),
            ..ejected()
        };
        assert_eq!(
            lines(&[created]),
            [
                "1970-01-01T00:00:00.005Z   created   -   500 endpoints: a b and 498 more, \
              by eva@desk, in view 1.42"
            ]
        );
    }

    #[test]
    fn a_busy_provider_is_one_line_with_its_endpoints() {
        let busy = v1::Event {
            kind: EventKind::ProviderBusy.into(),
            endpoint: String::new(),
            cluster: String::new(),
            generation: 0,
            provider: "acme".to_owned(),
            endpoints: vec!["a".to_owned(), "b".to_owned()],
            endpoint_count: 5,
            cause: Cause::Overloaded.into(),
            evidence: None,
            until_time: at(10),
            ..ejected()
        };
        assert_eq!(
            lines(&[busy]),
            [
                "1970-01-01T00:00:00.005Z   provider_busy   provider acme   5 endpoints: a b and 3 more, \
              overloaded, until 1970-01-01T00:00:10.005Z, in view 1.42"
            ]
        );
    }
}
