//! A request read from bytes alone, to judge what is read.

use bytes::BytesMut;

use super::head::{self, Length};
use crate::proxy::{
    http1::{Limits, decoder::Decoder},
    message::RequestHead,
    reply::Refusal,
    rules,
};

const LIMITS: Limits = Limits {
    fields_max: 128,
    head_bytes_max: 64 << 10,
};

/// What was read of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) head: Box<RequestHead>,
    pub(crate) body: Vec<u8>,
    pub(crate) keeps_alive: bool,
    pub(crate) waits: bool,
    /// Its end has come.
    pub(crate) is_whole: bool,
    /// What came after it.
    pub(crate) rest: Vec<u8>,
}

/// Reads a request that comes in these pieces. `None`: its head has not come. `Err`: why it is
/// served by nobody.
pub(crate) fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Read>, String> {
    let why = |refusal: Refusal| format!("{:?}", refusal.kind);
    let (mut buffer, mut seen, mut head) = (BytesMut::new(), 0, None);
    let mut body = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if head.is_none() {
            let read = head::read(&mut buffer, &mut seen, LIMITS);
            if let Some(read) = read.map_err(|refused| why(refused.refusal))? {
                rules::route(&read.parts).map_err(why)?;
                let decoder = match read.length {
                    Length::Chunked => Decoder::chunked(),
                    Length::Bytes(length) => Decoder::length(length),
                };
                head = Some((read, decoder));
            }
        }
        if let Some((_, decoder)) = &mut head {
            let data = decoder.decode(&mut buffer);
            body.extend(data.map_err(|it| it.to_string())?.into_iter().flatten());
        }
    }
    Ok(head.map(|(head, decoder)| Read {
        head: head.parts,
        body,
        keeps_alive: head.keeps_alive,
        waits: head.waits,
        is_whole: decoder.is_end(),
        rest: buffer.to_vec(),
    }))
}
