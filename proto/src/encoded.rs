//! `HealthSyncService` with a watch that takes encoded messages.
//!
//! One update goes to every data plane. Its bytes are made once and shared; each
//! stream only copies them behind its own frame header.

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::v1;

#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    include!(concat!(
        env!("OUT_DIR"),
        "/encoded/qcc.v1.HealthSyncService.rs"
    ));
}

pub use generated::health_sync_service_server::{HealthSyncService, HealthSyncServiceServer};

/// Encodes one message of `WatchSnapshots` for any number of streams.
pub fn encode(update: &v1::WatchSnapshotsResponse) -> Bytes {
    update.encode_to_vec().into()
}

/// Sends bytes as they are; reads requests as protobuf.
#[derive(Debug, Clone, Copy, Default)]
pub struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = v1::WatchSnapshotsRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        *self
    }

    fn decoder(&mut self) -> Self::Decoder {
        *self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = v1::WatchSnapshotsRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let request = v1::WatchSnapshotsRequest::decode(buffer)
            .map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(request))
    }
}
