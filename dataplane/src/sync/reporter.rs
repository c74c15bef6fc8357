//! Reports out: one batch at a time, each sent until it is acknowledged.
//!
//! Stop and wait is enough: a batch takes whatever has gathered, so batches grow
//! with the load and with the control plane's slowness, and there is never a
//! question of order. Every message carries the view that we have applied; without
//! anything to report one is sent when the view changes, and every 5 s as a sign of
//! life.

use std::{convert::Infallible, time::Duration, time::Instant};

use qcc_proto::v1::{
    Outcome, ProxyIdentity, ReportBatch, StreamReportsRequest, StreamReportsResponse, View,
    health_sync_service_client::HealthSyncServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use tracing::{debug, warn};

use super::{Error, Link};
use crate::reports::{Batch, Outbox, Report, ReportBuffer};

/// A third of the control plane's patience with a silent proxy.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A batch is answered after one commit; this long means that nobody is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long to leave a control plane alone that is busy and does not say for how long.
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// Reports until the stream breaks. What was not acknowledged stays in the outbox.
///
/// A control plane that has too much to do is asked again later: the watch goes on
/// meanwhile, since connecting anew would only give it more to do.
pub(super) async fn run(
    client: HealthSyncServiceClient<Channel>,
    identity: &ProxyIdentity,
    outbox: &Outbox,
    link: &Link,
) -> Error {
    loop {
        match report(client.clone(), identity, outbox, link).await {
            Ok(never) => match never {},
            Err(Error::Call(status)) if status.code() == Code::ResourceExhausted => {
                let wait = pause(&status, rand::random());
                debug!(?wait, "the control plane is busy; reports wait");
                sleep(wait).await;
            }
            Err(error) => return error,
        }
    }
}

/// Returns how long to leave a busy control plane alone: as long as it asks for, but
/// not so long that it takes us for dead. `random`, from 0 to 1, spreads it.
pub(super) fn pause(busy: &Status, random: f64) -> Duration {
    let asked = busy.get_details_retry_info();
    let asked = asked.and_then(|info| info.retry_delay);
    let wait = asked.filter(|wait| !wait.is_zero()).unwrap_or(BUSY_WAIT);
    wait.min(HEARTBEAT).mul_f64(1.0 + random.clamp(0.0, 1.0))
}

async fn report(
    client: HealthSyncServiceClient<Channel>,
    identity: &ProxyIdentity,
    outbox: &Outbox,
    link: &Link,
) -> Result<Infallible, Error> {
    let mut views = link.subscribe();
    let mut told = views.borrow_and_update().view;
    let hello = Conversation::hello(identity, outbox, told);
    let (mut stream, answer) = Stream::open(client, hello).await?;
    let mut conversation = Conversation::begin(&answer, outbox);
    loop {
        if !outbox.buffer().has_backlog() {
            tokio::select! {
                () = outbox.due() => {}
                _ = views.wait_for(|state| state.view != told) => {}
                () = sleep(HEARTBEAT) => {}
            }
        }
        told = views.borrow_and_update().view;
        let question = Conversation::question(outbox, told, Instant::now());
        let answer = stream.ask(question).await?;
        conversation.answered(&answer, outbox)?;
    }
}

/// What is said on one stream, and what the answers do: all but the waiting.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    /// Answers in a row that reports are missing.
    gaps: u32,
}

impl Conversation {
    /// Returns the first message. It brings no outcomes: what has to be sent, the
    /// answer tells.
    pub(crate) fn hello(
        identity: &ProxyIdentity,
        outbox: &Outbox,
        applied: Option<View>,
    ) -> StreamReportsRequest {
        StreamReportsRequest {
            proxy: Some(identity.clone()),
            batch: Some(empty(&outbox.buffer(), applied)),
        }
    }

    /// Takes the answer to the first message.
    pub(crate) fn begin(answer: &StreamReportsResponse, outbox: &Outbox) -> Self {
        outbox.settle(|buffer| buffer.resume(answer.acknowledged_sequence));
        Self::default()
    }

    /// Returns the next message: what is not acknowledged, or else what is pending.
    pub(crate) fn question(
        outbox: &Outbox,
        applied: Option<View>,
        now: Instant,
    ) -> StreamReportsRequest {
        StreamReportsRequest {
            proxy: None,
            batch: Some(next(&mut outbox.buffer(), applied, now)),
        }
    }

    /// Takes the answer to it.
    pub(crate) fn answered(
        &mut self,
        answer: &StreamReportsResponse,
        outbox: &Outbox,
    ) -> Result<(), Error> {
        let acknowledged = answer.acknowledged_sequence;
        if answer.sequence_gap {
            warn!(acknowledged, "the control plane misses reports");
            outbox.settle(|buffer| buffer.resume(acknowledged));
            self.gaps += 1;
        } else {
            outbox.settle(|buffer| buffer.acknowledge(acknowledged));
            self.gaps = 0;
        }
        if self.gaps > 1 {
            return Err(Error::SequenceGap);
        }
        Ok(())
    }
}

/// A stream on which each question has one answer.
struct Stream {
    questions: mpsc::Sender<StreamReportsRequest>,
    answers: Streaming<StreamReportsResponse>,
}

impl Stream {
    async fn open(
        mut client: HealthSyncServiceClient<Channel>,
        hello: StreamReportsRequest,
    ) -> Result<(Self, StreamReportsResponse), Error> {
        let (questions, receiver) = mpsc::channel(1);
        // Queued before the call: a server may wait for it before it answers at all.
        questions.send(hello).await.map_err(|_| Error::Ended)?;
        let call = client.stream_reports(ReceiverStream::new(receiver));
        let opened = timeout(ANSWER_TIMEOUT, call).await;
        let answers = opened.map_err(|_| Error::Silent)?.map_err(Error::Call)?;
        let mut stream = Self {
            questions,
            answers: answers.into_inner(),
        };
        let answer = stream.answer().await?;
        Ok((stream, answer))
    }

    async fn ask(
        &mut self,
        question: StreamReportsRequest,
    ) -> Result<StreamReportsResponse, Error> {
        // A closed stream has the reason in its last answer.
        let _ = self.questions.send(question).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<StreamReportsResponse, Error> {
        let answer = timeout(ANSWER_TIMEOUT, self.answers.message()).await;
        let answer = answer.map_err(|_| Error::Silent)?.map_err(Error::Call)?;
        answer.ok_or(Error::Ended)
    }
}

fn next(buffer: &mut ReportBuffer, applied_view: Option<View>, now: Instant) -> ReportBatch {
    match buffer.next_batch() {
        Some(batch) => encode(batch, applied_view, now),
        None => empty(buffer, applied_view),
    }
}

/// Returns a batch that tells only which view is applied.
fn empty(buffer: &ReportBuffer, applied_view: Option<View>) -> ReportBatch {
    ReportBatch {
        first_sequence: 1, // No outcomes: any number is right, and this one leaves no gap.
        applied_view,
        registry_id: buffer.registry_id().to_string(),
        ..Default::default()
    }
}

fn encode(batch: &Batch, applied_view: Option<View>, now: Instant) -> ReportBatch {
    ReportBatch {
        first_sequence: batch.first_sequence,
        dropped: batch.dropped,
        outcomes: batch
            .reports
            .iter()
            .map(|report| outcome(report, now))
            .collect(),
        applied_view,
        registry_id: batch.registry_id.to_string(),
    }
}

fn outcome(report: &Report, now: Instant) -> Outcome {
    let outcome = &report.outcome;
    Outcome {
        endpoint: report.endpoint.to_string(),
        generation: report.generation,
        view: Some(report.view),
        class: outcome.class.into(),
        count: report.count,
        http_status: outcome.http_status.into(),
        error_type: cut(&outcome.error_type, 64),
        retry_after_ms: outcome.retry_after.map(millis),
        detail: cut(&outcome.detail, 200),
        upstream_request_id: cut(&outcome.upstream_request_id, 128),
        age_ms: millis(now.saturating_duration_since(report.at)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Cuts a text to at most so many bytes, between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}
