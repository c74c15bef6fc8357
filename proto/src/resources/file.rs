//! The file's tables as messages.

use std::{collections::BTreeMap, path::Path};

use toml::{Spanned, de::DeTable, de::DeValue};

use super::{
    Error,
    secret::{Sources, check_key},
    table::{Source, Table},
};
use crate::v1;

/// Words for `api`.
pub(super) const APIS: [(&str, v1::ApiFlavor); 3] = [
    ("anthropic", v1::ApiFlavor::Anthropic),
    ("openai", v1::ApiFlavor::Openai),
    ("http", v1::ApiFlavor::Http),
];

/// Words for `credential_scheme`.
pub(super) const SCHEMES: [(&str, v1::CredentialScheme); 2] = [
    ("x-api-key", v1::CredentialScheme::XApiKey),
    ("bearer", v1::CredentialScheme::Bearer),
];

/// Words for `strategy`.
pub(super) const STRATEGIES: [(&str, v1::Strategy); 6] = [
    ("priority", v1::Strategy::Priority),
    ("weighted", v1::Strategy::Weighted),
    ("round_robin", v1::Strategy::RoundRobin),
    ("random", v1::Strategy::Random),
    ("least_inflight", v1::Strategy::LeastInflight),
    ("peak_ewma", v1::Strategy::PeakEwma),
];

/// Words for `upstream_protocol`.
pub(super) const PROTOCOLS: [(&str, v1::UpstreamProtocol); 3] = [
    ("http1", v1::UpstreamProtocol::Http1),
    ("auto", v1::UpstreamProtocol::Auto),
    ("http2", v1::UpstreamProtocol::Http2),
];

/// Words for `affinity.return_policy`.
pub(super) const RETURN_POLICIES: [(&str, v1::ReturnPolicy); 2] = [
    ("return", v1::ReturnPolicy::Return),
    ("stay", v1::ReturnPolicy::Stay),
];

#[derive(Clone, Copy)]
enum CheckKind {
    Conversation,
    Http,
    Tcp,
    None,
}

const CHECKS: [(&str, CheckKind); 4] = [
    ("conversation", CheckKind::Conversation),
    ("http", CheckKind::Http),
    ("tcp", CheckKind::Tcp),
    ("none", CheckKind::None),
];

pub(super) fn parse(text: &str, sources: &Sources<'_>) -> Result<v1::ApplyResourcesRequest, Error> {
    let source = Source(text);
    // The parser's own rendering quotes the line, and with it perhaps a key; its message alone does not.
    let document = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        source.error(offset, format!("not TOML: {}", error.message()))
    })?;
    let span = document.span();
    let document = Spanned::new(span, DeValue::Table(document.into_inner()));
    let mut top = Table::new(source, String::new(), document)?;

    let mut clusters = Vec::new();
    let mut names = BTreeMap::new();
    for mut table in top.tables("clusters", "cluster")? {
        clusters.push(cluster(&mut table, &mut names)?);
        table.finish()?;
    }
    let mut endpoints = Vec::new();
    let mut names = BTreeMap::new();
    for mut table in top.tables("endpoints", "endpoint")? {
        endpoints.push(endpoint(&mut table, &mut names, sources)?);
        table.finish()?;
    }
    top.finish()?;
    Ok(v1::ApplyResourcesRequest {
        clusters,
        endpoints,
        ..Default::default()
    })
}

/// Reads the name, makes messages use it, and refuses a second one.
fn name(
    table: &mut Table<'_>,
    noun: &str,
    names: &mut BTreeMap<String, usize>,
) -> Result<String, Error> {
    let name = table.required("name")?;
    table.rename(format!("{noun} `{name}`"));
    if names.insert(name.clone(), table.offset()).is_some() {
        return Err(table.error("there are two of this name; names are unique"));
    }
    Ok(name)
}

fn cluster(
    table: &mut Table<'_>,
    names: &mut BTreeMap<String, usize>,
) -> Result<v1::Cluster, Error> {
    let name = name(table, "cluster", names)?;
    let policy = v1::ClusterPolicy {
        api: table.word("api", &APIS)?.unwrap_or_default().into(),
        credential_scheme: table
            .word("credential_scheme", &SCHEMES)?
            .unwrap_or_default()
            .into(),
        attempts_max: table.number("attempts_max")?,
        max_failures: table.number("max_failures")?,
        unproven_concurrency: table.number("unproven_concurrency")?,
        timeouts: timeouts(table)?,
        cool_downs: cool_downs(table)?,
        check: check(table)?,
        verification: verification(table)?,
        corroboration_window: table.duration("corroboration_window")?,
        queue_timeout: table.duration("queue_timeout")?,
        strategy: table
            .word("strategy", &STRATEGIES)?
            .unwrap_or_default()
            .into(),
        affinity: affinity(table)?,
        slow_start: table.duration("slow_start")?,
        retry_budget: retry_budget(table)?,
        hold_timeout: table.duration("hold_timeout")?,
        max_ejected_percent: table.number("max_ejected_percent")?,
        last_resort: table.boolean("last_resort")?,
        model_override: table.string("model_override")?.unwrap_or_default(),
        model_aliases: table.texts("model_aliases")?,
        expose_headers: table.boolean("expose_headers")?,
        upstream_protocol: table
            .word("upstream_protocol", &PROTOCOLS)?
            .unwrap_or_default()
            .into(),
    };
    Ok(v1::Cluster {
        name,
        policy: Some(policy),
        ..Default::default()
    })
}

fn timeouts(table: &mut Table<'_>) -> Result<Option<v1::Timeouts>, Error> {
    let Some(mut table) = table.table("timeouts")? else {
        return Ok(None);
    };
    let timeouts = v1::Timeouts {
        connect: table.duration("connect")?,
        first_byte: table.duration("first_byte")?,
        idle: table.duration("idle")?,
        total: table.duration("total")?,
    };
    table.finish()?;
    Ok(Some(timeouts))
}

fn cool_downs(table: &mut Table<'_>) -> Result<Option<v1::CoolDowns>, Error> {
    let Some(mut table) = table.table("cool_downs")? else {
        return Ok(None);
    };
    let cool_downs = v1::CoolDowns {
        overloaded: table.duration("overloaded")?,
        rate_limited: table.duration("rate_limited")?,
        max: table.duration("max")?,
    };
    table.finish()?;
    Ok(Some(cool_downs))
}

fn affinity(table: &mut Table<'_>) -> Result<Option<v1::Affinity>, Error> {
    let Some(mut table) = table.table("affinity")? else {
        return Ok(None);
    };
    let affinity = v1::Affinity {
        enabled: table.boolean("enabled")?,
        headers: table.strings("headers")?,
        return_policy: table
            .word("return_policy", &RETURN_POLICIES)?
            .unwrap_or_default()
            .into(),
    };
    table.finish()?;
    Ok(Some(affinity))
}

fn retry_budget(table: &mut Table<'_>) -> Result<Option<v1::RetryBudget>, Error> {
    let Some(mut table) = table.table("retry_budget")? else {
        return Ok(None);
    };
    let budget = v1::RetryBudget {
        percent: table.number("percent")?,
        min_per_second: table.number("min_per_second")?,
    };
    table.finish()?;
    Ok(Some(budget))
}

fn verification(table: &mut Table<'_>) -> Result<Option<v1::VerificationSchedule>, Error> {
    let Some(mut table) = table.table("verification")? else {
        return Ok(None);
    };
    let schedule = v1::VerificationSchedule {
        first: table.duration("first")?,
        max: table.duration("max")?,
        auth_max: table.duration("auth_max")?,
        per_hour_max: table.number("per_hour_max")?,
    };
    table.finish()?;
    Ok(Some(schedule))
}

/// A check is a table, or its bare kind: `check = "tcp"`.
fn check(table: &mut Table<'_>) -> Result<Option<v1::Check>, Error> {
    let Some(mut table) = table.table_or("check", "kind")? else {
        return Ok(None);
    };
    let Some(kind) = table.word("kind", &CHECKS)? else {
        return Err(table.error("`kind` is missing; it is required"));
    };
    let mut precheck = None;
    let kind = match kind {
        CheckKind::Conversation => {
            precheck = self::precheck(&mut table)?;
            v1::check::Kind::Conversation(v1::ConversationCheck {
                model: table.string("model")?.unwrap_or_default(),
                max_tokens: table.number("max_tokens")?,
            })
        }
        CheckKind::Http => v1::check::Kind::Http(http_check(&mut table)?),
        CheckKind::Tcp => v1::check::Kind::Tcp(v1::TcpCheck {}),
        CheckKind::None => v1::check::Kind::None(v1::NoCheck {}),
    };
    let timeout = table.duration("timeout")?;
    table.finish()?;
    Ok(Some(v1::Check {
        timeout,
        kind: Some(kind),
        precheck,
    }))
}

/// A precheck is a table, or its bare path: `precheck = "/v1/models"`.
fn precheck(table: &mut Table<'_>) -> Result<Option<v1::HttpCheck>, Error> {
    let Some(mut table) = table.table_or("precheck", "path")? else {
        return Ok(None);
    };
    let check = http_check(&mut table)?;
    table.finish()?;
    Ok(Some(check))
}

fn http_check(table: &mut Table<'_>) -> Result<v1::HttpCheck, Error> {
    Ok(v1::HttpCheck {
        method: table.string("method")?.unwrap_or_default(),
        path: table.string("path")?.unwrap_or_default(),
        expected_statuses: table.numbers("expected_statuses")?,
        body: table.string("body")?.unwrap_or_default(),
    })
}

fn endpoint(
    table: &mut Table<'_>,
    names: &mut BTreeMap<String, usize>,
    sources: &Sources<'_>,
) -> Result<v1::Endpoint, Error> {
    let name = name(table, "endpoint", names)?;
    let admin_state = match table.boolean("enabled")? {
        Some(true) => v1::AdminState::Enabled,
        Some(false) => v1::AdminState::Disabled,
        None => v1::AdminState::Unspecified,
    };
    Ok(v1::Endpoint {
        name,
        cluster: table.string("cluster")?.unwrap_or_default(),
        base_url: table.required("base_url")?,
        credential: credential(table, sources)?,
        priority: table.number("priority")?,
        weight: table.number("weight")?,
        max_failures: table.number("max_failures")?,
        timeout: table.duration("timeout")?,
        admin_state: admin_state.into(),
        check: check(table)?,
        labels: table.texts("labels")?,
        allow_plaintext: table.boolean("allow_plaintext")?.unwrap_or_default(),
        ..Default::default()
    })
}

/// At most one of the three places a key can come from.
fn credential(
    table: &mut Table<'_>,
    sources: &Sources<'_>,
) -> Result<Option<v1::Credential>, Error> {
    let inline = table.secret("api_key")?;
    let env = table.text("api_key_env")?;
    let file = table.text("api_key_file")?;
    let api_key = match (inline, env, file) {
        (None, None, None) => return Ok(None),
        (Some((offset, key)), None, None) => check_key(&key).map_err(|reason| {
            table.wrong(
                offset,
                "api_key",
                "not a key",
                &format!("cannot be used: {reason}"),
            )
        })?,
        (None, Some((offset, name)), None) => sources.key_from_env(&name).map_err(|reason| {
            table.wrong(
                offset,
                "api_key_env",
                &format!("`{name}`"),
                &format!("must name a variable that holds the key: {reason}"),
            )
        })?,
        (None, None, Some((offset, path))) => {
            sources.key_from_file(Path::new(&path)).map_err(|reason| {
                table.wrong(
                    offset,
                    "api_key_file",
                    &format!("`{path}`"),
                    &format!("must name a file that holds the key: {reason}"),
                )
            })?
        }
        _ => {
            return Err(table.error(
                "more than one of `api_key`, `api_key_env` and `api_key_file` is given; an endpoint has one key",
            ));
        }
    };
    Ok(Some(v1::Credential {
        api_key,
        ..v1::Credential::default()
    }))
}
