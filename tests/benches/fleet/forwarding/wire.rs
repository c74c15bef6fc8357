//! The bytes that are sent, and the little that has to be read of those that come.

use std::net::SocketAddr;

use super::Exchange;

/// Occurs once in every event and nowhere else, so that events can be counted.
pub(super) const EVENT_MARK: u8 = b'~';

/// Ends a stream of events.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What a request's target begins with; the client's number follows.
const TARGET: &[u8] = b"POST /v1/messages?c=";

/// Makes the request that a client sends. A stream of events is asked for shortly.
pub(super) fn request(proxy: SocketAddr, client: usize, exchange: Exchange) -> Vec<u8> {
    let length = match exchange {
        Exchange::Whole { request, .. } => request,
        Exchange::Events { .. } => 256,
    };
    let head = format!(
        "{client} HTTP/1.1\r\nhost: {proxy}\r\nx-api-key: of-the-client\r\n\
         anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n\
         accept: application/json\r\nuser-agent: bench/1.0\r\ncontent-length: {length}\r\n\r\n"
    );
    [TARGET, head.as_bytes(), &vec![b' '; length]].concat()
}

/// Makes an answer; of a stream of events only its head.
pub(super) fn answer(exchange: Exchange) -> Vec<u8> {
    let (framing, content, length) = match exchange {
        Exchange::Whole { answer, .. } => (
            format!("content-length: {answer}"),
            "application/json",
            answer,
        ),
        Exchange::Events { .. } => ("transfer-encoding: chunked".into(), "text/event-stream", 0),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content}\r\n{framing}\r\n\
         request-id: req_0123456789\r\ndate: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n"
    );
    [head.into_bytes(), vec![b' '; length]].concat()
}

/// Makes a chunk with an event of the shape that most events of a conversation have.
pub(super) fn event(bytes: usize) -> Vec<u8> {
    let (start, end) = (
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"text\":\"",
        "~\"}\n\n",
    );
    let padding = "x".repeat(bytes.saturating_sub(start.len() + end.len()));
    let event = [start, &padding, end].concat();
    format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()
}

/// Returns the length of a head, the empty line included, once it is whole.
pub(super) fn head(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    Some(end + 4)
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

/// Returns the number of the client that sent a request.
pub(super) fn client(head: &[u8]) -> usize {
    let rest = head.strip_prefix(TARGET).unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
