//! `qcc-ctl client-keys …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use qcc_proto::client_keys;

/// Keys of those who may send requests through a proxy.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientKeys {
    /// Make a key and append its digest to a file. The key is shown this once, on stdout. A proxy
    /// takes the change within seconds; to revoke a key, delete its line.
    Add(Add),
}

/// A new key.
#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Whose key it is: 1-63 letters, digits, `.`, `_` and `-`.
    #[arg(value_parser = name)]
    pub(crate) name: String,

    /// The file that the proxy is given with `--client-keys-file`; made if there is none.
    #[arg(long, value_name = "FILE", env = "QCC_PROXY_CLIENT_KEYS_FILE")]
    pub(crate) file: PathBuf,
}

fn name(text: &str) -> Result<String, String> {
    match client_keys::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("must be 1-63 letters, digits, `.`, `_` and `-`".to_owned()),
    }
}
