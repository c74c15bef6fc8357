//! `qcc-control`: the control plane as a daemon.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;
use qcc_control::config::{Args, Daemon, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// `EX_CONFIG` of sysexits: a supervisor need not try again.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let daemon = match Args::parse().resolve() {
        Ok(daemon) if daemon.check_config => return ExitCode::SUCCESS,
        Ok(daemon) => daemon,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    start_logging(&daemon);
    // It can only be set once, and nobody has before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(daemon) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "control plane failed");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(daemon: Daemon) -> Result<(), qcc_control::Error> {
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone());
    qcc_control::start(daemon.config)
        .await?
        .run_until(stop)
        .await
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

fn start_logging(daemon: &Daemon) {
    let human = match daemon.log_format {
        Some(format) => format == LogFormat::Human,
        None => io::stderr().is_terminal(),
    };
    let filter = tracing_subscriber::EnvFilter::new(&daemon.log);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if human {
        builder.with_ansi(io::stderr().is_terminal()).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
