//! `qcc-ctl queue …`

use std::time::SystemTime;

use qcc_proto::v1::{self, failure_queue_service_client::FailureQueueServiceClient as Client};

use super::{Answer, Context, confirm, missing};
use crate::{
    args::{
        change::OfCluster,
        queue::{Clear, Queue, Remove, Verify},
    },
    client::{PAGE_SIZE, Repeat, Server},
    error::Error,
    table::{Cell, Table, Tone},
    text,
};

pub(super) async fn run(command: Queue, context: &Context) -> Result<Answer, Error> {
    match command {
        Queue::List(args) => list(args, context).await,
        Queue::Stats => show_stats(context).await,
        Queue::Verify(args) => verify(args, context).await,
        Queue::Remove(args) => remove(args, context).await,
        Queue::Clear(args) => clear(args, context).await,
    }
}

/// Returns the counters.
pub(super) async fn stats(control: &Server) -> Result<v1::FailureQueueStats, Error> {
    let request = v1::GetFailureQueueStatsRequest {};
    let response = control
        .call(request, async |c, q| {
            Client::new(c).get_failure_queue_stats(q).await
        })
        .await?;
    response.stats.ok_or_else(|| missing("stats"))
}

async fn list(OfCluster { cluster }: OfCluster, context: &Context) -> Result<Answer, Error> {
    let mut all = v1::ListFailuresResponse::default();
    let request = |page_token| v1::ListFailuresRequest {
        page_size: PAGE_SIZE,
        page_token,
        cluster: cluster.clone(),
    };
    let take = |page: v1::ListFailuresResponse| {
        all.entries.extend(page.entries);
        all.view = page.view;
        page.next_page_token
    };
    let method = async |c, q| Client::new(c).list_failures(q).await;
    context.control.pages(request, method, take).await?;
    let names = all
        .entries
        .iter()
        .map(|entry| format!("endpoint/{}", text::clean(&entry.endpoint)));
    let empty = "the failure queue is empty";
    context.output.list(
        ("ListFailuresResponse", &all),
        names,
        |wide| table(&all.entries, wide),
        empty,
    )?;
    Ok(Answer::Done)
}

fn table(entries: &[v1::FailureQueueEntry], wide: bool) -> Table {
    let now = SystemTime::now();
    let mut header = vec![
        "ENDPOINT",
        "CLUSTER",
        "CAUSE",
        "SINCE",
        "CHECKS",
        "NEXT CHECK",
        "EVIDENCE",
    ];
    if wide {
        header.extend(["SEEN BY", "OBSERVATIONS", "LAST FAILURE", "GENERATION"]);
    }
    let mut table = Table::new(&header);
    for entry in entries {
        let evidence = entry.evidence.clone().unwrap_or_default();
        let mut row: Vec<Cell> = vec![
            text::clean(&entry.endpoint).into(),
            text::clean(&entry.cluster).into(),
            Cell::new(text::cause(entry.cause()), Tone::Bad),
            text::since(now, entry.first_failure_time.as_ref()).into(),
            entry.verification_attempts.to_string().into(),
            text::next_check(now, entry.checking, entry.due_time.as_ref()).into(),
            text::evidence(&evidence).into(),
        ];
        if wide {
            row.push(text::or_nothing(&evidence.proxy).into());
            row.push(entry.observations.to_string().into());
            row.push(text::since(now, entry.last_failure_time.as_ref()).into());
            row.push(entry.generation.to_string().into());
        }
        table.row(row);
    }
    table
}

async fn show_stats(context: &Context) -> Result<Answer, Error> {
    let stats = stats(&context.control).await?;
    let people = || {
        context.output.properties(&[
            ("length", stats.length.to_string().into()),
            ("total_failed", stats.total_failed.to_string().into()),
            ("total_verified", stats.total_verified.to_string().into()),
            ("total_recovered", stats.total_recovered.to_string().into()),
            (
                "total_still_failed",
                stats.total_still_failed.to_string().into(),
            ),
        ])
    };
    context
        .output
        .one(("FailureQueueStats", &stats), "queue".to_owned(), people)?;
    Ok(Answer::Done)
}

async fn verify(Verify { names }: Verify, context: &Context) -> Result<Answer, Error> {
    let request = v1::VerifyFailuresRequest { endpoints: names };
    let response = context
        .control
        .call(request, async |c, q| {
            Client::new(c).verify_failures(q).await
        })
        .await?;
    let people = || match response.started {
        0 => "no check started: nothing waits, or all of it is being checked already\n".to_owned(),
        1 => "1 check started\n".to_owned(),
        started => format!("{started} checks started\n"),
    };
    context.output.one(
        ("VerifyFailuresResponse", &response),
        "queue".to_owned(),
        people,
    )?;
    Ok(Answer::Done)
}

async fn remove(Remove { name }: Remove, context: &Context) -> Result<Answer, Error> {
    let request = v1::RemoveFailureRequest { endpoint: name };
    let limit = context.control.timeout();
    let response = context
        .control
        .call_within(limit, Repeat::Unsafe, request, async |c, q| {
            Client::new(c).remove_failure(q).await
        })
        .await?;
    let endpoint = response.endpoint.ok_or_else(|| missing("endpoint"))?;
    let reference = format!("endpoint/{}", text::clean(&endpoint.name));
    let people = || format!("{reference} is out of the failure queue\n");
    context
        .output
        .one(("Endpoint", &endpoint), reference.clone(), people)?;
    Ok(Answer::Done)
}

async fn clear(Clear { of, yes }: Clear, context: &Context) -> Result<Answer, Error> {
    let cluster = of.cluster;
    let which = if cluster.is_empty() {
        String::new()
    } else {
        format!(" of cluster `{cluster}`")
    };
    confirm(
        yes,
        &format!("take all endpoints{which} out of the failure queue"),
    )?;
    let request = v1::ClearFailuresRequest { cluster };
    let limit = context.control.timeout();
    let response = context
        .control
        .call_within(limit, Repeat::Unsafe, request, async |c, q| {
            Client::new(c).clear_failures(q).await
        })
        .await?;
    let people = || match response.removed {
        1 => "1 endpoint is out of the failure queue\n".to_owned(),
        removed => format!("{removed} endpoints are out of the failure queue\n"),
    };
    context.output.one(
        ("ClearFailuresResponse", &response),
        "queue".to_owned(),
        people,
    )?;
    Ok(Answer::Done)
}
