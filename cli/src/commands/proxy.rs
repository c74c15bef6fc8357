//! `qcc-ctl proxy …`: what a proxy says about itself.

mod diff;
pub(super) mod explain;

use std::time::SystemTime;

use qcc_proto::v1::{self, proxy_admin_service_client::ProxyAdminServiceClient as AdminClient};

use super::{Answer, Context, missing, reload};
use crate::{
    args::proxies::{Drain, Proxy},
    client::{PAGE_SIZE, Server},
    error::Error,
    output::tone,
    table::{Cell, Table, Tone},
    text,
};

pub(super) async fn run(command: Proxy, context: &Context) -> Result<Answer, Error> {
    match command {
        Proxy::Status => show_status(context).await,
        Proxy::Endpoints => endpoints(context).await,
        Proxy::Diff => diff::run(context).await,
        Proxy::Drain(args) => drain(args, context).await,
        Proxy::Reload(args) => reload::proxy(&args, context).await,
    }
}

/// Returns the proxy's status.
pub(super) async fn status(proxy: &Server) -> Result<v1::ProxyStatus, Error> {
    let request = v1::GetProxyStatusRequest {};
    let response = proxy
        .call(request, async |c, q| {
            AdminClient::new(c).get_proxy_status(q).await
        })
        .await?;
    response.status.ok_or_else(|| missing("status"))
}

/// Returns all pages of the proxy's endpoints as one answer.
pub(super) async fn list_all(proxy: &Server) -> Result<v1::ListProxyEndpointsResponse, Error> {
    let mut all = v1::ListProxyEndpointsResponse::default();
    let request = |page_token| v1::ListProxyEndpointsRequest {
        page_size: PAGE_SIZE,
        page_token,
    };
    let take = |page: v1::ListProxyEndpointsResponse| {
        all.endpoints.extend(page.endpoints);
        all.view = page.view;
        page.next_page_token
    };
    let method = async |c, q| AdminClient::new(c).list_proxy_endpoints(q).await;
    proxy.pages(request, method, take).await?;
    Ok(all)
}

async fn show_status(context: &Context) -> Result<Answer, Error> {
    let status = status(&context.proxy).await?;
    let people = || context.output.properties(&properties(&status));
    let reference = format!("proxy/{}", text::clean(&status.id));
    context
        .output
        .one(("ProxyStatus", &status), reference, people)?;
    Ok(Answer::Done)
}

fn properties(status: &v1::ProxyStatus) -> Vec<(&'static str, Cell)> {
    let counters = status.counters.unwrap_or_default();
    let state = match (status.draining, status.ready) {
        (true, _) => Cell::new("draining", Tone::Doubtful),
        (false, true) => Cell::new("ready", Tone::Good),
        (false, false) => Cell::new("not ready: it has no view yet", Tone::Bad),
    };
    let age = status.view_age.as_ref();
    let mut view = view_cell(status.applied_view.as_ref(), age, status.stale);
    if status.view_restored {
        view = view.followed_by(", kept on disk by an earlier process");
    }
    let control = if status.connected_control_url.is_empty() {
        Cell::new(
            format!(
                "not connected (tries {})",
                text::clean(&status.control_urls.join(", "))
            ),
            Tone::Bad,
        )
    } else {
        text::clean(status.connected_control_url.trim_end_matches('/')).into()
    };
    let mut properties: Vec<(&str, Cell)> = vec![
        ("id", text::clean(&status.id).into()),
        ("incarnation", text::clean(&status.incarnation).into()),
        ("version", text::clean(&status.version).into()),
        ("cluster", text::clean(&status.cluster).into()),
        ("state", state),
        (
            "http address",
            text::or_nothing(&status.http_address).into(),
        ),
        ("control plane", control),
        ("view", view),
        (
            "running for",
            text::since(SystemTime::now(), status.start_time.as_ref()).into(),
        ),
        (
            "requests",
            format!(
                "{}: {} relayed, {} own errors, {} cancelled, {} active, {} failed alike at two endpoints",
                counters.requests,
                counters.relayed,
                counters.own_errors,
                counters.cancelled,
                status.active_requests,
                counters.suspect_requests
            )
            .into(),
        ),
        (
            "attempts",
            format!(
                "{}, of them {} retries",
                counters.attempts, counters.retries
            )
            .into(),
        ),
        (
            "reports",
            format!(
                "{} pending, {} dropped",
                status.pending_outcomes, status.dropped_outcomes
            )
            .into(),
        ),
    ];
    let standing = reload::standing(status.config.as_ref());
    properties.extend(standing.map(|standing| ("configuration", standing)));
    properties
}

/// The view in use, and how old it is.
fn view_cell(view: Option<&v1::View>, age: Option<&prost_types::Duration>, is_stale: bool) -> Cell {
    let view = text::view(view);
    match (age, is_stale) {
        (None, false) => view.into(),
        (None, true) => Cell::new(format!("{view}, stale: not confirmed yet"), Tone::Doubtful),
        (Some(_), false) => format!("{view}, confirmed {} ago", text::wire_span(age)).into(),
        (Some(_), true) => {
            let age = text::wire_span(age);
            Cell::new(
                format!("{view}, stale: confirmed {age} ago"),
                Tone::Doubtful,
            )
        }
    }
}

async fn endpoints(context: &Context) -> Result<Answer, Error> {
    let all = list_all(&context.proxy).await?;
    let names = all
        .endpoints
        .iter()
        .map(|endpoint| format!("endpoint/{}", text::clean(&endpoint.name)));
    let empty = "the proxy has no endpoints";
    context.output.list(
        ("ListProxyEndpointsResponse", &all),
        names,
        |wide| table(&all.endpoints, wide),
        empty,
    )?;
    Ok(Answer::Done)
}

/// Endpoints as a proxy uses them, one a row.
pub(super) fn table(endpoints: &[v1::ProxyEndpoint], wide: bool) -> Table {
    let mut header = vec![
        "NAME",
        "STATE",
        "CAUSE",
        "LOCAL MARK",
        "USED",
        "IN FLIGHT",
        "ATTEMPTS",
        "OK",
    ];
    header.extend(if wide {
        &["GENERATION", "UNPROVEN", "BASE URL", "WHY NOT"][..]
    } else {
        &["WHY NOT"]
    });
    let mut table = Table::new(&header);
    for endpoint in endpoints {
        let used = if endpoint.selectable {
            Cell::new("yes", Tone::Good)
        } else {
            Cell::new("no", Tone::Bad)
        };
        let mut row: Vec<Cell> = vec![
            text::clean(&endpoint.name).into(),
            Cell::new(text::state(endpoint.state()), tone(endpoint.state())),
            text::cause(endpoint.cause()).into(),
            endpoint
                .local_mark
                .as_ref()
                .map_or_else(|| text::NOTHING.to_owned(), mark)
                .into(),
            used,
            endpoint.in_flight.to_string().into(),
            endpoint.attempts.to_string().into(),
            endpoint.successes.to_string().into(),
        ];
        if wide {
            row.push(endpoint.generation.to_string().into());
            row.push(if endpoint.unproven { "yes" } else { "no" }.into());
            row.push(text::clean(&endpoint.base_url).into());
        }
        row.push(text::or_nothing(&endpoint.reason).into());
        table.row(row);
    }
    table
}

/// A proxy's own mark: `connect for 7s`.
pub(super) fn mark(mark: &v1::LocalMark) -> String {
    match &mark.remaining {
        Some(remaining) => format!(
            "{} for {}",
            text::cause(mark.cause()),
            text::wire_span(Some(remaining))
        ),
        None => text::cause(mark.cause()),
    }
}

async fn drain(Drain { within }: Drain, context: &Context) -> Result<Answer, Error> {
    let request = v1::DrainProxyRequest { timeout: within };
    let response = context
        .proxy
        .call(request, async |c, q| {
            AdminClient::new(c).drain_proxy(q).await
        })
        .await?;
    let address = context.proxy.address().await?;
    let people = || match response.active_requests {
        0 => format!("the proxy at {address} is stopping\n"),
        1 => format!("the proxy at {address} is stopping; 1 request is still being served\n"),
        active => format!(
            "the proxy at {address} is stopping; {active} requests are still being served\n"
        ),
    };
    context.output.one(
        ("DrainProxyResponse", &response),
        "proxy".to_owned(),
        people,
    )?;
    Ok(Answer::Done)
}
