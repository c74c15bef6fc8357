//! A client's connection.

use std::{os::fd::OwnedFd, time::Instant};

use super::Pipe;
use crate::forwarding::wire;

/// One client, one request at a time.
pub(super) struct Client {
    pub(super) pipe: Pipe,
    /// When its request should have been sent.
    pub(super) start: Instant,
    /// Whether it sends the next request as soon as it has its answer.
    pub(super) goes_on: bool,
    request: Vec<u8>,
    is_waiting: bool,
    /// The answer's head so far; and the end of what came after it.
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is there.
    rest: Option<usize>,
}

/// What has come with one read.
pub(super) struct Got {
    /// Answers, or events.
    pub(super) count: u64,
    /// Whether the answer is whole.
    pub(super) is_end: bool,
}

impl Client {
    pub(super) fn new(pipe: Pipe, request: Vec<u8>) -> Self {
        Self {
            pipe,
            start: Instant::now(),
            goes_on: false,
            request,
            is_waiting: false,
            head: Vec::new(),
            tail: Vec::new(),
            rest: None,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    pub(super) fn send(&mut self, epoll: &OwnedFd, start: Instant) {
        self.start = start;
        self.is_waiting = true;
        self.pipe.send(epoll, &self.request);
    }

    /// Takes bytes of an answer whose head names its length.
    pub(super) fn take_whole(&mut self, bytes: &[u8]) -> Got {
        let rest = match self.rest {
            Some(rest) => rest.saturating_sub(bytes.len()),
            None => {
                self.head.extend_from_slice(bytes);
                let Some(head) = wire::head(&self.head) else {
                    return Got::nothing();
                };
                self.expect_success();
                let length = wire::content_length(&self.head[..head]);
                let length = length.expect("the proxy tells the answer's length");
                (head + length).saturating_sub(self.head.len())
            }
        };
        self.rest = Some(rest);
        if rest > 0 {
            return Got::nothing();
        }
        self.end();
        Got {
            count: 1,
            is_end: true,
        }
    }

    /// Takes bytes of a stream of events.
    pub(super) fn take_events(&mut self, bytes: &[u8]) -> Got {
        let mut bytes = bytes;
        if self.rest.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(head) = wire::head(&self.head) else {
                return Got::nothing();
            };
            self.expect_success();
            self.rest = Some(0);
            bytes = &bytes[head - before..];
        }
        let marks = bytes.iter().filter(|byte| **byte == wire::EVENT_MARK);
        let count = marks.count() as u64;
        self.tail.extend_from_slice(bytes);
        let is_end = self.tail.ends_with(wire::LAST_CHUNK);
        let kept = self.tail.len().min(wire::LAST_CHUNK.len());
        self.tail.drain(..self.tail.len() - kept);
        if is_end {
            self.end();
        }
        Got { count, is_end }
    }

    fn end(&mut self) {
        self.head.clear();
        self.tail.clear();
        self.rest = None;
        self.is_waiting = false;
    }

    fn expect_success(&self) {
        let is_success = self.head.starts_with(b"HTTP/1.1 200 ");
        assert!(is_success, "{}", String::from_utf8_lossy(&self.head));
    }
}

impl Got {
    fn nothing() -> Self {
        Self {
            count: 0,
            is_end: false,
        }
    }
}
