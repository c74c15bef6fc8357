//! `qcc-proxy`: the data plane as a process of its own.

mod logging;

use std::{fmt::Display, process::ExitCode, thread};

use clap::Parser;
use qcc_dataplane::{
    Reloader, Source,
    config::{Args, Config},
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// A request makes a few dozen small allocations, often freed by another thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration is wrong: starting again will not help (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let args = Args::parse();
    let invocation = match args.clone().resolve() {
        Ok(invocation) => invocation,
        Err(error) => return refuse(&error),
    };
    if invocation.check_only {
        return ExitCode::SUCCESS;
    }
    let set_log = match logging::start(&invocation.log, invocation.log_format) {
        Ok(set_log) => set_log,
        Err(error) => return refuse(&format!("invalid log `{}`: {error}", invocation.log)),
    };
    let source = Source::new(args, &invocation, set_log);
    // Fails only if there is one already, which will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(invocation.config, source) {
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

fn run(config: Config, source: Source) -> Result<(), Box<dyn std::error::Error>> {
    // On one core, threads would only take turns.
    let has_one_core = thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let mut runtime = match has_one_core {
        true => runtime::Builder::new_current_thread(),
        false => runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let served = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let hang_up = signal(SignalKind::hangup())?; // From here on it does not end the process.
        let proxy = qcc_dataplane::start(config).await?;
        let proxy = proxy.reloaded_from(source);
        tokio::spawn(reload_on_signals(hang_up, proxy.reloader()));
        proxy.run_until(stop).await?;
        Ok(())
    });
    runtime.shutdown_background(); // Nothing that still runs matters any more.
    served
}

/// Each signal has the configuration read again; those that come meanwhile, once more.
async fn reload_on_signals(mut hang_up: Signal, reloader: Reloader) {
    while hang_up.recv().await.is_some() {
        let _ = reloader.reload(false).await; // It has said how it went.
    }
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
