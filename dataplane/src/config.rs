//! What the user wrote ([`Args`], [`File`]) and what the program means ([`Config`]),
//! with one fallible step between (`resolve`).
//!
//! A flag wins over the environment, which wins over the file, which wins over the
//! default. A [`Config`] that came out of here is valid; nothing re-checks it.

mod args;
mod error;
mod file;
mod plan;
mod resolve;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use http::Uri;
use qcc_proto::tls::{Pair, Roots};

pub(crate) use args::is_of_id;
pub use args::{Args, LogFormat};
pub use error::Error;
pub use file::File;
pub(crate) use plan::plan;

/// What a data plane is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to take client requests. Port 0 means any.
    pub listen: SocketAddr,
    /// Where to serve `ProxyAdminService`. Port 0 means any.
    pub admin_listen: SocketAddr,
    /// Names under which metrics and probes may be asked for at `admin_listen`, beside
    /// addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// What to show to clients; unset means no TLS.
    pub tls: Option<Pair>,
    /// What to show at `admin_listen`; unset means no TLS.
    pub admin_tls: Option<Pair>,
    /// The keys of clients; unset means that everybody is served.
    pub client_keys_file: Option<PathBuf>,
    /// The control planes, to be tried in turn. Not empty.
    pub control_urls: Vec<Uri>,
    /// Who vouches for control planes.
    pub control_roots: Roots,
    /// Who vouches for endpoints.
    pub upstream_roots: Roots,
    /// The cluster to serve.
    pub cluster: String,
    /// Our name; unset means host name and port.
    pub id: Option<String>,
    /// Whether other machines may be listened to without encryption or authentication.
    pub insecure_listen: bool,
    /// Where to write the bound addresses once there is a view.
    pub ready_file: Option<PathBuf>,
    /// Where to keep the last view; unset means nowhere.
    pub view_file: Option<PathBuf>,
    /// Nobody has said where, so that it follows from other settings.
    pub is_default_view_file: bool,
    /// The key that seals it; unset means beside it.
    pub view_key_file: Option<PathBuf>,
    /// Time for running requests to finish when stopping.
    pub drain_timeout: Duration,
    /// Longest time for which a client may read nothing of an answer.
    pub client_stall_timeout: Duration,
    /// Longest time for which a connection is kept without a request.
    pub client_idle_timeout: Duration,
    /// Time for a client to send a request head.
    pub header_read_timeout: Duration,
    /// Longest time for which a client may send nothing of a request body.
    pub body_idle_timeout: Duration,
    /// Client connections at a time.
    pub connections_max: usize,
    /// The same for each address; unset means 1,024, and no such limit for loopback.
    pub connections_per_address_max: Option<usize>,
    /// Connections without a request that are kept.
    pub idle_connections_max: usize,
    /// Requests at a time.
    pub requests_max: usize,
    /// Requests at a time that wait for an endpoint.
    pub waiting_max: usize,
    /// Longest request body that is kept for another try.
    pub replay_max_bytes: usize,
    /// Bytes kept for all requests together.
    pub replay_total_bytes: usize,
    /// Longest request body that is taken at all; unset means any.
    pub body_max_bytes: Option<u64>,
    /// Reports that may wait for the control plane.
    pub reports_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: loopback(7860),
            admin_listen: loopback(7861),
            allowed_hosts: Vec::new(),
            tls: None,
            admin_tls: None,
            client_keys_file: None,
            control_roots: Roots::Platform,
            upstream_roots: Roots::Platform,
            control_urls: vec![Uri::from_static("http://127.0.0.1:7870")],
            cluster: "default".into(),
            id: None,
            insecure_listen: false,
            ready_file: None,
            view_file: None,
            is_default_view_file: false,
            view_key_file: None,
            drain_timeout: Duration::from_secs(30),
            client_stall_timeout: Duration::from_secs(60),
            client_idle_timeout: Duration::from_secs(75),
            header_read_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(60),
            connections_max: 16_384,
            connections_per_address_max: None,
            idle_connections_max: 12_288,
            requests_max: 8192,
            waiting_max: 1024,
            replay_max_bytes: 32 << 20,
            replay_total_bytes: 512 << 20,
            body_max_bytes: None,
            reports_max: 100_000,
        }
    }
}

/// What a command line asks for.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// How to run.
    pub config: Config,
    /// Which log records to write.
    pub log: String,
    /// How to write them.
    pub log_format: LogFormat,
    /// Stop here: the configuration is all that was asked about.
    pub check_only: bool,
}

impl Default for Invocation {
    fn default() -> Self {
        Self {
            config: Config::default(),
            log: "info".into(),
            log_format: LogFormat::Auto,
            check_only: false,
        }
    }
}

/// Refuses to listen for other machines where they can read, or ask, what they like.
fn only_safe_listeners(config: &Config) -> Result<(), Error> {
    const BOTH: &str = "encryption or authentication";
    let has_keys = config.client_keys_file.is_some();
    let lacking = match (config.tls.is_some(), has_keys) {
        (true, true) => None,
        (true, false) => Some(("authentication", "add --client-keys-file, ")),
        (false, true) => Some(("encryption", "add --tls-cert and --tls-key, ")),
        (false, false) => Some((BOTH, "add --tls-cert, --tls-key and --client-keys-file, ")),
    };
    // Those who call the admin address cannot prove who they are.
    let admin_lacking = match config.admin_tls {
        Some(_) => Some(("authentication", "")),
        None => Some((BOTH, "")),
    };
    for (key, address, lacking) in [
        ("listen", config.listen, lacking),
        ("admin_listen", config.admin_listen, admin_lacking),
    ] {
        if let Some((missing, remedy)) = lacking
            && !address.ip().is_loopback()
        {
            return Err(Error::InsecureListen {
                key,
                address,
                missing,
                remedy,
            });
        }
    }
    Ok(())
}

/// Refuses to take from listeners that stay what makes them safe: `next` is what would be
/// used, at the addresses that `used` has.
pub(crate) fn keeps_protection(used: &Config, next: &Config) -> Result<(), Error> {
    let loses_keys = used.client_keys_file.is_some() && next.client_keys_file.is_none();
    match loses_keys && !next.insecure_listen {
        true => only_safe_listeners(next),
        false => Ok(()),
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
