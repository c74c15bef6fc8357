//! What goes out on a connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::spare;

/// Longest piece of a body that is copied to what goes before it.
pub(super) const FLAT_BYTES_MAX: usize = 8 << 10;

/// What has not been written yet. It is bounded: a body's next piece is put where there is
/// room ([`Writer::has_room`]).
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// What goes before the piece: a head, or a chunk's size.
    lead: BytesMut,
    /// A piece of a body.
    piece: Bytes,
    /// What goes after it.
    tail: &'static [u8],
}

impl Writer {
    /// Begins with a head.
    pub(super) fn new(lead: BytesMut) -> Self {
        Self {
            lead,
            piece: Bytes::new(),
            tail: b"",
        }
    }

    /// Where a head goes. There is no piece that it would come before.
    pub(super) fn lead(&mut self) -> &mut BytesMut {
        if self.lead.capacity() == 0 {
            self.lead = spare::take(spare::BYTES_MIN);
        }
        &mut self.lead
    }

    /// Gives up its buffer. Nothing is in it.
    pub(super) fn rest(&mut self) {
        spare::give(std::mem::take(&mut self.lead));
    }

    /// Whether a piece of a body can be put: its peer takes what was. What waits is bounded,
    /// however often somebody looks.
    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.tail.is_empty() && self.lead.len() <= FLAT_BYTES_MAX
    }

    /// Puts a piece of a body that has a length, where there is room.
    pub(super) fn put(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty());
        self.piece = piece;
        self.flatten();
    }

    /// Puts a piece of a chunked body, which is not empty.
    pub(super) fn put_chunk(&mut self, piece: Bytes) {
        put_hexadecimal(&mut self.lead, piece.len());
        self.lead.extend_from_slice(b"\r\n");
        self.tail = b"\r\n";
        self.put(piece);
    }

    /// Puts the end of a chunked body, where there is room: it comes before any piece.
    pub(super) fn end_chunks(&mut self) {
        debug_assert!(self.has_room());
        self.lead.extend_from_slice(b"0\r\n\r\n");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lead.is_empty() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Writes all that there is, and holds nothing back.
    pub(super) fn poll_write(
        &mut self,
        mut io: Pin<&mut (impl AsyncWrite + ?Sized)>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = if self.piece.is_empty() && self.tail.is_empty() {
                io.as_mut().poll_write(cx, &self.lead)
            } else {
                let slices = [&*self.lead, &*self.piece, self.tail].map(IoSlice::new);
                io.as_mut().poll_write_vectored(cx, &slices)
            };
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.advance(count),
            }
        }
        io.poll_flush(cx)
    }

    /// Puts a small piece to what goes before it: the kernel takes one buffer more quickly.
    fn flatten(&mut self) {
        if self.piece.len() <= FLAT_BYTES_MAX {
            self.lead.extend_from_slice(&self.piece);
            self.lead.extend_from_slice(self.tail);
            self.piece = Bytes::new(); // Its buffer can be used again.
            self.tail = b"";
        }
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

impl Drop for Writer {
    fn drop(&mut self) {
        self.rest();
    }
}

fn put_hexadecimal(out: &mut BytesMut, number: usize) {
    let digits = number.checked_ilog2().unwrap_or(0) / 4;
    for place in (0..=digits).rev() {
        let digit = (number >> (4 * place)) & 0xf;
        out.extend_from_slice(&[b"0123456789abcdef"[digit]]);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(writer: &mut Writer, at_a_time: usize) -> String {
        let mut io = Slow(Vec::new(), at_a_time);
        let mut cx = Context::from_waker(Waker::noop());
        let done = writer.poll_write(Pin::new(&mut io), &mut cx);
        assert!(matches!(done, Poll::Ready(Ok(()))));
        String::from_utf8(io.0).unwrap()
    }

    #[test]
    fn what_was_put_is_written_in_its_order_whatever_is_taken_at_a_time() {
        for length in [1, FLAT_BYTES_MAX, FLAT_BYTES_MAX + 1] {
            for at_a_time in [1, 7, 100_000] {
                let mut writer = Writer::new(BytesMut::from("head\r\n\r\n"));
                let piece = "x".repeat(length);
                writer.put_chunk(piece.clone().into());
                let first = written(&mut writer, at_a_time);
                assert_eq!(first, format!("head\r\n\r\n{length:x}\r\n{piece}\r\n"));
                writer.put(piece.clone().into());
                assert_eq!(written(&mut writer, at_a_time), piece);
                writer.end_chunks();
                assert_eq!(written(&mut writer, at_a_time), "0\r\n\r\n");
            }
        }
    }

    #[test]
    fn there_is_room_until_something_waits() {
        let mut writer = Writer::default();
        let small = Bytes::from(vec![b'x'; 1000]);
        let put = std::iter::from_fn(|| writer.has_room().then(|| writer.put(small.clone())));
        assert_eq!(put.count(), 9);
        assert!(writer.lead.len() <= FLAT_BYTES_MAX + 1000);
        let mut writer = Writer::default();
        writer.put(vec![b'x'; FLAT_BYTES_MAX + 1].into());
        assert!(!writer.has_room());
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_they_are(number in any::<usize>()) {
            let mut out = BytesMut::new();
            put_hexadecimal(&mut out, number);
            prop_assert_eq!(out, format!("{number:x}"));
        }
    }
}
