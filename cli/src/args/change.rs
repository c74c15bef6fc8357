//! Flags of commands that change something.

use clap::Args;

/// What a change of a resource depends on.
#[derive(Debug, Args)]
pub(crate) struct Guard {
    /// Only if this is still its etag.
    #[arg(
        long,
        value_name = "ETAG",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) etag: String,
    /// Only find out whether it could be done.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A resource to delete.
#[derive(Debug, Args)]
pub(crate) struct Removal {
    /// Its name.
    pub(crate) name: String,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Succeed if it does not exist.
    #[arg(long)]
    pub(crate) if_exists: bool,
    #[command(flatten)]
    pub(crate) guard: Guard,
}

/// Why something is done.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Why, for the people who will ask; `events` shows it.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) reason: String,
}

/// Which cluster's.
#[derive(Debug, Args)]
pub(crate) struct OfCluster {
    /// Only those of this cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cluster: String,
}
