//! The resources file: clusters and endpoints in TOML, and as messages.
//!
//! ```toml
//! [[clusters]]
//! name = "default"
//! api = "anthropic"
//! check = { kind = "http", path = "/v1/models" }
//!
//! [[endpoints]]
//! name = "eu-1"
//! base_url = "https://api.example.com"
//! api_key_env = "EU_1_KEY"
//! priority = 1
//! ```
//!
//! Absent keys mean the contract's defaults. Whoever applies the file resolves `api_key_env` and
//! `api_key_file`; the control plane receives keys, never references. Ranges are the control
//! plane's to check: it does so for every client alike, and answers with the field's name. What
//! only a file can get wrong is refused here, with line, key, value and rule: unknown keys, wrong
//! types, words that name nothing, two names alike, and keys that cannot be had.
//!
//! - `table`: reads one TOML table key by key, and knows what nobody asked for.
//! - `file`: the tables as messages.
//! - `render`: messages as a file, for `qcc-ctl export`.
//! - `secret`: where API keys come from.

mod file;
mod render;
mod secret;
mod table;

use std::{
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use crate::v1;

pub use render::render;
pub use secret::{check_key, read_key_file};

/// Largest resources file: room for 20,000 endpoints.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Why a resources file was refused. Never contains an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The text does not say what a resources file can say.
    Invalid {
        /// Where, counted from 1.
        line: usize,
        /// The key, its value and the rule.
        message: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => {
                write!(f, "cannot read `{}`: {reason}", path.display())
            }
            Self::Invalid { line, message } => write!(f, "line {line}: {message}"),
        }
    }
}

impl std::error::Error for Error {}

/// Reads the text of a resources file. Relative key files are looked up in `base_dir`, names of
/// environment variables in `env`.
pub fn parse(
    text: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<v1::ApplyResourcesRequest, Error> {
    file::parse(text, &secret::Sources { base_dir, env })
}

/// Reads a resources file, with key files beside it and the environment of this process.
pub fn load(path: &Path) -> Result<v1::ApplyResourcesRequest, Error> {
    let unreadable = |reason: String| Error::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let bytes = read_regular(path, FILE_BYTES_MAX).map_err(unreadable)?;
    let text =
        String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    parse(&text, base_dir, &|name| std::env::var(name).ok())
}

/// Reads a regular file of at most `bytes_max`. Looks before it opens: to open a pipe without a
/// writer would wait forever.
fn read_regular(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let too_large = || format!("it is larger than {bytes_max} bytes");
    if metadata.len() > bytes_max {
        return Err(too_large());
    }
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > bytes_max {
        Err(too_large())
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
