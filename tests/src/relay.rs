//! A TCP relay that can be cut and stalled.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::wait::eventually;

/// How a relay treats its connections.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    /// Bytes pass both ways.
    Open,
    /// Connections are broken, new ones too.
    Cut,
    /// Connections stay, requests pass, answers do not.
    Stalled,
}

/// Stands between proxies and the control plane. Clones are the same relay.
#[derive(Clone)]
pub struct Relay(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    line: watch::Sender<Line>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (line, state) = watch::channel(Line::Open);
        let accepted = Arc::<AtomicUsize>::default();
        let task = tokio::spawn(accept(listener, target, state, Arc::clone(&accepted)));
        Self(Arc::new(Shared {
            address,
            line,
            accepted,
            task,
        }))
    }

    /// Waits until somebody has connected that many times, in vain or not.
    pub async fn tried(&self, times: usize) {
        eventually(
            &format!("the relay was tried {times} times"),
            async || match self.0.accepted.load(Relaxed) {
                count if count >= times => Ok(()),
                count => Err(count),
            },
        )
        .await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Breaks all connections, and every new one.
    pub fn cut(&self) {
        self.0.line.send_replace(Line::Cut);
    }

    /// Holds back all that comes from the target. Nobody is told.
    pub fn stall(&self) {
        self.0.line.send_replace(Line::Stalled);
    }

    /// Lets everything pass again, what was held back included.
    pub fn heal(&self) {
        self.0.line.send_replace(Line::Open);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    line: watch::Receiver<Line>,
    accepted: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Relaxed);
        let mut state = line.clone();
        connections.spawn(async move {
            tokio::select! {
                () = relay(client, target, state.clone()) => {}
                _ = state.wait_for(|line| *line == Line::Cut) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(client: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (_keep, mut open) = watch::channel(Line::Open);
    tokio::select! {
        () = pump(from_client, to_server, &mut open) => {}
        () = pump(from_server, to_client, &mut line) => {}
    }
}

/// Copies bytes while the line is open, until either side ends.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: &mut watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        if line.wait_for(|line| *line == Line::Open).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
