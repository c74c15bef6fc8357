//! `qcc-ctl up`: a control plane and a proxy in one process.

use std::{
    fmt::Display,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use qcc_proto::{
    tls::{Pair, Roots},
    v1,
};
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Answer, Context, apply};
use crate::{
    args::{Format, whole::Up},
    demo::Demo,
    error::{Error, Exit},
};

/// Where people expect the control plane; elsewhere, commands to try need `--control`.
const CONTROL_PORT: u16 = 7870;
/// How long a stop waits for running requests.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(args: Up, context: &Context) -> Result<Answer, Error> {
    refuse_exposed(&args)?;
    let stop = stop_on_signals()?;
    let demo = if args.demo {
        Some(Demo::start().await?)
    } else {
        None
    };
    let declared = match (&demo, &args.apply) {
        (Some(demo), _) => Some(demo.resources()),
        (None, Some(path)) => Some(apply::read(path)?),
        (None, None) => None,
    };
    let data = DataDir::choose(&args)?;
    let mut system = System::start(&args, data.path(), declared, &stop).await?;
    let addresses = system.addresses;
    if let Some(path) = &args.ready_file {
        write_ready_file(path, addresses).map_err(|error| {
            Error::failed(format!(
                "cannot write ready file `{}`: {error}",
                path.display()
            ))
        })?;
    }
    introduce(addresses, &data, &args, context)?;

    let told = async {
        match demo {
            Some(demo) => {
                let limit = args.demo_seconds.map_or(Duration::MAX, Duration::from_secs);
                let story = demo.play(addresses.control, addresses.http, context.output.clone());
                // The limit passing is how a demo with a limit ends.
                tokio::time::timeout(limit, story).await.unwrap_or(Ok(()))
            }
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        end = told => end,
        end = &mut system.control => Err(early("control plane", end)),
        // Somebody drained it, through its own admin service.
        end = &mut system.proxy => match end {
            Ok(Ok(())) => Ok(()),
            end => Err(early("proxy", end)),
        },
    };
    let stopped = system.stop().await;
    ended.and(stopped).map(|()| Answer::Done)
}

/// Where everything listens.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    control: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
}

/// Both servers, running.
struct System {
    addresses: Addresses,
    control: JoinHandle<Result<(), qcc_control::Error>>,
    control_stop: CancellationToken,
    proxy: JoinHandle<Result<(), qcc_dataplane::Error>>,
    proxy_stop: CancellationToken,
}

impl System {
    /// Starts both, and waits until the proxy has a view or `stop` is cancelled.
    async fn start(
        args: &Up,
        data_dir: &Path,
        apply: Option<v1::ApplyResourcesRequest>,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        let control = qcc_control::start(qcc_control::Config {
            listen: args.control_listen,
            allowed_hosts: args.allow_host.clone(),
            data_dir: data_dir.to_owned(),
            tls: None,
            upstream_roots: Roots::Platform,
            seal_key_file: None,
            apply,
            ready_file: None,
        });
        let control = control
            .await
            .map_err(|error| start_failed("control plane", &error, "--control-listen"))?;
        let control_address = control.address();
        let control_stop = CancellationToken::new();
        let control = tokio::spawn(control.run_until(control_stop.clone()));

        let proxy = qcc_dataplane::start(qcc_dataplane::Config {
            listen: args.listen,
            admin_listen: args.admin_listen,
            allowed_hosts: args.allow_host.clone(),
            tls: (args.tls_cert.clone().zip(args.tls_key.clone()))
                .map(|(cert, key)| Pair { cert, key }),
            client_keys_file: args.client_keys_file.clone(),
            control_urls: vec![
                format!("http://{control_address}")
                    .parse()
                    .expect("an address makes a URL"),
            ],
            drain_timeout: DRAIN_TIMEOUT,
            ..qcc_dataplane::Config::default()
        });
        let proxy = proxy
            .await
            .map_err(|error| start_failed("proxy", &error, "--listen` or `--admin-listen"))?;
        let addresses = Addresses {
            control: control_address,
            http: proxy.http_address(),
            admin: proxy.admin_address(),
        };
        let ready = proxy.ready();
        let proxy_stop = CancellationToken::new();
        let proxy = tokio::spawn(proxy.run_until(proxy_stop.clone()));
        let mut system = Self {
            addresses,
            control,
            control_stop,
            proxy,
            proxy_stop,
        };
        tokio::select! {
            () = ready => Ok(system),
            () = stop.cancelled() => Ok(system),
            end = &mut system.control => Err(early("control plane", end)),
            end = &mut system.proxy => Err(early("proxy", end)),
        }
    }

    /// Stops the proxy, then the control plane, so that the last reports arrive.
    async fn stop(self) -> Result<(), Error> {
        self.proxy_stop.cancel();
        if !self.proxy.is_finished() {
            self.proxy
                .await
                .map_err(|error| crashed("proxy", &error))?
                .map_err(|error| failed("proxy", &error))?;
        }
        self.control_stop.cancel();
        if !self.control.is_finished() {
            let end = self
                .control
                .await
                .map_err(|error| crashed("control plane", &error))?;
            end.map_err(|error| failed("control plane", &error))?;
        }
        Ok(())
    }
}

/// Where the control plane keeps its data.
enum DataDir {
    /// Kept.
    Kept(PathBuf),
    /// Removed when the demo ends.
    Temporary(TempDir),
}

impl DataDir {
    fn choose(args: &Up) -> Result<Self, Error> {
        if args.demo {
            let dir = tempfile::tempdir();
            return dir.map(Self::Temporary).map_err(|error| {
                Error::failed(format!("cannot make a temporary directory: {error}"))
            });
        }
        let dir = args.data_dir.clone().or_else(qcc_control::default_data_dir);
        dir.map(Self::Kept).ok_or_else(|| {
            Error::usage("there is no home directory to keep data in").hint("pass `--data-dir DIR`")
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// Refuses addresses that other machines reach, unless that is wanted: keys travel there in the
/// clear, or anybody may use ours. Only where clients come in there are ways to be safe.
fn refuse_exposed(args: &Up) -> Result<(), Error> {
    const PLAIN: &str = "nothing is encrypted there";
    const LOOPBACK: &str = "use a loopback address";
    let (lacks, add) = match (args.tls_cert.is_some(), args.client_keys_file.is_some()) {
        (true, true) => ("", ""),
        (true, false) => ("nobody is asked who they are", "add `--client-keys-file`"),
        (false, true) => (PLAIN, "add `--tls-cert` and `--tls-key`"),
        (false, false) => (PLAIN, LOOPBACK),
    };
    let addresses = [
        ("--control-listen", args.control_listen, PLAIN, LOOPBACK),
        ("--listen", args.listen, lacks, add),
        ("--admin-listen", args.admin_listen, PLAIN, LOOPBACK),
    ];
    let is_exposed = |(_, address, lacks, _): &&(_, SocketAddr, &str, _)| {
        !address.ip().is_loopback() && !lacks.is_empty()
    };
    match addresses.iter().find(is_exposed) {
        Some((flag, address, lacks, instead)) if !args.insecure_listen => Err(Error::usage(
            format!("`{flag}` is `{address}`, which other machines can reach, and {lacks}"),
        )
        .hint(format!(
            "{instead}, or pass `--insecure-listen` if the network is trusted"
        ))),
        _ => Ok(()),
    }
}

/// Cancels the token at the first SIGINT, SIGTERM or SIGHUP; ends the process at the second one,
/// but for SIGHUP: a terminal that is closed may send several, and there is no file to read again.
fn stop_on_signals() -> Result<CancellationToken, Error> {
    let listen = |kind| {
        signal(kind).map_err(|error| Error::failed(format!("cannot listen to signals: {error}")))
    };
    let (mut interrupt, mut terminate) = (
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
    );
    let mut hang_up = match outlives_terminal() {
        true => None,
        false => Some(listen(SignalKind::hangup())?),
    };
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let hung_up = async {
            match &mut hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {
                // It may be that nobody is there to read it.
                let _ = writeln!(std::io::stderr(), "\nstopping; once more to stop at once");
            }
            _ = terminate.recv() => {}
            _ = hung_up => {}
        }
        token.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(stop)
}

/// Whether SIGHUP is ignored, as `nohup` has it: to listen to it would end that. The system
/// call that tells is not to be had in safe code.
fn outlives_terminal() -> bool {
    const HANG_UP: u64 = 1; // Signal 1 is the lowest bit.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & HANG_UP != 0)
}

fn write_ready_file(path: &Path, addresses: Addresses) -> std::io::Result<()> {
    let dir = path
        .parent()
        .filter(|dir| *dir != Path::new(""))
        .unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(dir)?;
    writeln!(file, "{}", as_json(addresses))?;
    file.persist(path)?;
    Ok(())
}

fn as_json(addresses: Addresses) -> serde_json::Value {
    json!({
        "grpc": addresses.control.to_string(),
        "http": addresses.http.to_string(),
        "admin": addresses.admin.to_string(),
    })
}

/// Says where everything listens and what to do next.
fn introduce(
    addresses: Addresses,
    data: &DataDir,
    args: &Up,
    context: &Context,
) -> Result<(), Error> {
    let output = &context.output;
    if matches!(output.format, Format::Json | Format::Yaml) {
        return output.value(&as_json(addresses));
    }
    let Addresses {
        control,
        http,
        admin,
    } = addresses;
    let kept = match data {
        DataDir::Kept(path) => format!("keeps its data in {}", path.display()),
        DataDir::Temporary(_) => "keeps nothing: this is a demo".to_owned(),
    };
    let scheme = match args.tls_cert {
        Some(_) => "https",
        None => "http",
    };
    let mut text = output.properties(&[
        ("control plane", format!("http://{control}   {kept}").into()),
        (
            "proxy",
            format!(
                "{scheme}://{http}   send requests here, such as ANTHROPIC_BASE_URL={scheme}://{http}"
            )
            .into(),
        ),
        ("proxy admin", format!("http://{admin}").into()),
    ]);
    let flag = if control.port() == CONTROL_PORT {
        String::new()
    } else {
        format!(" --control http://{control}")
    };
    text.push_str("\nIn another terminal:\n");
    if !args.demo {
        text.push_str(&format!(
            "  qcc-ctl{flag} endpoints add main --base-url https://api.anthropic.com --key-env ANTHROPIC_API_KEY\n"
        ));
    }
    for command in ["status", "endpoints watch", "queue list"] {
        text.push_str(&format!("  qcc-ctl{flag} {command}\n"));
    }
    text.push_str("\nCtrl-C stops everything.\n\n");
    output.text(&text)
}

fn start_failed(what: &str, error: &impl Display, flag: &str) -> Error {
    let error_text = error.to_string();
    let failed = Error::failed(format!("cannot start the {what}: {error_text}"));
    if error_text.contains("ddress already in use") {
        return failed.hint(format!("is qcc running already? `qcc-ctl status` tells; or choose another address with `{flag}`"));
    }
    failed
}

fn failed(what: &str, error: &impl Display) -> Error {
    Error::failed(format!("the {what} failed: {error}"))
}

fn crashed(what: &str, error: &impl Display) -> Error {
    Error::failed(format!("the {what} crashed: {error}"))
}

/// A server that ended although nobody asked it to.
fn early<E: Display>(what: &str, end: Result<Result<(), E>, tokio::task::JoinError>) -> Error {
    match end {
        Ok(Ok(())) => Error::failed(format!("the {what} ended")),
        Ok(Err(error)) => failed(what, &error),
        Err(error) => crashed(what, &error),
    }
}
