//! A request on its way out.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderValue;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::{Broke, head};
use crate::proxy::{
    connector::Wire,
    outgoing::{Call, Length},
    upload::Upload,
};

/// Longest piece of a body that is copied to what goes before it.
const FLAT_BYTES_MAX: usize = 8 << 10;

/// A request, as far as it has not been written.
pub(super) struct Sending {
    /// What goes before the piece: the request's head, or a chunk's size.
    lead: BytesMut,
    /// A piece of the body.
    piece: Bytes,
    /// What goes after it.
    tail: &'static [u8],
    upload: Upload,
    framing: Framing,
    stage: Stage,
}

enum Framing {
    /// So many bytes are still to be taken from the upload.
    Length(u64),
    Chunked,
}

enum Stage {
    /// There is more of the body.
    Body,
    /// There is no more, but not all of it has been written.
    Rest,
    Sent,
}

impl Sending {
    pub(super) fn new(call: &Call<'_>, host: &HeaderValue, upload: Upload) -> Self {
        let length = call.length(&upload);
        let room = match length {
            Length::Told(bytes) => {
                usize::try_from(bytes).map_or(0, |bytes| bytes.min(FLAT_BYTES_MAX))
            }
            Length::Untold | Length::Unknown => 0,
        };
        Self {
            lead: head::write(call, host, length, room),
            piece: Bytes::new(),
            tail: b"",
            upload,
            framing: match length {
                Length::Untold => Framing::Length(0),
                Length::Told(bytes) => Framing::Length(bytes),
                Length::Unknown => Framing::Chunked,
            },
            stage: match length {
                Length::Untold | Length::Told(0) => Stage::Rest,
                Length::Told(_) | Length::Unknown => Stage::Body,
            },
        }
    }

    /// Whether the connection has all of it.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.stage, Stage::Sent)
    }

    /// Writes what there is to be written. Completes with the end of it all.
    pub(super) fn poll(
        &mut self,
        wire: &mut Wire,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broke>> {
        let mut wire = Pin::new(wire);
        loop {
            if self.has_room() {
                self.take(cx)?;
            }
            if !self.has_remaining() {
                // Nothing is held back while more is waited for, nor at the end.
                ready!(wire.as_mut().poll_flush(cx)).map_err(Broke::Io)?;
                return match self.stage {
                    Stage::Body => Poll::Pending,
                    Stage::Rest | Stage::Sent => {
                        self.stage = Stage::Sent;
                        Poll::Ready(Ok(()))
                    }
                };
            }
            let written = if self.piece.is_empty() && self.tail.is_empty() {
                wire.as_mut().poll_write(cx, &self.lead)
            } else {
                let slices = [&*self.lead, &*self.piece, self.tail].map(IoSlice::new);
                wire.as_mut().poll_write_vectored(cx, &slices)
            };
            let written = ready!(written);
            match written.map_err(Broke::Io)? {
                0 => return Poll::Ready(Err(Broke::Io(io::ErrorKind::WriteZero.into()))),
                count => self.advance(count),
            }
        }
    }

    /// Takes the next piece of the body, if there is one.
    fn take(&mut self, cx: &mut Context<'_>) -> Result<(), Broke> {
        let piece = loop {
            match Pin::new(&mut self.upload).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => break Bytes::new(),
                Poll::Ready(Some(Err(_))) => return Err(Broke::Upload), // It says itself why.
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    // An end to a peer, and nobody has promised to wake us up.
                    Ok(piece) if piece.is_empty() => {}
                    Ok(piece) => break piece,
                    Err(_trailers) => {}
                },
            }
        };
        let is_end = piece.is_empty();
        match &mut self.framing {
            Framing::Length(left) => {
                *left = match left.checked_sub(piece.len() as u64) {
                    Some(left) if left == 0 || !is_end => left,
                    Some(_) | None => return Err(Broke::Upload), // Not as long as was said.
                };
                if *left == 0 {
                    self.stage = Stage::Rest;
                }
            }
            Framing::Chunked => {
                let size = format!("{:x}\r\n", piece.len());
                self.lead.extend_from_slice(size.as_bytes());
                self.tail = b"\r\n"; // Of the chunk, or after no trailers.
                if is_end {
                    self.stage = Stage::Rest;
                }
            }
        }
        self.piece = piece;
        self.flatten();
        Ok(())
    }

    /// Puts a small piece to what goes before it: the kernel takes one buffer more quickly.
    fn flatten(&mut self) {
        if self.piece.len() <= FLAT_BYTES_MAX {
            self.lead.extend_from_slice(&self.piece);
            self.lead.extend_from_slice(self.tail);
            self.piece.clear();
            self.tail = b"";
        }
    }

    /// Whether there is more of the body to be taken, and its peer takes what was. What waits
    /// is bounded, however often somebody looks.
    fn has_room(&self) -> bool {
        matches!(self.stage, Stage::Body)
            && self.piece.is_empty()
            && self.tail.is_empty()
            && self.lead.len() <= FLAT_BYTES_MAX
    }

    fn has_remaining(&self) -> bool {
        !(self.lead.is_empty() && self.piece.is_empty() && self.tail.is_empty())
    }

    fn advance(&mut self, mut count: usize) {
        let lead = count.min(self.lead.len());
        self.lead.advance(lead);
        count -= lead;
        let piece = count.min(self.piece.len());
        self.piece.advance(piece);
        count -= piece;
        self.tail = &self.tail[count..];
    }
}
