//! etcd, for comparison: a put, and all who watch the key.
//!
//! It has one core, as the control plane has, its data on the same disk, and each of its
//! watchers a connection of its own. Of its contract there is here what this takes.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};
use tokio_stream::StreamExt;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    figure::percentile,
    machine::{SCRATCH, spawn_on},
    propagation::LIMIT,
    stand_in::connect,
};

/// The key that is put and watched.
const KEY: &[u8] = b"endpoint-0";

/// About as long as an update of ours.
const VALUE: [u8; 250] = [b'v'; 250];

/// A running etcd.
pub(crate) struct Etcd {
    child: Child,
    address: SocketAddr,
    _data: TempDir,
}

impl Etcd {
    pub(crate) fn is_installed() -> bool {
        let asked = Command::new("etcd")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    }

    pub(crate) fn start(core: usize) -> Self {
        let data = tempfile::tempdir_in(SCRATCH).expect("the build's directory is writable");
        let (client, peer) = (free_port(), free_port());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let directory = data.path().to_owned();
        // A child inherits the core of the thread that starts it.
        let spawned = spawn_on(core, "spawn", move || {
            Command::new("etcd")
                .arg("--data-dir")
                .arg(directory)
                .args(["--name", "bench"])
                .args(["--listen-client-urls", &client_url])
                .args(["--advertise-client-urls", &client_url])
                .args(["--listen-peer-urls", &peer_url])
                .args(["--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("bench={peer_url}")])
                .env("GOMAXPROCS", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("etcd can be run")
        });
        Self {
            child: spawned.join().expect("the spawning thread does not panic"),
            address: client,
            _data: data,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // An error would mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns an address that nobody uses now: etcd cannot be asked which one it got.
fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let bound = listener.local_addr();
    bound.expect("a bound listener has an address")
}

/// Watchers of the key, and somebody who puts it.
pub(crate) struct Watchers {
    count: usize,
    putter: Grpc<Channel>,
    arrivals: UnboundedReceiver<Instant>,
}

impl Watchers {
    /// Waits until etcd serves, and connects all.
    pub(crate) async fn connect(address: SocketAddr, count: usize) -> Self {
        let mut putter = timeout(LIMIT, serving(address))
            .await
            .expect("etcd serves within the limit");
        put(&mut putter).await.expect("etcd takes a put");
        let (arrived, arrivals) = unbounded_channel();
        for _ in 0..count {
            let mut client = Grpc::new(connect(address).await);
            let mut events = watch(&mut client).await;
            let first = events.message().await.expect("etcd answers");
            assert!(first.is_some_and(|first| first.created));
            tokio::spawn(listen(events, arrived.clone()));
        }
        Self {
            count,
            putter,
            arrivals,
        }
    }

    /// Measures the median and the 99th percentile of the time from a put until the last
    /// has its event, in microseconds.
    pub(crate) fn measure(&mut self, runtime: &Runtime, puts: usize) -> [f64; 2] {
        runtime.block_on(async {
            let mut took = Vec::with_capacity(puts);
            for _ in 0..puts {
                let start = Instant::now();
                put(&mut self.putter).await.expect("etcd takes a put");
                let mut last = start;
                for _ in 0..self.count {
                    let arrival = timeout(LIMIT, self.arrivals.recv()).await;
                    let arrival = arrival.expect("events arrive");
                    last = last.max(arrival.expect("the watchers listen"));
                }
                took.push((last - start).as_secs_f64() * 1e6);
            }
            [percentile(&mut took, 50), percentile(&mut took, 99)]
        })
    }
}

/// Returns a client once a put is taken.
async fn serving(address: SocketAddr) -> Grpc<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a valid URL");
    loop {
        if let Ok(channel) = endpoint.connect().await {
            let mut client = Grpc::new(channel);
            if put(&mut client).await.is_ok() {
                return client;
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn put(client: &mut Grpc<Channel>) -> Result<(), Status> {
    let put = PutRequest {
        key: Bytes::from_static(KEY),
        value: Bytes::from_static(&VALUE),
    };
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    client.unary(Request::new(put), path, codec).await?;
    Ok(())
}

async fn watch(client: &mut Grpc<Channel>) -> Streaming<WatchResponse> {
    let create = WatchRequest {
        create_request: Some(WatchCreateRequest {
            key: Bytes::from_static(KEY),
        }),
    };
    // It watches for as long as its requests may go on.
    let requests = tokio_stream::once(create).chain(tokio_stream::pending());
    let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
    client.ready().await.expect("etcd listens");
    let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
    let response = client.streaming(Request::new(requests), path, codec).await;
    response.expect("etcd answers").into_inner()
}

async fn listen(mut events: Streaming<WatchResponse>, arrived: UnboundedSender<Instant>) {
    while let Ok(Some(response)) = events.message().await {
        for _ in response.events {
            if arrived.send(Instant::now()).is_err() {
                return;
            }
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create_request: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}
