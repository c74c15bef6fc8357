//! `qcc-ctl proxies …` (asks the control plane) and `qcc-ctl proxy …` (asks a proxy).

use std::time::SystemTime;

use qcc_proto::v1::{
    self, proxy_admin_service_client::ProxyAdminServiceClient as AdminClient,
    proxy_service_client::ProxyServiceClient as Client,
};

use super::{Answer, Context, missing};
use crate::{
    args::proxies::{Drain, Named, Proxies, Proxy},
    client::{PAGE_SIZE, Server},
    error::Error,
    output::tone,
    table::{Cell, Table, Tone},
    text,
};

pub(super) async fn run_proxies(command: Proxies, context: &Context) -> Result<Answer, Error> {
    match command {
        Proxies::List => list(context).await,
        Proxies::Get(args) => get(args, context).await,
    }
}

pub(super) async fn run_proxy(command: Proxy, context: &Context) -> Result<Answer, Error> {
    match command {
        Proxy::Status => status(context).await,
        Proxy::Endpoints => endpoints(context).await,
        Proxy::Drain(args) => drain(args, context).await,
    }
}

/// Returns all pages as one answer.
pub(super) async fn list_all(control: &Server) -> Result<v1::ListProxiesResponse, Error> {
    let mut all = v1::ListProxiesResponse::default();
    let mut request = v1::ListProxiesRequest {
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    loop {
        let page = control
            .call(request.clone(), async |c, q| {
                Client::new(c).list_proxies(q).await
            })
            .await?;
        all.proxies.extend(page.proxies);
        all.view = page.view;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(all);
        }
    }
}

async fn list(context: &Context) -> Result<Answer, Error> {
    let response = list_all(&context.control).await?;
    let names = response.proxies.iter().map(|proxy| reference(&proxy.id));
    let address = context.control.address().await?;
    let empty = format!("no proxy is connected; start one with `qcc-proxy --control {address}`");
    context.output.list(
        ("ListProxiesResponse", &response),
        names,
        |wide| table(&response.proxies, wide),
        &empty,
    )?;
    if response.proxies.iter().any(|proxy| proxy.duplicate_id) {
        context.output.note("warning: two connected proxies use the same id; give each its own with `qcc-proxy --id`");
    }
    Ok(Answer::Done)
}

async fn get(Named { id }: Named, context: &Context) -> Result<Answer, Error> {
    let request = v1::GetProxyRequest { id };
    let response = context
        .control
        .call(request, async |c, q| Client::new(c).get_proxy(q).await)
        .await?;
    let proxy = response.proxy.ok_or_else(|| missing("proxy"))?;
    let now = SystemTime::now();
    let people = || {
        context.output.properties(&[
            ("id", text::clean(&proxy.id).into()),
            ("incarnation", text::clean(&proxy.incarnation).into()),
            ("version", text::clean(&proxy.version).into()),
            ("cluster", text::clean(&proxy.cluster).into()),
            ("state", sync_cell(&proxy)),
            (
                "applied view",
                text::view(proxy.applied_view.as_ref()).into(),
            ),
            ("behind by", proxy.lag_revisions.to_string().into()),
            (
                "last heard",
                format!("{} ago", text::wire_span(proxy.last_heard_age.as_ref())).into(),
            ),
            (
                "connected for",
                text::since(now, proxy.connect_time.as_ref()).into(),
            ),
            ("http address", text::or_nothing(&proxy.http_address).into()),
            (
                "admin address",
                text::or_nothing(&proxy.admin_address).into(),
            ),
            (
                "reports durable",
                proxy.acknowledged_sequence.to_string().into(),
            ),
            ("reports dropped", proxy.dropped_outcomes.to_string().into()),
            (
                "duplicate id",
                if proxy.duplicate_id { "yes" } else { "no" }.into(),
            ),
        ])
    };
    context
        .output
        .one(("Proxy", &proxy), reference(&proxy.id), people)?;
    Ok(Answer::Done)
}

fn reference(id: &str) -> String {
    format!("proxy/{}", text::clean(id))
}

fn sync_cell(proxy: &v1::Proxy) -> Cell {
    let tone = match proxy.sync_state() {
        v1::SyncState::Synced => Tone::Good,
        v1::SyncState::Stale => Tone::Doubtful,
        v1::SyncState::Gone => Tone::Bad,
        v1::SyncState::Unspecified => Tone::Plain,
    };
    Cell::new(text::sync_state(proxy.sync_state()), tone)
}

fn table(proxies: &[v1::Proxy], wide: bool) -> Table {
    let now = SystemTime::now();
    let mut header = vec![
        "ID",
        "CLUSTER",
        "STATE",
        "VIEW",
        "BEHIND",
        "LAST HEARD",
        "HTTP ADDRESS",
    ];
    if wide {
        header.extend([
            "ADMIN ADDRESS",
            "VERSION",
            "CONNECTED",
            "REPORTS",
            "DROPPED",
            "INCARNATION",
        ]);
    }
    let mut table = Table::new(&header);
    for proxy in proxies {
        let mut row: Vec<Cell> = vec![
            text::clean(&proxy.id).into(),
            text::clean(&proxy.cluster).into(),
            sync_cell(proxy),
            text::view(proxy.applied_view.as_ref()).into(),
            proxy.lag_revisions.to_string().into(),
            format!("{} ago", text::wire_span(proxy.last_heard_age.as_ref())).into(),
            text::or_nothing(&proxy.http_address).into(),
        ];
        if wide {
            row.push(text::or_nothing(&proxy.admin_address).into());
            row.push(text::or_nothing(&proxy.version).into());
            row.push(text::since(now, proxy.connect_time.as_ref()).into());
            row.push(proxy.acknowledged_sequence.to_string().into());
            row.push(proxy.dropped_outcomes.to_string().into());
            row.push(text::clean(&proxy.incarnation).into());
        }
        table.row(row);
    }
    table
}

async fn status(context: &Context) -> Result<Answer, Error> {
    let request = v1::GetProxyStatusRequest {};
    let response = context
        .proxy
        .call(request, async |c, q| {
            AdminClient::new(c).get_proxy_status(q).await
        })
        .await?;
    let status = response.status.ok_or_else(|| missing("status"))?;
    let people = || context.output.properties(&status_properties(&status));
    context
        .output
        .one(("ProxyStatus", &status), reference(&status.id), people)?;
    Ok(Answer::Done)
}

fn status_properties(status: &v1::ProxyStatus) -> Vec<(&'static str, Cell)> {
    let counters = status.counters.unwrap_or_default();
    let state = match (status.draining, status.ready) {
        (true, _) => Cell::new("draining", Tone::Doubtful),
        (false, true) => Cell::new("ready", Tone::Good),
        (false, false) => Cell::new("not ready: it has no view yet", Tone::Bad),
    };
    let view = text::view(status.applied_view.as_ref());
    let view = match (&status.view_age, status.stale) {
        (None, _) => Cell::from(view),
        (Some(age), false) => Cell::from(format!(
            "{view}, confirmed {} ago",
            text::wire_span(Some(age))
        )),
        (Some(age), true) => Cell::new(
            format!(
                "{view}, stale: confirmed {} ago",
                text::wire_span(Some(age))
            ),
            Tone::Doubtful,
        ),
    };
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
    vec![
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
                "{}: {} relayed, {} own errors, {} cancelled, {} active",
                counters.requests,
                counters.relayed,
                counters.own_errors,
                counters.cancelled,
                status.active_requests
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
    ]
}

async fn endpoints(context: &Context) -> Result<Answer, Error> {
    let mut all = v1::ListProxyEndpointsResponse::default();
    let mut request = v1::ListProxyEndpointsRequest {
        page_size: PAGE_SIZE,
        ..Default::default()
    };
    loop {
        let page = context
            .proxy
            .call(request.clone(), async |c, q| {
                AdminClient::new(c).list_proxy_endpoints(q).await
            })
            .await?;
        all.endpoints.extend(page.endpoints);
        all.view = page.view;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let names = all
        .endpoints
        .iter()
        .map(|endpoint| format!("endpoint/{}", text::clean(&endpoint.name)));
    let empty = "the proxy has no endpoints";
    context.output.list(
        ("ListProxyEndpointsResponse", &all),
        names,
        |wide| endpoint_table(&all.endpoints, wide),
        empty,
    )?;
    Ok(Answer::Done)
}

fn endpoint_table(endpoints: &[v1::ProxyEndpoint], wide: bool) -> Table {
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

fn mark(mark: &v1::LocalMark) -> String {
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
