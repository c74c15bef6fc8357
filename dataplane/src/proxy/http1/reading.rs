//! An answer read from bytes alone, to judge what is read.

use bytes::BytesMut;

use super::{Limits, Malformed, head};

const LIMITS: Limits = Limits {
    fields_max: 128,
    head_bytes_max: 64 << 10,
};

/// What was read of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// The connection's end is no cut.
    pub(crate) is_whole: bool,
    /// What came after its end.
    pub(crate) rest: Vec<u8>,
}

/// Reads an answer that comes in these pieces, after which the connection ends. `None`: its
/// head has not come.
pub(crate) fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    is_of_head: bool,
) -> Result<Option<Read>, Malformed> {
    let (mut buffer, mut seen, mut head) = (BytesMut::new(), 0, None);
    let mut data = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if head.is_none() {
            head = head::read(&mut buffer, &mut seen, is_of_head, LIMITS)?;
        }
        if let Some(head) = &mut head {
            data.extend(head.body.decode(&mut buffer)?.into_iter().flatten());
        }
    }
    Ok(head.map(|mut head| Read {
        status: head.parts.status.as_u16(),
        fields: (head.parts.fields.to_map(|_| true).iter())
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
        body: data,
        is_whole: head.body.close(),
        rest: buffer.to_vec(),
    }))
}
