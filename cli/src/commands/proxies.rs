//! `qcc-ctl proxies …`: what the control plane knows about proxies.

use std::time::{Duration, SystemTime};

use qcc_proto::v1::{self, proxy_service_client::ProxyServiceClient as Client};

use super::{Answer, Context, missing, proxy as admin};
use crate::{
    args::{
        Format,
        proxies::{Named, Proxies},
        values,
    },
    client::{PAGE_SIZE, Server},
    error::Error,
    message,
    table::{Cell, Table, Tone},
    text,
};

/// Longest wait for a proxy's own account, which is worth having but not waiting for.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn run(command: Proxies, context: &Context) -> Result<Answer, Error> {
    match command {
        Proxies::List => list(context).await,
        Proxies::Get(args) => get(args, context).await,
    }
}

/// Returns all pages as one answer.
pub(super) async fn list_all(control: &Server) -> Result<v1::ListProxiesResponse, Error> {
    let mut all = v1::ListProxiesResponse::default();
    let request = |page_token| v1::ListProxiesRequest {
        page_size: PAGE_SIZE,
        page_token,
    };
    let take = |page: v1::ListProxiesResponse| {
        all.proxies.extend(page.proxies);
        all.view = page.view;
        page.next_page_token
    };
    let method = async |c, q| Client::new(c).list_proxies(q).await;
    control.pages(request, method, take).await?;
    Ok(all)
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
    let output = &context.output;
    let own = match output.format {
        Format::Name => None,
        _ => own_view(&proxy, context).await,
    };
    match (output.format, &own) {
        (Format::Json | Format::Yaml, Some(own)) => {
            let mut document = message::to_json("Proxy", &proxy)?;
            let own = message::to_json("ListProxyEndpointsResponse", own)?;
            document["endpoints"] = own["endpoints"].clone();
            output.value(&document)?;
        }
        _ => {
            let people = || output.properties(&properties(&proxy));
            output.one(("Proxy", &proxy), reference(&proxy.id), people)?;
        }
    }
    if let (Format::Table | Format::Wide, Some(own)) = (output.format, &own) {
        output.text("\n")?;
        output.table(&admin::table(&own.endpoints, output.format == Format::Wide))?;
    }
    Ok(Answer::Done)
}

/// The endpoints as the proxy itself uses them, if it can be asked from here.
async fn own_view(proxy: &v1::Proxy, context: &Context) -> Option<v1::ListProxyEndpointsResponse> {
    let why = match tokio::time::timeout(ADMIN_TIMEOUT, ask(proxy, context)).await {
        Ok(Ok(Ok(endpoints))) => return Some(endpoints),
        Ok(Ok(Err(Stranger(id)))) => format!("proxy `{}` answers there", text::clean(&id)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the proxy cannot be asked");
            "it does not answer there".to_owned()
        }
        Err(_) => "it does not answer there in time".to_owned(),
    };
    context.output.note(&format!(
        "its own marks are not known: its admin address is {}, and {why}",
        text::or_nothing(&proxy.admin_address)
    ));
    None
}

/// Another proxy than the one that was meant, by its id.
struct Stranger(String);

/// Asks at the proxy's admin address. That is the proxy's own word: from here it may lead to somebody
/// else.
async fn ask(
    proxy: &v1::Proxy,
    context: &Context,
) -> Result<Result<v1::ListProxyEndpointsResponse, Stranger>, Error> {
    let url = values::url(&proxy.admin_address).map_err(Error::usage)?;
    let server = context.admin_of(url);
    let status = admin::status(&server).await?;
    if status.incarnation != proxy.incarnation {
        return Ok(Err(Stranger(status.id)));
    }
    admin::list_all(&server).await.map(Ok)
}

fn properties(proxy: &v1::Proxy) -> [(&'static str, Cell); 14] {
    let last_heard = text::wire_span(proxy.last_heard_age.as_ref());
    [
        ("id", text::clean(&proxy.id).into()),
        ("incarnation", text::clean(&proxy.incarnation).into()),
        ("version", text::clean(&proxy.version).into()),
        ("cluster", text::clean(&proxy.cluster).into()),
        ("state", sync_cell(proxy)),
        (
            "applied view",
            text::view(proxy.applied_view.as_ref()).into(),
        ),
        ("behind", behind(proxy).into()),
        ("last heard", format!("{last_heard} ago").into()),
        (
            "connected for",
            text::since(SystemTime::now(), proxy.connect_time.as_ref()).into(),
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
    ]
}

/// How far behind, in revisions and in time.
fn behind(proxy: &v1::Proxy) -> String {
    let revisions = text::plural(proxy.lag_revisions, "revision");
    match proxy.lag_revisions {
        0 => revisions,
        _ => format!("{revisions}, for {}", text::lag(proxy.lag.as_ref())),
    }
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
        "LAG",
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
            text::lag(proxy.lag.as_ref()).into(),
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
