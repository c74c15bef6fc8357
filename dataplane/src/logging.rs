//! Where log records go: to stderr, for people or for programs.

use std::io::{self, IsTerminal};

use qcc_dataplane::config::LogFormat;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// Sets which log records are written. What is no filter changes nothing.
pub(crate) type SetFilter = Box<dyn Fn(&str) + Send + Sync>;

/// Starts writing log records.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<SetFilter, ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let records = fmt().with_env_filter(filter).with_writer(io::stderr);
    let records = records.log_internal_errors(false); // That it cannot write is no reason to panic.
    // Each way to write makes a handle of a type of its own. To set a filter fails only if
    // nobody writes any more.
    Ok(if human {
        let records = records.with_ansi(io::stderr().is_terminal());
        let records = records.with_filter_reloading();
        let handle = records.reload_handle();
        records.init();
        Box::new(move |filter| {
            let _ = EnvFilter::try_new(filter).map(|filter| handle.reload(filter));
        })
    } else {
        let records = records.json().flatten_event(true);
        let records = records.with_filter_reloading();
        let handle = records.reload_handle();
        records.init();
        Box::new(move |filter| {
            let _ = EnvFilter::try_new(filter).map(|filter| handle.reload(filter));
        })
    })
}
