//! `qcc-ctl clusters …`

use clap::{Args, Subcommand, ValueEnum};
use qcc_proto::v1;

use super::{
    change::{Guard, Removal},
    check::CheckFlags,
    selection::SelectionFlags,
    values,
};

/// Sets of interchangeable endpoints.
#[derive(Debug, Subcommand)]
pub(crate) enum Clusters {
    /// List clusters.
    #[command(visible_alias = "ls")]
    List,
    /// Show one cluster with the policy in force.
    Get(Named),
    /// Add a cluster.
    Add(Box<Add>),
    /// Change a cluster's policy.
    Update(Box<Update>),
    /// Delete an empty cluster.
    #[command(visible_aliases = ["delete", "rm"])]
    Remove(Removal),
}

/// One cluster.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The cluster's name.
    pub(crate) name: String,
}

/// A new cluster.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Name: lower-case letters, digits and inner hyphens.
    pub(crate) name: String,
    /// Only find out whether it could be added.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) policy: PolicyFlags,
}

/// New policy values.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The cluster's name.
    pub(crate) name: String,
    /// Set policy fields back to their defaults, such as `timeouts,max_failures`.
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    pub(crate) unset: Vec<String>,
    #[command(flatten)]
    pub(crate) guard: Guard,
    #[command(flatten)]
    pub(crate) policy: PolicyFlags,
}

/// The policy, flag by flag. Defaults are the control plane's; `clusters get` shows them.
#[derive(Debug, Args)]
pub(crate) struct PolicyFlags {
    /// Which API the endpoints speak [default: anthropic].
    #[arg(long, value_enum)]
    api: Option<Api>,
    /// Where the key goes in requests [default: by API].
    #[arg(long, value_enum)]
    credential_scheme: Option<Scheme>,
    /// Tries per client request [default: 3].
    #[arg(long, value_name = "NUMBER")]
    attempts_max: Option<u32>,
    /// Failures in a row that eject an endpoint [default: 3].
    #[arg(long, value_name = "NUMBER")]
    max_failures: Option<u32>,
    /// Attempts at a time at an endpoint that has not succeeded yet [default: 4].
    #[arg(long, value_name = "NUMBER")]
    unproven_concurrency: Option<u32>,
    /// To connect, TLS included [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    connect_timeout: Option<prost_types::Duration>,
    /// To the response head [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    first_byte_timeout: Option<prost_types::Duration>,
    /// Between two pieces of a response [default: 4m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    idle_timeout: Option<prost_types::Duration>,
    /// For the whole client request [default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    total_timeout: Option<prost_types::Duration>,
    /// Pause after an overload that names no time [default: 10s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    overloaded_cool_down: Option<prost_types::Duration>,
    /// Pause after a 429 that names no time [default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    rate_limited_cool_down: Option<prost_types::Duration>,
    /// Longest pause that a provider may ask for [default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    max_cool_down: Option<prost_types::Duration>,
    /// How long one proxy's timeouts wait for a second proxy to agree [default: 30s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    corroboration_window: Option<prost_types::Duration>,
    /// How long a request waits when all endpoints are busy with first attempts [default: 2s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    queue_timeout: Option<prost_types::Duration>,
    /// Wait before the first check of an incident [default: 5s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    verify_first: Option<prost_types::Duration>,
    /// Longest wait between two checks [default: 1m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    verify_max: Option<prost_types::Duration>,
    /// Longest wait between two checks of a rejected key [default: 5m].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    verify_auth_max: Option<prost_types::Duration>,
    /// Checks per endpoint and hour [default: 60].
    #[arg(long, value_name = "NUMBER")]
    verify_per_hour_max: Option<u32>,
    /// How long the head of an event stream is held back while it has no content; 0s: not at all [default: 2s].
    #[arg(long, value_name = "DURATION", value_parser = values::wire_duration)]
    hold_timeout: Option<prost_types::Duration>,
    /// Model that takes the place of the one that requests name; `""`: none.
    #[arg(long, value_name = "MODEL")]
    model_override: Option<String>,
    /// Another name for a model that requests name; those given replace all before.
    #[arg(long = "model-alias", value_name = "FROM=TO", value_parser = values::alias)]
    model_aliases: Vec<(String, String)>,
    /// Whether answers carry the x-qcc-… headers [default: true].
    #[arg(long, value_name = "BOOL")]
    expose_headers: Option<bool>,
    /// What is spoken to the endpoints [default: http1].
    #[arg(long, value_enum)]
    upstream_protocol: Option<Protocol>,
    #[command(flatten)]
    selection: SelectionFlags,
    #[command(flatten)]
    check: CheckFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Api {
    Anthropic,
    Openai,
    Http,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scheme {
    XApiKey,
    Bearer,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// Over TLS what the endpoint chooses, HTTP/2 or HTTP/1.1; else HTTP/1.1.
    Auto,
    /// HTTP/2, also without TLS.
    Http2,
}

impl PolicyFlags {
    /// The policy with the given values, and the paths of the fields that were given.
    pub(crate) fn policy(self) -> Result<(v1::ClusterPolicy, Vec<&'static str>), String> {
        let mut paths = Vec::new();
        let mut given = |path: &'static str, is_given: bool| {
            if is_given {
                paths.push(path);
            }
        };
        given("policy.api", self.api.is_some());
        given("policy.credential_scheme", self.credential_scheme.is_some());
        given("policy.attempts_max", self.attempts_max.is_some());
        given("policy.max_failures", self.max_failures.is_some());
        given(
            "policy.unproven_concurrency",
            self.unproven_concurrency.is_some(),
        );
        given("policy.timeouts.connect", self.connect_timeout.is_some());
        given(
            "policy.timeouts.first_byte",
            self.first_byte_timeout.is_some(),
        );
        given("policy.timeouts.idle", self.idle_timeout.is_some());
        given("policy.timeouts.total", self.total_timeout.is_some());
        given(
            "policy.cool_downs.overloaded",
            self.overloaded_cool_down.is_some(),
        );
        given(
            "policy.cool_downs.rate_limited",
            self.rate_limited_cool_down.is_some(),
        );
        given("policy.cool_downs.max", self.max_cool_down.is_some());
        given(
            "policy.corroboration_window",
            self.corroboration_window.is_some(),
        );
        given("policy.queue_timeout", self.queue_timeout.is_some());
        given("policy.hold_timeout", self.hold_timeout.is_some());
        given("policy.model_override", self.model_override.is_some());
        given("policy.model_aliases", !self.model_aliases.is_empty());
        given("policy.expose_headers", self.expose_headers.is_some());
        given("policy.upstream_protocol", self.upstream_protocol.is_some());
        self.selection.given(&mut given);
        given("policy.verification.first", self.verify_first.is_some());
        given("policy.verification.max", self.verify_max.is_some());
        given(
            "policy.verification.auth_max",
            self.verify_auth_max.is_some(),
        );
        given(
            "policy.verification.per_hour_max",
            self.verify_per_hour_max.is_some(),
        );
        let check = self.check.check()?;
        given("policy.check", check.is_some());
        let mut policy = v1::ClusterPolicy {
            api: match self.api {
                Some(Api::Anthropic) => v1::ApiFlavor::Anthropic,
                Some(Api::Openai) => v1::ApiFlavor::Openai,
                Some(Api::Http) => v1::ApiFlavor::Http,
                None => v1::ApiFlavor::Unspecified,
            }
            .into(),
            credential_scheme: match self.credential_scheme {
                Some(Scheme::XApiKey) => v1::CredentialScheme::XApiKey,
                Some(Scheme::Bearer) => v1::CredentialScheme::Bearer,
                None => v1::CredentialScheme::Unspecified,
            }
            .into(),
            attempts_max: self.attempts_max,
            max_failures: self.max_failures,
            unproven_concurrency: self.unproven_concurrency,
            timeouts: Some(v1::Timeouts {
                connect: self.connect_timeout,
                first_byte: self.first_byte_timeout,
                idle: self.idle_timeout,
                total: self.total_timeout,
            }),
            cool_downs: Some(v1::CoolDowns {
                overloaded: self.overloaded_cool_down,
                rate_limited: self.rate_limited_cool_down,
                max: self.max_cool_down,
            }),
            check,
            verification: Some(v1::VerificationSchedule {
                first: self.verify_first,
                max: self.verify_max,
                auth_max: self.verify_auth_max,
                per_hour_max: self.verify_per_hour_max,
            }),
            corroboration_window: self.corroboration_window,
            queue_timeout: self.queue_timeout,
            hold_timeout: self.hold_timeout,
            model_override: self.model_override.unwrap_or_default(),
            model_aliases: self.model_aliases.into_iter().collect(),
            expose_headers: self.expose_headers,
            upstream_protocol: match self.upstream_protocol {
                Some(Protocol::Http1) => v1::UpstreamProtocol::Http1,
                Some(Protocol::Auto) => v1::UpstreamProtocol::Auto,
                Some(Protocol::Http2) => v1::UpstreamProtocol::Http2,
                None => v1::UpstreamProtocol::Unspecified,
            }
            .into(),
            ..v1::ClusterPolicy::default()
        };
        self.selection.write(&mut policy);
        Ok((policy, paths))
    }
}
