//! `qcc-proxy`: the data plane as a process of its own.

mod logging;

use std::{fmt::Display, process::ExitCode};

use clap::Parser;
use qcc_dataplane::config::{Args, Config};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The configuration is wrong: starting again will not help (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let invocation = match Args::parse().resolve() {
        Ok(invocation) => invocation,
        Err(error) => return refuse(&error),
    };
    if let Err(error) = logging::start(&invocation.log, invocation.log_format) {
        return refuse(&format!("invalid log `{}`: {error}", invocation.log));
    }
    if invocation.check_only {
        return ExitCode::SUCCESS;
    }
    // Fails only if there is one already, which will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(invocation.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "failed");
            ExitCode::FAILURE
        }
    }
}

fn refuse(error: &dyn Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(EXIT_CONFIG)
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let proxy = qcc_dataplane::start(config).await?;
        proxy.run_until(stop).await?;
        Ok(())
    });
    runtime.shutdown_background(); // Nothing that still runs matters any more.
    served
}

/// The first signal asks to stop; the second does not ask.
fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut is_second = false;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if is_second {
                std::process::exit(1);
            }
            is_second = true;
            info!("stopping; a second signal stops at once");
            stop.cancel();
        }
    });
    Ok(())
}
