//! HTTP requests with nothing between the test and the wire: a connection each, no
//! pool, no retries, no decoding.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, StatusCode, Uri, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::wait::LIMIT;

/// A request to a proxy, before it is sent.
#[derive(Clone)]
pub struct Call {
    address: SocketAddr,
    request: hyper::Request<Full<Bytes>>,
}

impl Call {
    /// Starts a request for path and query `target`.
    pub fn new(address: SocketAddr, method: Method, target: &str) -> Self {
        let mut request = hyper::Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = target.parse::<Uri>().expect("a test's target is valid");
        let call = Self { address, request };
        call.header("host", &address.to_string())
    }

    /// Adds a header, as often as it is called.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = hyper::header::HeaderName::try_from(name).expect("a test's header is valid");
        let value = value.parse().expect("a test's header value is valid");
        self.request.headers_mut().append(name, value);
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
            let (mut sender, connection) = http1::Builder::new()
                .title_case_headers(true)
                .handshake(TokioIo::new(tcp))
                .await
                .map_err(|error| error.to_string())?;
            let connection = AbortOnDrop(tokio::spawn(async move {
                // The same error reaches the response or its body.
                let _ = connection.await;
            }));
            let response = sender
                .send_request(self.request)
                .await
                .map_err(|error| error.to_string())?;
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
