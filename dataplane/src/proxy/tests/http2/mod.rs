//! Endpoints that speak HTTP/2: requests share connections, and share no blame.

mod blame;
mod choosing;
mod goodbyes;
mod passing;
mod sharing;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    server::{self, Connection, SendResponse},
};
use http::{Request, Response};
use qcc_proto::v1::OutcomeClass as Class;
use tokio::{net::TcpStream, task::JoinSet};

use super::harness::*;
use crate::routing::UpstreamProtocol;

/// A request, and the way back.
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// What an endpoint does with each of its connections, the nth of them.
async fn peer<F>(talk: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let number = AtomicUsize::new(0);
    Upstream::raw(move |stream| talk(number.fetch_add(1, SeqCst), stream)).await
}

/// An endpoint that does this with each request, each in a task of its own.
async fn each<F>(serve: impl Fn(Asked) -> F + Clone + Send + Sync + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    peer(move |_, stream| go_on(stream, serve.clone())).await
}

async fn go_on<F>(stream: TcpStream, serve: impl Fn(Asked) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let connection = server::handshake(stream).await;
    serve_all(connection.unwrap(), serve).await;
}

async fn serve_all<S, F>(mut connection: Connection<S, Bytes>, serve: impl Fn(Asked) -> F)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    F: Future<Output = ()> + Send + 'static,
{
    while let Some(Ok(asked)) = connection.accept().await {
        tokio::spawn(serve(asked));
    }
}

async fn ok((_, mut respond): Asked) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("ok".into(), true).unwrap();
}

/// Begins a stream of events.
fn events(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let head = Response::builder().header("content-type", "text/event-stream");
    respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap()
}

fn http2(options: &mut Options) {
    options.policy.upstream_protocol = UpstreamProtocol::Http2;
}

/// What was reported of the first endpoint.
fn of_first(reports: Vec<(String, Class)>) -> Vec<Class> {
    let reports = reports.into_iter().filter(|(name, _)| name == "e0");
    reports.map(|(_, class)| class).collect()
}

/// Sends so many requests at once, and waits for all answers.
async fn volley(proxy: &Proxy, count: usize) -> Vec<Answer> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let mut client = proxy.connect().await;
        client.write(POST).await;
        clients.spawn(async move { client.answer().await });
    }
    clients.join_all().await
}
