//! Where connection pools may connect, and how long that may take.
//!
//! Whoever can set a base URL decides where a proxy connects, with a key. So every
//! address is checked as it is connected to: after name resolution, which may answer
//! differently each time, and as a literal, which is not resolved at all.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
    vec,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{
        HttpConnector,
        dns::{GaiResolver, Name},
    },
    rt::TokioIo,
};
use qcc_proto::upstream::may_connect;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Idle time after which the kernel asks whether the peer is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Bytes that the kernel takes of what it cannot send yet. By itself it takes megabytes, and
/// a request would count as sent, and its answer as due, while most of it waits here.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// Opens connections for one pool: TCP, and TLS for https.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<HttpConnector<Resolver>>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(tls: Arc<rustls::ClientConfig>, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_connect_timeout(Some(timeout)); // Divided among the addresses of a name.
        Self {
            inner: HttpsConnector::from((tcp, tls)),
            timeout,
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = BoxError;
    type Future = BoxFuture<Wire>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        if literal(&target).is_some_and(|address| !may_connect(address)) {
            return Box::pin(async { Err(refused().into()) });
        }
        let connecting = self.inner.call(target);
        let limit = self.timeout;
        Box::pin(async move {
            let io = timeout(limit, connecting)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connect timed out"))??;
            bound_unsent(&io);
            Ok(Wire::new(io))
        })
    }
}

/// Where a system cannot do that, uploads seem to be further than they are.
fn bound_unsent(io: &MaybeHttpsStream<TokioIo<TcpStream>>) {
    let tcp = match io {
        MaybeHttpsStream::Http(tcp) => tcp.inner(),
        MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(UNSENT_BYTES_MAX) {
        tracing::debug!(%error, "failed to set TCP_NOTSENT_LOWAT");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = tcp;
}

fn refused() -> io::Error {
    io::Error::other("address is not allowed for an endpoint")
}

/// The address that a URL names without a name.
fn literal(target: &Uri) -> Option<IpAddr> {
    let host = target.host()?;
    let host = host
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'))
        .unwrap_or(host);
    host.parse().ok()
}

/// The system's resolver, without the addresses that no endpoint may have.
#[derive(Debug, Clone)]
pub(super) struct Resolver(GaiResolver);

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.0.call(name);
        Box::pin(async move { allowed(resolving.await?) })
    }
}

fn allowed(found: impl Iterator<Item = SocketAddr>) -> io::Result<vec::IntoIter<SocketAddr>> {
    let allowed: Vec<_> = found.filter(|address| may_connect(address.ip())).collect();
    if allowed.is_empty() {
        return Err(refused());
    }
    Ok(allowed.into_iter())
}

/// A connection to an endpoint.
///
/// A server may answer a request before it has read all of it, and close: a body that is
/// too long for it, say. Then our next write fails, while the answer waits to be read.
/// So what is written to a peer that has stopped listening is thrown away, and reading
/// tells what there is: the answer, or the end of the connection.
#[derive(Debug)]
pub(super) struct Wire {
    io: TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>,
    written: bool,
    deaf: bool,
}

impl Wire {
    fn new(io: MaybeHttpsStream<TokioIo<TcpStream>>) -> Self {
        Self {
            io: TokioIo::new(io),
            written: false,
            deaf: false,
        }
    }

    /// Whether the endpoint chose HTTP/2 as TLS began.
    pub(super) fn chose_http2(&self) -> bool {
        match self.io.inner() {
            MaybeHttpsStream::Http(_) => false,
            MaybeHttpsStream::Https(tls) => tls.inner().get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    /// The peer has been sent something of the present request.
    pub(super) fn was_written(&self) -> bool {
        self.written
    }

    /// The peer closed it while it was being sent something.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Whether there is nothing to read, as far as that is known without TLS.
    pub(super) fn is_quiet(&self) -> bool {
        let MaybeHttpsStream::Http(tcp) = self.io.inner() else {
            return false;
        };
        let read = tcp.inner().try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// What is written next is another request.
    pub(super) fn rest(&mut self) {
        self.written = false;
    }

    /// Takes note of what became of `length` bytes.
    fn wrote(&mut self, result: io::Result<usize>, length: usize) -> io::Result<usize> {
        match result {
            Err(error) if self.written && is_closed_by_peer(&error) => {
                self.deaf = true;
                Ok(length)
            }
            result => {
                self.written |= result.as_ref().is_ok_and(|count| *count > 0);
                result
            }
        }
    }
}

impl Drop for Wire {
    /// Says good-bye where there is TLS, so that the peer knows an end from an accident.
    /// Once, and only what the kernel takes at once: nobody waits for somebody who leaves.
    fn drop(&mut self) {
        if let MaybeHttpsStream::Https(_) = self.io.inner() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.io).poll_shutdown(&mut cx);
        }
    }
}

fn is_closed_by_peer(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted
    )
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let result = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        Poll::Ready(self.wrote(result, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(Pin::new(&mut self.io).poll_flush(cx)); // Where TLS really writes.
        Poll::Ready(self.wrote(result.map(|()| 0), 0).map(|_| ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(length));
        }
        let result = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        Poll::Ready(self.wrote(result, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_address_is_seen_in_any_form() {
        for (url, expected) in [
            ("http://169.254.169.254/latest", Some("169.254.169.254")),
            ("http://[fe80::1]:80/", Some("fe80::1")),
            ("https://api.example/", None),
        ] {
            let expected = expected.map(|it| it.parse().unwrap());
            assert_eq!(literal(&Uri::from_static(url)), expected);
        }
    }

    #[test]
    fn of_a_names_addresses_only_the_allowed_are_left() {
        let found = ["169.254.169.254:80", "127.0.0.1:80", "[::]:80"].map(|it| it.parse().unwrap());
        let left: Vec<_> = allowed(found.into_iter()).unwrap().collect();
        assert_eq!(left, ["127.0.0.1:80".parse().unwrap()]);
        assert!(allowed(found[..1].iter().copied()).is_err());
    }

    #[tokio::test]
    async fn what_an_endpoint_does_not_take_is_not_taken_from_us() {
        use std::future::poll_fn;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let tls = super::super::upstream::tls(&qcc_proto::tls::Trust::nobody());
        let mut connector = Connector::new(tls, Duration::from_secs(5));
        let mut wire = connector.call(url.parse().unwrap()).await.unwrap();
        let (_silent, _) = listener.accept().await.unwrap();
        let piece = vec![0; 64 << 10];
        let mut taken = 0;
        let writing = async {
            loop {
                let write = |cx: &mut Context<'_>| Pin::new(&mut wire).poll_write(cx, &piece);
                taken += poll_fn(write).await.unwrap();
            }
        };
        let _ = timeout(Duration::from_millis(300), writing).await;
        assert!(taken < 2 << 20, "{taken} bytes"); // The peer's kernel takes some as well.
    }

    #[tokio::test]
    async fn a_refused_address_is_not_connected_to() {
        let tls = super::super::upstream::tls(&qcc_proto::tls::Trust::platform());
        let mut connector = Connector::new(tls, Duration::from_secs(1));
        for url in [
            "http://169.254.1.1:1/",
            "http://0.0.0.0:1/",
            "https://[::]:1/",
        ] {
            let error = connector.call(Uri::from_static(url)).await.unwrap_err();
            assert_eq!(error.to_string(), "address is not allowed for an endpoint");
        }
    }
}
