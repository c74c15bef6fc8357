//! Where an API key is read from. Never from the command line: every process of the machine can
//! read that, and shells remember it.

use std::{
    io::{IsTerminal, Read},
    path::PathBuf,
};

use clap::Args;
use qcc_proto::{resources, v1};

use crate::error::Error;

/// Room for the longest key (4096 bytes) and white space around it.
const STDIN_BYTES_MAX: u64 = 8192;

/// Flags that name a source.
#[derive(Debug, Args)]
#[command(next_help_heading = "API key (from one place, never the command line)")]
pub(crate) struct KeySource {
    /// Read the API key from standard input.
    #[arg(long, group = "key_source")]
    key_stdin: bool,

    /// Read the API key from a file.
    #[arg(long, value_name = "FILE", group = "key_source")]
    key_file: Option<PathBuf>,

    /// Read the API key from an environment variable.
    #[arg(long, value_name = "NAME", group = "key_source")]
    key_env: Option<String>,

    /// Exists to be refused with an explanation that does not repeat the value.
    #[arg(long, visible_alias = "key", hide = true, num_args = 0..=1, default_missing_value = "")]
    api_key: Option<String>,
}

impl KeySource {
    /// Reads the key, if a source is named.
    pub(crate) fn read(&self) -> Result<Option<v1::Credential>, Error> {
        if self.api_key.is_some() {
            return Err(Error::usage("an API key on the command line can be read by every process of this machine")
                .hint("use `--key-stdin`, `--key-file FILE` or `--key-env NAME`, and change the key that was typed"));
        }
        let (key, source) = if self.key_stdin {
            (read_stdin(), "standard input".to_owned())
        } else if let Some(path) = &self.key_file {
            (
                resources::read_key_file(path),
                format!("file `{}`", path.display()),
            )
        } else if let Some(name) = &self.key_env {
            let value =
                std::env::var(name).map_err(|_| "there is no such environment variable".to_owned());
            (
                value.and_then(|text| resources::check_key(&text)),
                format!("environment variable `{name}`"),
            )
        } else {
            return Ok(None);
        };
        match key {
            Ok(api_key) => Ok(Some(v1::Credential {
                api_key,
                ..v1::Credential::default()
            })),
            Err(reason) => Err(Error::usage(format!("no API key from {source}: {reason}"))),
        }
    }
}

fn read_stdin() -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("Paste the API key (it will be visible), then press Enter and Ctrl-D:");
    }
    let mut text = String::new();
    stdin
        .take(STDIN_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    resources::check_key(&text)
}
