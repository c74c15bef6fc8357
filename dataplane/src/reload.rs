//! The configuration, read again while the process runs: on SIGHUP, and by
//! `ReloadProxyConfig`.
//!
//! First everything is read and judged, the files that are named included; only then
//! everything that may change does, and nothing of that can fail. What is judged is what
//! would be *used*: settings that wait for a restart count as they are, so that a listener
//! that stays open to other machines does not lose what makes it safe.
//!
//! One reload at a time. Those who look whether files have changed wait for it as well:
//! what they have read before it is not taken after it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use qcc_proto::{
    exposition::Page,
    plain::Hosts,
    reload::{Plan, Record, Rejected},
    tls::{Identity, Trust, Watched},
    v1::{ConfigReload, ConfigStatus},
};
use tokio::task::spawn_blocking;

use crate::{
    Config,
    client_keys::ClientKeys,
    config::{self, Args, Invocation, keeps_protection, plan},
    drain::Drain,
    files::{Files, Staged},
    proxy::{Live, Settings},
};

/// Where a configuration is read again, and what follows it outside of the proxy.
pub struct Source {
    started: Invocation,
    read: Box<dyn Fn() -> Result<Invocation, config::Error> + Send + Sync>,
    set_log: Box<dyn Fn(&str) + Send + Sync>,
    file: Option<PathBuf>,
}

/// Has a proxy read its configuration again. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Reloader(Arc<Shared>);

struct Shared {
    source: Option<Source>,
    /// What is used. Held for as long as a reload takes.
    used: Mutex<Invocation>,
    files: Files,
    settings: Live,
    hosts: Hosts,
    drain: Drain,
    record: Record,
}

/// Why nothing was read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no configuration that could be read again.
    NoSource,
    /// It breaks a rule.
    Rejected(Rejected),
    /// A task has panicked.
    Panicked,
}

/// What would be used, all of it read and judged.
struct Next {
    plan: Plan,
    invocation: Invocation,
    client_keys: Option<ClientKeys>,
    files: Staged,
}

impl Source {
    /// The command line, the environment and the file, as they were `resolved` at the start.
    /// `set_log` is given the filter of log records when it is another.
    pub fn new(
        args: Args,
        resolved: &Invocation,
        set_log: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            started: resolved.clone(),
            file: args.config.clone(),
            read: Box::new(move || args.clone().resolve()),
            set_log: Box::new(set_log),
        }
    }
}

impl Reloader {
    pub(crate) fn new(
        source: Option<Source>,
        config: &Config,
        files: Files,
        settings: Live,
        drain: Drain,
    ) -> Self {
        let used = match &source {
            Some(source) => source.started.clone(),
            None => Invocation::default(),
        };
        Self(Arc::new(Shared {
            source,
            used: Mutex::new(used),
            files,
            settings,
            hosts: Hosts::new(&config.allowed_hosts),
            drain,
            record: Record::new(SystemTime::now()),
        }))
    }

    /// Reads the configuration again; with `validate_only` nothing comes of it.
    ///
    /// # Errors
    ///
    /// Says what breaks which rule; nothing is other than before.
    pub async fn reload(&self, validate_only: bool) -> Result<ConfigReload, Error> {
        let shared = Arc::clone(&self.0);
        // Not cut off by a caller who goes away.
        let reloaded = spawn_blocking(move || shared.reload(validate_only)).await;
        reloaded.unwrap_or(Err(Error::Panicked))
    }

    /// How the configuration stands.
    pub(crate) fn status(&self) -> ConfigStatus {
        self.0.record.to_proto()
    }

    /// The same for Prometheus.
    pub(crate) fn metrics(&self, page: &mut Page) {
        const SERIES: [&str; 3] = [
            "qcc_proxy_config_last_reload_successful",
            "qcc_proxy_config_last_reload_success_timestamp_seconds",
            "qcc_proxy_config_needs_restart",
        ];
        self.0.record.write(page, SERIES);
    }

    /// Names under which pages may be asked for.
    pub(crate) fn hosts(&self) -> Hosts {
        self.0.hosts.clone()
    }

    /// Returns what is to be watched.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let files = &self.0.files;
        let identity = |what, identity: &Option<Identity>| {
            let identity = identity.clone()?;
            Some(self.watch(what, move |_| identity.refresh()))
        };
        let trust = |what, trust: &Trust| {
            let trust = trust.clone();
            Some(self.watch(what, move |_| trust.refresh()))
        };
        [
            Some(self.watch("client_keys_file", |shared| {
                let keys = shared.settings.load().client_keys.clone();
                keys.map_or(Ok(false), |keys| keys.refresh())
            })),
            identity("tls_cert", &files.identity),
            identity("admin_tls_cert", &files.admin_identity),
            trust("ca_file", &files.control_trust),
            trust("upstream_ca_file", &files.upstream_trust),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Something to watch, but not while a reload runs.
    fn watch<E: fmt::Display>(
        &self,
        what: &'static str,
        refresh: impl Fn(&Shared) -> Result<bool, E> + Send + 'static,
    ) -> Watched {
        let shared = Arc::clone(&self.0);
        Watched::new(what, move || {
            let _turn = shared.used();
            refresh(&shared)
        })
    }
}

impl Shared {
    fn reload(&self, validate_only: bool) -> Result<ConfigReload, Error> {
        let Some(source) = &self.source else {
            return Err(Error::NoSource);
        };
        let mut used = self.used();
        let next = match self.stage(source, &used) {
            Ok(next) => next,
            Err(error) => {
                let reason = error.rejected().of_file(source.file.as_deref());
                if !validate_only {
                    self.record.failed(SystemTime::now(), &reason);
                }
                return Err(Error::Rejected(reason));
            }
        };
        if validate_only {
            return Ok(next.plan.to_proto(self.record.revision()));
        }
        let plan = next.plan.clone();
        self.take(source, &mut used, next);
        let revision = self.record.succeeded(SystemTime::now(), &plan);
        Ok(plan.to_proto(revision))
    }

    /// Reads and judges all of it.
    fn stage(&self, source: &Source, used: &Invocation) -> Result<Next, config::Error> {
        let (mut plan, invocation) = plan(used, (source.read)()?);
        let config = &invocation.config;
        keeps_protection(&used.config, config)?;
        let known = self.settings.load().client_keys.clone();
        let client_keys = match (&config.client_keys_file, &known) {
            (None, _) => None,
            (Some(path), Some(known)) => Some(known.reload(path)?),
            (Some(path), None) => Some(ClientKeys::load(path)?),
        };
        if let (Some(keys), Some(known)) = (&client_keys, &known)
            && !keys.is(known)
        {
            plan.has_new_content("client_keys_file");
        }
        let files = self.files.stage(config)?;
        for key in files.keys() {
            plan.has_new_content(key);
        }
        Ok(Next {
            plan,
            invocation,
            client_keys,
            files,
        })
    }

    /// Uses it from now on. Nothing in here can fail.
    fn take(&self, source: &Source, used: &mut Invocation, next: Next) {
        let Next {
            plan: _,
            invocation,
            client_keys,
            files,
        } = next;
        let config = &invocation.config;
        self.files.take(files);
        let mut settings = Settings::clone(&self.settings.load());
        settings.client_keys = client_keys;
        set_limits(&mut settings, config);
        self.settings.store(settings);
        self.drain.set_default(config.drain_timeout);
        self.hosts.set(&config.allowed_hosts);
        if used.log != invocation.log {
            (source.set_log)(&invocation.log);
        }
        *used = invocation;
    }

    fn used(&self) -> MutexGuard<'_, Invocation> {
        // Whole after any panic: it is replaced in one go.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sets what the configuration says about clients and their requests.
pub(crate) fn set_limits(settings: &mut Settings, config: &Config) {
    settings.replay_max_bytes = config.replay_max_bytes;
    settings.replay_total_bytes = config.replay_total_bytes;
    settings.body_max_bytes = config.body_max_bytes;
    settings.client_stall_timeout = config.client_stall_timeout;
    settings.client_idle_timeout = config.client_idle_timeout;
    settings.header_read_timeout = config.header_read_timeout;
    settings.body_idle_timeout = config.body_idle_timeout;
    settings.connections_max = config.connections_max;
    settings.connections_per_address_max = config.connections_per_address_max;
    settings.idle_connections_max = config.idle_connections_max;
    settings.requests_max = config.requests_max as u64;
    settings.waiting_max = config.waiting_max;
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSource => f.write_str("this process has no configuration to read again"),
            Self::Rejected(reason) => reason.fmt(f),
            Self::Panicked => f.write_str("the reload has panicked"),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.file).finish()
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloader").field(&self.0.source).finish()
    }
}
