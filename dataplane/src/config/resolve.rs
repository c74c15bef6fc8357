//! From what was written to what is meant: flags, then the file, then defaults, and the rules
//! that values have among themselves.

use std::path::{Path, PathBuf};

use qcc_proto::tls::{Pair, Roots};
use sha2::{Digest, Sha256};
use tracing_subscriber::EnvFilter;

use super::{Args, Config, Error, File, Invocation, LogFormat, args, only_safe_listeners};
use crate::files::Files;

/// More than can be of use.
const WAITING_MAX: usize = 1_000_000;

impl Args {
    /// Turns what was written into what is meant.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or if a value breaks its rule.
    pub fn resolve(self) -> Result<Invocation, Error> {
        let file = match &self.config {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        self.merge(file)
    }

    pub(super) fn merge(self, file: File) -> Result<Invocation, Error> {
        let defaults = Config::default();
        let file_control = match file.control {
            Some(urls) => read_all("control", urls.into_vec(), args::control_url)?,
            None => Vec::new(),
        };
        let file_hosts = match file.allow_host {
            Some(hosts) => read_all("allow_host", hosts.into_vec(), args::host)?,
            None => Vec::new(),
        };
        let mut config = Config {
            listen: pick(
                self.listen,
                read("listen", file.listen, args::address)?,
                defaults.listen,
            ),
            admin_listen: pick(
                self.admin_listen,
                read("admin_listen", file.admin_listen, args::address)?,
                defaults.admin_listen,
            ),
            allowed_hosts: [self.allow_host, file_hosts]
                .into_iter()
                .find(|hosts| !hosts.is_empty())
                .unwrap_or_default(),
            tls: pair(
                ("tls_cert", self.tls_cert.or(file.tls_cert)),
                ("tls_key", self.tls_key.or(file.tls_key)),
            )?,
            admin_tls: pair(
                (
                    "admin_tls_cert",
                    self.admin_tls_cert.or(file.admin_tls_cert),
                ),
                ("admin_tls_key", self.admin_tls_key.or(file.admin_tls_key)),
            )?,
            client_keys_file: self.client_keys_file.or(file.client_keys_file),
            control_roots: (self.ca_file.or(file.ca_file))
                .map_or(defaults.control_roots, Roots::Only),
            upstream_roots: (self.upstream_ca_file.or(file.upstream_ca_file))
                .map_or(defaults.upstream_roots, Roots::PlatformAnd),
            control_urls: [self.control, file_control, defaults.control_urls]
                .into_iter()
                .find(|urls| !urls.is_empty())
                .unwrap_or_default(),
            cluster: pick(
                self.cluster,
                read("cluster", file.cluster, args::cluster)?,
                defaults.cluster,
            ),
            id: self.id.or(read("id", file.id, args::id)?),
            insecure_listen: self.insecure_listen || file.insecure_listen.unwrap_or(false),
            ready_file: self.ready_file.or(file.ready_file),
            view_file: self.view_file.or(file.view_file),
            is_default_view_file: false,
            view_key_file: self.view_key_file.or(file.view_key_file),
            drain_timeout: pick(
                self.drain_timeout,
                read("drain_timeout", file.drain_timeout, args::drain_timeout)?,
                defaults.drain_timeout,
            ),
            client_stall_timeout: pick(
                self.client_stall_timeout,
                read(
                    "client_stall_timeout",
                    file.client_stall_timeout,
                    args::client_timeout,
                )?,
                defaults.client_stall_timeout,
            ),
            client_idle_timeout: pick(
                self.client_idle_timeout,
                read(
                    "client_idle_timeout",
                    file.client_idle_timeout,
                    args::client_timeout,
                )?,
                defaults.client_idle_timeout,
            ),
            header_read_timeout: pick(
                self.header_read_timeout,
                read(
                    "header_read_timeout",
                    file.header_read_timeout,
                    args::client_timeout,
                )?,
                defaults.header_read_timeout,
            ),
            body_idle_timeout: pick(
                self.body_idle_timeout,
                read(
                    "body_idle_timeout",
                    file.body_idle_timeout,
                    args::client_timeout,
                )?,
                defaults.body_idle_timeout,
            ),
            connections_max: pick(
                self.connections_max,
                file.connections_max,
                defaults.connections_max,
            ),
            connections_per_address_max: self
                .connections_per_address_max
                .or(file.connections_per_address_max),
            idle_connections_max: pick(
                self.idle_connections_max,
                file.idle_connections_max,
                defaults.idle_connections_max,
            ),
            requests_max: pick(self.requests_max, file.requests_max, defaults.requests_max),
            waiting_max: pick(self.waiting_max, file.waiting_max, defaults.waiting_max),
            replay_max_bytes: pick(
                self.replay_max_bytes,
                file.replay_max_bytes,
                defaults.replay_max_bytes,
            ),
            replay_total_bytes: pick(
                self.replay_total_bytes,
                file.replay_total_bytes,
                defaults.replay_total_bytes,
            ),
            body_max_bytes: self.body_max_bytes.or(file.body_max_bytes),
            reports_max: pick(self.reports_max, file.reports_max, defaults.reports_max),
        };
        if self.no_view_file || file.no_view_file.unwrap_or(false) {
            config.view_file = None;
        } else if config.view_file.is_none() {
            config.view_file = state_dir().and_then(|dir| default_view_file(&dir, &config));
            config.is_default_view_file = true;
        }
        if !config.insecure_listen {
            only_safe_listeners(&config)?;
        }
        for (key, value) in [
            ("reports_max", config.reports_max),
            ("connections_max", config.connections_max),
            (
                "connections_per_address_max",
                config.connections_per_address_max.unwrap_or(1),
            ),
            ("requests_max", config.requests_max),
        ] {
            if value == 0 {
                return Err(Error::value(key, "0", "at least 1"));
            }
        }
        Files::load(&config)?; // The rules of files are rules of the configuration.
        if config.waiting_max > WAITING_MAX {
            let value = config.waiting_max.to_string();
            return Err(Error::value("waiting_max", &value, "at most 1000000"));
        }
        for log in [&self.log, &file.log].into_iter().flatten() {
            if let Err(error) = EnvFilter::try_new(log) {
                let rule = format!("a filter such as `info`: {error}");
                return Err(Error::value("log", log, rule));
            }
        }
        Ok(Invocation {
            config,
            log: self.log.or(file.log).unwrap_or_else(|| "info".into()),
            log_format: pick(
                self.log_format,
                read("log_format", file.log_format, args::log_format)?,
                LogFormat::Auto,
            ),
            check_only: self.check_config,
        })
    }
}

/// Returns where a proxy keeps what it wants to find again: what systemd gives a service,
/// else what a user has.
fn state_dir() -> Option<PathBuf> {
    let absolute = |variable| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("STATE_DIRECTORY").or_else(|| {
        let home = || absolute("HOME").map(|home| home.join(".local/state"));
        let state = absolute("XDG_STATE_HOME").or_else(home)?;
        Some(state.join("qcc/proxy"))
    })
}

/// Returns where a proxy keeps its view if nobody says so: a file for each cluster, port
/// and fleet, so that none meets the view of another. A port that is different each time
/// would be a file each time.
fn default_view_file(dir: &Path, config: &Config) -> Option<PathBuf> {
    let mut fleet = Sha256::new();
    for url in &config.control_urls {
        fleet.update(url.to_string());
        fleet.update("\n");
    }
    let fleet = fleet.finalize();
    let fleet = u32::from_be_bytes([fleet[0], fleet[1], fleet[2], fleet[3]]);
    let (cluster, port) = (&config.cluster, config.listen.port());
    (port != 0).then(|| dir.join(format!("{cluster}-{port}-{fleet:08x}.view")))
}

/// A certificate and its key are given together or not at all.
fn pair(
    (cert_key, cert): (&'static str, Option<PathBuf>),
    (key_key, key): (&'static str, Option<PathBuf>),
) -> Result<Option<Pair>, Error> {
    let half = |present, missing| Err(Error::HalfPair { present, missing });
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some(Pair { cert, key })),
        (Some(_), None) => half(cert_key, key_key),
        (None, Some(_)) => half(key_key, cert_key),
    }
}

fn pick<T>(flag: Option<T>, file: Option<T>, default: T) -> T {
    flag.or(file).unwrap_or(default)
}

fn read<T>(
    key: &'static str,
    value: Option<String>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Error> {
    let parsed = value.map(|value| parse(&value).map_err(|rule| Error::value(key, &value, rule)));
    parsed.transpose()
}

fn read_all<T>(
    key: &'static str,
    values: Vec<String>,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Error> {
    let parse = |value: String| parse(&value).map_err(|rule| Error::value(key, &value, rule));
    values.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn resolve(flags: &[&str], file: &str) -> Result<Invocation, Error> {
        let args = Args::try_parse_from([&["qcc-proxy"], flags].concat()).unwrap();
        args.merge(File::parse(file)?)
    }

    fn refusal(file: &str) -> String {
        resolve(&[], file).unwrap_err().to_string()
    }

    #[test]
    fn nothing_given_means_the_defaults() {
        let config = resolve(&[], "").unwrap().config;
        assert_eq!(config.listen.to_string(), "127.0.0.1:7860");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:7861");
        assert_eq!(config.control_urls, ["http://127.0.0.1:7870/"]);
        assert_eq!(config.cluster, "default");
    }

    #[test]
    fn views_are_kept_apart_by_cluster_port_and_fleet() {
        let file = |flags: &[&str]| {
            let config = resolve(flags, "").unwrap().config;
            default_view_file(Path::new("/state"), &config)
        };
        let plain = file(&[]).unwrap();
        let name = plain.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("default-7860-"), "{name}");
        assert_eq!(plain.parent().unwrap(), Path::new("/state"));
        for other in [
            ["--cluster", "b"],
            ["--listen", "127.0.0.1:1"],
            ["--control", "http://a:1"],
        ] {
            assert_ne!(file(&other), Some(plain.clone()), "{other:?}");
        }
        assert_eq!(file(&["--listen", "127.0.0.1:0"]), None);
    }

    #[test]
    fn a_view_is_kept_where_it_is_said() {
        let kept = |flags: &[&str], file| resolve(flags, file).unwrap().config.view_file;
        let here = Some(PathBuf::from("/here"));
        assert_eq!(kept(&["--view-file", "/here"], ""), here);
        assert_eq!(kept(&[], "view_file = '/here'"), here);
        assert_eq!(kept(&["--no-view-file"], "view_file = '/here'"), None);
        assert_eq!(kept(&[], "no_view_file = true"), None);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = "cluster = 'a'\nlisten = '127.0.0.1:1'\ncontrol = ['http://a:1', 'http://b:2']";
        let config = resolve(&["--cluster", "b"], file).unwrap().config;
        assert_eq!(config.cluster, "b");
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.control_urls.len(), 2);
        let config = resolve(&["--control", "http://c:3"], file).unwrap().config;
        assert_eq!(config.control_urls, ["http://c:3/"]);
    }

    #[test]
    fn one_control_plane_needs_no_list() {
        let config = resolve(&[], "control = 'http://a:1'").unwrap().config;
        assert_eq!(config.control_urls, ["http://a:1/"]);
    }

    #[test]
    fn a_rejected_value_is_named_with_its_key_and_rule() {
        assert_eq!(
            refusal("listen = 'here'"),
            "invalid listen `here`: must be `address:port`"
        );
        assert_eq!(
            refusal("drain_timeout = '2d'"),
            "invalid drain_timeout `2d`: must be a duration from 0s to 24h, such as `30s`"
        );
        assert!(refusal("client_stall_timeout = '0s'").contains("from 1s to 24h"));
        assert!(refusal("body_idle_timeout = '25h'").contains("from 1s to 24h"));
        assert!(refusal("connections_per_address_max = 0").contains("at least 1"));
        assert!(refusal("waiting_max = 1000001").contains("at most 1000000"));
        assert!(refusal("control = 'ftp://a:1'").contains("must be `http://host:port`"));
        let rule = "tls_cert is given, so tls_key must be too";
        assert_eq!(refusal("tls_cert = '/a'"), rule);
        let files = "admin_tls_cert = '/no/cert'\nadmin_tls_key = '/no/key'";
        assert!(refusal(files).starts_with("read `/no/cert`"));
        assert!(refusal("upstream_ca_file = '/no/ca'").starts_with("read `/no/ca`"));
        assert!(refusal("allow_host = 'a:80'").contains("without a port"));
        assert!(refusal("cluster = 'A b'").contains("lower-case"));
        assert!(refusal("lisen = '127.0.0.1:1'").contains("lisen"));
        assert!(refusal("log = 'a=b=c'").contains("invalid log `a=b=c`"));
    }

    #[test]
    fn what_is_told_of_a_refusal_names_the_place_and_shows_no_secret() {
        let rejected = |file: &str| resolve(&[], file).unwrap_err().rejected();
        let wrong = rejected("cluster = 'a'\nrequests_max = 'x'");
        assert_eq!(wrong.field, "requests_max");
        assert!(wrong.message.starts_with("line 2: "), "{wrong}");
        let wrong = rejected("requests_max = 0");
        let (field, rule) = (wrong.field.as_str(), wrong.rule.as_str());
        assert_eq!((field, rule), ("requests_max", "must be at least 1"));
        let files = "tls_cert = '/no/cert'\ntls_key = '/no/key'";
        let wrong = rejected(files);
        assert_eq!((&*wrong.field, &*wrong.file), ("tls_cert", "/no/cert"));
        let wrong = rejected("client_keys_file = '/no/keys'");
        assert_eq!(wrong.field, "client_keys_file");
        assert_eq!(rejected("tls_key = '/no/key'").field, "tls_cert");
        for file in [
            "control = 'http://u:sk-canary@a:1'",
            "control = 'sk-canary@a:1'",
            "api_key sk-canary",
            "'sk-canary' = 1",
        ] {
            let wrong = rejected(file);
            let shown = format!("{wrong} {wrong:?}");
            let is_quoted = file.starts_with('\''); // A key's name is what is unknown.
            assert_eq!(shown.contains("sk-canary"), is_quoted, "{shown}");
        }
    }

    #[test]
    fn other_machines_are_let_in_only_on_purpose() {
        let file = "listen = '0.0.0.0:7860'";
        assert!(refusal(file).contains("--insecure-listen"));
        assert!(resolve(&["--insecure-listen"], file).is_ok());
        assert!(refusal("admin_listen = '[::]:1'").contains("admin_listen"));
    }

    #[test]
    fn tls_and_client_keys_together_are_as_good_as_the_word() {
        const TLS: &[&str] = &["--tls-cert", "/no/cert", "--tls-key", "/no/key"];
        const KEYS: &[&str] = &["--client-keys-file", "/no/keys"];
        let both = [TLS, KEYS].concat();
        let refusal = |flags: &[&str], file| resolve(flags, file).unwrap_err().to_string();
        let listen = "listen = '0.0.0.0:7860'";
        for (flags, words) in [
            (&[][..], "without encryption or authentication"),
            (&[], "add --tls-cert, --tls-key and --client-keys-file, "),
            (TLS, "without authentication"),
            (TLS, "add --client-keys-file, or allow it"),
            (KEYS, "without encryption;"),
            (KEYS, "add --tls-cert and --tls-key, or allow it"),
            (&both, "read `/no/keys`"), // The next rule.
        ] {
            let text = refusal(flags, listen);
            assert!(text.contains(words), "{text}");
        }
        let text = refusal(&both, "admin_listen = '[::]:1'");
        assert!(
            text.contains("use a loopback address, or allow it"),
            "{text}"
        );
    }
}
