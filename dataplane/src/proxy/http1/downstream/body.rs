//! A request's body, as it comes.
//!
//! What came with the head is all there. The rest is read by the connection, a piece at a
//! time, and only when somebody wants it: whoever passes it on may be another task, and
//! one who does not ask lets the client wait.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use crate::proxy::inbound::Cut;

/// The body of a client's request.
#[derive(Debug)]
pub(in crate::proxy) struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    /// All of it, or what is left of that.
    Whole(Bytes),
    Coming(Coming),
}

/// The reader's end.
struct Coming {
    mailbox: Arc<Mailbox>,
    /// Bytes still to come, if that is known.
    left: Option<u64>,
    has_ended: bool,
}

/// The connection's end.
pub(super) struct Feeder {
    mailbox: Arc<Mailbox>,
    /// Whoever is woken for the body is woken for this as well.
    waker: Waker,
}

/// What there is to do for a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing, for now.
    Nothing,
    /// To read more of it.
    More,
    /// Nobody will ask for it any more.
    Gone,
}

struct Mailbox(Mutex<Slot>);

#[derive(Default)]
struct Slot {
    piece: Option<Result<Bytes, Cut>>,
    /// Nothing comes after the piece.
    is_last: bool,
    is_wanted: bool,
    is_gone: bool,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

impl RequestBody {
    /// A body that is there.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self(Source::Whole(bytes))
    }

    /// A body that is not there yet, and what feeds it. It has so many bytes, if that is known.
    pub(super) fn coming(length: Option<u64>) -> (Self, Feeder) {
        let mailbox = Arc::new(Mailbox(Mutex::default()));
        let feeder = Feeder {
            mailbox: Arc::clone(&mailbox),
            waker: Waker::noop().clone(),
        };
        let coming = Coming {
            mailbox,
            left: length,
            has_ended: false,
        };
        (Self(Source::Coming(coming)), feeder)
    }

    /// Takes all of it, if that is there.
    pub(in crate::proxy) fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Source::Whole(bytes) => Some(std::mem::take(bytes)),
            Source::Coming(_) => None,
        }
    }

    pub(in crate::proxy) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        match &mut self.0 {
            Source::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Source::Coming(coming) => coming.poll(cx),
        }
    }

    /// Whether it is known that nothing more comes.
    pub(in crate::proxy) fn is_end(&self) -> bool {
        match &self.0 {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Coming(coming) => coming.has_ended,
        }
    }

    /// Bytes still to come, if that is known.
    pub(in crate::proxy) fn left(&self) -> Option<u64> {
        match &self.0 {
            Source::Whole(bytes) => Some(bytes.len() as u64),
            Source::Coming(coming) if coming.has_ended => Some(0),
            Source::Coming(coming) => coming.left,
        }
    }
}

impl Coming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let mut slot = self.mailbox.lock();
        let Some(piece) = slot.piece.take() else {
            if slot.is_last {
                self.has_ended = true;
                return Poll::Ready(None);
            }
            slot.is_wanted = true;
            slot.reader = Some(cx.waker().clone());
            let feeder = slot.feeder.take_if(|feeder| !feeder.will_wake(cx.waker()));
            drop(slot);
            if let Some(feeder) = feeder {
                feeder.wake();
            }
            return Poll::Pending;
        };
        self.has_ended = slot.is_last || piece.is_err();
        if let (Some(left), Ok(piece)) = (&mut self.left, &piece) {
            *left = left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(Some(piece))
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut slot = self.mailbox.lock();
        slot.is_gone = true;
        slot.piece = None;
        let feeder = slot.feeder.take().filter(|_| !slot.is_last);
        drop(slot);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
    }
}

impl fmt::Debug for Coming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coming")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Feeder {
    /// Says what there is to do. Wakes this task when that changes, unless it is this task
    /// that changes it.
    pub(super) fn wish(&mut self, cx: &mut Context<'_>) -> Wish {
        let mut slot = self.mailbox.lock();
        if slot.is_gone {
            return Wish::Gone;
        }
        // Whoever reads more of it may wait for the client when the reader leaves.
        if slot.feeder.is_none() || !self.waker.will_wake(cx.waker()) {
            self.waker.clone_from(cx.waker());
            slot.feeder = Some(self.waker.clone());
        }
        match slot.is_wanted && slot.piece.is_none() && !slot.is_last {
            true => Wish::More,
            false => Wish::Nothing,
        }
    }

    /// Hands over a piece, which may be the last. Wakes whoever waits for it, unless that is
    /// the task with this waker, which looks by itself.
    pub(super) fn put(
        &mut self,
        piece: Option<Result<Bytes, Cut>>,
        is_last: bool,
        unless: Option<&Waker>,
    ) {
        let mut slot = self.mailbox.lock();
        slot.is_wanted = false;
        slot.piece = piece;
        slot.is_last = is_last;
        let is_told = |reader: &Waker| unless.is_some_and(|waker| reader.will_wake(waker));
        let reader = slot.reader.take().filter(|reader| !is_told(reader));
        drop(slot);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Drop for Feeder {
    /// A connection that ends takes the rest of the body with it.
    fn drop(&mut self) {
        let mut slot = self.mailbox.lock();
        if slot.is_last || slot.is_gone {
            return;
        }
        slot.is_last = true;
        slot.piece = Some(Err(Cut("the client's connection has ended".to_owned())));
        let reader = slot.reader.take();
        drop(slot);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        /// Two of them, and their wakers.
        fn two() -> ([Arc<Self>; 2], [Waker; 2]) {
            let tasks = [Arc::new(Self::default()), Arc::default()];
            (tasks.clone(), tasks.map(Waker::from))
        }

        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    #[test]
    fn a_body_is_read_only_when_it_is_wanted() {
        let (mut body, mut feeder) = RequestBody::coming(Some(5));
        assert_eq!(feeder.wish(&mut cx()), Wish::Nothing);
        assert!(body.poll_data(&mut cx()).is_pending());
        assert_eq!(feeder.wish(&mut cx()), Wish::More);
        feeder.put(Some(Ok(Bytes::from_static(b"abc"))), false, None);
        assert_eq!(feeder.wish(&mut cx()), Wish::Nothing, "one at a time");
        let Poll::Ready(Some(Ok(piece))) = body.poll_data(&mut cx()) else {
            panic!("it is there");
        };
        assert_eq!(
            (&*piece, body.left(), body.is_end()),
            (&b"abc"[..], Some(2), false)
        );
        assert_eq!(
            feeder.wish(&mut cx()),
            Wish::Nothing,
            "nobody has asked again"
        );
        assert!(body.poll_data(&mut cx()).is_pending());
        feeder.put(Some(Ok(Bytes::from_static(b"de"))), true, None);
        assert!(body.poll_data(&mut cx()).is_ready());
        assert!(body.is_end());
        drop(body);
        assert_eq!(feeder.wish(&mut cx()), Wish::Gone);
    }

    #[test]
    fn an_end_is_told_with_the_last_piece_or_after_it() {
        let (mut body, mut feeder) = RequestBody::coming(None);
        assert!(body.poll_data(&mut cx()).is_pending());
        assert_eq!(body.left(), None);
        feeder.put(None, true, None);
        assert!(matches!(body.poll_data(&mut cx()), Poll::Ready(None)));
        assert_eq!((body.is_end(), body.left()), (true, Some(0)));
    }

    #[test]
    fn a_connection_that_ends_cuts_the_body_off() {
        let (mut body, feeder) = RequestBody::coming(None);
        drop(feeder);
        assert!(matches!(
            body.poll_data(&mut cx()),
            Poll::Ready(Some(Err(_)))
        ));
        assert!(matches!(body.poll_data(&mut cx()), Poll::Ready(None)));
    }

    #[test]
    fn whoever_waits_for_the_client_learns_that_the_reader_has_left() {
        let ([connection, _], [wakes, reads]) = Task::two();
        let (mut body, mut feeder) = RequestBody::coming(None);
        assert!(
            body.poll_data(&mut Context::from_waker(&reads))
                .is_pending()
        );
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::More);
        drop(body);
        assert_eq!(connection.woken(), 1);
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::Gone);
    }

    #[test]
    fn each_wakes_the_other_unless_they_are_one() {
        let ([connection, reader], [wakes, reads]) = Task::two();
        let (mut body, mut feeder) = RequestBody::coming(None);
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::Nothing);
        assert!(
            body.poll_data(&mut Context::from_waker(&reads))
                .is_pending()
        );
        assert_eq!((connection.woken(), reader.woken()), (1, 0));
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::More);
        feeder.put(Some(Ok(Bytes::from_static(b"a"))), false, Some(&wakes));
        assert_eq!((connection.woken(), reader.woken()), (1, 1));
        assert!(body.poll_data(&mut Context::from_waker(&reads)).is_ready());
        // From here on the connection reads what it feeds.
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::Nothing);
        assert!(
            body.poll_data(&mut Context::from_waker(&wakes))
                .is_pending()
        );
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::More);
        feeder.put(Some(Ok(Bytes::from_static(b"b"))), false, Some(&wakes));
        assert_eq!((connection.woken(), reader.woken()), (1, 1));
        // And then no more: it is another task that goes on.
        assert!(body.poll_data(&mut Context::from_waker(&reads)).is_ready());
        assert_eq!(feeder.wish(&mut Context::from_waker(&wakes)), Wish::Nothing);
        assert!(
            body.poll_data(&mut Context::from_waker(&reads))
                .is_pending()
        );
        assert_eq!((connection.woken(), reader.woken()), (2, 1));
        drop(feeder);
        assert_eq!((connection.woken(), reader.woken()), (2, 2));
    }
}
