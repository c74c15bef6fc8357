//! The control plane of qcc: owns endpoint health and the failure queue.
//!
//! ```text
//!   grpc ──▶ actor ──▶ registry      decides; pure
//!    ▲         │
//!    │         ├─────▶ store         durable before anything is acknowledged
//!    │         ├─────▶ feed ──▶ grpc readers, data planes
//!    │         └─────▶ checker ──▶ verifier ──▶ endpoints
//! ```
//!
//! - [`registry`]: every rule about health, the queue, reports and configuration.
//! - [`store`]: one crash-safe file. `records`: what the registry looks like in it.
//! - `actor`: the writer, a task that owns both. `clock`: its time.
//! - `feed`: the published state. `subscribers`: who is woken by it. `sessions`: who listens. `propagation`: how long that
//!   takes.
//! - [`verifier`]: asks an endpoint whether it works. `checker`: does so when told.
//! - `grpc`: messages in, messages out; metrics. `histogram`: spans of time, counted.
//! - [`config`]: flags, environment and file. `reload`: read again while they are used.
//! - `simulation`, with the feature of that name: all of the above by hand. `seeded`:
//!   mistakes made on purpose, to see that simulations find them.

pub mod actor;
mod checker;
pub mod clock;
pub mod config;
pub mod feed;
mod grpc;
mod histogram;
pub mod propagation;
pub mod records;
pub mod registry;
mod reload;
mod seeded;
pub mod sessions;
#[cfg(feature = "simulation")]
pub mod simulation;
pub mod store;
mod subscribers;
pub mod verifier;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use qcc_proto::{
    listen,
    tls::{self, Door, Identity, Trust},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::{Config, default_data_dir};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use grpc::fuzzing;
pub use reload::{Error as ReloadError, Reloader, Source};

use registry::{Mutation, Operator};
use store::Store;

/// A control plane that is bound and about to serve.
#[derive(Debug)]
pub struct ControlPlane {
    address: SocketAddr,
    ready_file: Option<PathBuf>,
    listener: TcpListener,
    api: grpc::Api,
    writer: oneshot::Receiver<Result<(), store::Error>>,
    checker: JoinHandle<()>,
}

/// Why a control plane does not start, or stopped.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be used.
    Listen(SocketAddr, io::Error),
    /// The store cannot be opened or written.
    Store(store::Error),
    /// A stored record cannot be read.
    Records(records::Error),
    /// The resources to apply were refused.
    Apply(String),
    /// A file of certificates or keys cannot be used.
    Tls(tls::Error),
    /// The checks' client cannot be set up.
    Verifier(verifier::Error),
    /// The system gave no random bytes or no thread.
    System(&'static str, io::Error),
    /// The ready file cannot be written.
    ReadyFile(PathBuf, io::Error),
    /// Serving failed.
    Serve(tonic::transport::Error),
    /// The writer panicked: nothing more can be changed.
    WriterDied,
}

/// Opens the store and takes up what it holds.
fn open(options: &store::Options, seed: registry::Seed) -> Result<Opened, Error> {
    let (store, loaded) = Store::open(options).map_err(Error::Store)?;
    let saved = records::load(loaded.records).map_err(Error::Records)?;
    let mut opened = actor::new(store, loaded.term, saved, seed);
    opened.0.begin().map_err(Error::Store)?;
    Ok(opened)
}

/// The writer, its handle, its feed, and where its check orders come out.
type Opened = (
    actor::Writer,
    actor::Handle,
    Arc<feed::Feed>,
    mpsc::UnboundedReceiver<actor::Job>,
);

/// Opens the store, applies what was declared, and binds.
///
/// # Errors
///
/// Says what stands in the way; nothing was overwritten.
pub async fn start(config: Config) -> Result<ControlPlane, Error> {
    // Bind first: an address in use is no reason to begin a new term.
    let listener =
        listen::bind(config.listen).map_err(|error| Error::Listen(config.listen, error))?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::Listen(config.listen, error))?;
    let identity = config.tls.as_ref().map(Identity::load).transpose();
    let door = Door::new("grpc", identity.map_err(Error::Tls)?, tls::HTTP);
    let trust = Trust::load(&config.upstream_roots).map_err(Error::Tls)?;
    let verifier = verifier::Verifier::new(&trust).map_err(Error::Verifier)?;
    let files = reload::Files {
        identity: door.identity().cloned(),
        trust,
    };
    let reloader = Reloader::new(&config.allowed_hosts, files);

    let options = store::Options {
        data_dir: config.data_dir,
        seal_key_file: config.seal_key_file,
    };
    let seed = seed().map_err(|error| Error::System("get random bytes", error))?;
    // It blocks. And all on one thread, so that what the records give back is used again for
    // what is made of them: the allocator keeps the memory of different threads apart.
    let (options, opened) = tokio::task::spawn_blocking(|| {
        let opened = open(&options, seed);
        (options, opened)
    })
    .await
    .unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()));
    let (writer, handle, feed, jobs) = opened?;
    let (ended, writer_end) = oneshot::channel();
    let writing = writer
        .start()
        .map_err(|error| Error::System("start the writer", error))?;
    tokio::spawn(async move { ended.send(writing.await) });
    let checker = tokio::spawn(checker::run(verifier, handle.clone(), jobs));

    if let Some(resources) = &config.apply {
        let declaration =
            grpc::declaration(resources).map_err(|status| Error::Apply(status.message().into()))?;
        let operator = Operator {
            name: String::new(),
            reason: "applied at start".into(),
        };
        let applied = handle
            .mutate(operator, Mutation::Apply(declaration), None)
            .await;
        applied.map_err(|error| Error::Apply(error.to_string()))?;
    }
    let view = feed.snapshot().view;
    let tls = config.tls.is_some();
    info!(grpc = %address, tls, %view, data_dir = %options.data_dir.display(), "control plane listening");
    Ok(ControlPlane {
        address,
        ready_file: config.ready_file,
        listener,
        api: grpc::Api {
            handle,
            feed,
            sessions: Arc::default(),
            reloader,
            door,
            started: SystemTime::now(),
            stop: CancellationToken::new(),
        },
        writer: writer_end,
        checker,
    })
}

impl ControlPlane {
    /// Returns the address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it read its configuration again from where it came from, when it is asked to.
    #[must_use]
    pub fn reloaded_from(self, source: Source) -> Self {
        self.api.reloader.read_from(source);
        self
    }

    /// Returns what has it read its configuration again.
    pub fn reloader(&self) -> Reloader {
        self.api.reloader.clone()
    }

    /// Serves until `stop` is cancelled, then ends streams, lets calls finish and
    /// closes the store.
    ///
    /// # Errors
    ///
    /// Returns the failure that ended it before.
    pub async fn run_until(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            address,
            ready_file,
            listener,
            api,
            mut writer,
            checker,
        } = self;
        let server_stop = api.stop.clone();
        let watched = api.reloader.watched();
        // A task like those of the connections, so that whoever accepts takes turns with them.
        // Like the other one it ends with this function.
        let (mut serving, mut watching) = (JoinSet::new(), JoinSet::new());
        serving.spawn(grpc::serve(api, listener));
        watching.spawn(tls::watch(watched));
        if let Some(path) = ready_file {
            let json = serde_json::json!({ "grpc": address.to_string() }).to_string();
            write_atomically(&path, &json).map_err(|error| Error::ReadyFile(path, error))?;
        }
        let served = |end: Option<Result<Result<(), _>, JoinError>>| match end {
            Some(Ok(result)) => result.map_err(Error::Serve),
            Some(Err(died)) => std::panic::resume_unwind(died.into_panic()),
            None => Ok(()),
        };
        let died = |end| match end {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::Store(error)),
            Err(oneshot::error::RecvError { .. }) => Err(Error::WriterDied),
        };
        tokio::select! {
            end = serving.join_next() => return served(end),
            // It only ends while somebody holds a handle if it cannot go on.
            end = &mut writer => return died(end),
            () = stop.cancelled() => {}
        }
        info!("control plane stopping");
        server_stop.cancel();
        // Streams end by themselves; a call that waits for an upstream may not in time.
        if let Ok(end) = tokio::time::timeout(DRAIN_MAX, serving.join_next()).await {
            served(end)?;
        }
        drop(serving);
        // The last handles are with the checker; without them the writer ends.
        checker.abort();
        let end = tokio::time::timeout(WRITER_END_MAX, writer).await;
        // A check in flight may hold a handle for longer. What was acknowledged is
        // durable already.
        end.map_or(Ok(()), died)
    }
}

/// Returns what a new registry is made with.
fn seed() -> io::Result<registry::Seed> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)?;
    let (id, salt) = random.split_at(16);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(registry::Seed {
        registry_id: id.into(),
        salt: salt.into(),
    })
}

/// How long a stopping control plane lets calls finish.
const DRAIN_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a stopping control plane waits for its writer.
const WRITER_END_MAX: std::time::Duration = std::time::Duration::from_secs(1);

fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "listen on `{address}`: {error}"),
            Self::Store(error) => write!(f, "{error}"),
            Self::Records(error) => write!(f, "{error}"),
            Self::Apply(reason) => write!(f, "apply resources: {reason}"),
            Self::Tls(error) => error.fmt(f),
            Self::Verifier(error) => write!(f, "set up checks: {error}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::ReadyFile(path, error) => {
                write!(f, "write ready file `{}`: {error}", path.display())
            }
            Self::Serve(error) => write!(f, "serve: {error}"),
            Self::WriterDied => f.write_str("the writer panicked"),
        }
    }
}

impl std::error::Error for Error {}
