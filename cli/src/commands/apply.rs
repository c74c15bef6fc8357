//! `qcc-ctl apply`, `diff` and `export`: the declared state and the real one.

use std::{io::Read, path::Path};

use qcc_proto::{
    resources,
    v1::{self, ChangeAction, resource_service_client::ResourceServiceClient as Client},
};

use super::{Answer, Context, clusters, endpoints};
use crate::{
    args::{
        Format,
        whole::{Apply, Diff},
    },
    client::request_id,
    error::Error,
    table::{Cell, Tone},
    text,
};

pub(super) async fn apply(args: &Apply, context: &Context) -> Result<Answer, Error> {
    let request = v1::ApplyResourcesRequest {
        prune: args.prune,
        validate_only: args.dry_run,
        request_id: request_id(),
        ..read(&args.file)?
    };
    let response = send(request, context).await?;
    show(&response, context, |change| {
        let done = match (change.action(), args.dry_run) {
            (ChangeAction::Created, false) => "created",
            (ChangeAction::Created, true) => "would be created",
            (ChangeAction::Updated, false) => "updated",
            (ChangeAction::Updated, true) => "would be updated",
            (ChangeAction::Deleted, false) => "deleted",
            (ChangeAction::Deleted, true) => "would be deleted",
            (ChangeAction::Unchanged | ChangeAction::Unspecified, _) => "unchanged",
        };
        Some(format!("{}{}", done, fields(change)))
    })?;
    if response.changes.is_empty() {
        context.output.note("the file declares nothing");
    }
    Ok(Answer::Done)
}

pub(super) async fn diff(args: &Diff, context: &Context) -> Result<Answer, Error> {
    let request = v1::ApplyResourcesRequest {
        prune: args.prune,
        validate_only: true,
        ..read(&args.file)?
    };
    let response = send(request, context).await?;
    let differs = response
        .changes
        .iter()
        .any(|change| change.action() != ChangeAction::Unchanged);
    show(&response, context, |change| match change.action() {
        ChangeAction::Created => Some("to be created".to_owned()),
        ChangeAction::Updated => Some(format!("differs{}", fields(change))),
        ChangeAction::Deleted => Some("to be deleted".to_owned()),
        ChangeAction::Unchanged | ChangeAction::Unspecified => None,
    })?;
    if !differs {
        context.output.note("no differences");
    }
    Ok(if differs { Answer::No } else { Answer::Done })
}

pub(super) async fn export(context: &Context) -> Result<Answer, Error> {
    let clusters = clusters::list_all(&context.control).await?.clusters;
    let endpoints = endpoints::list_all(&context.control, v1::ListEndpointsRequest::default())
        .await?
        .endpoints;
    let file = resources::render(&clusters, &endpoints);
    match context.output.format {
        Format::Table | Format::Wide => context.output.text(&file)?,
        Format::Name => {
            let clusters = clusters.iter().map(|cluster| ("cluster", &cluster.name));
            let endpoints = endpoints
                .iter()
                .map(|endpoint| ("endpoint", &endpoint.name));
            context.output.names(
                clusters
                    .chain(endpoints)
                    .map(|(kind, name)| format!("{kind}/{}", text::clean(name))),
            )?;
        }
        Format::Json | Format::Yaml => {
            // What a file can declare, and no more: health and counters are not configuration.
            let declared = resources::parse(&file, Path::new(""), &|_| None).map_err(|error| {
                Error::failed(format!("the export does not read back: {error}"))
            })?;
            context
                .output
                .document("ApplyResourcesRequest", &declared)?;
        }
    }
    Ok(Answer::Done)
}

/// Reads a resources file; `-` is standard input.
pub(super) fn read(path: &Path) -> Result<v1::ApplyResourcesRequest, Error> {
    let request = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .take(resources::FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| Error::usage(format!("cannot read standard input: {error}")))?;
        resources::parse(&text, Path::new(""), &|name| std::env::var(name).ok())
    } else {
        resources::load(path)
    };
    request.map_err(|error| match error {
        resources::Error::Unreadable { .. } => Error::usage(error.to_string()),
        resources::Error::Invalid { .. } => Error::usage(format!("{}: {error}", path.display())),
    })
}

/// Applies resources, or asks what applying them would do.
pub(super) async fn send(
    request: v1::ApplyResourcesRequest,
    context: &Context,
) -> Result<v1::ApplyResourcesResponse, Error> {
    context
        .control
        .call(request, async |c, q| {
            Client::new(c).apply_resources(q).await
        })
        .await
}

/// Writes the changes that `describe` has words for.
pub(super) fn show(
    response: &v1::ApplyResourcesResponse,
    context: &Context,
    describe: impl Fn(&v1::ResourceChange) -> Option<String>,
) -> Result<(), Error> {
    let output = &context.output;
    match output.format {
        Format::Json | Format::Yaml => output.document("ApplyResourcesResponse", response),
        Format::Name => {
            let changed = response
                .changes
                .iter()
                .filter(|change| change.action() != ChangeAction::Unchanged);
            output.names(changed.map(reference))
        }
        Format::Table | Format::Wide => {
            let lines = response.changes.iter().filter_map(|change| {
                let (sign, tone) = match change.action() {
                    ChangeAction::Created => ("+", Tone::Good),
                    ChangeAction::Updated => ("~", Tone::Doubtful),
                    ChangeAction::Deleted => ("-", Tone::Bad),
                    ChangeAction::Unchanged | ChangeAction::Unspecified => (" ", Tone::Plain),
                };
                let line = format!("{sign} {} {}", reference(change), describe(change)?);
                Some(Cell::new(line, tone).paint(output.color) + "\n")
            });
            output.text(&lines.collect::<String>())
        }
    }
}

fn reference(change: &v1::ResourceChange) -> String {
    text::clean(&format!("{}/{}", change.kind, change.name))
}

fn fields(change: &v1::ResourceChange) -> String {
    if change.fields.is_empty() {
        String::new()
    } else {
        format!(" ({})", text::clean(&change.fields.join(", ")))
    }
}
