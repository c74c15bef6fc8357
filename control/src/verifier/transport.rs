//! Connections to endpoints: where they may go, and what may go wrong.

use std::{
    error::Error as StdError,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, Method, Uri};
use qcc_proto::{
    tls::{self, Trust},
    upstream::may_connect,
};
use reqwest::{
    Client, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect, retry,
};
use rustls::ClientConfig;

/// Limit on a description, from the contract.
const DETAIL_BYTES_MAX: usize = 200;

/// Sends requests; every one over a connection of its own, because a check that
/// reuses one would not notice that no other can be made.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Client,
    tls: Arc<ClientConfig>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Error {
    /// The URL would not be sent as it is written: reqwest resolves dot segments and
    /// encodes some bytes, which a proxied request does not do.
    Url,
    /// The address is one that no endpoint may have.
    Address,
    /// The request failed.
    Request(reqwest::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("the URL cannot be sent as it is"),
            Self::Address => f.write_str(FORBIDDEN),
            Self::Request(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Url | Self::Address => None,
            Self::Request(error) => Some(error),
        }
    }
}

const FORBIDDEN: &str = "no endpoint may have this address";

impl Transport {
    pub(super) fn new(trust: &Trust) -> Result<Self, super::Error> {
        let tls = trust.client_config(&[]);
        let http = trust.client_config(tls::HTTP);
        let client = Client::builder()
            .tls_backend_preconfigured(http)
            .dns_resolver(Resolver)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("qcc/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(super::Error::Client)?;
        Ok(Self {
            client,
            tls: Arc::new(tls),
        })
    }

    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &Uri,
        headers: HeaderMap,
        body: String,
    ) -> Result<Response, Error> {
        let url = Url::parse(&target.to_string()).map_err(|_| Error::Url)?;
        let written = target.path_and_query().map_or("/", |path| path.as_str());
        let sent = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        if sent != written {
            return Err(Error::Url);
        }
        // Addresses are not resolved, so the resolver does not see them.
        if url.host_str().is_some_and(is_forbidden_address) {
            return Err(Error::Address);
        }
        let mut request = self.client.request(method, url).headers(headers);
        if !body.is_empty() {
            request = request.body(body);
        }
        request.send().await.map_err(Error::Request)
    }
}

fn is_forbidden_address(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>()
        .is_ok_and(|address| !may_connect(address))
}

/// The system's resolver without the addresses that no endpoint may have.
#[derive(Debug)]
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses = resolve(name.as_str(), 0).await?;
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

/// Resolves a name, or reads an address, keeping what may be connected to.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let allowed: Vec<_> = found.filter(|found| may_connect(found.ip())).collect();
    if allowed.is_empty() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, FORBIDDEN));
    }
    Ok(allowed)
}

/// Describes a failure by its innermost cause, which names neither URL nor header.
pub(super) fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = match cause.downcast_ref::<reqwest::Error>() {
        // Its text would name the URL.
        Some(_) => "the request failed".to_owned(),
        None => cause.to_string(),
    };
    let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut end = text.len().min(DETAIL_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_endpoint_may_have_are_seen() {
        for (host, forbidden) in [
            ("169.254.169.254", true),
            ("[fe80::1]", true),
            ("0.0.0.0", true),
            ("127.0.0.1", false),
            ("[::1]", false),
            ("a.example", false),
        ] {
            assert_eq!(is_forbidden_address(host), forbidden, "{host}");
        }
    }

    #[tokio::test]
    async fn resolving_leaves_out_forbidden_addresses() {
        assert!(resolve("169.254.169.254", 80).await.is_err());
        assert!(resolve("127.0.0.1", 80).await.is_ok());
    }

    #[test]
    fn a_description_is_short_and_printable() {
        let error = io::Error::other(format!("\u{1b}[1m{}", "ä".repeat(200)));
        let text = describe(&error);
        assert!(text.len() <= DETAIL_BYTES_MAX);
        assert!(!text.contains('\u{1b}'));
    }
}
