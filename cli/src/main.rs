//! `qcc-ctl`: the command line of qcc, and the whole system in one process (`qcc-ctl up`).
//!
//! - `args`: what the user may write.
//! - `commands`: what each command does, one module for each noun.
//! - `client`: connections to servers.
//! - `operator`: who asks.
//! - `output`, `table`, `message`, `text`: answers as tables, JSON, YAML and names.
//! - `error`: errors, hints and exit codes.
//! - `demo`: the scripted upstreams of `up --demo`.

mod args;
mod client;
mod commands;
mod demo;
mod error;
mod message;
mod operator;
mod output;
mod table;
mod text;

use std::{io::IsTerminal, process::ExitCode};

use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command},
    error::Exit,
};

/// For `up`, which is a proxy as well: its allocator is a part of what a request costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::read();
    let format = cli.global.output;
    let quiet = match &cli.command {
        // The demo tells its own story.
        Command::Up(up) if up.demo => "error",
        Command::Up(_) => "info",
        _ => "warn",
    };
    log_to_stderr(cli.global.verbose, quiet);
    // Fails only if a provider is installed already, and any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if !matches!(cli.command, Command::Up(_)) {
        // `up` stops gracefully by itself. Everything else can end anywhere, even while it waits for
        // standard input, so not as a branch beside the command but from a task of its own.
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(Exit::Interrupted as i32);
            }
        });
    }
    let exit = match commands::run(cli).await {
        Ok(answer) => answer.exit(),
        Err(error) => {
            error.print(format);
            error.exit()
        }
    };
    ExitCode::from(exit as u8)
}

/// Logs at level `quiet`; more with `-v`, or as `QCC_LOG` says.
fn log_to_stderr(verbose: u8, quiet: &str) {
    let level = match verbose {
        0 => quiet,
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("QCC_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let color = std::io::stderr().is_terminal() && !no_color;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(std::io::stderr)
        .log_internal_errors(false) // That it cannot write is no reason to panic.
        .init();
}
