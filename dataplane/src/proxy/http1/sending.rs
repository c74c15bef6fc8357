//! A request on its way out.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderValue;
use http_body::Body as _;

use super::{
    Broke, head,
    writer::{FLAT_BYTES_MAX, Writer},
};
use crate::proxy::{
    connector::Wire,
    outgoing::{Call, Length},
    upload::Upload,
};

/// A request, as far as it has not been written.
pub(super) struct Sending {
    writer: Writer,
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
            Length::Told(bytes) if bytes <= FLAT_BYTES_MAX as u64 => bytes as usize,
            Length::Untold | Length::Told(_) | Length::Unknown => 0,
        };
        Self {
            writer: Writer::new(head::write(call, host, length, room)),
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
        loop {
            if matches!(self.stage, Stage::Body) && self.writer.has_room() {
                self.take(cx)?;
            }
            let was_empty = self.writer.is_empty();
            ready!(self.writer.poll_write(Pin::new(wire), cx)).map_err(Broke::Io)?;
            match self.stage {
                Stage::Body if was_empty => return Poll::Pending,
                Stage::Body => {}
                Stage::Rest | Stage::Sent => {
                    self.stage = Stage::Sent;
                    return Poll::Ready(Ok(()));
                }
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
            Framing::Chunked if is_end => {
                self.writer.end_chunks();
                self.stage = Stage::Rest;
                return Ok(());
            }
            Framing::Chunked => {
                self.writer.put_chunk(piece);
                return Ok(());
            }
        }
        self.writer.put(piece);
        Ok(())
    }
}
