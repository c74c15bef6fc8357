//! A client that sees every byte, and what is read of one message.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

pub(in crate::proxy::tests) struct Client {
    pub(in crate::proxy::tests) stream: TcpStream,
    pub(super) buffer: Vec<u8>,
}

impl Client {
    pub(in crate::proxy::tests) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Writes as much as the peer takes.
    pub(in crate::proxy::tests) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Says that nothing more will be sent.
    pub(in crate::proxy::tests) async fn hang_up(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Waits for the connection's end, whatever comes before it.
    pub(in crate::proxy::tests) async fn is_closed(&mut self) -> bool {
        let reading = async {
            loop {
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return true,
                    Ok(_) => {}
                }
            }
        };
        timeout(PATIENCE, reading).await.unwrap_or(false)
    }

    pub(in crate::proxy::tests) async fn answer(&mut self) -> Answer {
        let reading = read_message(&mut self.stream, &mut self.buffer, false);
        match timeout(PATIENCE, reading).await.expect("an answer in time") {
            Message::Whole { head, body, .. } => Answer {
                head,
                body,
                whole: true,
            },
            Message::Cut { head, body } => Answer {
                head,
                body,
                whole: false,
            },
        }
    }

    /// Reads until these bytes have come.
    pub(in crate::proxy::tests) async fn reads(&mut self, wanted: &str) {
        let reading = async {
            while !String::from_utf8_lossy(&self.buffer).contains(wanted) {
                let count = self.stream.read_buf(&mut self.buffer).await.unwrap();
                assert_ne!(count, 0, "closed before `{wanted}`");
            }
        };
        timeout(PATIENCE, reading).await.expect("it in time");
    }
}

/// What a client got.
#[derive(Debug)]
pub(in crate::proxy::tests) struct Answer {
    pub(in crate::proxy::tests) head: String,
    pub(in crate::proxy::tests) body: Vec<u8>,
    /// It ended as its head promised.
    pub(in crate::proxy::tests) whole: bool,
}

impl Answer {
    pub(in crate::proxy::tests) fn status(&self) -> u16 {
        self.head[9..12].parse().unwrap()
    }

    pub(in crate::proxy::tests) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(in crate::proxy::tests) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(super) enum Message {
    /// With its body decoded, and as it was on the wire.
    Whole {
        head: String,
        body: Vec<u8>,
        raw: Vec<u8>,
    },
    Cut {
        head: String,
        body: Vec<u8>,
    },
}

impl Message {
    pub(super) fn whole(self) -> Option<Vec<u8>> {
        match self {
            Self::Whole { raw, .. } => Some(raw),
            Self::Cut { .. } => None,
        }
    }
}

/// Reads one request or response. What comes after it stays in the buffer.
pub(super) async fn read_message(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    is_request: bool,
) -> Message {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            if head.starts_with("HTTP/1.1 100 ") {
                buffer.drain(..end + 4);
                continue;
            }
            let start = end + 4;
            if let Some(length) = header(&head, "content-length") {
                let length: usize = length.parse().unwrap();
                if buffer.len() >= start + length {
                    let raw: Vec<u8> = buffer.drain(..start + length).collect();
                    let body = raw[start..].to_vec();
                    return Message::Whole { head, body, raw };
                }
            } else if header(&head, "transfer-encoding").is_some() {
                if let Some((length, body)) = dechunk(&buffer[start..]) {
                    let raw: Vec<u8> = buffer.drain(..start + length).collect();
                    return Message::Whole { head, body, raw };
                }
            } else if is_request || head[9..12] == *"204" {
                let raw: Vec<u8> = buffer.drain(..start).collect();
                return Message::Whole {
                    head,
                    body: Vec::new(),
                    raw,
                };
            }
        }
        let count = stream.read_buf(buffer).await.unwrap_or(0);
        if count == 0 {
            let end = find(buffer, b"\r\n\r\n").unwrap_or(buffer.len());
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let rest = buffer[(end + 4).min(buffer.len())..].to_vec();
            return Message::Cut { head, body: rest };
        }
    }
}

/// The length on the wire and the data, if all chunks are there.
fn dechunk(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        at += line + 2;
        let data = bytes.get(at..at + size)?;
        body.extend_from_slice(data);
        at += size + 2;
        if at > bytes.len() {
            return None;
        }
        if size == 0 {
            return Some((at, body));
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|it| it == wanted)
}
