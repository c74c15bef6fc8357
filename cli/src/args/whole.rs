//! Commands about the system as a whole.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use qcc_proto::v1::HealthState;

use super::values;

/// `qcc-ctl up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Where the control plane serves gRPC; port 0 picks a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "QCC_CONTROL_LISTEN",
        default_value = "127.0.0.1:7870"
    )]
    pub(crate) control_listen: SocketAddr,
    /// Where the proxy takes requests.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "QCC_PROXY_LISTEN",
        default_value = "127.0.0.1:7860"
    )]
    pub(crate) listen: SocketAddr,
    /// Where the proxy serves its admin gRPC.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "QCC_PROXY_ADMIN_LISTEN",
        default_value = "127.0.0.1:7861"
    )]
    pub(crate) admin_listen: SocketAddr,
    /// Where the control plane keeps its data [default: qcc/control under the user's data home].
    #[arg(
        long,
        value_name = "DIR",
        env = "QCC_CONTROL_DATA_DIR",
        conflicts_with = "demo"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// The certificate to show to clients, a chain in PEM; with it the proxy speaks TLS.
    #[arg(
        long,
        value_name = "FILE",
        env = "QCC_PROXY_TLS_CERT",
        requires = "tls_key",
        conflicts_with = "demo"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(
        long,
        value_name = "FILE",
        env = "QCC_PROXY_TLS_KEY",
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Serve only clients with a key of this file, which `qcc-ctl client-keys add` writes.
    #[arg(
        long,
        value_name = "FILE",
        env = "QCC_PROXY_CLIENT_KEYS_FILE",
        conflicts_with = "demo"
    )]
    pub(crate) client_keys_file: Option<PathBuf>,
    /// A name under which /metrics, /healthz and /readyz may be asked for, beside addresses and
    /// localhost; repeat it for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = values::host)]
    pub(crate) allow_host: Vec<String>,
    /// Allow addresses that other machines reach, although connections are not encrypted there, or
    /// callers not asked who they are. `--listen` does not need it with TLS and client keys.
    #[arg(long)]
    pub(crate) insecure_listen: bool,
    /// Resources file to apply at start.
    #[arg(long, value_name = "FILE", conflicts_with = "demo")]
    pub(crate) apply: Option<PathBuf>,
    /// Write the bound addresses to this file, as JSON, once everything is ready.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Show on scripted upstreams what happens when a key goes bad; keeps nothing.
    #[arg(long)]
    pub(crate) demo: bool,
    /// End the demo after this many seconds.
    #[arg(long, value_name = "SECONDS", requires = "demo")]
    pub(crate) demo_seconds: Option<u64>,
}

/// `qcc-ctl status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Exit 7 if an endpoint is unhealthy or none exists, or a proxy lags behind.
    #[arg(long)]
    pub(crate) check: bool,
}

/// `qcc-ctl reload` and `qcc-ctl proxy reload`
#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Show what it would come to, but change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `qcc-ctl apply`
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Resources file (TOML); `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Delete clusters and endpoints that the file does not declare.
    #[arg(long)]
    pub(crate) prune: bool,
    /// Show the changes, but make none.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `qcc-ctl diff`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Resources file (TOML); `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Count what the file does not declare as to be deleted.
    #[arg(long)]
    pub(crate) prune: bool,
}

/// `qcc-ctl wait`
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// What to look at: `endpoint/NAME`, `queue` or `proxies`.
    #[arg(value_parser = subject)]
    pub(crate) subject: Subject,
    /// endpoint: unknown, healthy, degraded, unhealthy; queue: empty; proxies: synced.
    #[arg(long = "for", value_name = "CONDITION")]
    pub(crate) condition: String,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One endpoint.
    Endpoint(String),
    /// The failure queue.
    Queue,
    /// All connected proxies.
    Proxies,
}

fn subject(text: &str) -> Result<Subject, String> {
    match text.split_once('/') {
        Some(("endpoint" | "endpoints", name)) if !name.is_empty() => {
            Ok(Subject::Endpoint(name.to_owned()))
        }
        None if text == "queue" => Ok(Subject::Queue),
        None if text == "proxies" => Ok(Subject::Proxies),
        _ => Err("must be endpoint/NAME, queue or proxies".to_owned()),
    }
}

/// A condition that its subject can meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The endpoint is in this state.
    Endpoint(String, HealthState),
    /// The failure queue is empty.
    QueueEmpty,
    /// There are proxies, and all have applied the newest view.
    ProxiesSynced,
}

impl Wait {
    /// What to wait for, or the conditions that the subject can meet.
    pub(crate) fn condition(self) -> Result<Condition, String> {
        match self.subject {
            Subject::Endpoint(name) => match values::state(&self.condition) {
                Ok(state) => Ok(Condition::Endpoint(name, state)),
                Err(rule) => Err(format!(
                    "`--for` is `{}`: for an endpoint it {rule}",
                    self.condition
                )),
            },
            Subject::Queue if self.condition == "empty" => Ok(Condition::QueueEmpty),
            Subject::Queue => Err(format!(
                "`--for` is `{}`: for the queue it must be empty",
                self.condition
            )),
            Subject::Proxies if self.condition == "synced" => Ok(Condition::ProxiesSynced),
            Subject::Proxies => Err(format!(
                "`--for` is `{}`: for proxies it must be synced",
                self.condition
            )),
        }
    }
}

/// How long `wait` waits unless `--timeout` says otherwise.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// `qcc-ctl import`
#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// Profiles, endpoint lists and groups of QCC (`~/.fastcc/cache.json`, `endpoint_groups.json`).
    Qcc(ImportQcc),
}

/// `qcc-ctl import qcc`
#[derive(Debug, Args)]
pub(crate) struct ImportQcc {
    /// The cache.json; `-` reads standard input.
    pub(crate) file: PathBuf,
    /// Also make a cluster of each group in this endpoint_groups.json: its primary profiles, and the
    /// secondary ones behind them.
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    pub(crate) groups: Option<PathBuf>,
    /// Put all endpoints into this cluster. Without it, a profile with an endpoint list becomes
    /// a cluster of its own, and single profiles go to `default`.
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Also take http:// URLs of other hosts, where keys travel in the clear.
    #[arg(long)]
    pub(crate) allow_plaintext: bool,
    /// Show what would be imported, without asking the control plane.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `qcc-ctl completion`
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `qcc-ctl version`
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Show only this program's version.
    #[arg(long)]
    pub(crate) client: bool,
}
