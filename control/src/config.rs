//! What the user wrote ([`Args`], `File`), and what the program means ([`Config`]).

mod plan;

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Parser, ValueEnum};
pub(crate) use plan::plan;
use qcc_proto::{
    plain,
    reload::{Misread, Rejected},
    resources,
    tls::{self, Identity, Pair, Roots, Trust},
    v1,
};
use serde::Deserialize;

/// Where data planes and `qcc-ctl` look for a control plane.
const LISTEN: &str = "127.0.0.1:7870";

/// A configuration file larger than this is none.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A control plane's settings; valid, with defaults filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where gRPC is served; port 0 picks one.
    pub listen: SocketAddr,
    /// Names under which metrics and probes may be asked for, beside addresses and
    /// `localhost`.
    pub allowed_hosts: Vec<String>,
    /// What to show to those who connect; `None`: no TLS.
    pub tls: Option<Pair>,
    /// Who vouches for endpoints, where checks ask them.
    pub upstream_roots: Roots,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// File of the key that seals credentials; `None`: in the data directory.
    pub seal_key_file: Option<PathBuf>,
    /// Resources to bring about before serving.
    pub apply: Option<v1::ApplyResourcesRequest>,
    /// Written once it serves: `{"grpc": "ADDRESS"}`.
    pub ready_file: Option<PathBuf>,
}

/// The control plane of qcc: owns endpoint health and the failure queue.
///
/// Every flag can be set by its environment variable or, with underscores, in the
/// file given with --config; a flag wins over the environment, and that over the file. On
/// SIGHUP the file is read again, and the files that it names: all of it or, if anything is
/// wrong, nothing; the log says what needs a restart.
/// Exit status: 0 stopped, 1 failed, or stopped at once by a second signal, 2 wrong usage,
/// 78 wrong configuration.
#[derive(Debug, Clone, Parser)]
#[command(name = "qcc-control", version)]
pub struct Args {
    /// Address to serve gRPC on; port 0 picks a free one [default: 127.0.0.1:7870]
    #[arg(long, env = "QCC_CONTROL_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// A name under which /metrics, /healthz and /readyz may be asked for, beside
    /// addresses and localhost; repeat it for several
    #[arg(
        long = "allow-host",
        env = "QCC_CONTROL_ALLOW_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    allow_host: Vec<String>,

    /// The certificate to show, a chain in PEM; with it the listener speaks TLS. A file that
    /// changes is read again
    #[arg(long, env = "QCC_CONTROL_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of that certificate, in PEM
    #[arg(long, env = "QCC_CONTROL_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// More authorities that vouch for endpoints, in PEM, beside the platform's
    #[arg(long, env = "QCC_CONTROL_UPSTREAM_CA_FILE", value_name = "FILE")]
    upstream_ca_file: Option<PathBuf>,

    /// Directory for the data; created if missing [default: under the user's data home]
    #[arg(long, env = "QCC_CONTROL_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// File of the key that seals stored credentials [default: seal.key in the data directory]
    #[arg(long, env = "QCC_CONTROL_SEAL_KEY_FILE", value_name = "FILE")]
    seal_key_file: Option<PathBuf>,

    /// Resources file to apply before serving, as `qcc-ctl apply` does
    #[arg(long, env = "QCC_CONTROL_APPLY", value_name = "FILE")]
    apply: Option<PathBuf>,

    /// Write the bound address to this file, as JSON, once ready
    #[arg(long, env = "QCC_CONTROL_READY_FILE", value_name = "FILE")]
    ready_file: Option<PathBuf>,

    /// Listen on an address that other machines reach, although nobody is asked who they
    /// are: credentials can be read by all who connect, and without TLS by all in between
    #[arg(long, env = "QCC_CONTROL_INSECURE_LISTEN")]
    insecure_listen: bool,

    /// Configuration file (TOML)
    #[arg(long, env = "QCC_CONTROL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check the configuration and exit
    #[arg(long)]
    check_config: bool,

    /// What to log, such as `info` or `qcc_control=debug` [default: info]
    #[arg(long, env = "QCC_LOG", value_name = "FILTER")]
    log: Option<String>,

    /// How to log [default: human on a terminal, else json]
    #[arg(long, env = "QCC_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// For programs: one JSON object a line.
    Json,
}

/// A program run as a daemon: its settings and how it logs.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The control plane's settings.
    pub config: Config,
    /// Where the resources to bring about are.
    pub apply_file: Option<PathBuf>,
    /// Whether an address may be listened on that other machines reach.
    pub insecure_listen: bool,
    /// Only check them.
    pub check_config: bool,
    /// What to log.
    pub log: String,
    /// How; `None`: by whether somebody watches.
    pub log_format: Option<LogFormat>,
}

/// The configuration file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    #[serde(default)]
    allow_host: Vec<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    upstream_ca_file: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    seal_key_file: Option<PathBuf>,
    apply: Option<PathBuf>,
    ready_file: Option<PathBuf>,
    #[serde(default)]
    insecure_listen: bool,
    log: Option<String>,
    log_format: Option<LogFormat>,
}

/// A configuration that cannot be used.
#[derive(Debug)]
pub enum Error {
    /// The configuration file cannot be read.
    Read(PathBuf, io::Error),
    /// The configuration file is not valid.
    Parse(PathBuf, Misread),
    /// The resources file is not valid.
    Resources(PathBuf, resources::Error),
    /// No data directory was given, and there is no home directory.
    NoDataDir,
    /// Other machines could reach the address.
    Exposed(SocketAddr),
    /// A name that is allowed is none.
    Host(String),
    /// The log filter is not valid.
    Log(String),
    /// A certificate needs its key, and a key its certificate.
    HalfPair {
        /// What there is.
        present: &'static str,
        /// What there is not.
        missing: &'static str,
    },
    /// A file of certificates or keys cannot be used.
    Tls {
        /// The key that names it.
        key: &'static str,
        /// Why.
        source: tls::Error,
    },
}

impl Args {
    /// Returns where the file is, if there is one.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Works out what is meant.
    ///
    /// # Errors
    ///
    /// Names the setting, its value and the rule.
    pub fn resolve(self) -> Result<Daemon, Error> {
        let file = self
            .config
            .as_deref()
            .map(File::read)
            .transpose()?
            .unwrap_or_default();
        let listen = self
            .listen
            .or(file.listen)
            .unwrap_or_else(|| LISTEN.parse().expect("the default is an address"));
        let insecure_listen = self.insecure_listen || file.insecure_listen;
        if !listen.ip().is_loopback() && !insecure_listen {
            return Err(Error::Exposed(listen));
        }
        let allowed_hosts = match self.allow_host {
            hosts if hosts.is_empty() => file.allow_host,
            hosts => hosts,
        };
        if let Some(host) = allowed_hosts.iter().find(|host| !plain::is_host_name(host)) {
            return Err(Error::Host(host.clone()));
        }
        let half = |present, missing| Err(Error::HalfPair { present, missing });
        let tls = match (
            self.tls_cert.or(file.tls_cert),
            self.tls_key.or(file.tls_key),
        ) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(Pair { cert, key }),
            (Some(_), None) => return half("tls_cert", "tls_key"),
            (None, Some(_)) => return half("tls_key", "tls_cert"),
        };
        let upstream_roots = (self.upstream_ca_file.or(file.upstream_ca_file))
            .map_or(Roots::Platform, Roots::PlatformAnd);
        // The rules of files are rules of the configuration.
        if let Some(pair) = &tls {
            Identity::load(pair).map_err(|error| Error::of_pair(pair, error))?;
        }
        Trust::load(&upstream_roots).map_err(Error::of_upstream_roots)?;
        let data_dir = self.data_dir.or(file.data_dir).or_else(default_data_dir);
        let apply_file = self.apply.or(file.apply);
        let load = |path: &PathBuf| {
            resources::load(path).map_err(|error| Error::Resources(path.clone(), error))
        };
        for log in [&self.log, &file.log].into_iter().flatten() {
            if log.parse::<tracing_subscriber::EnvFilter>().is_err() {
                return Err(Error::Log(log.clone()));
            }
        }
        Ok(Daemon {
            config: Config {
                listen,
                allowed_hosts,
                tls,
                upstream_roots,
                data_dir: data_dir.ok_or(Error::NoDataDir)?,
                seal_key_file: self.seal_key_file.or(file.seal_key_file),
                apply: apply_file.as_ref().map(load).transpose()?,
                ready_file: self.ready_file.or(file.ready_file),
            },
            apply_file,
            insecure_listen,
            check_config: self.check_config,
            log: self.log.or(file.log).unwrap_or_else(|| "info".into()),
            log_format: self.log_format.or(file.log_format),
        })
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, Error> {
        let read_error = |error| Error::Read(path.into(), error);
        let metadata = fs::metadata(path).map_err(read_error)?;
        if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
            let error = io::Error::other("it is not a regular file of at most 1 MiB");
            return Err(read_error(error));
        }
        let text = fs::read_to_string(path).map_err(read_error)?;
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let at = error.span().map(|span| span.start);
            Error::Parse(path.into(), Misread::new(&text, at, error.message()))
        })
    }
}

impl Error {
    pub(crate) fn of_pair(pair: &Pair, source: tls::Error) -> Self {
        let key = match source.path() == pair.cert {
            true => "tls_cert",
            false => "tls_key",
        };
        Self::Tls { key, source }
    }

    pub(crate) fn of_upstream_roots(source: tls::Error) -> Self {
        let key = "upstream_ca_file";
        Self::Tls { key, source }
    }

    /// Names file, setting and rule, each as far as it is known. Shows no line of the file:
    /// what stands there by mistake may be a secret.
    pub(crate) fn rejected(&self) -> Rejected {
        let message = self.to_string();
        let of = |field: &str, rule: String| (PathBuf::new(), field.to_owned(), rule);
        let (file, field, rule) = match self {
            Self::Read(path, error) => (path.clone(), String::new(), error.to_string()),
            Self::Parse(path, misread) => return misread.rejected(Some(path)),
            Self::Resources(path, error) => (path.clone(), "apply".to_owned(), error.to_string()),
            Self::NoDataDir => of("data_dir", message.clone()),
            Self::Exposed(_) => of("listen", "must be a loopback address".to_owned()),
            Self::Host(_) => of(
                "allow_host",
                "must be a host name without a port".to_owned(),
            ),
            Self::HalfPair { present, missing } => {
                of(missing, format!("must be given, since {present} is"))
            }
            Self::Tls { key, source } => {
                let path = source.path().to_owned();
                (path, (*key).to_owned(), source.to_string())
            }
            Self::Log(_) => of("log", "must be a log filter".to_owned()),
        };
        Rejected {
            message,
            file: file.display().to_string(),
            field,
            rule,
        }
    }
}

/// Returns where the data goes if nothing is said: `qcc/control` in the user's data
/// home (XDG Base Directory Specification).
pub fn default_data_dir() -> Option<PathBuf> {
    let absolute = |variable| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|home| home.join("qcc/control"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => {
                write!(f, "read configuration `{}`: {error}", path.display())
            }
            Self::Parse(path, misread) => {
                write!(f, "parse configuration `{}`: {misread}", path.display())
            }
            Self::Resources(path, error) => {
                write!(f, "load resources `{}`: {error}", path.display())
            }
            Self::NoDataDir => f.write_str(
                "no data directory: pass --data-dir, since there is neither XDG_DATA_HOME nor HOME",
            ),
            Self::Exposed(address) => write!(
                f,
                "`listen` is `{address}`, which other machines can reach: use a loopback address, \
                 or pass --insecure-listen if the network is trusted"
            ),
            Self::Host(host) => write!(
                f,
                "`allow_host` is `{host}`, which is not a host name without a port"
            ),
            Self::HalfPair { present, missing } => {
                write!(f, "`{present}` is given, so `{missing}` must be too")
            }
            Self::Tls { source, .. } => source.fmt(f),
            Self::Log(filter) => write!(f, "`log` is `{filter}`, which is not a log filter"),
        }
    }
}

impl std::error::Error for Error {}
