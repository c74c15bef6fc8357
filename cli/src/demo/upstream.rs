//! A scripted LLM API on loopback, in the shape of Anthropic's.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

/// Far above what checks and the demo's client send.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A server; it serves until it is dropped.
#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    script: Arc<Script>,
    server: AbortHandle,
}

#[derive(Debug)]
struct Script {
    key_accepted: AtomicBool,
    /// When the first request with the revoked key was answered.
    rejected: watch::Sender<Option<Instant>>,
}

impl Upstream {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Script {
            key_accepted: AtomicBool::new(true),
            rejected: watch::Sender::new(None),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&script))).abort_handle();
        Ok(Self {
            address,
            script,
            server,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers 401 from now on. Returns when the first such answer went out.
    pub(super) async fn revoke_key(&self) -> Instant {
        let mut rejected = self.script.rejected.subscribe();
        self.script.key_accepted.store(false, Ordering::SeqCst);
        match rejected.wait_for(Option::is_some).await.map(|at| *at) {
            Ok(Some(at)) => at,
            // The sender lives in `self`, and the wait is for `Some`.
            Ok(None) | Err(_) => Instant::now(),
        }
    }

    /// Answers properly again.
    pub(super) fn accept_key(&self) {
        self.script.key_accepted.store(true, Ordering::SeqCst);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, script: Arc<Script>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let script = Arc::clone(&script);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&script)));
            // A client that hangs up is no concern of an upstream.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    script: Arc<Script>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX)
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    if !script.key_accepted.load(Ordering::SeqCst) {
        script
            .rejected
            .send_if_modified(|at| at.is_none() && at.replace(Instant::now()).is_none());
        let error = json!({ "type": "authentication_error", "message": "invalid x-api-key" });
        return Ok(reply(
            StatusCode::UNAUTHORIZED,
            &json!({ "type": "error", "error": error }),
        ));
    }
    if head.method == Method::POST && head.uri.path() == "/v1/messages" {
        return Ok(reply(StatusCode::OK, &message(&body)));
    }
    let error =
        json!({ "type": "not_found_error", "message": "only POST /v1/messages is played here" });
    Ok(reply(
        StatusCode::NOT_FOUND,
        &json!({ "type": "error", "error": error }),
    ))
}

/// Repeats what was said, and with it the code of a check.
fn message(request: &[u8]) -> Value {
    let request: Value = serde_json::from_slice(request).unwrap_or_default();
    let said = match &request["messages"][0]["content"] {
        Value::String(text) => text.as_str(),
        blocks => blocks[0]["text"].as_str().unwrap_or_default(),
    };
    json!({
        "id": "msg_demo",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [{ "type": "text", "text": format!("You said: {said}") }],
        "stop_reason": "end_turn",
        "stop_sequence": null,
        "usage": { "input_tokens": 12, "output_tokens": 8 },
    })
}

fn reply(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_comes_back_in_either_form_of_content() {
        for content in [
            json!("code AB12CD"),
            json!([{ "type": "text", "text": "code AB12CD" }]),
        ] {
            let request =
                json!({ "model": "m", "messages": [{ "role": "user", "content": content }] });
            let answer = message(request.to_string().as_bytes());
            assert_eq!(answer["content"][0]["text"], "You said: code AB12CD");
        }
    }
}
