//! `qcc-control`: the control plane as a daemon.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use qcc_control::{
    Reloader, Source,
    config::{Args, Daemon, LogFormat},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// `EX_CONFIG` of sysexits: a supervisor need not try again.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let args = Args::parse();
    let daemon = match args.clone().resolve() {
        Ok(daemon) if daemon.check_config => return ExitCode::SUCCESS,
        Ok(daemon) => daemon,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let source = Source::new(args, &daemon, start_logging(&daemon));
    // It can only be set once, and nobody has before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(daemon, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "control plane failed");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(daemon: Daemon, source: Source) -> Result<(), qcc_control::Error> {
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone());
    let hang_up = signal(SignalKind::hangup()); // From here on it does not end the process.
    let control = qcc_control::start(daemon.config).await?;
    let control = control.reloaded_from(source);
    match hang_up {
        Ok(hang_up) => drop(tokio::spawn(reload_on_signals(hang_up, control.reloader()))),
        Err(error) => error!(%error, "cannot listen to SIGHUP"),
    }
    control.run_until(stop).await
}

/// Each signal has the configuration read again; those that come meanwhile, once more.
async fn reload_on_signals(mut hang_up: Signal, reloader: Reloader) {
    while hang_up.recv().await.is_some() {
        let _ = reloader.reload(false).await; // It has said how it went.
    }
}

/// The first signal stops gracefully, the second at once.
fn stop_on_signals(stop: CancellationToken) {
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        error!("cannot listen to signals");
        return;
    };
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            info!(signal = name, "signal received");
            if stop.is_cancelled() {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
}

/// Starts writing log records, and returns what sets another filter.
fn start_logging(daemon: &Daemon) -> Box<dyn Fn(&str) + Send + Sync> {
    let human = match daemon.log_format {
        Some(format) => format == LogFormat::Human,
        None => io::stderr().is_terminal(),
    };
    let filter = tracing_subscriber::EnvFilter::new(&daemon.log);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false); // That it cannot write is no reason to panic.
    // Each way to write makes a handle of a type of its own. To set a filter fails only if
    // nobody writes any more.
    if human {
        let builder = builder.with_ansi(io::stderr().is_terminal());
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| drop(handle.reload(filter)))
    } else {
        let builder = builder.json().flatten_event(true);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Box::new(move |filter| drop(handle.reload(filter)))
    }
}
