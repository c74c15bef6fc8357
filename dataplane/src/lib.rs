//! The data plane of qcc: an HTTP reverse proxy that decides locally.
//!
//! - [`config`]: what the user wrote, and what the program means.
//! - `routing`: the core; which endpoint gets an attempt, and what is learned.
//! - `reports`: the other half of the core; what is owed to the control plane.
//! - `proxy`: the HTTP data path.
//! - `sync`: in step with the control plane: views in, reports out.
//! - `view_file`: the last view on disk, to start from when no control plane answers.
//! - `client_keys`: who may send requests.
//! - `files`: certificates and authorities, which may change while they are used.
//! - `reload`: the configuration, read again while it is used.
//! - `admin`: what this process says about itself, over gRPC.
//! - `drain`: the wish to stop. `ready`: the sign that requests can be served.
//! - `simulation`, with the feature of that name: the core and the rules of `sync` by
//!   hand. `seeded`: mistakes made on purpose, to see that simulations find them.
//!
//! ```text
//!            clients                     control plane
//!               |                             ^ |
//!             proxy -- begin, next, finish    | | views
//!               |            |        reports | v
//!               |            v                sync
//!   endpoints <-+         routing --> reports -^|
//!                            ^-----------------+
//! ```
//!
//! A request never waits for the control plane: it reads the newest table, which
//! `sync` swaps, and leaves its outcome in the outbox, which `sync` empties.

mod admin;
mod client_keys;
pub mod config;
mod drain;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod proxy;
mod ready;
mod reload;
mod reports;
mod routing;
mod seeded;
#[cfg(feature = "simulation")]
pub mod simulation;
mod sync;
mod view_file;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Uri;
use qcc_proto::{
    listen,
    tls::{self, Door},
    v1::ProxyIdentity,
};
use tokio::{
    net::TcpListener,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use config::Config;
pub use reload::{Error as ReloadError, Reloader, Source};

use admin::Admin;
use drain::Drain;
use files::Files;
use proxy::{Counters, Curfew, Live};
use reports::Outbox;
use routing::Router;
use sync::{Address, Link};
use view_file::{Kept, Saver, ViewFile};

/// How long a stopping proxy tries to get rid of its last reports.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a stopping proxy lets its last admin answers leave. They are under way;
/// only a health watch would stay longer.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a stopping proxy waits for a disk to take its view.
const SAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a data plane did not start, or did not go on.
#[derive(Debug)]
pub enum Error {
    /// An address cannot be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file that the configuration names cannot be used.
    Config(config::Error),
    /// The ready file cannot be written.
    ReadyFile {
        /// Where it was to be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The admin server failed.
    Admin(tonic::transport::Error),
    /// A task that everything depends on has panicked.
    Panicked,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { address, source } => write!(f, "listen on `{address}`: {source}"),
            Self::Config(error) => error.fmt(f),
            Self::ReadyFile { path, source } => {
                write!(f, "write ready file `{}`: {source}", path.display())
            }
            Self::Admin(error) => write!(f, "serve admin: {error}"),
            Self::Panicked => f.write_str("a task has panicked"),
        }
    }
}

impl std::error::Error for Error {}

/// A data plane that listens, but does not serve until it is run.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    files: Files,
    door: Door,
    settings: Live,
    drain: Drain,
    reloader: Reloader,
    http: TcpListener,
    http_address: SocketAddr,
    admin: TcpListener,
    admin_address: SocketAddr,
    router: Router,
    outbox: Arc<Outbox>,
    link: Link,
}

/// Binds both addresses.
///
/// # Errors
///
/// Fails if an address cannot be listened on, or an old ready file not be removed.
pub async fn start(config: Config) -> Result<Proxy, Error> {
    if let Some(path) = &config.ready_file {
        ready::remove(path)?;
    }
    let files = Files::load(&config).map_err(Error::Config)?;
    if !files.upstream_trust.believes_anybody() {
        warn!("no root certificates found: every https endpoint will fail");
    }
    let (http, http_address) = listen(config.listen)?;
    let (admin, admin_address) = listen(config.admin_listen)?;
    let (tls, admin_tls) = (config.tls.is_some(), config.admin_tls.is_some());
    info!(http = %http_address, tls, admin = %admin_address, admin_tls, "listening");
    let is_exposed = |url: &&Uri| url.scheme_str() != Some("https") && !is_loopback(url);
    for url in config.control_urls.iter().filter(is_exposed) {
        warn!(url = %Address(url), "credentials come from this control plane unencrypted");
    }
    let outbox = Arc::new(Outbox::new(config.reports_max));
    let door = door("clients", files.identity.as_ref());
    let settings = Live::from(settings(&config, &files, &door));
    let drain = Drain::new(config.drain_timeout);
    let reloader = Reloader::new(
        None,
        &config,
        files.clone(),
        settings.clone(),
        drain.clone(),
    );
    Ok(Proxy {
        router: Router::new(rand::random(), Arc::clone(&outbox)),
        outbox,
        link: Link::new(),
        config,
        files,
        door,
        settings,
        drain,
        reloader,
        http,
        http_address,
        admin,
        admin_address,
    })
}

impl Proxy {
    /// Returns where client requests are taken.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Returns where `ProxyAdminService` is served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Has it read its configuration again from where it came from, when it is asked to.
    #[must_use]
    pub fn reloaded_from(mut self, source: Source) -> Self {
        let (files, settings) = (self.files.clone(), self.settings.clone());
        let drain = self.drain.clone();
        self.reloader = Reloader::new(Some(source), &self.config, files, settings, drain);
        self
    }

    /// Returns what has it read its configuration again.
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Returns a future that completes once requests can be served: there is a view.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let link = self.link.clone();
        async move { link.ready().await }
    }

    /// Serves until `stop` is cancelled or somebody asks for a drain; then lets
    /// running requests finish and delivers the last reports, both within bounds.
    ///
    /// # Errors
    ///
    /// Fails if something that everything depends on does.
    pub async fn run_until(self, stop: CancellationToken) -> Result<(), Error> {
        let identity = self.identity();
        let counters = Arc::new(Counters::default());
        let drain = self.drain.clone();
        let (kept, saver) = self.keep_view().await;
        let sync = sync::Client {
            control_urls: self.config.control_urls.clone(),
            trust: self.files.control_trust.clone(),
            identity: identity.clone(),
            cluster: self.config.cluster.clone(),
            router: self.router.clone(),
            outbox: Arc::clone(&self.outbox),
            link: self.link.clone(),
            kept,
        };
        let admin = Admin {
            identity,
            cluster: self.config.cluster.clone(),
            control_urls: self
                .config
                .control_urls
                .iter()
                .map(|url| Address(url).to_string())
                .collect(),
            started: SystemTime::now(),
            router: self.router.clone(),
            outbox: Arc::clone(&self.outbox),
            link: self.link.clone(),
            counters: Arc::clone(&counters),
            drain: drain.clone(),
            door: door("admin", self.files.admin_identity.as_ref()),
            client_door: self.door.clone(),
            reloader: self.reloader.clone(),
        };
        let announce = ready::announce(
            self.config.ready_file.clone(),
            self.ready(),
            self.http_address,
            self.admin_address,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(async {
            sync.run().await;
            Ok(())
        });
        let (leave, left) = (CancellationToken::new(), CancellationToken::new());
        let (asked_to_leave, leaving) = (leave.clone(), left.clone().drop_guard());
        tasks.spawn(async move {
            let _leaving = leaving;
            let served = admin::serve(self.admin, admin, asked_to_leave).await;
            served.map_err(Error::Admin)
        });
        tasks.spawn(announce);
        let watched = self.reloader.watched();
        tasks.spawn(async {
            tls::watch(watched).await;
            Ok(())
        });
        if let Some(saver) = saver.clone() {
            tasks.spawn(async move {
                saver.run().await;
                Ok(())
            });
        }
        let asked = drain.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            asked.begin(None);
            Ok(())
        });

        let serve = serve(
            self.http,
            self.router,
            self.settings,
            counters,
            self.link,
            &drain,
            &self.outbox,
        );
        tokio::select! {
            () = serve => {}
            error = first_failure(&mut tasks) => return Err(error),
        }
        if let Some(saver) = saver {
            let _ = timeout(SAVE_TIMEOUT, saver.save()).await; // It has said what is wrong.
        }
        // Whoever asked for the drain hears the answer before the process ends.
        leave.cancel();
        let _ = timeout(FAREWELL_TIMEOUT, left.cancelled()).await;
        Ok(())
    }

    /// Reads the view that was kept, and returns what will keep the next ones.
    async fn keep_view(&self) -> (Option<Kept>, Option<Arc<Saver>>) {
        let Some(path) = self.config.view_file.clone() else {
            return (None, None);
        };
        let key = self.config.view_key_file.clone();
        let file = Arc::new(ViewFile::new(path, key, self.config.cluster.clone()));
        let path = file.path().display();
        let reading = Arc::clone(&file);
        let read = spawn_blocking(move || reading.load()).await;
        let (kept, is_ours) = match read {
            Ok(Ok(kept)) => (kept, true),
            Ok(Err(error)) => {
                let is_ours = file.may_be_replaced_after(&error);
                let then = match is_ours {
                    true => "it will be replaced",
                    false => "no view will be kept",
                };
                warn!(%path, %error, then, "the kept view is not used");
                (None, is_ours)
            }
            Err(error) => {
                warn!(%path, %error, "the kept view is not used");
                (None, false)
            }
        };
        let saver = || {
            let (router, link) = (self.router.clone(), self.link.clone());
            Arc::new(Saver::new(Arc::clone(&file), router, link))
        };
        (kept, is_ours.then(saver))
    }

    fn identity(&self) -> ProxyIdentity {
        let id = self
            .config
            .id
            .clone()
            .unwrap_or_else(|| default_id(self.http_address));
        ProxyIdentity {
            id,
            incarnation: format!("{:032x}", rand::random::<u128>()),
            version: env!("CARGO_PKG_VERSION").into(),
            http_address: self.http_address.to_string(),
            admin_address: self.admin_address.to_string(),
        }
    }
}

/// Serves clients from start to drain, and sees the last reports off.
async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Live,
    counters: Arc<Counters>,
    link: Link,
    drain: &Drain,
    outbox: &Outbox,
) {
    {
        let stop = drain.token();
        let curfew = Curfew::default();
        let mut http = std::pin::pin!(proxy::serve(
            listener,
            router,
            settings,
            counters,
            link,
            stop.clone(),
            curfew.clone(),
        ));
        tokio::select! {
            () = &mut http => {}
            () = stop.cancelled() => {
                info!(timeout = ?drain.remaining().unwrap_or_default(), "draining");
                tokio::select! {
                    () = &mut http => {}
                    () = drain.expired() => {
                        warn!("running requests are ended: they did not finish in time");
                        curfew.call();
                        http.await;
                    }
                }
            }
        }
    }
    let unsent = timeout(FLUSH_TIMEOUT, outbox.flush()).await.is_err();
    if unsent {
        warn!(
            reports = outbox.buffer().len(),
            "reports were not delivered"
        );
    }
    info!("stopped");
}

fn door(name: &'static str, identity: Option<&tls::Identity>) -> Door {
    Door::new(name, identity.cloned(), tls::HTTP)
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let error = |source| Error::Listen { address, source };
    let listener = listen::bind(address).map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

fn settings(config: &Config, files: &Files, door: &Door) -> proxy::Settings {
    let mut settings = proxy::Settings {
        door: door.clone(),
        client_keys: files.client_keys.clone(),
        upstream_trust: files.upstream_trust.clone(),
        // Who asks for a drain names its time, so that bound is kept here.
        drain_timeout: drain::DRAIN_MAX,
        ..proxy::Settings::default()
    };
    reload::set_limits(&mut settings, config);
    settings
}

/// Waits for a task to fail. One that is done has done its part.
async fn first_failure(tasks: &mut JoinSet<Result<(), Error>>) -> Error {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return Error::Panicked,
        }
    }
    std::future::pending().await
}

/// Names a proxy by its machine and port.
fn default_id(address: SocketAddr) -> String {
    let host = gethostname::gethostname();
    let mut host = host.to_string_lossy().into_owned();
    host.retain(|c| u8::try_from(c).is_ok_and(config::is_of_id));
    host.truncate(100);
    format!("{host}:{}", address.port())
}
