//! Just enough HTTP/1.1 to read what a proxy or a check sends.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// The head's bytes, the empty line included.
    pub head: Bytes,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header names, in lower case, and values in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Bytes,
    code: Option<String>,
}

impl Request {
    /// Returns the first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(present, _)| present == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether it is one of the control plane's checks.
    pub fn is_check(&self) -> bool {
        self.code.is_some() || self.target.starts_with("/check")
    }

    /// Returns the verification code that a check asks for.
    pub(super) fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Reads the next request. `None` if the peer has closed, or sends nonsense.
    pub(crate) async fn read(
        from: &mut (impl AsyncRead + Unpin),
        buffer: &mut BytesMut,
    ) -> Option<Self> {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            fill(from, buffer).await?;
        };
        let head = buffer.split_to(end).freeze();
        let text = std::str::from_utf8(&head).ok()?;
        let mut lines = text.split("\r\n");
        let mut start = lines.next()?.split(' ');
        let (method, target) = (start.next()?.to_owned(), start.next()?.to_owned());
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Self {
            head,
            method,
            target,
            headers,
            body: Bytes::new(),
            code: None,
        };
        request.body = if request.header("transfer-encoding").is_some() {
            chunks(from, buffer).await?
        } else {
            let length = request
                .header("content-length")
                .unwrap_or("0")
                .parse()
                .ok()?;
            exactly(from, buffer, length).await?
        };
        request.code = code(&request.body);
        Some(request)
    }
}

async fn fill(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<()> {
    match from.read_buf(buffer).await {
        Ok(1..) => Some(()),
        Ok(_) | Err(_) => None,
    }
}

async fn exactly(
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    length: usize,
) -> Option<Bytes> {
    while buffer.len() < length {
        fill(from, buffer).await?;
    }
    Some(buffer.split_to(length).freeze())
}

async fn chunks(from: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<Bytes> {
    let mut body = BytesMut::new();
    loop {
        let line = loop {
            if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
                break buffer.split_to(at + 2);
            }
            fill(from, buffer).await?;
        };
        let length = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
        body.extend_from_slice(&exactly(from, buffer, length).await?);
        exactly(from, buffer, 2).await?;
        if length == 0 {
            return Some(body.freeze());
        }
    }
}

/// The most that a check says. Clients that say more may use any words.
const CHECK_MAX: usize = 200;

/// Finds the 6-character code in the last message of a conversation, if it is short.
/// Clients in these tests never send such a message with one.
fn code(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let message = body.get("messages")?.as_array()?.last()?.get("content")?;
    let text = match message.as_str() {
        Some(text) => text,
        None => message.as_array()?.first()?.get("text")?.as_str()?,
    };
    if text.len() > CHECK_MAX {
        return None;
    }
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
        .find(|word| {
            word.len() == 6
                && word
                    .chars()
                    .all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit())
        })
        .map(str::to_owned)
}
