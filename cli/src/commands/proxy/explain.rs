//! `qcc-ctl endpoints explain --proxy URL`: why one proxy uses an endpoint, or does not.

use qcc_proto::v1;

use super::{
    super::{Answer, Context},
    list_all, mark, status, view_cell,
};
use crate::{
    args::Format,
    error::{Error, Exit},
    message,
    output::tone,
    table::{Cell, Tone},
    text,
};

pub(in super::super) async fn run(name: &str, context: &Context) -> Result<Answer, Error> {
    let status = status(&context.proxy).await?;
    let all = list_all(&context.proxy).await?.endpoints;
    let endpoint = all.into_iter().find(|endpoint| endpoint.name == name);
    let endpoint = endpoint.ok_or_else(|| {
        let (id, name) = (text::clean(&status.id), text::clean(name));
        Error::new(
            Exit::NotFound,
            format!("proxy `{id}` has no endpoint `{name}`"),
        )
        .hint("compare `qcc-ctl proxy endpoints` and `qcc-ctl proxy diff`")
    })?;
    let output = &context.output;
    if let Format::Json | Format::Yaml = output.format {
        let mut document = message::to_json("ProxyEndpoint", &endpoint)?;
        document["proxy_status"] = message::to_json("ProxyStatus", &status)?;
        output.value(&document)?;
        return Ok(Answer::Done);
    }
    let people = || output.properties(&rows(&endpoint, &status));
    let reference = format!("endpoint/{}", text::clean(&endpoint.name));
    output.one(("ProxyEndpoint", &endpoint), reference, people)?;
    Ok(Answer::Done)
}

fn rows(endpoint: &v1::ProxyEndpoint, status: &v1::ProxyStatus) -> Vec<(&'static str, Cell)> {
    let state = Cell::new(text::state(endpoint.state()), tone(endpoint.state()));
    let state = match endpoint.cause() {
        v1::Cause::Unspecified => state,
        cause => state.followed_by(&format!(": {}", text::cause(cause))),
    };
    let used = if endpoint.selectable {
        Cell::new("yes", Tone::Good)
    } else {
        let why = text::clean(&endpoint.reason);
        Cell::new(format!("no, {why}"), Tone::Bad)
    };
    let limited = match endpoint.unproven {
        true => " (few at a time, until one has succeeded)",
        false => "",
    };
    let attempts = format!(
        "{} by this process, {} ok",
        endpoint.attempts, endpoint.successes
    );
    vec![
        ("endpoint", text::clean(&endpoint.name).into()),
        ("proxy", text::clean(&status.id).into()),
        ("used", used),
        ("own mark", own_mark(endpoint)),
        ("state in its view", state),
        ("view", view_cell(status)),
        (
            "operator's wish",
            text::admin_state(endpoint.admin_state()).into(),
        ),
        ("generation", endpoint.generation.to_string().into()),
        ("priority", text::number(endpoint.priority).into()),
        ("weight", text::number(endpoint.weight).into()),
        (
            "in flight",
            format!("{}{limited}", endpoint.in_flight).into(),
        ),
        ("attempts", attempts.into()),
        ("base url", text::clean(&endpoint.base_url).into()),
    ]
}

/// What the proxy has seen itself, and how long it holds it against the endpoint.
fn own_mark(endpoint: &v1::ProxyEndpoint) -> Cell {
    let Some(own) = &endpoint.local_mark else {
        return "none: it acts on the control plane's word".into();
    };
    let marked = match own.cause() {
        v1::Cause::Unspecified => String::new(),
        _ if own.remaining.is_some() => format!("{}, ", mark(own)),
        _ => format!("{} until there is a newer generation, ", mark(own)),
    };
    let failures = match own.failures {
        0 => "seen here".to_owned(),
        failures => format!("{} in a row seen here", text::plural(failures, "failure")),
    };
    Cell::new(marked + &failures, Tone::Doubtful)
}
