//! Connections to servers: the first address that answers, a limit on each call, one repetition.

use std::time::Duration;

use http::Uri;
use qcc_proto::tls::{self, Roots, Trust};
use tokio::sync::OnceCell;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    error::{Error, Exit},
    operator::Operator,
};

/// Limit on a call unless `--timeout` says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the only repetition: long enough for a restarted server to listen again.
const REPEAT_AFTER: Duration = Duration::from_millis(300);
/// Resources asked for at a time. At most 8 KB each, so that a page stays below gRPC's 4 MiB.
pub(crate) const PAGE_SIZE: i32 = 250;

/// Whether a request that may have reached the server can be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It reads, has a request id, or sets what is set already.
    Safe,
    /// A second one would be answered differently.
    Unsafe,
}

/// How this run of the program asks.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Who asks.
    pub(crate) operator: Option<Operator>,
    /// The limit on each call that the user asked for.
    pub(crate) timeout: Option<Duration>,
    /// Who vouches for servers.
    pub(crate) roots: Roots,
}

/// A server, connected to when first needed.
#[derive(Debug)]
pub(crate) struct Server {
    noun: &'static str,
    hint: &'static str,
    urls: Vec<Uri>,
    caller: Caller,
    connection: OnceCell<(Channel, Uri)>,
}

impl Server {
    /// A control plane at one of `urls`.
    pub(crate) fn control(urls: Vec<Uri>, caller: Caller) -> Self {
        let hint = "start one with `qcc-ctl up`, or pass `--control URL`";
        Self {
            noun: "control plane",
            hint,
            urls,
            caller,
            connection: OnceCell::new(),
        }
    }

    /// A proxy's admin service at `url`.
    pub(crate) fn proxy(url: Uri, caller: Caller) -> Self {
        let hint = "start one with `qcc-proxy`, or pass `--proxy URL` with its admin address";
        Self {
            noun: "proxy",
            hint,
            urls: vec![url],
            caller,
            connection: OnceCell::new(),
        }
    }

    /// The limit on each call.
    pub(crate) fn timeout(&self) -> Duration {
        self.caller.timeout.unwrap_or(CALL_TIMEOUT)
    }

    /// How it is asked.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The limit that the user asked for.
    pub(crate) fn given_timeout(&self) -> Option<Duration> {
        self.caller.timeout
    }

    /// A message as a request that says who asks.
    pub(crate) fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(operator) = &self.caller.operator {
            operator.sign(&mut request);
        }
        request
    }

    /// The address in use.
    pub(crate) async fn address(&self) -> Result<String, Error> {
        Ok(shown(&self.connect().await?.1))
    }

    /// A channel for streams, which have no limit.
    pub(crate) async fn channel(&self) -> Result<Channel, Error> {
        Ok(self.connect().await?.0.clone())
    }

    /// Calls a method that may be repeated.
    pub(crate) async fn call<Q, A>(
        &self,
        request: Q,
        method: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Error>
    where
        Q: Clone,
    {
        self.call_within(self.timeout(), Repeat::Safe, request, method)
            .await
    }

    /// Calls a method. UNAVAILABLE is answered with one repetition if that is safe.
    pub(crate) async fn call_within<Q, A>(
        &self,
        limit: Duration,
        repeat: Repeat,
        request: Q,
        method: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Error>
    where
        Q: Clone,
    {
        let channel = self.channel().await?;
        let calls = async {
            let first = method(channel.clone(), self.request(request.clone())).await;
            match first {
                Err(status) if status.code() == Code::Unavailable && repeat == Repeat::Safe => {
                    tracing::debug!(%status, "repeating the call");
                    tokio::time::sleep(REPEAT_AFTER).await;
                    method(channel.clone(), self.request(request.clone())).await
                }
                first => first,
            }
        };
        match tokio::time::timeout(limit, calls).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => {
                let (_, uri) = self.connect().await?;
                // What broke on the way has a source; what the server says has none.
                if std::error::Error::source(&status).is_some() && tls::is_wanted(uri).await {
                    let encrypted = shown(uri).replacen("http://", "https://", 1);
                    let message = format!("the {} at `{}` speaks TLS", self.noun, shown(uri));
                    let hint = format!("ask `{encrypted}`");
                    return Err(Error::new(Exit::Unreachable, message).hint(hint));
                }
                Err(self.refused(&status))
            }
            Err(_) => {
                let address = self.address().await?;
                let limit = qcc_proto::duration::format(limit);
                Err(Error::new(
                    Exit::Unreachable,
                    format!(
                        "no answer from the {} at `{address}` within {limit}",
                        self.noun
                    ),
                )
                .hint("see whether it is busy, or pass a longer `--timeout`"))
            }
        }
    }

    /// Calls a method that answers in pages until `take` finds no further page token.
    pub(crate) async fn pages<Q, A>(
        &self,
        mut request: impl FnMut(String) -> Q,
        method: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
        mut take: impl FnMut(A) -> String,
    ) -> Result<(), Error>
    where
        Q: Clone,
    {
        let mut page_token = String::new();
        loop {
            page_token = take(self.call(request(page_token), &method).await?);
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }

    /// A status as an error; lost connections name the address.
    pub(crate) fn refused(&self, status: &Status) -> Error {
        tracing::debug!(%status, "the server refused");
        match (status.code(), self.connection.get()) {
            (Code::Unavailable, Some((_, uri))) => {
                let reason = crate::text::clean(status.message());
                Error::new(
                    Exit::Unreachable,
                    format!("lost the {} at `{}`: {reason}", self.noun, shown(uri)),
                )
                .hint(self.hint)
            }
            _ => Error::from_status(status),
        }
    }

    async fn connect(&self) -> Result<&(Channel, Uri), Error> {
        self.connection
            .get_or_try_init(|| self.connect_to_first())
            .await
    }

    async fn connect_to_first(&self) -> Result<(Channel, Uri), Error> {
        // The platform's list takes a while to read, and is not always needed.
        let is_encrypted = |uri: &Uri| uri.scheme_str() == Some("https");
        let roots = match self.urls.iter().any(is_encrypted) {
            true => &self.caller.roots,
            false => &Roots::Nobody,
        };
        let trust = Trust::load(roots).map_err(|error| Error::usage(error.to_string()))?;
        let mut refusals = Vec::new();
        for uri in &self.urls {
            let endpoint = Endpoint::from(uri.clone())
                .connect_timeout(self.timeout())
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5));
            let connecting = tokio::time::timeout(self.timeout(), tls::connect(&endpoint, &trust));
            match connecting.await {
                Ok(Ok(channel)) => return Ok((channel, uri.clone())),
                Ok(Err(error)) => refusals.push((uri, root_cause(&error))),
                Err(_) => refusals.push((
                    uri,
                    format!(
                        "no answer within {}",
                        qcc_proto::duration::format(self.timeout())
                    ),
                )),
            }
        }
        let tried: Vec<String> = refusals
            .iter()
            .map(|(uri, reason)| format!("`{}`: {reason}", shown(uri)))
            .collect();
        Err(Error::new(
            Exit::Unreachable,
            format!("no {} at {}", self.noun, tried.join(", at ")),
        )
        .hint(self.hint))
    }
}

/// A fresh `request_id`: a random UUID.
pub(crate) fn request_id() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without an id the request cannot be recognised when repeated, but it can be made.
        return String::new();
    }
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// An address as people write it.
fn shown(uri: &Uri) -> String {
    uri.to_string().trim_end_matches('/').to_owned()
}

/// The last error of a chain says what happened; those above say where.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    // `Connection refused (os error 111)`: the number helps nobody here.
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_random_uuids() {
        let id = request_id();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert_ne!(id, request_id());
    }
}
