//! A TCP relay that can be cut, stalled and made long.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::wait::eventually;

/// Pieces of at most a buffer's length that are on a long way at a time.
const UNDER_WAY_MAX: usize = 1024;

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
    delay: watch::Sender<Duration>,
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
        let (delay, length) = watch::channel(Duration::ZERO);
        let accepted = Arc::<AtomicUsize>::default();
        let task = tokio::spawn(accept(
            listener,
            target,
            (state, length),
            Arc::clone(&accepted),
        ));
        Self(Arc::new(Shared {
            address,
            line,
            delay,
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

    /// Delays everything by so much, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.0.delay.send_replace(delay);
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
    (line, delay): (watch::Receiver<Line>, watch::Receiver<Duration>),
    accepted: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        accepted.fetch_add(1, Relaxed);
        let (mut state, delay) = (line.clone(), delay.clone());
        connections.spawn(async move {
            tokio::select! {
                () = relay(client, target, state.clone(), delay) => {}
                _ = state.wait_for(|line| *line == Line::Cut) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(
    client: TcpStream,
    target: SocketAddr,
    line: watch::Receiver<Line>,
    delay: watch::Receiver<Duration>,
) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (_keep, open) = watch::channel(Line::Open);
    // Whichever side ends ends the connection.
    tokio::select! {
        () = pump(from_client, to_server, open, delay.clone()) => {}
        () = pump(from_server, to_client, line, delay) => {}
    }
}

/// Copies bytes while the line is open, until either side ends.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    delay: watch::Receiver<Duration>,
) {
    let (under_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = from.read(&mut buffer).await?;
            let arrival = Instant::now() + *delay.borrow();
            let piece = (arrival, buffer[..length].to_vec());
            if length == 0 || under_way.send(piece).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let write = async move {
        while let Some((arrival, piece)) = arriving.recv().await {
            sleep_until(arrival).await;
            if line.wait_for(|line| *line == Line::Open).await.is_err() {
                break;
            }
            to.write_all(&piece).await?;
        }
        io::Result::Ok(())
    };
    // The reader's end lets the writer finish; the writer's end leaves nobody to read for.
    tokio::pin!(write);
    tokio::select! {
        _ = &mut write => return,
        _ = read => {}
    }
    let _ = write.await;
}
