//! A TCP relay that listens: what a client says, as it says it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use crate::{process::lock, upstream::Request};

/// What was said on one connection so far.
type Heard = Arc<Mutex<Vec<u8>>>;

/// Stands between clients and a proxy, and keeps what clients send.
pub struct Tap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

impl Tap {
    /// Starts a tap on the way to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let task = tokio::spawn(accept(listener, target, Arc::clone(&heard)));
        Self {
            address,
            heard,
            task,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every whole HTTP/1.1 request so far, connection by connection.
    pub async fn requests(&self) -> Vec<Request> {
        let connections = lock(&self.heard).clone();
        let mut requests = Vec::new();
        for connection in connections {
            let said = lock(&connection).clone();
            let (mut rest, mut buffer) = (&said[..], BytesMut::new());
            while let Some(request) = Request::read(&mut rest, &mut buffer).await {
                requests.push(request);
            }
        }
        requests
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, heard: Arc<Mutex<Vec<Heard>>>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let connection = Heard::default();
        lock(&heard).push(Arc::clone(&connection));
        // Whichever side breaks off: the other one gets to know by the end of the relay.
        connections.spawn(async move { relay(client, target, connection).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(mut client: TcpStream, target: SocketAddr, heard: Heard) -> io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let forth = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from_client.read(&mut buffer).await? {
                0 => return to_server.shutdown().await,
                length => {
                    lock(&heard).extend_from_slice(&buffer[..length]);
                    to_server.write_all(&buffer[..length]).await?;
                }
            }
        }
    };
    let back = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(forth, back).map(|_| ())
}
