//! `qcc-ctl endpoints …`

use clap::{Args, Subcommand};
use qcc_proto::v1;

use super::{check::CheckFlags, key::KeySource, values};

/// LLM API endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Endpoints {
    /// List endpoints.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one endpoint, with the evidence behind its state.
    Get(Named),
    /// Add an endpoint; it is verified at once.
    Add(Box<Add>),
    /// Change an endpoint. A new key or base URL starts a new generation.
    Update(Box<Update>),
    /// Delete an endpoint. Running requests finish.
    #[command(visible_aliases = ["delete", "rm"])]
    Remove(Remove),
    /// Let an endpoint take part in selection.
    Enable(Named),
    /// Take an endpoint out of selection and stop its checks.
    Disable(Named),
    /// Let an endpoint's running requests finish and admit no new ones.
    Drain(Named),
    /// Mark an endpoint unhealthy; it comes back when a check passes after the hold.
    Eject(Eject),
    /// Forget every mark of an endpoint: unknown, in a new generation.
    Restore(Named),
    /// Check an endpoint now; exit 1 if the check does not pass.
    Verify(Named),
    /// Show endpoints, then every change, until interrupted.
    Watch(Watch),
}

/// One endpoint.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The endpoint's name.
    pub(crate) name: String,
}

/// Which endpoints.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only endpoints of this cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cluster: String,
    /// Only endpoints in this state: unknown, healthy, degraded or unhealthy.
    #[arg(long, value_name = "STATE", value_parser = values::state)]
    pub(crate) state: Option<v1::HealthState>,
}

/// Which endpoints to watch.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Only endpoints of this cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cluster: String,
}

/// A new endpoint.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Name: lower-case letters, digits and inner hyphens.
    pub(crate) name: String,
    /// Cluster it belongs to.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) cluster: String,
    /// Where requests go: `https://HOST[:PORT][/PATH]`.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: String,
    /// Add it disabled.
    #[arg(long)]
    pub(crate) disabled: bool,
    /// Only find out whether it could be added.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) fields: Fields,
}

/// New values for an endpoint.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The endpoint's name.
    pub(crate) name: String,
    /// Where requests go. A new URL needs the key again.
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Set fields back to their defaults, such as `timeout,check`.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub(crate) unset: Vec<String>,
    /// Only if this is still the endpoint's etag.
    #[arg(
        long,
        value_name = "ETAG",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) etag: String,
    /// Only find out whether it could be changed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) fields: Fields,
}

/// What both new and existing endpoints can be given.
#[derive(Debug, Args)]
pub(crate) struct Fields {
    /// Lower is preferred; equal ones share the load [default: 1].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) priority: Option<u32>,
    /// Share of the load within a priority [default: 100].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) weight: Option<u32>,
    /// Failures in a row that eject it [default: the cluster's].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_failures: Option<u32>,
    /// Longest wait for a response head [default: the cluster's].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    pub(crate) first_byte_timeout: Option<prost_types::Duration>,
    /// Label for your own use; repeatable. Given labels replace all present ones.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Whether an http:// URL of another host may be used: keys travel in the clear.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) allow_plaintext: Option<bool>,
    #[command(flatten)]
    pub(crate) check: CheckFlags,
    #[command(flatten)]
    pub(crate) key: KeySource,
}

/// An endpoint to delete.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The endpoint's name.
    pub(crate) name: String,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Succeed if there is no such endpoint.
    #[arg(long)]
    pub(crate) if_exists: bool,
    /// Only if this is still the endpoint's etag.
    #[arg(
        long,
        value_name = "ETAG",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) etag: String,
    /// Only find out whether it could be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// An endpoint to eject.
#[derive(Debug, Args)]
pub(crate) struct Eject {
    /// The endpoint's name.
    pub(crate) name: String,
    /// Why, for the people who will ask.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) reason: String,
    /// No check runs before this has passed [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    pub(crate) hold: Option<prost_types::Duration>,
}
