//! Checks against a server on this machine that does exactly what it is told.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

const KEY: &str = "sk-canary-0123456789";

/// What the server does once it has read a request.
#[derive(Clone)]
enum Script {
    /// Answers, with `_CODE_` replaced by the code that was asked for, and `LOWER_` by
    /// the same in lower case.
    Answer(String),
    /// Says nothing.
    Hang,
    /// Answers with a head and then zeros without end.
    Endless,
    /// Closes the connection.
    Close,
}

struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        Self { address, requests }
    }

    async fn answering(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::start(Script::Answer(format!(
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )))
        .await
    }

    fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    async fn check(&self, check: CheckKind) -> CheckResult {
        self.check_as(ApiFlavor::Anthropic, check).await
    }

    async fn check_as(&self, api: ApiFlavor, check: CheckKind) -> CheckResult {
        run(CheckRequest {
            api,
            ..request(self.base_url(), check)
        })
        .await
    }
}

async fn serve(mut stream: TcpStream, script: Script, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    while !complete(&request) {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&buffer[..length]),
        }
    }
    let request = String::from_utf8(request).unwrap();
    let code: String = match request.split_once("nothing else: ") {
        Some((_, rest)) => rest.chars().take(6).collect(),
        None => String::new(),
    };
    seen.lock().unwrap().push(request);
    match script {
        Script::Answer(answer) => {
            let answer = answer.replace("LOWER_", &code.to_lowercase());
            let answer = answer.replace("_CODE_", &code);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        Script::Hang => pending().await,
        Script::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
        }
        Script::Close => {}
    }
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn request(base_url: String, check: CheckKind) -> CheckRequest {
    CheckRequest {
        base_url,
        api_key: Some(KEY.into()),
        credential_scheme: CredentialScheme::Unspecified,
        api: ApiFlavor::Anthropic,
        check,
        timeout: Duration::from_secs(20),
    }
}

async fn run(request: CheckRequest) -> CheckResult {
    let result = Verifier::new(&qcc_proto::tls::Trust::nobody())
        .unwrap()
        .check(request)
        .await;
    assert!(!format!("{result:?}").contains(KEY), "{result:?}");
    assert!(result.detail.len() <= 200);
    result
}

fn conversation() -> CheckKind {
    CheckKind::Conversation {
        model: None,
        max_tokens: 64,
    }
}

fn http(path: &str, expected_statuses: &[u16]) -> CheckKind {
    CheckKind::Http {
        method: "GET".into(),
        path: path.into(),
        expected_statuses: expected_statuses.into(),
        body: String::new(),
    }
}

// As long as a code, so that the length stays right when it is replaced.
const SAYS_CODE: &str = r#"{"type":"message","content":[{"type":"text","text":"_CODE_"}]}"#;
const SAYS_LOWER: &str = r#"{"type":"message","content":[{"type":"text","text":"LOWER_"}]}"#;
const SAYS_OTHER: &str = r#"{"type":"message","content":[{"type":"text","text":"Sorry?"}]}"#;
const OPENAI_SAYS_CODE: &str =
    r#"{"choices":[{"message":{"role":"assistant","content":"_CODE_"}}]}"#;

#[tokio::test]
async fn a_model_that_repeats_the_code_passes() {
    let server = Server::answering("200 OK", "request-id: req_1\r\n", SAYS_CODE).await;
    let result = server.check(conversation()).await;
    assert!(result.passed, "{result:?}");
    assert_eq!(result.outcome, OutcomeClass::Success);
    assert_eq!(result.http_status, 200);
    assert_eq!(result.upstream_request_id, "req_1");

    let sent = &server.requests()[0];
    assert!(sent.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains(&format!("x-api-key: {KEY}\r\n")), "{sent}");
    assert!(sent.contains("anthropic-version: 2023-06-01\r\n"), "{sent}");
    assert!(!sent.contains("authorization"), "{sent}");
    assert!(sent.contains(r#""model":"claude-haiku-4-5""#), "{sent}");

    server.check(conversation()).await;
    let code = |index: usize| {
        server.requests()[index]
            .split_once("else: ")
            .unwrap()
            .1
            .to_owned()
    };
    assert_ne!(code(0), code(1), "codes are fresh");
}

#[tokio::test]
async fn an_openai_model_is_asked_in_its_own_words() {
    let server = Server::answering("200 OK", "", OPENAI_SAYS_CODE).await;
    let result = server.check_as(ApiFlavor::Openai, conversation()).await;
    assert!(result.passed, "{result:?}");
    let sent = &server.requests()[0];
    assert!(
        sent.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{sent}"
    );
    assert!(
        sent.contains(&format!("authorization: Bearer {KEY}\r\n")),
        "{sent}"
    );
    assert!(sent.contains(r#""max_completion_tokens":64"#), "{sent}");
}

#[tokio::test]
async fn a_code_in_lower_case_passes() {
    let server = Server::answering("200 OK", "", SAYS_LOWER).await;
    assert!(server.check(conversation()).await.passed);
}

#[tokio::test]
async fn an_answer_without_the_code_does_not_pass() {
    for body in [SAYS_OTHER, "{}", "not JSON", r#"{"content":"_CODE_"}"#] {
        let server = Server::answering("200 OK", "", body).await;
        let result = server.check(conversation()).await;
        assert!(!result.passed, "{body}");
        assert_eq!(result.outcome, OutcomeClass::Success);
        assert_eq!(result.detail, "the answer does not contain the code");
    }
}

#[tokio::test]
async fn an_error_is_classed_as_in_a_proxied_request() {
    let body = r#"{"type":"error","error":{"type":"authentication_error","message":"no"}}"#;
    let server = Server::answering("401 Unauthorized", "", body).await;
    for check in [conversation(), http("/v1/models", &[200])] {
        let result = server.check(check).await;
        assert!(!result.passed);
        assert_eq!(result.outcome, OutcomeClass::Auth);
        assert_eq!(result.http_status, 401);
        assert_eq!(result.error_type, "authentication_error");
    }

    let server = Server::answering("429 Too Many Requests", "retry-after: 7\r\n", "").await;
    let result = server.check(conversation()).await;
    assert_eq!(result.outcome, OutcomeClass::RateLimited);
    assert_eq!(result.retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn an_error_in_band_is_an_error() {
    let body = r#"{"type":"error","error":{"type":"overloaded_error","message":"no"}}"#;
    let server = Server::answering("200 OK", "", body).await;
    let result = server.check(conversation()).await;
    assert_eq!(result.outcome, OutcomeClass::Overloaded);
    assert_eq!(result.error_type, "overloaded_error");
}

#[tokio::test]
async fn a_server_that_repeats_the_key_does_not_leak_it() {
    let body = format!(r#"{{"error":{{"type":"bad-{KEY}"}}}}"#);
    let headers = format!("request-id: {KEY}\r\n");
    let server = Server::answering("401 Unauthorized", &headers, &body).await;
    let result = server.check(conversation()).await; // Looks for the key itself.
    assert_eq!(result.error_type, "");
    assert_eq!(result.upstream_request_id, "");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let server = Server::start(Script::Hang).await;
    let partial = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{";
    let stuck = Server::start(Script::Answer(partial.into())).await;
    for check in [conversation(), http("/", &[200])] {
        let result = run(CheckRequest {
            timeout: Duration::from_millis(50),
            ..request(server.base_url(), check)
        })
        .await;
        assert_eq!(result.outcome, OutcomeClass::Timeout);
        assert!(!result.passed);
    }
    let result = stuck.check(conversation()).await;
    assert_eq!(result.outcome, OutcomeClass::StreamBroken);
    assert_eq!(result.http_status, 200);
}

#[tokio::test]
async fn a_refused_or_dropped_connection_is_a_connect_failure() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    for check in [conversation(), http("/", &[200]), CheckKind::Tcp] {
        let result = run(request(base_url.clone(), check)).await;
        assert_eq!(result.outcome, OutcomeClass::Connect);
        assert!(result.detail.contains("refused"), "{}", result.detail);
    }
    let server = Server::start(Script::Close).await;
    let result = server.check(conversation()).await;
    assert_eq!(result.outcome, OutcomeClass::Connect);
    assert_eq!(server.requests().len(), 1, "asked once only");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::answering("200 OK", "", SAYS_CODE).await;
    let headers = format!("location: {}/v1/messages\r\n", elsewhere.base_url());
    let server = Server::answering("307 Temporary Redirect", &headers, "").await;
    for check in [conversation(), http("/", &[200])] {
        let result = server.check(check).await;
        assert!(!result.passed);
        assert_eq!(result.http_status, 307);
    }
    assert!(elsewhere.requests().is_empty(), "the key travelled");
}

#[tokio::test]
async fn an_endless_answer_is_given_up() {
    let server = Server::start(Script::Endless).await;
    let result = server.check(conversation()).await;
    assert!(!result.passed);
    assert_eq!(result.detail, "the answer is longer than 1 MiB");
}

#[tokio::test]
async fn an_http_check_looks_at_the_status_alone() {
    let server = Server::answering("404 Not Found", "", "").await;
    assert!(
        server
            .check(http("/health?full=%2F", &[200, 404]))
            .await
            .passed
    );
    assert!(server.requests()[0].starts_with("GET /health?full=%2F HTTP/1.1\r\n"));
    let result = server.check(http("/health", &[200])).await;
    assert!(!result.passed);
    assert_eq!(result.outcome, OutcomeClass::Request);
    assert_eq!(result.detail, "status 404 is not expected");

    let server = Server::answering("204 No Content", "", "").await;
    let result = server.check(http("/", &[200])).await;
    assert!(!result.passed);
    assert_eq!(result.outcome, OutcomeClass::Success);
}

#[tokio::test]
async fn a_path_that_would_be_changed_is_not_sent() {
    let server = Server::answering("200 OK", "", "").await;
    for path in ["/a/../b", "/a/%2e/b", "/\"", "no-slash", "/a#b"] {
        let result = server.check(http(path, &[200])).await;
        assert_eq!(result.outcome, OutcomeClass::Request, "{path}");
        assert!(!result.passed);
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_tcp_check_needs_somebody_who_speaks_the_scheme() {
    let server = Server::start(Script::Hang).await;
    assert!(server.check(CheckKind::Tcp).await.passed);

    let plain = Server::start(Script::Close).await;
    let base_url = format!("https://{}", plain.address);
    let result = run(CheckRequest {
        timeout: Duration::from_millis(200),
        ..request(base_url, CheckKind::Tcp)
    })
    .await;
    assert!(!result.passed);
}

#[tokio::test]
async fn addresses_that_no_endpoint_may_have_are_not_connected_to() {
    for base_url in [
        "http://169.254.169.254",
        "http://[::ffff:169.254.169.254]",
        "http://0.0.0.0:1",
    ] {
        for check in [conversation(), http("/", &[200]), CheckKind::Tcp] {
            let result = run(request(base_url.into(), check)).await;
            assert_eq!(result.outcome, OutcomeClass::Connect);
            assert_eq!(result.detail, "no endpoint may have this address");
        }
    }
}
