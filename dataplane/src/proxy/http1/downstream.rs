//! HTTP/1.1 towards a client.
//!
//! - [`head`]: a request's head. [`answer`]: an answer's, and what it says of its body.
//! - [`body`]: a request's body, as it comes.
//!
//! One task serves a connection: it reads a request, asks for its answer, and writes that,
//! and meanwhile reads no more than is wanted of the body, and whether the client is still
//! there. A request in one piece, and its answer in another, cost one read and one write, and
//! nobody is woken in between. Without a request a connection has no buffers.
//!
//! What two readers could read in two ways is refused, and nothing is read after it
//! ([`head::read`], `rules`). An answer that breaks off ends the connection without its end.

mod answer;
mod body;
mod head;
#[cfg(any(test, feature = "fuzzing"))]
mod reading;
#[cfg(test)]
pub(super) mod tests;

use std::{
    fmt,
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Method, Version};
use http_body::Body as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};
use tokio_util::io::poll_read_buf;

pub(in crate::proxy) use self::body::RequestBody;
#[cfg(feature = "fuzzing")]
pub(crate) use self::reading::read;
use self::{
    answer::{Asked, Framing},
    body::{Feeder, Wish},
    head::{Head, Length, Refused},
};
use super::{Limits, decoder::Decoder, spare, writer::Writer};
use crate::proxy::{
    inbound::{Cut, Inbound},
    message::Response,
    presence::{Presence, Turn},
    relay::Body,
    service::Service,
    stall::{Impatient, Reset},
};

/// Bytes that are read at a time: as many at first, and more where as many came.
const READ_BYTES_MIN: usize = 8 << 10;
const READ_BYTES_MAX: usize = 64 << 10;

/// Longest body that is read in one piece with its head, if it is there.
const WHOLE_BYTES_MAX: u64 = 64 << 10;

/// Bytes of a body that nobody wants, if they are there, so that the connection goes on.
const SKIMMED_BYTES_MAX: usize = 256 << 10;

/// Time for a client to hear an answer, and to stop sending what it answers: a connection that
/// is closed on unread bytes is reset, and may take the answer with it.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection ends in the midst of something.
#[derive(Debug)]
pub(in crate::proxy) enum Ended {
    /// Its client has closed it.
    Closed,
    Io(io::Error),
    /// An answer broke off.
    Broken,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the client"),
            Self::Io(error) => error.fmt(f),
            Self::Broken => f.write_str("an answer broke off"),
        }
    }
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves requests for as long as client and proxy wish.
pub(in crate::proxy) async fn serve<S>(
    io: &mut Impatient<S>,
    presence: &Arc<Presence>,
    service: &Service,
) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let mut connection = Connection::new(io);
    loop {
        let head = poll_fn(|cx| connection.poll_head(presence, service, cx)).await?;
        let Some(head) = head else {
            return connection.close(false).await;
        };
        let turn = presence.begin();
        let (response, asked, keeps_alive) = match head {
            Ok(head) => connection.ask(head, turn, service).await?,
            Err(refused) => {
                connection.is_lost = true;
                let response = service.refuse_unread(&refused.path, refused.refusal, turn);
                (response, Asked::ANYTHING, false)
            }
        };
        let may_go_on = keeps_alive && !presence.is_ending();
        if !connection.answer(response, asked, may_go_on).await? {
            return connection.close(keeps_alive).await;
        }
    }
}

/// A client's connection.
struct Connection<'a, S> {
    io: &'a mut Impatient<S>,
    /// What has been read, and is nobody's yet.
    buffer: BytesMut,
    /// Of these, how many have been searched for a head's end.
    seen: usize,
    read_bytes: usize,
    /// Bytes that have come since it was idle.
    came: usize,
    writer: Writer,
    /// The body that has not come whole.
    upload: Option<Upload>,
    /// It is not known what comes next: nothing more is read.
    is_lost: bool,
}

/// A request's body on its way in.
struct Upload {
    decoder: Decoder,
    feeder: Feeder,
    /// Its client waits to be told that the body is wanted.
    waits: bool,
}

/// What came of looking after a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// Its reader has something to look at.
    Yes,
    /// There is nothing to do until somebody is woken.
    NotYet,
    /// There is none, or nobody wants more of it.
    Over,
}

impl<'a, S: AsyncRead + AsyncWrite + Reset + Unpin> Connection<'a, S> {
    fn new(io: &'a mut Impatient<S>) -> Self {
        Self {
            buffer: io.take_ahead(),
            io,
            seen: 0,
            read_bytes: READ_BYTES_MIN,
            came: 0,
            writer: Writer::default(),
            upload: None,
            is_lost: false,
        }
    }

    /// Waits for the next request. `None`: none will come.
    fn poll_head(
        &mut self,
        presence: &Presence,
        service: &Service,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Result<Head, Refused>>>> {
        loop {
            if !self.buffer.is_empty() {
                let settings = service.settings.load();
                let limits = Limits {
                    fields_max: settings.headers_max,
                    head_bytes_max: settings.head_max_bytes,
                };
                let head = head::read(&mut self.buffer, &mut self.seen, limits);
                presence.set_in_head(matches!(head, Ok(None)) && !self.buffer.is_empty());
                if let Some(head) = head.transpose() {
                    return Poll::Ready(Ok(Some(head)));
                }
            }
            match self.poll_fill(self.read_bytes, cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(None)),
                Poll::Ready(_) => {}
                Poll::Pending if presence.is_ending() => return Poll::Ready(Ok(None)),
                Poll::Pending => {
                    if self.buffer.is_empty() {
                        spare::give(mem::take(&mut self.buffer)); // Who is idle keeps none.
                        // Nothing has come where it was only asked again.
                        let came = mem::take(&mut self.came);
                        if came > 0 && came < self.read_bytes / 4 {
                            self.read_bytes = READ_BYTES_MIN;
                        }
                        self.writer.rest();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Asks for the answer to a request. Returns also what it answers, and whether its client
    /// wishes to send another one.
    async fn ask(
        &mut self,
        head: Head,
        turn: Turn,
        service: &Service,
    ) -> Result<(Response<Body>, Asked, bool), Ended> {
        let asked = Asked {
            is_of_head: head.parts.method == Method::HEAD,
            is_http10: head.parts.version == Version::HTTP_10,
        };
        let body = poll_fn(|cx| Poll::Ready(self.take_body(head.length, head.waits, cx))).await?;
        let body = Inbound::of_client(body);
        // On its own: what has room for it here, every idle connection would have.
        let mut answering = Box::pin(service.call(head.parts, body, turn));
        let response = poll_fn(|cx| self.poll_answering(answering.as_mut(), cx)).await?;
        Ok((response, asked, head.keeps_alive))
    }

    /// Takes a request's body, if all of it is there; else it is read as it is wanted.
    fn take_body(
        &mut self,
        length: Length,
        waits: bool,
        cx: &mut Context<'_>,
    ) -> io::Result<RequestBody> {
        let (decoder, length) = match length {
            Length::Chunked => (Decoder::chunked(), None),
            Length::Bytes(length) => {
                if length <= WHOLE_BYTES_MAX
                    && let Some(body) = self.take_whole(length as usize, waits, cx)?
                {
                    return Ok(RequestBody::whole(body));
                }
                (Decoder::length(length), Some(length))
            }
        };
        let (body, feeder) = RequestBody::coming(length);
        self.upload = Some(Upload {
            decoder,
            feeder,
            waits: waits && self.buffer.is_empty(),
        });
        Ok(body)
    }

    fn take_whole(
        &mut self,
        length: usize,
        waits: bool,
        cx: &mut Context<'_>,
    ) -> io::Result<Option<Bytes>> {
        while self.buffer.len() < length {
            let missing = length - self.buffer.len();
            let is_there = !waits && matches!(self.poll_fill(missing, cx)?, Poll::Ready(1..));
            if !is_there {
                return Ok(None);
            }
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Waits for an answer, and reads what is wanted for it.
    fn poll_answering(
        &mut self,
        mut answering: Pin<&mut impl Future<Output = Response<Body>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, Ended>> {
        loop {
            if let Poll::Ready(response) = answering.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            match self.feed(true, cx)? {
                Fed::Yes => {}
                Fed::NotYet => break,
                Fed::Over => {
                    self.look_for_end(cx)?;
                    break;
                }
            }
        }
        // That somebody may continue.
        if !self.writer.is_empty()
            && let Poll::Ready(written) = self.writer.poll_write(Pin::new(&mut *self.io), cx)
        {
            written?;
        }
        Poll::Pending
    }

    /// Writes an answer. Returns whether another request may come.
    async fn answer(
        &mut self,
        response: Response<Body>,
        asked: Asked,
        mut goes_on: bool,
    ) -> Result<bool, Ended> {
        let Response { head, mut body } = response;
        goes_on &= !head.closes;
        goes_on &= poll_fn(|cx| Poll::Ready(self.skim(cx))).await?;
        let length = body.size_hint().exact();
        let out = self.writer.lead();
        let mut framing = answer::write(out, &head, length, asked, &mut goes_on);
        drop(head);
        poll_fn(|cx| self.poll_answer(&mut body, &mut framing, cx)).await?;
        drop(body);
        // Where a body is passed through, an endpoint may still be reading it.
        poll_fn(|cx| self.poll_upload(cx)).await?;
        Ok(goes_on && self.upload.is_none() && !self.is_lost)
    }

    /// Writes an answer's body until its end.
    fn poll_answer(
        &mut self,
        body: &mut Body,
        framing: &mut Framing,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        let mut body = Pin::new(body);
        loop {
            let mut waits = false;
            while framing.is_open() && !waits && self.writer.has_room() {
                if body.is_end_stream() {
                    framing.end(&mut self.writer);
                    break;
                }
                match body.as_mut().poll_frame(cx) {
                    Poll::Pending => waits = true,
                    Poll::Ready(Some(Ok(frame))) => {
                        framing.put(frame.into_data().unwrap_or_default(), &mut self.writer);
                    }
                    Poll::Ready(None) => framing.end(&mut self.writer),
                    Poll::Ready(Some(Err(_))) => {
                        if *framing == Framing::UntilClosed {
                            self.io.reset(); // Its end would be the body's.
                        }
                        *framing = Framing::Broken;
                    }
                }
            }
            match self.writer.poll_write(Pin::new(&mut *self.io), cx)? {
                Poll::Pending => break,
                Poll::Ready(()) => match framing {
                    Framing::Ended => return Poll::Ready(Ok(())),
                    Framing::Broken => return Poll::Ready(Err(Ended::Broken)),
                    _ if waits => break,
                    _ => {}
                },
            }
        }
        while self.feed(false, cx)? == Fed::Yes {}
        self.look_for_end(cx)?;
        Poll::Pending
    }

    /// Reads what somebody else is still reading of a request that has been answered.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        loop {
            match self.feed(false, cx)? {
                Fed::Yes => {}
                Fed::NotYet => return Poll::Pending,
                Fed::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads of the request's body what is wanted. `is_reader`: this task looks at once at what
    /// it gets, and nothing of an answer has been written.
    fn feed(&mut self, is_reader: bool, cx: &mut Context<'_>) -> Result<Fed, Ended> {
        let Some(mut upload) = self.upload.take() else {
            return Ok(Fed::Over);
        };
        let piece = match upload.feeder.wish(cx) {
            Wish::Nothing => Poll::Pending,
            Wish::Gone => {
                self.upload = Some(upload);
                return Ok(Fed::Over);
            }
            Wish::More => {
                if mem::take(&mut upload.waits) && is_reader {
                    let lead = self.writer.lead();
                    lead.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    // It is written before somebody waits for what it asks for.
                }
                self.poll_piece(&mut upload.decoder, cx)?
            }
        };
        let Poll::Ready(piece) = piece else {
            self.upload = Some(upload);
            return Ok(Fed::NotYet);
        };
        let is_last = upload.decoder.is_end() || !matches!(piece, Some(Ok(_)));
        let unless = is_reader.then(|| cx.waker());
        upload.feeder.put(piece, is_last, unless);
        if !is_last {
            self.upload = Some(upload);
        }
        Ok(Fed::Yes)
    }

    /// Reads the next piece of a body; `None`: its end. What is none, or breaks off, is an error
    /// for its reader, and the last thing to be read.
    fn poll_piece(
        &mut self,
        decoder: &mut Decoder,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Result<Bytes, Cut>>>> {
        loop {
            match decoder.decode(&mut self.buffer) {
                Ok(Some(data)) => return Poll::Ready(Ok(Some(Ok(data)))),
                Ok(None) if decoder.is_end() => return Poll::Ready(Ok(None)),
                Ok(None) => {}
                Err(malformed) => {
                    self.is_lost = true;
                    return Poll::Ready(Ok(Some(Err(Cut(malformed.to_string())))));
                }
            }
            let left = decoder.left().and_then(|left| usize::try_from(left).ok());
            let left = left.unwrap_or(usize::MAX);
            if ready!(self.poll_fill(left.clamp(READ_BYTES_MIN, self.read_bytes), cx))? == 0 {
                self.is_lost = true;
                let cut = Cut("the client has closed its connection".to_owned());
                return Poll::Ready(Ok(Some(Err(cut))));
            }
        }
    }

    /// Drops the rest of a body that nobody wants, where that is little. Returns whether it is
    /// known where the next request begins, or will be.
    fn skim(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(mut upload) = self.upload.take() else {
            return Ok(!self.is_lost);
        };
        let mut skimmed = 0;
        if upload.feeder.wish(cx) == Wish::Gone && !upload.waits {
            while let Poll::Ready(Some(Ok(piece))) = self.poll_piece(&mut upload.decoder, cx)? {
                skimmed += piece.len();
                if upload.decoder.is_end() || skimmed > SKIMMED_BYTES_MAX {
                    break;
                }
            }
        }
        let is_gone = upload.feeder.wish(cx) == Wish::Gone;
        let is_over = is_gone && upload.decoder.is_end();
        // Who was not told to continue may go on with the body, or without it.
        let is_coming = !is_gone && !upload.waits;
        if !is_over {
            self.upload = Some(upload);
        }
        Ok(!self.is_lost && (is_over || is_coming))
    }

    /// Looks whether the client has closed the connection.
    fn look_for_end(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        if self.is_lost || self.upload.is_some() || !self.buffer.is_empty() {
            return Ok(());
        }
        let mut room = [const { MaybeUninit::uninit() }; 64];
        let mut read = ReadBuf::uninit(&mut room);
        match Pin::new(&mut *self.io).poll_read(cx, &mut read)? {
            Poll::Ready(()) if read.filled().is_empty() => Err(Ended::Closed),
            Poll::Ready(()) => {
                self.buffer.extend_from_slice(read.filled()); // It asks for more already.
                Ok(())
            }
            Poll::Pending => Ok(()),
        }
    }

    fn poll_fill(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            self.buffer = spare::take(bytes);
        }
        self.buffer.reserve(bytes);
        let room = self.buffer.capacity() - self.buffer.len();
        let count = ready!(poll_read_buf(Pin::new(&mut *self.io), cx, &mut self.buffer))?;
        self.came += count;
        if count == room {
            self.read_bytes = (2 * room).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Ends a connection whose answers have been written. `is_surprise`: its client may have
    /// sent another request before it could read that the connection ends.
    async fn close(mut self, is_surprise: bool) -> Result<(), Ended> {
        let has_more = self.is_lost || self.upload.is_some() || !self.buffer.is_empty();
        let ending = async {
            self.io.shutdown().await?;
            let unread = async |it: &mut Self| {
                it.buffer.clear();
                poll_fn(|cx| it.poll_fill(READ_BYTES_MIN, cx)).await
            };
            while (has_more || is_surprise) && matches!(unread(&mut self).await, Ok(1..)) {}
            Ok(())
        };
        timeout(LINGER, ending).await.unwrap_or(Ok(()))
    }
}
