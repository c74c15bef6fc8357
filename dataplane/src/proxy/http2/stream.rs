//! One request on an HTTP/2 connection: its body on the way out, its answer on the way in.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::StatusCode;
use http_body::Body;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::link::{Broke, Opened, Place, is_shared};
use crate::proxy::{
    inbound::{Cut, Inbound},
    message::{Response, ResponseHead},
    upload::{Progress, Upload},
    upstream::Failed,
};

/// Time for the end of a stream whose answer has come whole: some send it by itself. Whoever
/// resets such streams looks like an attacker.
const ENDING_MAX: Duration = Duration::from_secs(1);

/// An answer's body.
pub(crate) struct Stream {
    /// `None` once all of the answer has come.
    coming: Option<Coming>,
    /// Bytes still to come, if the head told.
    left: Option<u64>,
    /// It broke with its connection.
    is_lost: bool,
}

/// What an endpoint has not sent to its end.
struct Coming {
    body: RecvStream,
    /// What is still being sent; it ends with the answer.
    _upload: Option<AbortOnDropHandle<()>>,
    /// Left last: by then the stream is reset, if it has not ended.
    place: Place,
}

/// Sends what is to be sent on an open stream, until there is the head of an answer.
pub(super) async fn exchange(
    opened: Opened,
    body: Upload,
    progress: &Progress,
    headers_max: usize,
) -> Result<Response<Inbound>, Broke> {
    let Opened {
        mut place,
        mut response,
        is_of_head,
        body: sink,
    } = opened;
    progress.begin(sink.is_none());
    let mut upload = sink.map(|sink| Box::pin(send(sink, body)));
    let response = poll_fn(|cx| {
        if upload
            .as_mut()
            .is_some_and(|it| it.as_mut().poll(cx).is_ready())
        {
            upload = None;
        }
        Pin::new(&mut response).poll(cx)
    });
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return Err(place.link().broke(&error, progress.state())),
    };
    place.answer();
    if response.headers().len() > headers_max {
        return Err(Broke::Failed(Failed::malformed("too many header fields")));
    }
    let (parts, body) = response.into_parts();
    let head = Box::<ResponseHead>::from(parts);
    let mut stream = Stream {
        left: match is_of_head || body.is_end_stream() {
            true => Some(0),
            false => length(&head),
        },
        coming: Some(Coming {
            body,
            // The answer goes its way; the endpoint may still be reading.
            _upload: upload.map(|upload| AbortOnDropHandle::new(tokio::spawn(upload))),
            place,
        }),
        is_lost: false,
    };
    stream.settle();
    Ok(Response {
        head,
        body: Inbound::of_stream(stream),
    })
}

/// How long an answer's body is, if its head tells.
fn length(head: &ResponseHead) -> Option<u64> {
    if matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        return Some(0);
    }
    head.length
}

/// Sends a body as fast as the endpoint takes it. Room on the connection is asked for only
/// for what is at hand: what a slow client has been promised, others could not use.
async fn send(mut sink: SendStream<Bytes>, body: Upload) {
    let mut body = pin!(body);
    loop {
        let mut data = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_fault)) => return sink.send_reset(Reason::CANCEL), // It is remembered.
            None => {
                let _ = sink.send_data(Bytes::new(), true); // The answer tells what is wrong.
                return;
            }
        };
        while !data.is_empty() {
            sink.reserve_capacity(data.len());
            let room = match sink.capacity() {
                0 => match poll_fn(|cx| sink.poll_capacity(cx)).await {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return,
                },
                room => room,
            };
            let piece = data.split_to(room.min(data.len()));
            let is_last = data.is_empty() && body.is_end_stream();
            if sink.send_data(piece, is_last).is_err() || is_last {
                return body.advance();
            }
            body.advance();
        }
    }
}

impl Stream {
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let Some(coming) = &mut self.coming else {
            return Poll::Ready(None);
        };
        Poll::Ready(match ready!(coming.poll_data(cx)) {
            Some(Ok(data)) => {
                self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                self.settle();
                Some(Ok(data))
            }
            Some(Err(error)) => {
                self.is_lost = is_shared(&error);
                Some(Err(Cut(coming.place.link().detail(&error))))
            }
            None => None, // Trailers do not cross a proxy.
        })
    }

    /// Lets the stream end by itself, if all of the answer has come.
    fn settle(&mut self) {
        if self.left == Some(0)
            && let Some(coming) = self.coming.take_if(|it| !it.body.is_end_stream())
        {
            tokio::spawn(timeout(ENDING_MAX, coming.end()));
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        (self.coming.as_ref()).is_none_or(|coming| coming.body.is_end_stream())
    }

    pub(crate) fn left(&self) -> Option<u64> {
        self.left
    }

    /// Whether it broke with its connection, of which another request tells. To ask is to
    /// tell of it.
    pub(crate) fn is_told(&self) -> bool {
        let coming = self.coming.as_ref().filter(|_| self.is_lost);
        coming.is_some_and(|coming| !coming.place.link().blame())
    }
}

impl Coming {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        loop {
            let data = ready!(self.body.poll_data(cx)).transpose()?;
            if let Some(data) = &data {
                if data.is_empty() && !self.body.is_end_stream() {
                    continue;
                }
                // It fails for more than has come, which this is not.
                let _ = self.body.flow_control().release_capacity(data.len());
            }
            return Poll::Ready(data.map(Ok));
        }
    }

    /// Waits for the end of what has nothing more to say.
    async fn end(mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| self.poll_data(cx)).await {}
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}
