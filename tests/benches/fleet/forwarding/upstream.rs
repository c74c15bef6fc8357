//! The endpoint: answers every request alike, with bytes made beforehand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::sleep,
};

use super::Exchange;

/// Occurs once in every event and nowhere else, so that clients can count events.
pub(super) const EVENT_MARK: u8 = b'~';

/// Ends a stream of events.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The endpoint.
pub(super) struct Upstream;

/// What it answers.
enum Answer {
    Whole(Vec<u8>),
    Events {
        head: Vec<u8>,
        event: Vec<u8>,
        count: usize,
        pause: Duration,
    },
}

impl Upstream {
    /// Starts to answer on the calling thread's runtime.
    pub(super) async fn start(exchange: Exchange) -> SocketAddr {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr();
        let answer = Arc::new(Answer::to(exchange));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("connections come");
                tokio::spawn(serve(stream, Arc::clone(&answer)));
            }
        });
        address.expect("a bound listener has an address")
    }
}

impl Answer {
    fn to(exchange: Exchange) -> Self {
        match exchange {
            Exchange::Whole { answer, .. } => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {answer}\r\n\
                     request-id: req_0123456789\r\ndate: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n"
                );
                Self::Whole([head.into_bytes(), vec![b' '; answer]].concat())
            }
            Exchange::Events {
                count,
                bytes,
                pause,
            } => Self::Events {
                head: b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                        transfer-encoding: chunked\r\nrequest-id: req_0123456789\r\n\
                        date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n"
                    .to_vec(),
                event: chunk(&event(bytes)),
                count,
                pause,
            },
        }
    }

    async fn write(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        match self {
            Self::Whole(bytes) => stream.write_all(bytes).await,
            Self::Events {
                head,
                event,
                count,
                pause,
            } => {
                stream.write_all(head).await?;
                for _ in 0..*count {
                    stream.write_all(event).await?;
                    // Either way others get their turn, so that events do not come in heaps.
                    match pause.is_zero() {
                        true => yield_now().await,
                        false => sleep(*pause).await,
                    }
                }
                stream.write_all(LAST_CHUNK).await
            }
        }
    }
}

/// Makes an event of the shape that most events of a conversation have.
fn event(bytes: usize) -> Vec<u8> {
    let (start, end) = (
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"text\":\"",
        "~\"}\n\n",
    );
    let padding = "x".repeat(bytes.saturating_sub(start.len() + end.len()));
    [start, &padding, end].concat().into_bytes()
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

async fn serve(mut stream: TcpStream, answer: Arc<Answer>) {
    stream
        .set_nodelay(true)
        .expect("a TCP connection has the option");
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        while !is_whole(&buffer) {
            match stream.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return, // The pool has closed it.
                Ok(_) => {}
            }
        }
        if answer.write(&mut stream).await.is_err() {
            return;
        }
    }
}

/// Whether this is a head and the body of the length that it names. There is one
/// request at a time on a connection.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
        return false;
    };
    bytes.len() >= head + 4 + super::load::content_length(&bytes[..head]).unwrap_or(0)
}
