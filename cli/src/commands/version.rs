//! `qcc-ctl version`

use serde_json::json;

use super::{Answer, Context, status};
use crate::{
    args::{Format, whole::Version},
    error::Error,
    text,
};

const CLIENT: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn run(args: &Version, context: &Context) -> Result<Answer, Error> {
    let control = if args.client {
        None
    } else {
        Some(status::get(&context.control).await)
    };
    let version = control
        .as_ref()
        .and_then(|status| status.as_ref().ok())
        .map(|status| text::clean(&status.version));
    match context.output.format {
        Format::Json | Format::Yaml => context
            .output
            .value(&json!({ "client": CLIENT, "control": version }))?,
        Format::Table | Format::Wide | Format::Name => {
            let mut text = format!("qcc-ctl         {CLIENT}\n");
            match (&control, &version) {
                (None, _) => {}
                (Some(_), Some(version)) => text.push_str(&format!("control plane   {version}\n")),
                (Some(_), None) => text.push_str("control plane   not reachable\n"),
            }
            context.output.text(&text)?;
        }
    }
    if version.is_some_and(|version| version != CLIENT) {
        context
            .output
            .note("warning: client and control plane are of different versions");
    }
    Ok(Answer::Done)
}
