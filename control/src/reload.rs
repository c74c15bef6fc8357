//! The configuration, read again while the process runs: on SIGHUP, and by
//! `ReloadControlConfig`.
//!
//! First everything is read and judged, the files that are named included; only then
//! everything that may change does, and nothing of that can fail. One reload at a time; those
//! who look whether files have changed wait for it as well.

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
    tls::{Identity, StagedIdentity, StagedTrust, Trust, Watched},
    v1::{ConfigReload, ConfigStatus},
};
use tokio::task::spawn_blocking;

use crate::config::{self, Args, Daemon, plan};

/// Where a configuration is read again, and what follows it outside of the control plane.
pub struct Source {
    started: Daemon,
    read: Box<dyn Fn() -> Result<Daemon, config::Error> + Send + Sync>,
    set_log: Box<dyn Fn(&str) + Send + Sync>,
    file: Option<PathBuf>,
}

/// Has a control plane read its configuration again. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Reloader(Arc<Shared>);

struct Shared {
    /// Where it comes from, and what is used. Held for as long as a reload takes.
    used: Mutex<Option<(Source, Daemon)>>,
    files: Files,
    hosts: Hosts,
    record: Record,
}

/// What is read from files beside the configuration. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// What those who connect are shown.
    pub identity: Option<Identity>,
    /// Who vouches for endpoints.
    pub trust: Trust,
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
    daemon: Daemon,
    identity: Option<StagedIdentity>,
    trust: Option<StagedTrust>,
}

impl Source {
    /// The command line, the environment and the file, as they were `resolved` at the start.
    /// `set_log` is given the filter of log records when it is another.
    pub fn new(
        args: Args,
        resolved: &Daemon,
        set_log: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self {
            started: without_resources(resolved.clone()),
            file: args.config().map(Into::into),
            read: Box::new(move || args.clone().resolve()),
            set_log: Box::new(set_log),
        }
    }
}

impl Reloader {
    pub(crate) fn new(hosts: &[String], files: Files) -> Self {
        Self(Arc::new(Shared {
            used: Mutex::new(None),
            files,
            hosts: Hosts::new(hosts),
            record: Record::new(SystemTime::now()),
        }))
    }

    /// Says where the configuration comes from.
    pub(crate) fn read_from(&self, source: Source) {
        let started = source.started.clone();
        *self.0.used() = Some((source, started));
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
            "qcc_control_config_last_reload_successful",
            "qcc_control_config_last_reload_success_timestamp_seconds",
            "qcc_control_config_needs_restart",
        ];
        self.0.record.write(page, SERIES);
    }

    /// Names under which pages may be asked for.
    pub(crate) fn hosts(&self) -> Hosts {
        self.0.hosts.clone()
    }

    /// Returns what is to be watched, but not while a reload runs.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let Files { identity, trust } = self.0.files.clone();
        let shared = Arc::clone(&self.0);
        let mut watched = vec![Watched::new("upstream_ca_file", move || {
            let _turn = shared.used();
            trust.refresh()
        })];
        if let Some(identity) = identity {
            let shared = Arc::clone(&self.0);
            watched.push(Watched::new("tls_cert", move || {
                let _turn = shared.used();
                identity.refresh()
            }));
        }
        watched
    }
}

impl Shared {
    fn reload(&self, validate_only: bool) -> Result<ConfigReload, Error> {
        let mut used = self.used();
        let Some((source, used)) = used.as_mut() else {
            return Err(Error::NoSource);
        };
        let next = match self.stage(source, used) {
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
        self.take(source, used, next);
        let revision = self.record.succeeded(SystemTime::now(), &plan);
        Ok(plan.to_proto(revision))
    }

    /// Reads and judges all of it.
    fn stage(&self, source: &Source, used: &Daemon) -> Result<Next, config::Error> {
        let (mut plan, daemon) = plan(used, without_resources((source.read)()?));
        let config = &daemon.config;
        let identity = match (&self.files.identity, &config.tls) {
            (Some(identity), Some(pair)) => identity
                .stage(pair)
                .map_err(|error| config::Error::of_pair(pair, error))?,
            (None, _) | (_, None) => None,
        };
        let trust = self.files.trust.stage(&config.upstream_roots);
        let trust = trust.map_err(config::Error::of_upstream_roots)?;
        if identity.is_some() {
            plan.has_new_content("tls_cert");
        }
        if trust.is_some() {
            plan.has_new_content("upstream_ca_file");
        }
        Ok(Next {
            plan,
            daemon,
            identity,
            trust,
        })
    }

    /// Uses it from now on. Nothing in here can fail.
    fn take(&self, source: &Source, used: &mut Daemon, next: Next) {
        let files = &self.files;
        if let (Some(identity), Some(staged)) = (&files.identity, next.identity) {
            identity.take(staged);
        }
        if let Some(staged) = next.trust {
            files.trust.take(staged);
        }
        self.hosts.set(&next.daemon.config.allowed_hosts);
        if used.log != next.daemon.log {
            (source.set_log)(&next.daemon.log);
        }
        *used = next.daemon;
    }

    fn used(&self) -> MutexGuard<'_, Option<(Source, Daemon)>> {
        // Whole after any panic: it is replaced in one go.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was to be brought about at the start is not kept: it holds keys.
fn without_resources(mut daemon: Daemon) -> Daemon {
    daemon.config.apply = None;
    daemon
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
        f.debug_tuple("Reloader").field(&self.0.files).finish()
    }
}
