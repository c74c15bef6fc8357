//! `qcc-ctl endpoints …`

use clap::{Args, Subcommand};
use qcc_proto::v1;

use super::{
    change::{Guard, OfCluster, Removal, Why},
    check::CheckFlags,
    key::KeySource,
    values,
};

/// LLM API endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Endpoints {
    /// List endpoints.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one endpoint, with the evidence behind its state.
    Get(Named),
    /// Say why an endpoint is in its state, on whose word, and what happens next; with --proxy, why
    /// that proxy uses it or does not.
    Explain(Named),
    /// Add an endpoint; it is verified at once.
    Add(Box<Add>),
    /// Change an endpoint. A new key or base URL starts a new generation.
    Update(Box<Update>),
    /// Delete an endpoint. Running requests finish.
    #[command(visible_aliases = ["delete", "rm"])]
    Remove(Remove),
    /// Let an endpoint take part in selection.
    Enable(Act),
    /// Take an endpoint out of selection and stop its checks.
    Disable(Act),
    /// Let an endpoint's running requests finish and admit no new ones.
    Drain(Act),
    /// Mark an endpoint unhealthy; it comes back when a check passes after the hold.
    Eject(Eject),
    /// Forget every mark of an endpoint: unknown, in a new generation.
    Restore(Act),
    /// Check an endpoint now; exit 1 if the check does not pass.
    Verify(Named),
    /// Show endpoints, then every change, until interrupted.
    Watch(OfCluster),
}

/// One endpoint.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The endpoint's name.
    pub(crate) name: String,
}

/// One endpoint, and why something is done to it.
#[derive(Debug, Args)]
pub(crate) struct Act {
    /// The endpoint's name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) why: Why,
}

/// Which endpoints.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) of: OfCluster,
    /// Only endpoints in this state: unknown, healthy, degraded or unhealthy.
    #[arg(long, value_name = "STATE", value_parser = values::state)]
    pub(crate) state: Option<v1::HealthState>,
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
    /// Let the present key serve until a check has proven the new one, but no longer than this.
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    pub(crate) overlap: Option<prost_types::Duration>,
    #[command(flatten)]
    pub(crate) guard: Guard,
    #[command(flatten)]
    pub(crate) why: Why,
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
    #[command(flatten)]
    pub(crate) removal: Removal,
    #[command(flatten)]
    pub(crate) why: Why,
}

/// An endpoint to eject.
#[derive(Debug, Args)]
pub(crate) struct Eject {
    /// The endpoint's name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) why: Why,
    /// No check runs before this has passed [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    pub(crate) hold: Option<prost_types::Duration>,
}
