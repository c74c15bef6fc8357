//! `qcc-ctl proxies …` and `qcc-ctl proxy …`

use clap::{Args, Subcommand};

use super::{values, whole::Reload};

/// Proxies, as the control plane knows them.
#[derive(Debug, Subcommand)]
pub(crate) enum Proxies {
    /// List proxies with the view that each has applied.
    #[command(visible_alias = "ls")]
    List,
    /// Show one proxy and, if it can be asked from here, its own marks of each endpoint.
    Get(Named),
}

/// One proxy.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The proxy's id.
    pub(crate) id: String,
}

/// One proxy's account of itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Proxy {
    /// Show the proxy's status.
    Status,
    /// List its endpoints as it uses them, with its own marks.
    Endpoints,
    /// Compare its view with the control plane's, endpoint by endpoint; exit 1 if they differ.
    Diff,
    /// Stop it gracefully: running requests finish, reports are flushed.
    Drain(Drain),
    /// Have it read its configuration file again, and the files that this names. What cannot change
    /// without a restart is said; if anything is wrong, nothing changes.
    Reload(Reload),
}

/// How to stop.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Longest time for running requests to finish [default: the proxy's own setting].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    pub(crate) within: Option<prost_types::Duration>,
}
