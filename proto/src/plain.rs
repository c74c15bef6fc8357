//! What both servers say over plain HTTP, on the address of their gRPC: metrics and probes.
//!
//! | path | says |
//! | --- | --- |
//! | `/metrics` | see [`exposition`] |
//! | `/healthz` | 200: the process answers |
//! | `/readyz` | 200, or 503 with the reason why it cannot do its work |
//!
//! A web page can make a browser send requests to a loopback port. What it may send without asking
//! first is a plain GET or POST, and what it sends under a name of its own that leads to loopback
//! (DNS rebinding) it may read as well. So
//!
//! - gRPC is what comes over HTTP/2 and says `content-type: application/grpc`; nothing else reaches
//!   a service. No browser sends that without asking, and nobody here answers such questions.
//! - Pages are for those who ask by address, for `localhost`, or by a name that was allowed.
//!   There are no CORS headers.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use futures_util::future::{Either, Ready, ready};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS},
    uri::Authority,
};
use tonic::body::Body;
use tower_service::Service;

use crate::exposition;

/// What a server has to say.
pub trait Pages: Send + Sync + 'static {
    /// Returns the page of metrics.
    fn metrics(&self) -> String;

    /// Returns why the server cannot do its work; `Ok` if it can.
    fn ready(&self) -> Result<(), &'static str>;
}

/// Names under which a server may be asked, beside addresses and `localhost`. Cheap to
/// clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Hosts(Arc<ArcSwap<Vec<String>>>);

/// Wraps the services of a tonic server. It needs `accept_http1`.
#[derive(Clone)]
pub struct PlainLayer {
    pages: Arc<dyn Pages>,
    hosts: Hosts,
}

/// gRPC inside, plain HTTP beside it.
#[derive(Clone)]
pub struct Plain<S> {
    layer: PlainLayer,
    grpc: S,
}

/// Returns whether a text is a host's name as a request names it: without a port.
pub fn is_host_name(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(of_name)
}

impl Hosts {
    /// Allows these.
    pub fn new(names: &[String]) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(lower_case(names))))
    }

    /// Allows these and no others.
    pub fn set(&self, names: &[String]) {
        self.0.store(Arc::new(lower_case(names)));
    }

    fn contain(&self, name: &String) -> bool {
        self.0.load().contains(name)
    }
}

fn lower_case(names: &[String]) -> Vec<String> {
    names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

impl PlainLayer {
    /// Serves `pages` to those who ask for one of `hosts`, by address, or for `localhost`.
    pub fn new(pages: Arc<dyn Pages>, hosts: Hosts) -> Self {
        Self { pages, hosts }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if !self.is_ours(request) {
            return text(
                StatusCode::MISDIRECTED_REQUEST,
                "this server is asked by address or by a name given with --allow-host\n",
            );
        }
        if *request.method() == Method::POST {
            return text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "gRPC is served over HTTP/2, as application/grpc\n",
            );
        }
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return text(StatusCode::NOT_FOUND, "see /metrics, /healthz, /readyz\n");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match (path, self.pages.ready()) {
            ("/metrics", _) => {
                let mut response = text(StatusCode::OK, self.pages.metrics());
                let kind = HeaderValue::from_static(exposition::CONTENT_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            ("/readyz", Err(reason)) => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
            }
            _ => text(StatusCode::OK, "ok\n"),
        }
    }

    /// Whether the request names this server in a way that no other party can arrange.
    /// HTTP/1.0 names nobody; browsers do not speak it.
    fn is_ours<B>(&self, request: &Request<B>) -> bool {
        let mut named = request.headers().get_all(HOST).iter();
        let host = match (named.next(), named.next()) {
            (None, _) => request.uri().authority().cloned(),
            (Some(one), None) => match Authority::try_from(one.as_bytes()) {
                Ok(host) => Some(host),
                Err(_) => return false,
            },
            (Some(_), Some(_)) => return false,
        };
        let Some(host) = host else {
            return request.version() == Version::HTTP_10;
        };
        let host = host.host().to_ascii_lowercase();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        literal.parse::<IpAddr>().is_ok() || host == "localhost" || self.hosts.contain(&host)
    }
}

/// Whether a request is gRPC (`application/grpc`, perhaps with a `+codec`), and not a page's
/// attempt to look like it.
fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    version == Version::HTTP_2
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl<S> tower_layer::Layer<S> for PlainLayer {
    type Service = Plain<S>;

    fn layer(&self, grpc: S) -> Plain<S> {
        Plain {
            layer: self.clone(),
            grpc,
        }
    }
}

impl<S, B> Service<Request<B>> for Plain<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Self::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.grpc.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_grpc(request.version(), request.headers()) {
            Either::Right(self.grpc.call(request))
        } else {
            Either::Left(ready(Ok(self.layer.answer(&request))))
        }
    }
}

impl fmt::Debug for PlainLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainLayer")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<(), &'static str>);

    impl Pages for Fixed {
        fn metrics(&self) -> String {
            "a 1\n".into()
        }

        fn ready(&self) -> Result<(), &'static str> {
            self.0
        }
    }

    fn layer(ready: Result<(), &'static str>) -> PlainLayer {
        let hosts = Hosts::new(&["Qcc.internal".to_owned()]);
        PlainLayer::new(Arc::new(Fixed(ready)), hosts)
    }

    fn status(method: Method, path: &str, host: &str) -> u16 {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host);
        layer(Ok(()))
            .answer(&request.body(()).unwrap())
            .status()
            .as_u16()
    }

    #[test]
    fn pages_are_for_those_who_ask_by_address_or_by_an_allowed_name() {
        for (host, expected) in [
            ("127.0.0.1:7870", 200),
            ("[::1]:7870", 200),
            ("192.0.2.7", 200),
            ("localhost:7870", 200),
            ("LOCALHOST", 200),
            ("qcc.internal:7870", 200),
            ("evil.example:7870", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("x@127.0.0.1@evil.example", 421),
            ("", 421),
        ] {
            assert_eq!(status(Method::GET, "/metrics", host), expected, "{host}");
        }
        let twice = Request::get("/metrics")
            .header(HOST, "127.0.0.1")
            .header(HOST, "evil.example");
        assert_eq!(layer(Ok(())).answer(&twice.body(()).unwrap()).status(), 421);
        let nameless = |version| {
            let request = Request::get("/metrics").version(version).body(()).unwrap();
            layer(Ok(())).answer(&request).status()
        };
        assert_eq!(nameless(Version::HTTP_10), 200);
        assert_eq!(nameless(Version::HTTP_11), 421);
    }

    #[test]
    fn a_host_name_has_no_port() {
        assert!(is_host_name("qcc_control.internal-1"));
        for text in ["", "a:80", "http://a", "a/b", "*", "[::1]", "é"] {
            assert!(!is_host_name(text), "{text}");
        }
    }

    #[test]
    fn only_the_three_pages_are_there_and_only_to_be_read() {
        for (method, path, expected) in [
            (Method::GET, "/metrics", 200),
            (Method::HEAD, "/metrics", 200),
            (Method::GET, "/healthz", 200),
            (Method::GET, "/readyz?verbose", 200),
            (Method::PUT, "/metrics", 405),
            (Method::OPTIONS, "/metrics", 405),
            (Method::POST, "/metrics", 415),
            (Method::POST, "/qcc.v1.EndpointService/ListEndpoints", 415),
            (Method::GET, "/qcc.v1.EndpointService/ListEndpoints", 404),
            (
                Method::OPTIONS,
                "/qcc.v1.EndpointService/ListEndpoints",
                404,
            ),
            (Method::GET, "/", 404),
        ] {
            assert_eq!(
                status(method.clone(), path, "localhost"),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn readiness_has_a_reason() {
        let request = |path: &str| {
            let request = Request::get(path).header(HOST, "[::1]");
            request.body(()).unwrap()
        };
        let waiting = layer(Err("no view yet"));
        assert_eq!(waiting.answer(&request("/readyz")).status(), 503);
        assert_eq!(waiting.answer(&request("/healthz")).status(), 200);
        assert_eq!(waiting.answer(&request("/metrics")).status(), 200);
    }

    #[test]
    fn grpc_is_what_says_so_over_http_2() {
        for (version, kind, expected) in [
            (Version::HTTP_2, "application/grpc", true),
            (Version::HTTP_2, "application/grpc+proto", true),
            (Version::HTTP_2, "application/grpc;charset=utf-8", true),
            (Version::HTTP_2, "application/grpc-web", false),
            (Version::HTTP_2, "text/plain", false),
            (Version::HTTP_11, "application/grpc", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(version, &headers), expected, "{version:?} {kind}");
        }
        assert!(!is_grpc(Version::HTTP_2, &HeaderMap::new()));
    }
}
