//! `qcc-ctl queue …`

use clap::{Args, Subcommand};

/// The failure queue.
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List entries by the time of their next check.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show the length and the lifetime counters.
    Stats,
    /// Check endpoints now: those named, or all that are queued.
    Verify(Verify),
    /// Take one endpoint out: unknown, in a new generation.
    Remove(Remove),
    /// Take all endpoints out. Counters stay.
    Clear(Clear),
}

/// Which entries.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only entries of this cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cluster: String,
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
    /// Only entries of this cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cluster: String,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}
