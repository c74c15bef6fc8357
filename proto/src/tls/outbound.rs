//! Channels to our own servers. The one place that opens them: an address that says
//! `https` is never spoken to in the clear, whatever answers there.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{
    CertificateError, ClientConfig, Error as TlsError,
    pki_types::{InvalidDnsNameError, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use super::{GRPC, Trust, inbound::REFUSAL};

/// How long [`is_wanted`] waits, and how much it reads.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_MAX: u64 = 1024;

type BoxError = Box<dyn StdError + Send + Sync>;

/// Why there is no encrypted connection, in words for people. It has no source: nothing
/// below it says more.
#[derive(Debug)]
pub struct Failed(String);

/// Connects to one of our servers, with TLS if its address says `https`.
///
/// # Errors
///
/// Fails if nobody is there, or the one that is cannot prove who it is ([`Failed`]).
pub async fn connect(
    endpoint: &Endpoint,
    trust: &Trust,
) -> Result<Channel, tonic::transport::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(endpoint.get_connect_timeout());
    let connector = Connector {
        tcp,
        tls: Arc::new(trust.client_config(GRPC)),
    };
    endpoint.connect_with_connector(connector).await
}

/// Describes why a handshake did not come about, for whoever began it.
pub fn explain(error: &io::Error) -> String {
    let inner = error.get_ref();
    let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<TlsError>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "it closed the connection instead of a handshake".into()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        TlsError::InvalidCertificate(reason) => match reason {
            // Another authority of the same name signs in vain.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "no authority that is trusted here vouches for its certificate".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet".into()
            }
            CertificateError::NotValidForName => "its certificate is for another name".into(),
            CertificateError::NotValidForNameContext { expected, .. } => {
                format!("its certificate is not for `{}`", expected.to_str())
            }
            reason => format!("its certificate is not valid: {reason}"),
        },
        TlsError::InvalidMessage(_) => "what answers there does not speak TLS".into(),
        TlsError::AlertReceived(alert) => format!("it refused the handshake: {alert:?}"),
        other => other.to_string(),
    }
}

/// Asks whether an address that was spoken to in the clear wants TLS: one of our servers
/// says so. For the description of a failure, not a way to choose.
pub async fn is_wanted(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let target = (host, address.port_u16().unwrap_or(80));
    let ask = async {
        let mut stream = TcpStream::connect(target).await?;
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).contains(REFUSAL))
    };
    let is_plain = address.scheme_str() == Some("http");
    is_plain && matches!(timeout(ASK_TIMEOUT, ask).await, Ok(Ok(true)))
}

/// Opens connections: TCP, and TLS for https.
struct Connector {
    tcp: HttpConnector,
    tls: Arc<ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Wire>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let is_encrypted = target.scheme_str() == Some("https");
        let name = is_encrypted.then(|| name(&target));
        let (tcp, tls) = (self.tcp.call(target), Arc::clone(&self.tls));
        Box::pin(async move {
            let tcp = tcp.await?.into_inner();
            let Some(name) = name else {
                return Ok(TokioIo::new(Wire::Plain(tcp)));
            };
            let connected = TlsConnector::from(tls).connect(name?, tcp).await;
            let stream = connected.map_err(|error| Failed(explain(&error)))?;
            Ok(TokioIo::new(Wire::Tls(Box::new(stream))))
        })
    }
}

fn name(target: &Uri) -> Result<ServerName<'static>, InvalidDnsNameError> {
    let host = target.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned())
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS: {}", self.0)
    }
}

impl StdError for Failed {}
