//! Where a body ends (RFC 9112, sections 6 and 7).

use bytes::{Buf, Bytes, BytesMut};

use super::Malformed;

/// Bytes of one chunk's extensions, blanks and leading zeros, and of all trailers. Nobody reads
/// any of them.
const EXTENSIONS_BYTES_MAX: u64 = 16 << 10;
const TRAILERS_BYTES_MAX: u64 = 16 << 10;

/// Takes a body out of the bytes that it comes in.
#[derive(Debug)]
pub(super) struct Decoder(Kind);

#[derive(Debug)]
enum Kind {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
    /// It ends with its connection.
    UntilClosed,
    /// It has.
    Closed,
}

#[derive(Debug)]
struct Chunked {
    at: At,
    /// Bytes so far of what nobody reads.
    dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a chunk's size, of which so much is known.
    Size(Option<u64>),
    /// Between its digits and the line's end: blanks, which some servers write.
    Blank(u64),
    Extension(u64),
    SizeLf(u64),
    /// So many bytes before the chunk's end.
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer, or of the empty line that is the end.
    TrailerStart,
    TrailerName,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Decoder {
    pub(super) fn length(bytes: u64) -> Self {
        Self(Kind::Length(bytes))
    }

    pub(super) fn chunked() -> Self {
        Self(Kind::Chunked(Chunked {
            at: At::Size(None),
            dropped: 0,
        }))
    }

    pub(super) fn until_closed() -> Self {
        Self(Kind::UntilClosed)
    }

    /// Takes what there is of the body off the buffer. `None`: nothing, and it takes more
    /// bytes to go on, unless this is the end.
    ///
    /// Chunks that have come together are put together: the fewer pieces there are, the less
    /// passing them on costs.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let data = match &mut self.0 {
            Kind::Length(left) => {
                let length = usize::try_from(*left).map_or(buffer.len(), |it| it.min(buffer.len()));
                *left -= length as u64;
                buffer.split_to(length)
            }
            Kind::Chunked(chunked) => chunked.decode(buffer)?,
            Kind::UntilClosed => buffer.split(),
            Kind::Closed => return Ok(None),
        };
        Ok((!data.is_empty()).then(|| data.freeze()))
    }

    /// Takes note that the connection has ended, and returns whether the body has.
    pub(super) fn close(&mut self) -> bool {
        if matches!(self.0, Kind::UntilClosed) {
            self.0 = Kind::Closed;
        }
        self.is_end()
    }

    pub(super) fn is_end(&self) -> bool {
        match &self.0 {
            Kind::Length(left) => *left == 0,
            Kind::Chunked(chunked) => chunked.at == At::End,
            Kind::UntilClosed => false,
            Kind::Closed => true,
        }
    }

    /// Bytes still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match &self.0 {
            Kind::Length(left) => Some(*left),
            Kind::Chunked(_) | Kind::UntilClosed => self.is_end().then_some(0),
            Kind::Closed => Some(0),
        }
    }

    /// Whether its end says nothing of its connection's.
    pub(super) fn is_framed(&self) -> bool {
        match &self.0 {
            Kind::Length(_) | Kind::Chunked(_) => true,
            Kind::UntilClosed | Kind::Closed => false,
        }
    }
}

impl Chunked {
    /// Moves the data of all chunks that are there to where the first one is.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<BytesMut, Malformed> {
        let (mut read, mut start, mut end) = (0, 0, 0);
        while read < buffer.len() && self.at != At::End {
            let At::Data(left) = self.at else {
                self.at = self.step(buffer[read])?;
                read += 1;
                continue;
            };
            let there = buffer.len() - read;
            let length = usize::try_from(left).map_or(there, |left| left.min(there));
            if start == end {
                (start, end) = (read, read + length);
            } else {
                buffer.copy_within(read..read + length, end);
                end += length;
            }
            read += length;
            self.at = match left - length as u64 {
                0 => At::DataCr,
                left => At::Data(left),
            };
        }
        let mut taken = buffer.split_to(read);
        taken.truncate(end);
        taken.advance(start);
        Ok(taken)
    }

    /// Reads a byte that is not data.
    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        let next = match (self.at, byte) {
            (At::Size(size), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let size = size.unwrap_or(0);
                if size == 0 {
                    self.drop_byte(EXTENSIONS_BYTES_MAX, "the size of a chunk is too long")?;
                }
                if size > u64::MAX >> 4 {
                    return Err(Malformed::from("the size of a chunk is too long"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                At::Size(Some(size << 4 | u64::from(digit)))
            }
            (At::Size(Some(size)) | At::Blank(size), b' ' | b'\t') => {
                self.drop_byte(EXTENSIONS_BYTES_MAX, "chunk extensions are too long")?;
                At::Blank(size)
            }
            (At::Size(Some(size)) | At::Blank(size), b';') => At::Extension(size),
            (At::Size(Some(size)) | At::Blank(size) | At::Extension(size), b'\r') => {
                At::SizeLf(size)
            }
            // A line feed alone ends a line for some readers, and not for others.
            (At::Extension(_), b'\n') => return Err(Malformed::from("invalid chunk extension")),
            (At::Extension(size), _) => {
                self.drop_byte(EXTENSIONS_BYTES_MAX, "chunk extensions are too long")?;
                At::Extension(size)
            }
            (At::SizeLf(size), b'\n') => {
                self.dropped = 0;
                match size {
                    0 => At::TrailerStart,
                    size => At::Data(size),
                }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(None),
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerStart | At::TrailerName, byte) if is_of_name(byte) => {
                self.drop_byte(TRAILERS_BYTES_MAX, "trailers are too long")?;
                At::TrailerName
            }
            (At::TrailerName, b':') => At::Trailer,
            (At::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.drop_byte(TRAILERS_BYTES_MAX, "trailers are too long")?;
                At::Trailer
            }
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::End,
            (At::Size(_) | At::Blank(_) | At::SizeLf(_), _) => {
                return Err(Malformed::from("invalid size of a chunk"));
            }
            (At::DataCr | At::DataLf, _) => {
                return Err(Malformed::from("a chunk is longer than its size"));
            }
            // What is no field may be the start of an answer, for other readers.
            (At::TrailerStart | At::TrailerName | At::Trailer | At::TrailerLf | At::EndLf, _) => {
                return Err(Malformed::from("invalid trailer"));
            }
            (at @ (At::Data(_) | At::End), _) => at, // Has nothing to read here.
        };
        Ok(next)
    }

    fn drop_byte(&mut self, max: u64, error: &'static str) -> Result<(), Malformed> {
        self.dropped += 1;
        if self.dropped > max {
            return Err(Malformed::from(error));
        }
        Ok(())
    }
}

/// Whether a field's name may have it (RFC 9110, section 5.6.2).
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes what comes in these pieces. `Err`: what had been read before.
    fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), Vec<u8>> {
        let (mut buffer, mut data) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            match decoder.decode(&mut buffer) {
                Ok(Some(more)) => data.extend_from_slice(&more),
                Ok(None) => {}
                Err(_) => return Err(data),
            }
        }
        match decoder.is_end() {
            true => Ok((data, buffer.to_vec())),
            false => Err(data),
        }
    }

    fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Vec<u8>> {
        decode(Decoder::chunked(), &[bytes])
    }

    #[test]
    fn chunks_are_put_together_up_to_their_end() {
        for (bytes, expected, rest) in [
            ("0\r\n\r\n", "", ""),
            ("2\r\nok\r\n0\r\n\r\n", "ok", ""),
            (
                "2\r\nok\r\n03 \t\r\nyes\r\n000\r\n\r\nHTTP",
                "okyes",
                "HTTP",
            ),
            (
                "A;x=\"y\"\r\n0123456789\r\n0\r\nx: y\r\nz:\r\n\r\n",
                "0123456789",
                "",
            ),
        ] {
            let (data, left) = chunked(bytes.as_bytes()).unwrap();
            assert_eq!(data, expected.as_bytes(), "{bytes:?}");
            assert_eq!(left, rest.as_bytes(), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error_and_never_an_end() {
        let long = |start: &str| [start, &"x".repeat(20 << 10), "\r\n\r\n"].concat();
        for bytes in [
            "x\r\n",
            "\r\n",
            " 2\r\nok\r\n0\r\n\r\n",
            "0x2\r\nok\r\n0\r\n\r\n",
            "-2\r\nok\r\n0\r\n\r\n",
            "2\nok\r\n0\r\n\r\n",
            "2\r\nok\n0\r\n\r\n",
            "2\r\nokay\r\n0\r\n\r\n",
            "2;a\nb\r\nok\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nok",
            "2\r\nok\r\n0\r\n\n",
            "2\r\nok\r\n0\r\nx: y\n\r\n",
            "2\r\nok\r\n0\r\n0\r\n\r\n",
            "2\r\nok\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n",
            "2\r\nok\r\n0\r\nx : y\r\n\r\n",
            "2\r\nok\r\n0\r\nx: \0\r\n\r\n",
            "2\r\nok\r\n0\r\n",
            "9\r\nok",
            "",
            &long("2;"),
            &long("2 ").replace('x', " "),
            &long("0").replace('x', "0"),
            &long("0\r\nx: "),
        ] {
            let start = &bytes[..bytes.len().min(40)];
            assert!(chunked(bytes.as_bytes()).is_err(), "{start:?}");
        }
        assert_eq!(chunked(b"2\r\nok\r\nx"), Err(vec![])); // Though two bytes could be had.
    }

    #[test]
    fn a_stream_has_as_many_chunks_as_it_likes() {
        let many = "01;e=f\r\nx\r\n".repeat(20_000) + "0\r\n\r\n";
        assert_eq!(chunked(many.as_bytes()).unwrap().0.len(), 20_000);
    }

    #[test]
    fn a_length_is_kept_to() {
        let three = |pieces: &[&[u8]]| decode(Decoder::length(3), pieces);
        assert_eq!(three(&[b"ab", b"cd"]), Ok((b"abc".into(), b"d".into())));
        assert_eq!(three(&[b"ab"]), Err(b"ab".into()));
        assert!(decode(Decoder::length(u64::MAX), &[b"ab"]).is_err());
        assert_eq!(
            decode(Decoder::length(0), &[b"x"]),
            Ok((vec![], b"x".into()))
        );
    }

    #[test]
    fn an_end_of_the_connection_is_the_bodys_only_if_nothing_else_is() {
        assert!(Decoder::until_closed().close());
        assert!(Decoder::length(0).close());
        assert!(!Decoder::length(1).close());
        assert!(!Decoder::chunked().close());
    }

    proptest! {
        /// However a body is cut into chunks, and these into what is read at a time.
        #[test]
        fn chunks_come_out_as_they_went_in(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1_usize..30, 0..40),
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:X};e\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nx: y\r\n\r\nnext");
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            pieces.push(rest);
            let expected = (chunks.concat(), b"next".to_vec());
            prop_assert_eq!(decode(Decoder::chunked(), &pieces), Ok(expected));
        }

        /// Bytes of any kind end in data, an error or neither; nothing panics, and how they
        /// are cut changes nothing.
        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            bytes in "[0-3a;\r\n x]{0,60}",
            at in 0_usize..60,
        ) {
            let (first, second) = bytes.as_bytes().split_at(at.min(bytes.len()));
            let whole = chunked(bytes.as_bytes());
            let cut = decode(Decoder::chunked(), &[first, second]);
            prop_assert_eq!(whole.is_ok(), cut.is_ok());
            if let (Ok(whole), Ok(cut)) = (whole, cut) {
                prop_assert_eq!(whole, cut);
            }
        }
    }
}
