//! An answer's body, as it is read.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::{Pool, connection::Connection, decoder::Decoder, sending::Sending};
use crate::proxy::inbound::Cut;

/// Time for the rest of a request whose answer is over: an endpoint may still be reading,
/// but one that never does would keep body and connection for good. nginx lingers as long.
pub(super) const SENT_ON_FOR: Duration = Duration::from_secs(30);

/// Pieces of an answer that wait to be read, where somebody else reads them.
const PIECES_MAX: usize = 1;

/// The body of an endpoint's answer. Dropping it before its end closes its connection.
pub(in crate::proxy) struct Answer(Source);

enum Source {
    /// Read where it is wanted.
    Direct {
        /// `None` once it has been given back.
        connection: Option<Box<Connection>>,
        body: Decoder,
        /// Where the connection goes afterwards, if it goes on.
        pool: Option<Arc<Pool>>,
    },
    /// Read by a task, which also sends the rest of the request.
    Apart {
        pieces: mpsc::Receiver<Piece>,
        /// Bytes still to come, if that is known.
        left: Option<u64>,
        has_ended: bool,
        _over: DropGuard,
    },
}

enum Piece {
    Data(Bytes),
    Cut(Cut),
    End,
}

impl Answer {
    /// An answer to a request that has been sent.
    pub(super) fn direct(
        connection: Box<Connection>,
        body: Decoder,
        pool: Option<Arc<Pool>>,
    ) -> Self {
        Self(Source::Direct {
            connection: Some(connection),
            body,
            pool,
        })
    }

    /// An answer to a request that is still being sent. Whoever uploads while it is answered
    /// waits for its client in both directions, and neither may wait for the other.
    pub(super) fn apart(
        connection: Box<Connection>,
        body: Decoder,
        sending: Sending,
        sent_on_for: Duration,
    ) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let over = CancellationToken::new();
        let left = body.left();
        let duplex = Duplex {
            connection,
            sending,
            body,
            pieces: PollSender::new(sender),
        };
        tokio::spawn(duplex.run(over.clone(), sent_on_for));
        Self(Source::Apart {
            pieces,
            has_ended: left == Some(0),
            left,
            _over: over.drop_guard(),
        })
    }

    pub(in crate::proxy) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        match &mut self.0 {
            Source::Direct {
                connection, body, ..
            } => match connection {
                Some(connection) => connection.poll_body(body, cx),
                None => Poll::Ready(None),
            },
            Source::Apart {
                has_ended: true, ..
            } => Poll::Ready(None),
            Source::Apart {
                pieces,
                left,
                has_ended,
                ..
            } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Piece::Data(data)) => {
                    *left = left.map(|left| left.saturating_sub(data.len() as u64));
                    *has_ended = *left == Some(0);
                    Some(Ok(data))
                }
                Some(Piece::End) => {
                    *has_ended = true;
                    None
                }
                Some(Piece::Cut(cut)) => Some(Err(cut)),
                None => Some(Err(Cut("nobody reads it any more".to_owned()))),
            }),
        }
    }

    /// Whether it is known that nothing more comes.
    pub(in crate::proxy) fn is_end(&self) -> bool {
        match &self.0 {
            Source::Direct { body, .. } => body.is_end(),
            Source::Apart { has_ended, .. } => *has_ended,
        }
    }

    /// Bytes still to come, if that is known.
    pub(in crate::proxy) fn left(&self) -> Option<u64> {
        match &self.0 {
            Source::Direct { body, .. } => body.left(),
            Source::Apart { left, .. } => *left,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Source::Direct {
            connection,
            body,
            pool: Some(pool),
        } = &mut self.0
            && body.is_end()
            && let Some(connection) = connection.take()
        {
            pool.put(connection);
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

/// A request that is still being sent, and its answer.
struct Duplex {
    connection: Box<Connection>,
    sending: Sending,
    body: Decoder,
    pieces: PollSender<Piece>,
}

impl Duplex {
    /// Goes on until both directions have ended. Once the answer is `over` for its reader, the
    /// request has some time more if it was read to its end, and none otherwise.
    async fn run(mut self, over: CancellationToken, sent_on_for: Duration) {
        let has_ended = AtomicBool::new(false);
        let late = async {
            over.cancelled().await;
            if has_ended.load(Ordering::Relaxed) {
                sleep(sent_on_for).await;
            }
        };
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll(&has_ended, cx)) => {}
            () = late => {}
        }
    }

    fn poll(&mut self, has_ended: &AtomicBool, cx: &mut Context<'_>) -> Poll<()> {
        let mut cut = None;
        if !self.sending.is_sent()
            && let Poll::Ready(Err(broke)) = self.sending.poll(&mut self.connection.wire, cx)
        {
            cut = Some(Cut(broke.to_string()));
        }
        while !has_ended.load(Ordering::Relaxed) {
            match self.pieces.poll_reserve(cx) {
                Poll::Pending if cut.is_some() => return Poll::Ready(()), // An end without an end.
                Poll::Pending => return Poll::Pending,
                // Whoever knows how long it is does not wait for its end.
                Poll::Ready(Err(_)) if self.body.is_end() => {
                    has_ended.store(true, Ordering::Relaxed);
                    break;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            let piece = match cut.take() {
                Some(cut) => Piece::Cut(cut),
                None => match self.connection.poll_body(&mut self.body, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(data))) => Piece::Data(data),
                    Poll::Ready(Some(Err(cut))) => Piece::Cut(cut),
                    Poll::Ready(None) => Piece::End,
                },
            };
            let is_last = match &piece {
                Piece::Data(_) => false,
                Piece::Cut(_) => true,
                Piece::End => {
                    has_ended.store(true, Ordering::Relaxed);
                    false
                }
            };
            if self.pieces.send_item(piece).is_err() || is_last {
                return Poll::Ready(());
            }
        }
        match self.sending.is_sent() || cut.is_some() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
