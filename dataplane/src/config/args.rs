//! The command line, as written, and the rules of single values.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum, builder::FalseyValueParser};
use http::Uri;
use qcc_proto::{duration, plain};

use crate::drain::DRAIN_MAX;

/// A data plane of qcc: an HTTP reverse proxy in front of LLM APIs.
///
/// It takes client requests, gives each to a working endpoint of its cluster, and
/// tells the control plane what it saw. Every flag can be set in the environment or,
/// with underscores, in the configuration file; a flag wins over the environment,
/// which wins over the file. On SIGHUP the file is read again, and the files that it
/// names: all of it or, if anything is wrong, nothing; the log says what needs a restart.
/// Exit status: 0 stopped, 1 failed, or stopped at once by a second signal, 2 wrong usage,
/// 78 wrong configuration.
#[derive(Debug, Clone, Parser)]
#[command(name = "qcc-proxy", version)]
pub struct Args {
    /// Where to take client requests [default: 127.0.0.1:7860]
    #[arg(long, env = "QCC_PROXY_LISTEN", value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<SocketAddr>,

    /// Where to serve the admin gRPC services [default: 127.0.0.1:7861]
    #[arg(long, env = "QCC_PROXY_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = address)]
    pub admin_listen: Option<SocketAddr>,

    /// A name under which /metrics, /healthz and /readyz may be asked for at the admin
    /// address, beside addresses and localhost; repeat it for several
    #[arg(
        long,
        env = "QCC_PROXY_ALLOW_HOST",
        value_name = "NAME",
        value_delimiter = ',',
        value_parser = host
    )]
    pub allow_host: Vec<String>,

    /// The certificate to show to clients, a chain in PEM; with it the listener speaks TLS.
    /// A file that changes is read again
    #[arg(long, env = "QCC_PROXY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, env = "QCC_PROXY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// The certificate of the admin address; with it that speaks TLS
    #[arg(long, env = "QCC_PROXY_ADMIN_TLS_CERT", value_name = "FILE")]
    pub admin_tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, env = "QCC_PROXY_ADMIN_TLS_KEY", value_name = "FILE")]
    pub admin_tls_key: Option<PathBuf>,

    /// Serve only clients with a key of this file, in `authorization: Bearer` or
    /// `x-api-key`; `qcc-ctl client-keys add` writes it. A file that changes is read again
    #[arg(long, env = "QCC_PROXY_CLIENT_KEYS_FILE", value_name = "FILE")]
    pub client_keys_file: Option<PathBuf>,

    /// Listen for other machines although connections are not encrypted, or callers not
    /// asked who they are. Clients do not need it where there are TLS and client keys
    #[arg(long, env = "QCC_PROXY_INSECURE_LISTEN", value_parser = FalseyValueParser::new())]
    pub insecure_listen: bool,

    /// A control plane, http:// or https://; repeat it for several, tried in turn
    /// [default: http://127.0.0.1:7870]
    #[arg(long, env = "QCC_CONTROL", value_name = "URL", value_delimiter = ',', value_parser = control_url)]
    pub control: Vec<Uri>,

    /// The authorities that vouch for control planes, in PEM [default: the platform's]
    #[arg(long, env = "QCC_CACERT", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// More authorities that vouch for endpoints, in PEM, beside the platform's
    #[arg(long, env = "QCC_PROXY_UPSTREAM_CA_FILE", value_name = "FILE")]
    pub upstream_ca_file: Option<PathBuf>,

    /// The cluster to serve [default: default]
    #[arg(long, env = "QCC_PROXY_CLUSTER", value_name = "NAME", value_parser = cluster)]
    pub cluster: Option<String>,

    /// The name of this proxy, one of its own [default: host name and port]
    #[arg(long, env = "QCC_PROXY_ID", value_name = "NAME", value_parser = id)]
    pub id: Option<String>,

    /// A TOML file with these settings
    #[arg(long, env = "QCC_PROXY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check the configuration and stop
    #[arg(long)]
    pub check_config: bool,

    /// Write the bound addresses to this file once requests can be served
    #[arg(long, env = "QCC_PROXY_READY_FILE", value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Keep the last view in this file, sealed, and start from it when no control plane
    /// answers [default: CLUSTER-PORT-FLEET.view in $STATE_DIRECTORY,
    /// $XDG_STATE_HOME/qcc/proxy or ~/.local/state/qcc/proxy; none if the port is 0]
    #[arg(long, env = "QCC_PROXY_VIEW_FILE", value_name = "FILE")]
    pub view_file: Option<PathBuf>,

    /// Keep no view
    #[arg(long, env = "QCC_PROXY_NO_VIEW_FILE", value_parser = FalseyValueParser::new())]
    pub no_view_file: bool,

    /// The key that seals the kept view, made at first use
    /// [default: beside the view, with `.key`]
    #[arg(long, env = "QCC_PROXY_VIEW_KEY_FILE", value_name = "FILE")]
    pub view_key_file: Option<PathBuf>,

    /// Time for running requests to finish when stopping [default: 30s]
    #[arg(long, env = "QCC_PROXY_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = drain_timeout)]
    pub drain_timeout: Option<Duration>,

    /// Longest time for which a client may read nothing of an answer [default: 60s]
    #[arg(long, env = "QCC_PROXY_CLIENT_STALL_TIMEOUT", value_name = "DURATION", value_parser = client_timeout)]
    pub client_stall_timeout: Option<Duration>,

    /// Longest time for which a client connection is kept without a request [default: 75s]
    #[arg(long, env = "QCC_PROXY_CLIENT_IDLE_TIMEOUT", value_name = "DURATION", value_parser = client_timeout)]
    pub client_idle_timeout: Option<Duration>,

    /// Time for a client to send a request head [default: 10s]
    #[arg(long, env = "QCC_PROXY_HEADER_READ_TIMEOUT", value_name = "DURATION", value_parser = client_timeout)]
    pub header_read_timeout: Option<Duration>,

    /// Longest time for which a client may send nothing of a request body [default: 60s]
    #[arg(long, env = "QCC_PROXY_BODY_IDLE_TIMEOUT", value_name = "DURATION", value_parser = client_timeout)]
    pub body_idle_timeout: Option<Duration>,

    /// Client connections at a time [default: 16384]
    #[arg(long, env = "QCC_PROXY_CONNECTIONS_MAX", value_name = "NUMBER")]
    pub connections_max: Option<usize>,

    /// Client connections of one address, or IPv6 /64, at a time
    /// [default: 1024; no limit for this machine]
    #[arg(
        long,
        env = "QCC_PROXY_CONNECTIONS_PER_ADDRESS_MAX",
        value_name = "NUMBER"
    )]
    pub connections_per_address_max: Option<usize>,

    /// Client connections that are kept without a request [default: 12288]
    #[arg(long, env = "QCC_PROXY_IDLE_CONNECTIONS_MAX", value_name = "NUMBER")]
    pub idle_connections_max: Option<usize>,

    /// Requests at a time [default: 8192]
    #[arg(long, env = "QCC_PROXY_REQUESTS_MAX", value_name = "NUMBER")]
    pub requests_max: Option<usize>,

    /// Requests at a time that wait for an endpoint [default: 1024]
    #[arg(long, env = "QCC_PROXY_WAITING_MAX", value_name = "NUMBER")]
    pub waiting_max: Option<usize>,

    /// Longest request body that is kept for another try [default: 32 MiB]
    #[arg(long, env = "QCC_PROXY_REPLAY_MAX_BYTES", value_name = "BYTES")]
    pub replay_max_bytes: Option<usize>,

    /// Bytes kept for all requests together [default: 512 MiB]
    #[arg(long, env = "QCC_PROXY_REPLAY_TOTAL_BYTES", value_name = "BYTES")]
    pub replay_total_bytes: Option<usize>,

    /// Longest request body that is taken at all [default: any]
    #[arg(long, env = "QCC_PROXY_BODY_MAX_BYTES", value_name = "BYTES")]
    pub body_max_bytes: Option<u64>,

    /// Reports that may wait while the control plane is away [default: 100000]
    #[arg(long, env = "QCC_PROXY_REPORTS_MAX", value_name = "NUMBER")]
    pub reports_max: Option<usize>,

    /// Which log records to write, such as `debug` or `qcc_dataplane=trace`
    /// [default: info]
    #[arg(long, env = "QCC_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// How to write them [default: auto]
    #[arg(long, env = "QCC_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// How log records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, else for programs.
    Auto,
    /// For people.
    Human,
    /// For programs: one JSON object per line.
    Json,
}

/// Reads an address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "`address:port`".into())
}

/// Reads a control plane's address.
pub(super) fn control_url(text: &str) -> Result<Uri, String> {
    let rule = "`http://host:port` or `https://host:port`";
    let url: Uri = text.parse().map_err(|_| rule)?;
    let authority = url.authority().ok_or(rule)?;
    let whole = matches!(url.scheme_str(), Some("http" | "https"))
        && !url.host().unwrap_or_default().is_empty()
        && !authority.as_str().contains('@')
        && url.path() == "/"
        && url.query().is_none();
    if whole { Ok(url) } else { Err(rule.into()) }
}

/// Reads a name under which we are asked.
pub(super) fn host(text: &str) -> Result<String, String> {
    if plain::is_host_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a host name without a port".into())
    }
}

/// Reads a cluster's name.
pub(super) fn cluster(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let valid = (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if valid {
        Ok(text.to_owned())
    } else {
        Err("1-63 lower-case letters, digits and inner hyphens".into())
    }
}

/// Reads a proxy's name.
pub(super) fn id(text: &str) -> Result<String, String> {
    if (1..=128).contains(&text.len()) && text.bytes().all(is_of_id) {
        Ok(text.to_owned())
    } else {
        Err("1-128 letters, digits, `.`, `_`, `:` and `-`".into())
    }
}

/// Returns whether a proxy's name may have this byte.
pub(crate) fn is_of_id(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._:-".contains(&byte)
}

/// Reads the time for running requests to finish.
pub(super) fn drain_timeout(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .ok()
        .filter(|timeout| *timeout <= DRAIN_MAX)
        .ok_or_else(|| "a duration from 0s to 24h, such as `30s`".into())
}

/// Reads a time that a client is given.
pub(super) fn client_timeout(text: &str) -> Result<Duration, String> {
    duration::parse(text)
        .ok()
        .filter(|timeout| (Duration::from_secs(1)..=DRAIN_MAX).contains(timeout))
        .ok_or_else(|| "a duration from 1s to 24h, such as `60s`".into())
}

/// Reads a log format.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    LogFormat::from_str(text, false).map_err(|_| "`auto`, `human` or `json`".into())
}
