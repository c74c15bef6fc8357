//! `qcc-ctl endpoints explain`: a page for whoever is woken by it.

use std::time::SystemTime;

use qcc_proto::v1::{self, endpoint_service_client::EndpointServiceClient as Client};

use super::{
    super::{Answer, Context, events::line::Lines, missing, proxy},
    reference, show,
};
use crate::{
    args::{Format, endpoints::Named},
    error::Error,
    table::{Cell, Table, Tone},
    text,
};

/// How many of the last events the page has room for; `-o wide` shows all that came.
const EVENTS_SHOWN: usize = 10;

pub(super) async fn run(Named { name }: Named, context: &Context) -> Result<Answer, Error> {
    if context.proxy_given {
        return proxy::explain::run(name, context).await;
    }
    let request = v1::ExplainEndpointRequest { name };
    let method = async |c, q| Client::new(c).explain_endpoint(q).await;
    let response = context.control.call(request, method).await?;
    let endpoint = response.endpoint.as_ref();
    let endpoint = endpoint.ok_or_else(|| missing("endpoint"))?;
    let people = || page(endpoint, &response, context);
    context.output.one(
        ("ExplainEndpointResponse", &response),
        reference(&endpoint.name),
        people,
    )?;
    Ok(Answer::Done)
}

fn page(
    endpoint: &v1::Endpoint,
    response: &v1::ExplainEndpointResponse,
    context: &Context,
) -> String {
    let output = &context.output;
    let mut page = output.properties(&rows(endpoint, response));
    if !response.proxies_behind.is_empty() {
        page.push('\n');
        page.push_str(&output.rendered(&behind(response)));
    }
    if !response.events.is_empty() {
        let wide = output.format == Format::Wide;
        let shown = if wide { usize::MAX } else { EVENTS_SHOWN };
        // The newest come first; people read on from the oldest.
        let newest = &response.events[..response.events.len().min(shown)];
        page.push('\n');
        page.push_str(&output.rendered(&Lines::default().table(newest.iter().rev(), wide)));
    }
    page
}

fn rows(
    endpoint: &v1::Endpoint,
    response: &v1::ExplainEndpointResponse,
) -> Vec<(&'static str, Cell)> {
    let now = SystemTime::now();
    let health = endpoint.health.clone().unwrap_or_default();
    let mut rows = vec![
        ("endpoint", text::clean(&endpoint.name).into()),
        ("state", show::summary_cell(endpoint)),
        ("since", since(now, &health).into()),
        ("why", text::or_nothing(&response.summary).into()),
    ];
    rows.extend(show::evidence_rows(&health));
    rows.push(("next", next(now, response).into()));
    if !response.advice.is_empty() {
        let advice = Cell::new(text::clean(&response.advice), Tone::Doubtful);
        rows.push(("to do", advice));
    }
    rows.push(("in view", text::view(health.view.as_ref()).into()));
    rows.push((
        "proxies behind",
        match response.proxies_behind_count {
            0 => "none".into(),
            count => Cell::new(
                format!(
                    "{} may still act on an older view",
                    text::plural(count, "proxy")
                ),
                Tone::Doubtful,
            ),
        },
    ));
    rows
}

/// How long ago, and when that was on the clock.
fn since(now: SystemTime, health: &v1::Health) -> String {
    match &health.since_time {
        Some(time) => format!(
            "{} ago, {}",
            text::since(now, Some(time)),
            text::moment(Some(time))
        ),
        None => text::NOTHING.to_owned(),
    }
}

/// What happens next, and when.
fn next(now: SystemTime, response: &v1::ExplainEndpointResponse) -> String {
    let next = text::or_nothing(&response.next);
    match &response.next_time {
        Some(time) => format!("{next} ({})", text::until(now, Some(time))),
        None => next,
    }
}

fn behind(response: &v1::ExplainEndpointResponse) -> Table {
    let mut table = Table::new(&["PROXY BEHIND", "VIEW", "LAG"]);
    for proxy in &response.proxies_behind {
        table.row(vec![
            text::clean(&proxy.id).into(),
            text::view(proxy.applied_view.as_ref()).into(),
            text::lag(proxy.lag.as_ref()).into(),
        ]);
    }
    table
}
