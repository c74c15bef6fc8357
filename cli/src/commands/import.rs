//! `qcc-ctl import …`

mod qcc;

use std::path::Path;

use qcc_proto::v1::{self, ChangeAction};

use super::{Answer, Context, apply};
use crate::{
    args::{
        Format,
        whole::{Import, ImportQcc},
    },
    client::request_id,
    error::Error,
    table::Table,
    text,
};

/// Largest file that is read: room for thousands of profiles.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(super) async fn run(command: Import, context: &Context) -> Result<Answer, Error> {
    match command {
        Import::Qcc(args) => import_qcc(&args, context).await,
    }
}

async fn import_qcc(args: &ImportQcc, context: &Context) -> Result<Answer, Error> {
    let cache = read(&args.file)?;
    let groups = args.groups.as_deref().map(read).transpose()?;
    let found = qcc::convert(qcc::Source {
        cache: &cache,
        groups: groups.as_deref(),
        cluster: args.cluster.as_deref(),
        allow_plaintext: args.allow_plaintext,
    })
    .map_err(Error::usage)?;
    for note in &found.notes {
        context.output.note(&format!("note: {}", text::clean(note)));
    }
    if found.endpoints.is_empty() {
        context.output.note("nothing to import");
        return Ok(Answer::Done);
    }
    let request = v1::ApplyResourcesRequest {
        clusters: found.clusters,
        endpoints: found.endpoints,
        request_id: request_id(),
        ..Default::default()
    };
    if args.dry_run {
        show_plan(&request, context)?;
        context
            .output
            .note("nothing was sent; leave out --dry-run to import");
        return Ok(Answer::Done);
    }
    let response = apply::send(request, context).await?;
    apply::show(&response, context, |change| {
        Some(text::word(change.action().as_str_name(), "CHANGE_ACTION_"))
            .filter(|_| change.action() != ChangeAction::Unspecified)
    })?;
    Ok(Answer::Done)
}

fn show_plan(request: &v1::ApplyResourcesRequest, context: &Context) -> Result<(), Error> {
    let output = &context.output;
    match output.format {
        Format::Json | Format::Yaml => output.document("ApplyResourcesRequest", request),
        Format::Name => output.names(
            request
                .endpoints
                .iter()
                .map(|endpoint| format!("endpoint/{}", endpoint.name)),
        ),
        Format::Table | Format::Wide => {
            let mut table = Table::new(&[
                "NAME",
                "CLUSTER",
                "BASE URL",
                "PRIORITY",
                "WEIGHT",
                "ENABLED",
                "QCC PROFILE",
                "QCC ID",
            ]);
            for endpoint in &request.endpoints {
                let label = |key: &str| {
                    text::or_nothing(endpoint.labels.get(key).map_or("", String::as_str))
                };
                let enabled = endpoint.admin_state() != v1::AdminState::Disabled;
                table.row(vec![
                    endpoint.name.clone().into(),
                    endpoint.cluster.clone().into(),
                    text::clean(&endpoint.base_url).into(),
                    endpoint.priority.unwrap_or_default().to_string().into(),
                    endpoint.weight.unwrap_or_default().to_string().into(),
                    if enabled { "yes" } else { "no" }.into(),
                    label(qcc::PROFILE_LABEL).into(),
                    label(qcc::ID_LABEL).into(),
                ]);
            }
            output.table(&table)
        }
    }
}

/// Reads a file or, for `-`, standard input.
fn read(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
    } else {
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(Error::usage(format!(
                    "cannot read `{}`: it is not a regular file",
                    path.display()
                )));
            }
            Ok(_) => std::fs::File::open(path)
                .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text)),
            Err(error) => Err(error),
        }
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::usage(format!(
            "cannot read `{}`: {error}",
            path.display()
        ))),
    }
}
