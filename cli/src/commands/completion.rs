//! `qcc-ctl completion`

use clap::CommandFactory;

use super::{Answer, Context};
use crate::{
    args::{Cli, whole::Completion},
    error::Error,
};

pub(super) fn run(args: &Completion, context: &Context) -> Result<Answer, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "qcc-ctl", &mut script);
    context.output.text(&String::from_utf8_lossy(&script))?;
    Ok(Answer::Done)
}
