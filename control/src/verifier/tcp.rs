//! The check that asks nothing: is somebody there?

use std::{io, sync::Arc};

use http::Uri;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::transport;

/// Connects to where a base URL points, with TLS for https, and closes.
pub(super) async fn connect(base_url: &Uri, tls: Arc<ClientConfig>) -> io::Result<()> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let https = base_url.scheme_str() == Some("https");
    let host = base_url.host().ok_or_else(|| invalid("no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = base_url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let addresses = transport::resolve(host, port).await?;
    let stream = TcpStream::connect(addresses.as_slice()).await?;
    if https {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| invalid("invalid host"))?;
        TlsConnector::from(tls).connect(name, stream).await?;
    }
    Ok(())
}
