//! A client that sends a few requests a second through the proxy.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::Event;

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(250);

const BODY: &str =
    r#"{"model":"demo","max_tokens":16,"messages":[{"role":"user","content":"hello"}]}"#;

/// What the client got.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// HTTP status; 0 if there was no answer.
    pub(super) status: u16,
    /// The endpoint that answered, as the proxy tells.
    pub(super) endpoint: String,
    /// How many attempts the proxy needed.
    pub(super) attempts: u32,
}

/// Sends requests until nobody wants to know the answers.
pub(super) async fn run(proxy: SocketAddr, events: mpsc::Sender<Event>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = send(&client, proxy).await;
        if events.send(Event::Answer(answer)).await.is_err() {
            return;
        }
    }
}

async fn send(client: &Client<HttpConnector, Full<Bytes>>, proxy: SocketAddr) -> Answer {
    let uri = Uri::builder()
        .scheme("http")
        .authority(proxy.to_string())
        .path_and_query("/v1/messages")
        .build();
    let request = uri.and_then(|uri| {
        Request::post(uri)
            .header("content-type", "application/json")
            .header("anthropic-version", "2023-06-01")
            .body(Full::from(BODY))
    });
    let Ok(request) = request else {
        return Answer::default();
    };
    let Ok(response) = client.request(request).await else {
        return Answer::default();
    };
    let header = |name: &str| {
        let value = response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let answer = Answer {
        status: response.status().as_u16(),
        endpoint: header("x-qcc-endpoint"),
        attempts: header("x-qcc-attempts").parse().unwrap_or_default(),
    };
    match response.into_body().collect().await {
        Ok(_) => answer,
        Err(_) => Answer {
            status: 0,
            ..answer
        },
    }
}
