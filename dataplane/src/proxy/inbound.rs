//! A body that comes in, from a client or from an endpoint.
//!
//! hyper takes an HTTP/2 stream that was reset with `NO_ERROR` for one that has ended,
//! as that is how a server says that it has heard enough. A proxy must not: half a
//! request would go out as a whole one, and half an answer would look like a proper end.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;

use super::{
    http1::{Answer, RequestBody},
    http2::Stream,
    upstream::describe,
};

/// Pieces of data, then an end that is one. Trailers do not cross a proxy.
#[derive(Debug)]
pub(super) struct Inbound(Source);

#[derive(Debug)]
enum Source {
    /// From a client, over HTTP/1.1.
    Request(RequestBody),
    /// From a client, over HTTP/2.
    Hyper(Message),
    /// From an endpoint, over HTTP/1.1.
    Answer(Answer),
    /// From an endpoint, over HTTP/2.
    Stream(Box<Stream>),
}

/// What hyper reads.
#[derive(Debug)]
struct Message {
    body: Incoming,
    has_ended: bool,
}

/// Why a body did not end as it should.
#[derive(Debug)]
pub(super) struct Cut(pub(super) String);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Inbound {
    /// A client's request, over HTTP/1.1.
    pub(super) fn of_client(body: RequestBody) -> Self {
        Self(Source::Request(body))
    }

    /// A client's request, over HTTP/2.
    pub(super) fn of_shared_client(body: Incoming) -> Self {
        Self(Source::Hyper(Message {
            body,
            has_ended: false,
        }))
    }

    /// An endpoint's answer, over HTTP/1.1.
    pub(super) fn of_endpoint(answer: Answer) -> Self {
        Self(Source::Answer(answer))
    }

    /// An endpoint's answer, over HTTP/2.
    pub(super) fn of_stream(stream: Stream) -> Self {
        Self(Source::Stream(Box::new(stream)))
    }

    /// Takes all of it, if that is there.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Source::Request(body) => body.take_whole(),
            Source::Hyper(_) | Source::Answer(_) | Source::Stream(_) => None,
        }
    }

    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match &mut self.0 {
            Source::Request(body) => body.poll_data(cx),
            Source::Hyper(message) => message.poll_data(cx),
            Source::Answer(answer) => answer.poll_data(cx),
            Source::Stream(stream) => stream.poll_data(cx),
        }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn data(&mut self) -> Option<Result<Bytes, Cut>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Whether it is known that nothing more comes.
    pub(super) fn is_end(&self) -> bool {
        match &self.0 {
            Source::Request(body) => body.is_end(),
            Source::Hyper(message) => message.is_end(),
            Source::Answer(answer) => answer.is_end(),
            Source::Stream(stream) => stream.is_end(),
        }
    }

    /// Bytes still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.0 {
            Source::Request(body) => body.left(),
            Source::Hyper(message) => message.body.size_hint().exact(),
            Source::Answer(answer) => answer.left(),
            Source::Stream(stream) => stream.left(),
        }
    }

    /// Whether it was cut with a connection of which another request tells already.
    pub(super) fn is_told(&self) -> bool {
        match &self.0 {
            Source::Request(_) | Source::Hyper(_) | Source::Answer(_) => false,
            Source::Stream(stream) => stream.is_told(),
        }
    }
}

impl Message {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => Some(Err(Cut(describe(&error)))),
                None if !self.body.is_end_stream() => {
                    Some(Err(Cut("the stream was reset".to_owned())))
                }
                None => {
                    self.has_ended = true;
                    None
                }
            });
        }
    }

    fn is_end(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }
}
