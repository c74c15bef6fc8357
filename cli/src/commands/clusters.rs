//! `qcc-ctl clusters …`

use prost_types::FieldMask;
use qcc_proto::v1::{self, cluster_service_client::ClusterServiceClient as Client};

use super::{Answer, Context, confirm, missing};
use crate::{
    args::{
        change::Removal,
        clusters::{Add, Clusters, Named, Update},
    },
    client::{PAGE_SIZE, Server, request_id},
    error::Error,
    table::{Cell, Table},
    text,
};

pub(super) async fn run(command: Clusters, context: &Context) -> Result<Answer, Error> {
    match command {
        Clusters::List => list(context).await,
        Clusters::Get(args) => get(args, context).await,
        Clusters::Add(args) => add(*args, context).await,
        Clusters::Update(args) => update(*args, context).await,
        Clusters::Remove(args) => remove(args, context).await,
    }
}

/// Returns all pages as one answer.
pub(super) async fn list_all(control: &Server) -> Result<v1::ListClustersResponse, Error> {
    let mut all = v1::ListClustersResponse::default();
    let request = |page_token| v1::ListClustersRequest {
        page_size: PAGE_SIZE,
        page_token,
    };
    let take = |page: v1::ListClustersResponse| {
        all.clusters.extend(page.clusters);
        all.view = page.view;
        page.next_page_token
    };
    let method = async |c, q| Client::new(c).list_clusters(q).await;
    control.pages(request, method, take).await?;
    Ok(all)
}

async fn list(context: &Context) -> Result<Answer, Error> {
    let response = list_all(&context.control).await?;
    let names = response
        .clusters
        .iter()
        .map(|cluster| reference(&cluster.name));
    context.output.list(
        ("ListClustersResponse", &response),
        names,
        |wide| table(&response.clusters, wide),
        "no clusters",
    )?;
    Ok(Answer::Done)
}

async fn get(Named { name }: Named, context: &Context) -> Result<Answer, Error> {
    let request = v1::GetClusterRequest { name };
    let response = context
        .control
        .call(request, async |c, q| Client::new(c).get_cluster(q).await)
        .await?;
    let cluster = response.cluster.ok_or_else(|| missing("cluster"))?;
    let people = || context.output.properties(&properties(&cluster));
    context
        .output
        .one(("Cluster", &cluster), reference(&cluster.name), people)?;
    Ok(Answer::Done)
}

async fn add(args: Add, context: &Context) -> Result<Answer, Error> {
    let (policy, _) = args.policy.policy().map_err(Error::usage)?;
    let request = v1::CreateClusterRequest {
        cluster: Some(v1::Cluster {
            name: args.name,
            policy: Some(policy),
            ..Default::default()
        }),
        request_id: request_id(),
        validate_only: args.dry_run,
    };
    let response = context
        .control
        .call(request, async |c, q| Client::new(c).create_cluster(q).await)
        .await?;
    done(
        context,
        response.cluster,
        if args.dry_run {
            "could be added"
        } else {
            "added"
        },
    )
}

async fn update(args: Update, context: &Context) -> Result<Answer, Error> {
    let (policy, given) = args.policy.policy().map_err(Error::usage)?;
    let mut paths: Vec<String> = given.into_iter().map(str::to_owned).collect();
    paths.extend(args.unset.iter().map(|field| format!("policy.{field}")));
    if paths.is_empty() {
        return Err(Error::usage("nothing to change").hint("see `qcc-ctl clusters update --help`"));
    }
    let request = v1::UpdateClusterRequest {
        cluster: Some(v1::Cluster {
            name: args.name,
            policy: Some(policy),
            etag: args.guard.etag,
            ..Default::default()
        }),
        update_mask: Some(FieldMask { paths }),
        request_id: request_id(),
        validate_only: args.guard.dry_run,
    };
    let response = context
        .control
        .call(request, async |c, q| Client::new(c).update_cluster(q).await)
        .await?;
    done(
        context,
        response.cluster,
        if args.guard.dry_run {
            "could be updated"
        } else {
            "updated"
        },
    )
}

async fn remove(args: Removal, context: &Context) -> Result<Answer, Error> {
    confirm(
        args.yes || args.guard.dry_run,
        &format!("delete cluster `{}`", args.name),
    )?;
    let name = args.name.clone();
    let request = v1::DeleteClusterRequest {
        name: args.name,
        etag: args.guard.etag,
        request_id: request_id(),
        validate_only: args.guard.dry_run,
        allow_missing: args.if_exists,
    };
    let response = context
        .control
        .call(request, async |c, q| Client::new(c).delete_cluster(q).await)
        .await?;
    let done = if args.guard.dry_run {
        "could be removed"
    } else {
        "removed"
    };
    let people = || format!("{} {done}\n", reference(&name));
    context.output.one(
        ("DeleteClusterResponse", &response),
        reference(&name),
        people,
    )?;
    Ok(Answer::Done)
}

fn done(context: &Context, cluster: Option<v1::Cluster>, what: &str) -> Result<Answer, Error> {
    let cluster = cluster.ok_or_else(|| missing("cluster"))?;
    let people = || format!("{} {what}\n", reference(&cluster.name));
    context
        .output
        .one(("Cluster", &cluster), reference(&cluster.name), people)?;
    Ok(Answer::Done)
}

fn reference(name: &str) -> String {
    format!("cluster/{}", text::clean(name))
}

fn table(clusters: &[v1::Cluster], wide: bool) -> Table {
    let mut header = vec![
        "NAME",
        "ENDPOINTS",
        "API",
        "CHECK",
        "ATTEMPTS",
        "MAX FAILURES",
    ];
    if wide {
        header.extend(["UNPROVEN", "CONNECT", "FIRST BYTE", "IDLE", "TOTAL", "ETAG"]);
    }
    let mut table = Table::new(&header);
    for cluster in clusters {
        let policy = cluster.policy.clone().unwrap_or_default();
        let mut row: Vec<Cell> = vec![
            text::clean(&cluster.name).into(),
            cluster.endpoint_count.to_string().into(),
            api(&policy).into(),
            policy
                .check
                .as_ref()
                .map_or_else(|| text::NOTHING.to_owned(), check)
                .into(),
            text::number(policy.attempts_max).into(),
            text::number(policy.max_failures).into(),
        ];
        if wide {
            let timeouts = policy.timeouts.unwrap_or_default();
            row.push(text::number(policy.unproven_concurrency).into());
            for timeout in [
                &timeouts.connect,
                &timeouts.first_byte,
                &timeouts.idle,
                &timeouts.total,
            ] {
                row.push(text::exact(timeout.as_ref()).into());
            }
            row.push(text::or_nothing(&cluster.etag).into());
        }
        table.row(row);
    }
    table
}

fn properties(cluster: &v1::Cluster) -> Vec<(&'static str, Cell)> {
    let policy = cluster.policy.clone().unwrap_or_default();
    let timeouts = policy.timeouts.unwrap_or_default();
    let cool_downs = policy.cool_downs.unwrap_or_default();
    let verification = policy.verification.unwrap_or_default();
    let budget = policy.retry_budget.unwrap_or_default();
    let scheme = text::word(
        policy.credential_scheme().as_str_name(),
        "CREDENTIAL_SCHEME_",
    )
    .replace('_', "-");
    vec![
        ("name", text::clean(&cluster.name).into()),
        ("endpoints", cluster.endpoint_count.to_string().into()),
        ("api", api(&policy).into()),
        ("credential scheme", scheme.into()),
        (
            "attempts per request",
            text::number(policy.attempts_max).into(),
        ),
        ("max failures", text::number(policy.max_failures).into()),
        (
            "unproven concurrency",
            text::number(policy.unproven_concurrency).into(),
        ),
        (
            "connect timeout",
            text::exact(timeouts.connect.as_ref()).into(),
        ),
        (
            "first byte timeout",
            text::exact(timeouts.first_byte.as_ref()).into(),
        ),
        ("idle timeout", text::exact(timeouts.idle.as_ref()).into()),
        ("total timeout", text::exact(timeouts.total.as_ref()).into()),
        (
            "overloaded cool-down",
            text::exact(cool_downs.overloaded.as_ref()).into(),
        ),
        (
            "rate limited cool-down",
            text::exact(cool_downs.rate_limited.as_ref()).into(),
        ),
        (
            "longest cool-down",
            text::exact(cool_downs.max.as_ref()).into(),
        ),
        (
            "corroboration window",
            text::exact(policy.corroboration_window.as_ref()).into(),
        ),
        (
            "queue timeout",
            text::exact(policy.queue_timeout.as_ref()).into(),
        ),
        (
            "check",
            policy
                .check
                .as_ref()
                .map_or_else(|| text::NOTHING.to_owned(), check)
                .into(),
        ),
        (
            "first check after",
            text::exact(verification.first.as_ref()).into(),
        ),
        (
            "then at most every",
            text::exact(verification.max.as_ref()).into(),
        ),
        (
            "rejected keys",
            text::exact(verification.auth_max.as_ref()).into(),
        ),
        (
            "checks per hour",
            text::number(verification.per_hour_max).into(),
        ),
        (
            "strategy",
            text::word(policy.strategy().as_str_name(), "STRATEGY_").into(),
        ),
        ("affinity", affinity(&policy).into()),
        ("slow start", text::exact(policy.slow_start.as_ref()).into()),
        (
            "retry budget",
            format!(
                "{} %, at least {} per second",
                text::number(budget.percent),
                text::number(budget.min_per_second)
            )
            .into(),
        ),
        (
            "hold timeout",
            text::exact(policy.hold_timeout.as_ref()).into(),
        ),
        (
            "max ejected percent",
            text::number(policy.max_ejected_percent).into(),
        ),
        ("last resort", text::yes_no(policy.last_resort).into()),
        (
            "model override",
            text::or_nothing(&policy.model_override).into(),
        ),
        ("model aliases", aliases(&policy).into()),
        ("expose headers", text::yes_no(policy.expose_headers).into()),
        (
            "upstream protocol",
            text::word(
                policy.upstream_protocol().as_str_name(),
                "UPSTREAM_PROTOCOL_",
            )
            .into(),
        ),
        ("etag", text::or_nothing(&cluster.etag).into()),
    ]
}

/// How sessions are kept, in a few words: `by session, then x-thread; they return`.
fn affinity(policy: &v1::ClusterPolicy) -> String {
    let affinity = policy.affinity.clone().unwrap_or_default();
    match affinity.enabled {
        None => return text::NOTHING.to_owned(),
        Some(false) => return "no".to_owned(),
        Some(true) => {}
    }
    let mut words = "by session".to_owned();
    for header in &affinity.headers {
        words.push_str(", then ");
        words.push_str(&text::clean(header));
    }
    words.push_str(match affinity.return_policy() {
        v1::ReturnPolicy::Unspecified | v1::ReturnPolicy::Return => "; sessions return",
        v1::ReturnPolicy::Stay => "; sessions stay",
    });
    words
}

fn aliases(policy: &v1::ClusterPolicy) -> String {
    let pairs = policy.model_aliases.iter();
    let pairs: Vec<_> = pairs.map(|(from, to)| format!("{from}={to}")).collect();
    text::or_nothing(&pairs.join(", "))
}

/// A check in a few words: `http GET /v1/models`.
pub(super) fn check(check: &v1::Check) -> String {
    let kind = match &check.kind {
        Some(v1::check::Kind::Conversation(conversation)) => {
            format!("conversation {}", text::clean(&conversation.model))
        }
        Some(v1::check::Kind::Http(check)) => http(check),
        Some(v1::check::Kind::Tcp(v1::TcpCheck {})) => "tcp".to_owned(),
        Some(v1::check::Kind::None(v1::NoCheck {})) => "none".to_owned(),
        None => text::NOTHING.to_owned(),
    };
    let kind = kind.trim_end();
    match &check.precheck {
        Some(precheck) => format!("{kind}, after {}", http(precheck)),
        None => kind.to_owned(),
    }
}

fn http(check: &v1::HttpCheck) -> String {
    let line = format!("http {} {}", check.method, check.path);
    text::clean(line.trim_end())
}

fn api(policy: &v1::ClusterPolicy) -> String {
    text::word(policy.api().as_str_name(), "API_FLAVOR_")
}
