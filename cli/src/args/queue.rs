//! `qcc-ctl queue …`

use clap::{Args, Subcommand};

use super::change::OfCluster;

/// The failure queue.
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List entries by the time of their next check.
    #[command(visible_alias = "ls")]
    List(OfCluster),
    /// Show the length and the lifetime counters.
    Stats,
    /// Check endpoints now: those named, or all that are queued.
    Verify(Verify),
    /// Take one endpoint out: unknown, in a new generation.
    Remove(Remove),
    /// Take all endpoints out. Counters stay.
    Clear(Clear),
}

/// Entries to check.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Names of endpoints.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// An entry to take out.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The endpoint's name.
    pub(crate) name: String,
}

/// Entries to take out.
#[derive(Debug, Args)]
pub(crate) struct Clear {
    #[command(flatten)]
    pub(crate) of: OfCluster,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}
