//! The sign for scripts that requests can be served: a file with the bound addresses.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tracing::info;

use crate::Error;

/// Removes the sign of an earlier run, so that nobody takes it for ours.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::ReadyFile {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Waits for the first view, and gives the sign.
pub(crate) async fn announce(
    path: Option<PathBuf>,
    ready: impl Future<Output = ()>,
    http: SocketAddr,
    admin: SocketAddr,
) -> Result<(), Error> {
    ready.await;
    info!(%http, %admin, "ready");
    let Some(path) = path else {
        return Ok(());
    };
    let addresses = serde_json::json!({ "http": http.to_string(), "admin": admin.to_string() });
    write(&path, &addresses.to_string()).map_err(|source| Error::ReadyFile { path, source })
}

/// Whoever sees the file sees all of it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}
