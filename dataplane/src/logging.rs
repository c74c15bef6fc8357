//! Where log records go: to stderr, for people or for programs.

use std::io::{self, IsTerminal};

use qcc_dataplane::config::LogFormat;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// Starts writing log records.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let records = fmt().with_env_filter(filter).with_writer(io::stderr);
    if human {
        records.with_ansi(io::stderr().is_terminal()).init();
    } else {
        records.json().flatten_event(true).init();
    }
    Ok(())
}
