//! The clients: connections that always have a request under way.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use super::{
    Exchange,
    upstream::{EVENT_MARK, LAST_CHUNK},
};

/// Running clients. Dropping it hangs up.
pub(super) struct Load {
    count: Arc<AtomicU64>,
    clients: JoinSet<()>,
}

impl Load {
    /// Starts so many clients on the calling thread's runtime.
    pub(super) fn start(proxy: SocketAddr, exchange: Exchange, connections: u32) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let request: Arc<[u8]> = request(proxy, exchange).into();
        let mut clients = JoinSet::new();
        for number in 0..connections {
            let (request, count) = (Arc::clone(&request), Arc::clone(&count));
            clients.spawn(async move {
                if let Exchange::Events { pause, .. } = exchange {
                    sleep(pause * number / connections).await; // Not all events at one time.
                }
                let stream = TcpStream::connect(proxy).await;
                let mut stream = stream.expect("the proxy listens");
                stream
                    .set_nodelay(true)
                    .expect("a TCP connection has the option");
                let mut buffer = Vec::with_capacity(64 * 1024);
                loop {
                    let sent = stream.write_all(&request).await;
                    sent.expect("the proxy takes requests");
                    match exchange {
                        Exchange::Whole { .. } => whole(&mut stream, &mut buffer, &count).await,
                        Exchange::Events { .. } => events(&mut stream, &mut buffer, &count).await,
                    }
                }
            });
        }
        Self { count, clients }
    }

    /// Returns how many requests were answered, or events have arrived, so far.
    pub(super) fn count(&mut self) -> u64 {
        if let Some(ended) = self.clients.try_join_next() {
            ended.expect("a client gets what it asks for");
        }
        self.count.load(Ordering::Relaxed)
    }
}

/// Makes the request that all clients send. A stream of events is asked for shortly.
fn request(proxy: SocketAddr, exchange: Exchange) -> Vec<u8> {
    let length = match exchange {
        Exchange::Whole { request, .. } => request,
        Exchange::Events { .. } => 256,
    };
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {proxy}\r\nx-api-key: of-the-client\r\n\
         anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n\
         accept: application/json\r\nuser-agent: bench/1.0\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.into_bytes(), vec![b' '; length]].concat()
}

/// Reads an answer whose head names its length.
async fn whole(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: &AtomicU64) {
    buffer.clear();
    let head = head(stream, buffer).await;
    let body = content_length(&buffer[..head]).expect("the answer has a length");
    while buffer.len() < head + 4 + body {
        read(stream, buffer).await;
    }
    count.fetch_add(1, Ordering::Relaxed);
}

/// Reads a stream of events.
async fn events(stream: &mut TcpStream, buffer: &mut Vec<u8>, count: &AtomicU64) {
    buffer.clear();
    let mut seen = head(stream, buffer).await;
    loop {
        let events = buffer[seen..].iter().filter(|byte| **byte == EVENT_MARK);
        count.fetch_add(events.count() as u64, Ordering::Relaxed);
        seen = buffer.len();
        if buffer.ends_with(LAST_CHUNK) {
            return;
        }
        read(stream, buffer).await;
    }
}

/// Reads until the head is whole, and returns its length without the empty line.
async fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> usize {
    loop {
        read(stream, buffer).await;
        if let Some(end) = buffer.windows(4).position(|it| it == b"\r\n\r\n") {
            assert!(
                buffer.starts_with(b"HTTP/1.1 200 "),
                "{}",
                String::from_utf8_lossy(buffer)
            );
            return end;
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    let read = stream.read_buf(buffer).await;
    assert_ne!(read.expect("the proxy answers"), 0, "the proxy hung up");
}

/// Returns the length that a head names.
pub(super) fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        if !name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        std::str::from_utf8(value).ok()?.trim().parse().ok()
    })
}
