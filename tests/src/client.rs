//! HTTP requests with nothing between the test and the wire: a connection each, no
//! pool, no retries, no decoding. In the clear as HTTP/1.1, over TLS as is agreed upon.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, StatusCode, Uri,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::wait::LIMIT;

/// A request to a proxy, before it is sent.
#[derive(Clone)]
pub struct Call {
    address: SocketAddr,
    request: hyper::Request<Full<Bytes>>,
    tls: Option<Arc<ClientConfig>>,
}

impl Call {
    /// Starts a request for path and query `target`.
    pub fn new(address: SocketAddr, method: Method, target: &str) -> Self {
        let mut request = hyper::Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = target.parse::<Uri>().expect("a test's target is valid");
        let call = Self {
            address,
            request,
            tls: None,
        };
        call.header("host", &address.to_string())
    }

    /// Adds a header, as often as it is called.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = hyper::header::HeaderName::try_from(name).expect("a test's header is valid");
        let value = value.parse().expect("a test's header value is valid");
        self.request.headers_mut().append(name, value);
        self
    }

    /// Encrypts the connection.
    pub fn over(mut self, tls: ClientConfig) -> Self {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        *self.request.body_mut() = Full::new(body.into());
        self
    }

    /// Sets a conversation request as body.
    pub fn message(self, stream: bool) -> Self {
        let body = json!({
            "model": "scripted",
            "max_tokens": 16,
            "stream": stream,
            "messages": [{"role": "user", "content": "say hello"}],
        });
        self.header("content-type", "application/json")
            .body(body.to_string())
    }

    /// Sends it and waits for the head of the answer.
    pub async fn open(self) -> Result<Stream, String> {
        let exchange = async {
            let tcp = TcpStream::connect(self.address)
                .await
                .map_err(|error| error.to_string())?;
            tcp.set_nodelay(true).map_err(|error| error.to_string())?;
            let (response, connection) = match self.tls {
                None => send_http1(tcp, self.request).await?,
                Some(tls) => {
                    let name = ServerName::from(self.address.ip());
                    let stream = TlsConnector::from(tls).connect(name, tcp).await;
                    let stream = stream.map_err(|error| error.to_string())?;
                    match stream.get_ref().1.alpn_protocol() {
                        Some(b"h2") => send_http2(stream, self.address, self.request).await?,
                        _ => send_http1(stream, self.request).await?,
                    }
                }
            };
            let (head, body) = response.into_parts();
            Ok(Stream {
                status: head.status,
                headers: head.headers,
                body,
                _connection: connection,
            })
        };
        timeout(LIMIT, exchange)
            .await
            .map_err(|_| "no answer".to_owned())?
    }

    /// Sends it and reads the whole answer.
    pub async fn send(self) -> Result<Response, String> {
        self.open().await?.finish().await
    }
}

async fn send_http1(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: hyper::Request<Full<Bytes>>,
) -> Result<(hyper::Response<Incoming>, AbortOnDrop), String> {
    let mut builder = http1::Builder::new();
    let handshake = builder.title_case_headers(true).handshake(TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    let connection = AbortOnDrop(tokio::spawn(async move {
        // The same error reaches the response or its body.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await;
    Ok((response.map_err(|error| error.to_string())?, connection))
}

async fn send_http2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    mut request: hyper::Request<Full<Bytes>>,
) -> Result<(hyper::Response<Incoming>, AbortOnDrop), String> {
    request.headers_mut().remove("host");
    let uri = format!("https://{address}{}", request.uri());
    *request.uri_mut() = uri.parse().expect("a test's target is valid");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(io));
    let (mut sender, connection) = handshake.await.map_err(|error| error.to_string())?;
    let connection = AbortOnDrop(tokio::spawn(async move {
        // As above.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await;
    Ok((response.map_err(|error| error.to_string())?, connection))
}

/// A request is sent, and its answer read, by awaiting it.
impl IntoFuture for Call {
    type Output = Response;
    type IntoFuture = std::pin::Pin<Box<dyn Future<Output = Response> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let described = format!("{} {}", self.request.method(), self.request.uri());
            self.send()
                .await
                .unwrap_or_else(|error| panic!("{described}: {error}"))
        })
    }
}

/// An answer whose body is still on its way. Dropping it is hanging up.
pub struct Stream {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    _connection: AbortOnDrop,
}

impl Stream {
    /// Waits for the next bytes. `None` at the end of the body.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = timeout(LIMIT, self.body.frame())
                .await
                .map_err(|_| "silence".to_owned())?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Waits until exactly `expected` has arrived, in however many pieces.
    pub async fn expect(&mut self, expected: &str) {
        let mut seen = BytesMut::new();
        while seen.len() < expected.len() {
            match self.next().await {
                Ok(Some(data)) => seen.extend_from_slice(&data),
                Ok(None) => panic!("the body ended after {seen:?}, not with {expected:?}"),
                Err(error) => panic!("the body broke after {seen:?}: {error}"),
            }
        }
        assert_eq!(seen, expected.as_bytes());
    }

    /// Reads the rest.
    pub async fn finish(mut self) -> Result<Response, String> {
        let mut body = BytesMut::new();
        while let Some(data) = self.next().await? {
            body.extend_from_slice(&data);
        }
        let Self {
            status, headers, ..
        } = self;
        Ok(Response {
            status,
            headers,
            body: body.freeze(),
        })
    }
}

/// A complete answer.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Bytes,
}

impl Response {
    /// Fails the test unless the status is this one.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{:?} {}",
            self.headers,
            self.text()
        );
        self
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Name of the endpoint that served it; empty if none did.
    pub fn served_by(&self) -> &str {
        self.header("x-qcc-endpoint").unwrap_or_default()
    }
}

/// Requests that are all on their way at the same time.
pub struct Volley(JoinSet<Result<Response, String>>);

impl Volley {
    /// Sends all at once.
    pub fn fire(calls: impl IntoIterator<Item = Call>) -> Self {
        let mut set = JoinSet::new();
        for call in calls {
            set.spawn(call.send());
        }
        Self(set)
    }

    /// Waits for all answers, in the order in which they come.
    ///
    /// # Panics
    ///
    /// If one got none.
    pub async fn responses(self) -> Vec<Response> {
        let answer = |answer: Result<Response, String>| answer.expect("every request is answered");
        self.0.join_all().await.into_iter().map(answer).collect()
    }

    /// Waits for all answers and fails the test unless each has this status.
    pub async fn expect_all(self, status: u16) -> Vec<Response> {
        let responses = self.responses().await;
        responses
            .into_iter()
            .map(|response| response.expect_status(status))
            .collect()
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
