//! The floor: a hyper server and hyper's pooled client, and nothing between them but
//! the upstream's address.

use std::{convert::Infallible, net::SocketAddr};

use hyper::{Request, Response, Uri, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::child::announce;

type Upstream = Client<HttpConnector, Incoming>;

/// Forwards everything to `upstream` until it is stopped.
pub(crate) async fn run(upstream: SocketAddr, stop: CancellationToken) {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("there is a free port");
    announce(
        listener
            .local_addr()
            .expect("a bound listener has an address"),
    );
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await.expect("connections come");
            tokio::spawn(connection(stream, client.clone(), upstream));
        }
    };
    tokio::select! {
        () = serve => {}
        () = stop.cancelled() => {}
    }
}

async fn connection(stream: TcpStream, client: Upstream, upstream: SocketAddr) {
    stream
        .set_nodelay(true)
        .expect("a TCP connection has the option");
    let answer = service_fn(|request| forward(&client, upstream, request));
    // Clients come and go.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

async fn forward(
    client: &Upstream,
    upstream: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, Infallible> {
    let target = Uri::builder()
        .scheme("http")
        .authority(upstream.to_string())
        .path_and_query(request.uri().path_and_query().map_or("/", |it| it.as_str()))
        .build();
    *request.uri_mut() = target.expect("all parts are valid");
    let response = client.request(request).await;
    Ok(response.expect("the upstream answers"))
}
