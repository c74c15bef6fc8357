//! Streams that outlive the connections they come over.

use std::time::Duration;

use tonic::{Code, Status, Streaming, transport::Channel};

use super::{Answer, Context};
use crate::{error::Error, text};

/// Pauses between attempts to reconnect: doubling from the first to the last.
const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_LAST: Duration = Duration::from_secs(5);
/// Something comes every few seconds; after this long without it the stream is dead.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Who reads a stream, and knows where it stands.
pub(super) trait Reader {
    /// What the stream brings.
    type Step;

    /// Asks for the stream, from where the reader stands.
    async fn open(&self, channel: Channel) -> Result<Streaming<Self::Step>, Status>;

    /// Takes what the stream has brought.
    fn take(&mut self, step: Self::Step) -> Result<(), Error>;

    /// Learns that the stream broke: what has come in part is worth nothing.
    fn broke(&mut self);

    /// Forgets where it stands, since the server has never been there: it has lost its data. False if
    /// it stands nowhere.
    fn start_over(&mut self) -> bool;
}

/// Reads until interrupted. A break is bridged: the next stream goes on from where the reader stands.
pub(super) async fn follow(reader: &mut impl Reader, context: &Context) -> Result<Answer, Error> {
    let channel = context.control.channel().await?;
    let mut pause = RECONNECT_FIRST;
    let (mut connected, mut ever_connected) = (false, false);
    loop {
        let status = match reader.open(channel.clone()).await {
            Ok(stream) => {
                if ever_connected {
                    context.output.note("connected again");
                }
                (connected, ever_connected) = (true, true);
                pause = RECONNECT_FIRST;
                read(stream, reader).await?
            }
            Err(status) => status,
        };
        match status.code() {
            Code::OutOfRange if reader.start_over() => {
                let note =
                    "the control plane does not know what was shown last: it has other data now";
                context.output.note(note);
            }
            Code::Unavailable
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::ResourceExhausted
                if ever_connected =>
            {
                if connected {
                    let reason = text::clean(status.message());
                    tracing::debug!(%reason, "the stream broke");
                    context.output.note("lost the control plane; trying again");
                }
                connected = false;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RECONNECT_LAST);
                reader.broke();
            }
            _ => return Err(context.control.refused(&status)),
        }
    }
}

/// Reads one stream, and returns why it ended.
async fn read<R: Reader>(mut stream: Streaming<R::Step>, reader: &mut R) -> Result<Status, Error> {
    loop {
        match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
            Ok(Ok(Some(step))) => reader.take(step)?,
            Ok(Ok(None)) => return Ok(Status::unavailable("the stream ended")),
            Ok(Err(status)) => return Ok(status),
            Err(_) => return Ok(Status::unavailable("it has fallen silent")),
        }
    }
}
