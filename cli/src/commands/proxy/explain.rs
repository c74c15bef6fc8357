//! `qcc-ctl endpoints explain --proxy URL`: why one proxy uses an endpoint, or does not.

use qcc_proto::v1::{self, proxy_admin_service_client::ProxyAdminServiceClient as AdminClient};

use super::{
    super::{Answer, Context, missing},
    mark, view_cell,
};
use crate::{
    error::Error,
    output::tone,
    table::{Cell, Tone},
    text,
};

pub(in super::super) async fn run(name: String, context: &Context) -> Result<Answer, Error> {
    let request = v1::ExplainProxyEndpointRequest { name };
    let method = async |c, q| AdminClient::new(c).explain_proxy_endpoint(q).await;
    let response = context.proxy.call(request, method).await?;
    let endpoint = response.endpoint.as_ref();
    let endpoint = endpoint.ok_or_else(|| missing("endpoint"))?;
    let address = context.proxy.address().await?;
    let people = || {
        let mut rows = vec![
            ("endpoint", text::clean(&endpoint.name).into()),
            ("proxy", address.into()),
        ];
        rows.extend(verdict(endpoint, &response));
        rows.extend(own_word(endpoint, &response));
        rows.extend(word_of_the_view(endpoint, &response));
        rows.extend(settings(endpoint));
        context.output.properties(&rows)
    };
    let reference = format!("endpoint/{}", text::clean(&endpoint.name));
    let named = ("ExplainProxyEndpointResponse", &response);
    context.output.one(named, reference, people)?;
    Ok(Answer::Done)
}

type Rows = Vec<(&'static str, Cell)>;

/// Whether it is used, why, and what changes that.
fn verdict(endpoint: &v1::ProxyEndpoint, response: &v1::ExplainProxyEndpointResponse) -> Rows {
    let used = match endpoint.selectable {
        true => Cell::new("yes", Tone::Good),
        false => Cell::new("no", Tone::Bad),
    };
    let mut next = text::or_nothing(&response.next);
    if response.next_in.is_some() {
        next.push_str(&format!(
            " (in {})",
            text::wire_span(response.next_in.as_ref())
        ));
    }
    vec![
        ("used", used),
        ("why", text::or_nothing(&response.summary).into()),
        ("next", next.into()),
    ]
}

/// What the proxy has seen itself.
fn own_word(endpoint: &v1::ProxyEndpoint, response: &v1::ExplainProxyEndpointResponse) -> Rows {
    let Some(own) = &endpoint.local_mark else {
        let none = "none: it acts on the control plane's word";
        return vec![("own mark", none.into())];
    };
    let what = match (own.cause(), &own.remaining) {
        (v1::Cause::Unspecified, _) => text::plural(own.failures, "failure") + " in a row",
        (_, Some(_)) => mark(own),
        (_, None) => mark(own) + " until there is a newer generation",
    };
    let mut rows: Rows = vec![("own mark", Cell::new(what, Tone::Doubtful))];
    if let Some(seen) = &response.local_evidence {
        rows.push(("evidence", text::evidence(&as_evidence(seen)).into()));
        let when = format!(
            "here, {} ago, by attempt {} at view {}",
            text::wire_span(seen.age.as_ref()),
            seen.attempt,
            text::view(seen.view.as_ref())
        );
        rows.push(("seen", when.into()));
        if !seen.upstream_request_id.is_empty() {
            let id = text::clean(&seen.upstream_request_id);
            rows.push(("upstream request", id.into()));
        }
    }
    rows
}

/// The same facts in the shape in which the control plane has them.
fn as_evidence(seen: &v1::LocalEvidence) -> v1::Evidence {
    v1::Evidence {
        outcome: seen.outcome,
        http_status: seen.http_status,
        error_type: seen.error_type.clone(),
        detail: seen.detail.clone(),
        ..Default::default()
    }
}

/// What the control plane has told it.
fn word_of_the_view(
    endpoint: &v1::ProxyEndpoint,
    response: &v1::ExplainProxyEndpointResponse,
) -> Rows {
    let mut state = text::state(endpoint.state());
    if endpoint.cause() != v1::Cause::Unspecified {
        state.push_str(&format!(": {}", text::cause(endpoint.cause())));
    }
    if response.view_since.is_some() {
        let since = text::wire_span(response.view_since.as_ref());
        state.push_str(&format!(", since {since} ago"));
    }
    let mut rows: Rows = vec![("state in view", Cell::new(state, tone(endpoint.state())))];
    if !response.view_summary.is_empty() {
        rows.push(("by the view", text::clean(&response.view_summary).into()));
    }
    let age = response.view_age.as_ref();
    rows.push((
        "view",
        view_cell(response.view.as_ref(), age, response.stale),
    ));
    let failures = format!("{} of {}", response.view_failures, response.max_failures);
    rows.push(("failures in a row", failures.into()));
    rows
}

fn settings(endpoint: &v1::ProxyEndpoint) -> Rows {
    let wish = text::admin_state(endpoint.admin_state());
    let attempts = format!(
        "{}: {} ok, {} in flight",
        endpoint.attempts, endpoint.successes, endpoint.in_flight
    );
    vec![
        ("operator's wish", wish.into()),
        ("generation", endpoint.generation.to_string().into()),
        ("priority", text::number(endpoint.priority).into()),
        ("weight", text::number(endpoint.weight).into()),
        ("attempts", attempts.into()),
        ("base url", text::clean(&endpoint.base_url).into()),
    ]
}
