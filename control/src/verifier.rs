//! Finds out whether an endpoint works, by asking it.
//!
//! A check is a request like any other: its URL, its credential and the reading of
//! its answer come from [`qcc_proto::upstream`], which builds and reads what proxies
//! send. What it adds is a question whose answer is known:
//!
//! - `conversation`: the model must repeat a fresh code. Nothing between us and the
//!   model can answer that: no cache, no login page, no other model's canned reply.
//! - `http`: the status must be an expected one.
//! - `tcp`: somebody must be there.
//!
//! One call of [`Verifier::check`] is one question: it never retries, follows a
//! redirect, goes through a proxy or outlives its timeout. When to ask and what
//! follows from the answer is the registry's business.

mod answer;
mod conversation;
mod tcp;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use qcc_proto::{
    tls::Trust,
    upstream,
    v1::{ApiFlavor, CredentialScheme, OutcomeClass},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use answer::Cleaner;
use conversation::Code;
use transport::Transport;

/// The version of the Anthropic API in which checks are phrased.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// One check to run.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    /// The endpoint's base URL.
    pub base_url: String,
    /// Its key, if it has one.
    pub api_key: Option<SecretString>,
    /// Where the key goes; `UNSPECIFIED` means by `api`.
    pub credential_scheme: CredentialScheme,
    /// The API that it speaks.
    pub api: ApiFlavor,
    /// What to ask.
    pub check: CheckKind,
    /// Longest wait for the whole answer.
    pub timeout: Duration,
}

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Ask the model to repeat a code.
    Conversation {
        /// Model to ask. `None`: a small one of the API's own.
        model: Option<String>,
        /// Limit on the answer, in tokens.
        max_tokens: u32,
    },
    /// Send one request and look at the status.
    Http {
        /// `GET`, `HEAD` or `POST`.
        method: String,
        /// Path and query, appended to the base URL.
        path: String,
        /// Statuses that pass.
        expected_statuses: Vec<u16>,
        /// JSON; empty for none.
        body: String,
    },
    /// Open a connection, with TLS if the base URL is https.
    Tcp,
}

/// What a check came to. Holds no credential and nothing of the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Whether the endpoint answered as it should.
    pub passed: bool,
    /// Who is to blame. `SUCCESS` although not passed: it answered well, but wrongly.
    pub outcome: OutcomeClass,
    /// Status of the answer; 0 if there was none.
    pub http_status: u16,
    /// The provider's `error.type`; empty if there was none. At most 64 bytes.
    pub error_type: String,
    /// How long the provider wants to be left alone, uncapped.
    pub retry_after: Option<Duration>,
    /// What happened, if not passed, in at most 200 bytes.
    pub detail: String,
    /// The provider's name for this request. At most 128 bytes.
    pub upstream_request_id: String,
}

impl CheckResult {
    fn passed(http_status: u16) -> Self {
        Self {
            passed: true,
            http_status,
            ..Self::failed(OutcomeClass::Success, "")
        }
    }

    fn failed(outcome: OutcomeClass, detail: impl Into<String>) -> Self {
        Self {
            passed: false,
            outcome,
            http_status: 0,
            error_type: String::new(),
            retry_after: None,
            detail: detail.into(),
            upstream_request_id: String::new(),
        }
    }

    fn timed_out() -> Self {
        Self::failed(OutcomeClass::Timeout, "no answer in time")
    }
}

/// Why no check can be run at all.
#[derive(Debug)]
pub enum Error {
    /// The HTTP client cannot be made.
    Client(reqwest::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "set up the HTTP client: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Runs checks, any number at a time.
#[derive(Debug, Clone)]
pub struct Verifier {
    transport: Transport,
}

impl Verifier {
    /// Makes a verifier that believes those who are believed in proxied requests.
    pub fn new(trust: &Trust) -> Result<Self, Error> {
        if !trust.believes_anybody() {
            tracing::warn!("no certificate authorities; https checks will fail");
        }
        let transport = Transport::new(trust)?;
        Ok(Self { transport })
    }

    /// Runs one check. Ends within its timeout, whatever the endpoint does.
    pub async fn check(&self, request: CheckRequest) -> CheckResult {
        let deadline = Instant::now() + request.timeout;
        match &request.check {
            CheckKind::Conversation { model, max_tokens } => {
                let code = match Code::fresh() {
                    Ok(code) => code,
                    Err(error) => return cannot_ask(error),
                };
                let Some(question) =
                    conversation::question(request.api, model.as_deref(), *max_tokens, &code)
                else {
                    return cannot_ask("this API has no conversations");
                };
                let ask = Ask {
                    method: Method::POST,
                    path: question.path,
                    body: question.body,
                };
                self.converse(&request, ask, &code, deadline).await
            }
            CheckKind::Http {
                method,
                path,
                expected_statuses,
                body,
            } => {
                let Ok(method) = Method::from_bytes(method.as_bytes()) else {
                    return cannot_ask("the method is invalid");
                };
                let ask = Ask {
                    method,
                    path,
                    body: body.clone(),
                };
                self.knock(&request, ask, expected_statuses, deadline).await
            }
            CheckKind::Tcp => {
                let Ok(base_url) = request.base_url.parse::<Uri>() else {
                    return cannot_ask("the base URL is invalid");
                };
                match timeout_at(deadline, tcp::connect(&base_url, self.transport.tls())).await {
                    Ok(Ok(())) => CheckResult::passed(0),
                    Ok(Err(error)) => {
                        CheckResult::failed(OutcomeClass::Connect, transport::describe(&error))
                    }
                    Err(_) => CheckResult::timed_out(),
                }
            }
        }
    }

    /// Passes if the model repeats the code.
    async fn converse(
        &self,
        request: &CheckRequest,
        ask: Ask<'_>,
        code: &Code,
        deadline: Instant,
    ) -> CheckResult {
        let (response, mut result) = match self.send(request, ask, deadline).await {
            Ok(answered) => answered,
            Err(failed) => return failed,
        };
        if result.outcome != OutcomeClass::Success {
            return refused(response, result, request, deadline).await;
        }
        if !response.status().is_success() {
            result.detail = "the answer is a redirect".into();
            return result;
        }
        let body = match timeout_at(deadline, answer::read(response)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                result.outcome = match error {
                    answer::Error::Broken(_) => OutcomeClass::StreamBroken,
                    answer::Error::TooLong => OutcomeClass::Success,
                };
                result.detail = error.to_string();
                return result;
            }
            Err(_) => {
                result.outcome = OutcomeClass::Timeout;
                result.detail = "the answer did not end in time".into();
                return result;
            }
        };
        let cleaner = Cleaner::new(request.api_key.as_ref());
        if let Some(error_type) = answer::error_type(&body) {
            // An error in band, whatever the status says.
            result.outcome = upstream::class_of_error_type(&error_type);
            result.error_type = cleaner.error_type(&error_type);
            result.detail = "the answer is an error in spite of its status".into();
            return result;
        }
        result.passed = code.is_in(&conversation::text(&body));
        if !result.passed {
            result.detail = "the answer does not contain the code".into();
        }
        result
    }

    /// Passes if the status is an expected one.
    async fn knock(
        &self,
        request: &CheckRequest,
        ask: Ask<'_>,
        expected_statuses: &[u16],
        deadline: Instant,
    ) -> CheckResult {
        let (response, mut result) = match self.send(request, ask, deadline).await {
            Ok(answered) => answered,
            Err(failed) => return failed,
        };
        if expected_statuses.contains(&result.http_status) {
            result.passed = true;
            result.outcome = OutcomeClass::Success;
            result.retry_after = None;
            return result;
        }
        refused(response, result, request, deadline).await
    }

    /// Sends a request as a proxy would, and reads the head of the answer.
    async fn send(
        &self,
        request: &CheckRequest,
        ask: Ask<'_>,
        deadline: Instant,
    ) -> Result<(reqwest::Response, CheckResult), CheckResult> {
        let headers = headers(request, &ask).map_err(cannot_ask)?;
        let base_url = request.base_url.parse::<Uri>();
        let base_url = base_url.map_err(|_| cannot_ask("the base URL is invalid"))?;
        let target = upstream::target(&base_url, ask.path).map_err(cannot_ask)?;
        let sent = self.transport.send(ask.method, &target, headers, ask.body);
        let response = match timeout_at(deadline, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(transport::Error::Url)) => {
                return Err(cannot_ask(
                    "the path has segments or bytes that cannot be sent",
                ));
            }
            Ok(Err(error)) => {
                let detail = transport::describe(&error);
                return Err(CheckResult::failed(OutcomeClass::Connect, detail));
            }
            Err(_) => return Err(CheckResult::timed_out()),
        };
        let now = SystemTime::now();
        let verdict = upstream::classify(response.status(), response.headers(), now);
        let cleaner = Cleaner::new(request.api_key.as_ref());
        let result = CheckResult {
            http_status: response.status().as_u16(),
            retry_after: verdict.retry_after,
            upstream_request_id: cleaner.request_id(response.headers()),
            ..CheckResult::failed(verdict.class, "")
        };
        Ok((response, result))
    }
}

/// A request to be sent.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    body: String,
}

fn headers(request: &CheckRequest, ask: &Ask<'_>) -> Result<HeaderMap, upstream::Error> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if !ask.body.is_empty() {
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
    }
    if matches!(request.api, ApiFlavor::Unspecified | ApiFlavor::Anthropic) {
        headers.insert("anthropic-version", ANTHROPIC_VERSION);
    }
    let scheme = match request.credential_scheme {
        CredentialScheme::Unspecified => upstream::default_scheme(request.api),
        scheme => scheme,
    };
    let key = request.api_key.as_ref().map(ExposeSecret::expose_secret);
    let credential = key.map(|key| upstream::credential_header(scheme, key));
    upstream::set_credential(&mut headers, credential.transpose()?.as_ref());
    Ok(headers)
}

/// Completes the result of an answer that is no success with what its body says.
/// The verdict stands already; a body that does not come changes nothing.
async fn refused(
    response: reqwest::Response,
    mut result: CheckResult,
    request: &CheckRequest,
    deadline: Instant,
) -> CheckResult {
    result.detail = format!("status {} is not expected", result.http_status);
    if let Ok(Ok(body)) = timeout_at(deadline, answer::read(response)).await
        && let Some(error_type) = answer::error_type(&body)
    {
        result.error_type = Cleaner::new(request.api_key.as_ref()).error_type(&error_type);
    }
    result
}

/// The check itself is at fault: nobody was asked, so nobody is to blame.
fn cannot_ask(reason: impl fmt::Display) -> CheckResult {
    CheckResult::failed(OutcomeClass::Request, format!("cannot ask: {reason}"))
}
