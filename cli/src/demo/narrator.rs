//! Tells what happens, from what anybody could ask over gRPC.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use qcc_proto::v1::{
    self, HealthState, endpoint_service_client::EndpointServiceClient,
    failure_queue_service_client::FailureQueueServiceClient,
};
use tokio::sync::mpsc;
use tonic::transport::Endpoint;

use super::{ENDPOINTS, Event};
use crate::{
    error::Error,
    output::Output,
    table::{Cell, Tone},
    text,
};

/// How long the narrator is silent at most.
const QUIET: Duration = Duration::from_secs(10);
/// Between two looks, and between attempts to watch.
const AGAIN: Duration = Duration::from_millis(200);

/// Watches the control plane's endpoints.
pub(super) async fn watch(control: SocketAddr, events: mpsc::Sender<Event>) {
    while !events.is_closed() {
        // The control plane ends only with the demo; nothing is lost with a broken stream.
        let _ = follow(control, &events).await;
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(
    control: SocketAddr,
    events: &mpsc::Sender<Event>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let channel = Endpoint::try_from(format!("http://{control}"))?
        .connect()
        .await?;
    let request = v1::WatchEndpointsRequest::default();
    let mut steps = EndpointServiceClient::new(channel)
        .watch_endpoints(request)
        .await?
        .into_inner();
    while let Some(step) = steps.message().await? {
        if !step.endpoints.is_empty() {
            events.send(Event::Endpoints(step.endpoints)).await?;
        }
    }
    Ok(())
}

/// Looks at the failure queue again and again.
pub(super) async fn watch_queue(control: SocketAddr, events: mpsc::Sender<Event>) {
    let Ok(endpoint) = Endpoint::try_from(format!("http://{control}")) else {
        return;
    };
    let mut client = FailureQueueServiceClient::new(endpoint.connect_lazy());
    while !events.is_closed() {
        if let Ok(response) = client
            .list_failures(v1::ListFailuresRequest::default())
            .await
        {
            // Nobody is left to tell only when the demo ends.
            let _ = events
                .send(Event::Queue(response.into_inner().entries))
                .await;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells events until there are no more, or nobody reads.
pub(super) async fn tell(
    control: SocketAddr,
    mut events: mpsc::Receiver<Event>,
    output: Output,
) -> Result<(), Error> {
    let mut narrator = Narrator {
        output,
        control,
        start: Instant::now(),
        last_word: Instant::now(),
        known: BTreeMap::new(),
        checks_failed: BTreeMap::new(),
        rejected: None,
        chapter: Chapter::Beginning,
        answers: 0,
        failures: 0,
    };
    narrator.say(
        Tone::Plain,
        "three upstreams on loopback: north is preferred, south and west stand by",
    )?;
    narrator.say(
        Tone::Plain,
        "a client sends four requests a second through the proxy",
    )?;
    while let Some(event) = events.recv().await {
        narrator.hear(event).await?;
    }
    Ok(())
}

/// Where the story is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chapter {
    /// Endpoints are verified for the first time.
    Beginning,
    /// All is well.
    Calm,
    /// The key is revoked; who meets it first?
    Revoked,
    /// Requests go elsewhere, checks fail.
    Ejected,
    /// A check has passed; when does traffic return?
    Recovered,
    /// All has been shown.
    End,
}

struct Narrator {
    output: Output,
    control: SocketAddr,
    start: Instant,
    last_word: Instant,
    known: BTreeMap<String, v1::Endpoint>,
    /// Failed checks that were told of, by endpoint.
    checks_failed: BTreeMap<String, u32>,
    rejected: Option<Instant>,
    chapter: Chapter,
    answers: u64,
    failures: u64,
}

impl Narrator {
    fn say(&mut self, tone: Tone, what: &str) -> Result<(), Error> {
        let seconds = self.start.elapsed().as_secs_f64();
        self.last_word = Instant::now();
        let what = Cell::new(text::clean(what), tone).paint(self.output.color);
        self.output.text(&format!("{seconds:6.1}s  {what}\n"))
    }

    async fn hear(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Endpoints(endpoints) => {
                for endpoint in endpoints {
                    self.endpoint(endpoint).await?;
                }
                Ok(())
            }
            Event::Queue(entries) => self.queue(&entries),
            Event::Answer(answer) => self.answer(&answer).await,
            Event::Rejected(at) => {
                self.rejected = Some(at);
                Ok(())
            }
            Event::KeyRevoked => {
                self.chapter = Chapter::Revoked;
                self.say(
                    Tone::Doubtful,
                    "the provider revokes north's key: from now on north answers 401",
                )
            }
            Event::KeyAccepted => self.say(
                Tone::Doubtful,
                "the provider accepts north's key again; the next check will find out",
            ),
        }
    }

    async fn endpoint(&mut self, now: v1::Endpoint) -> Result<(), Error> {
        let before = self.known.insert(now.name.clone(), now.clone());
        let (old, new) = (
            before
                .and_then(|endpoint| endpoint.health)
                .unwrap_or_default(),
            now.health.clone().unwrap_or_default(),
        );
        match (old.state(), new.state()) {
            (HealthState::Unhealthy, HealthState::Unhealthy) => Ok(()),
            (_, HealthState::Unhealthy) => self.ejected(&now.name, &new).await,
            (HealthState::Unhealthy, HealthState::Healthy | HealthState::Unknown) => {
                self.chapter = Chapter::Recovered;
                let state = text::state(new.state());
                let generation = now.generation;
                self.say(Tone::Good, &format!("a check of {} passed: it repeated a fresh code. It is {state}, in generation {generation}", now.name))
            }
            _ if self.chapter == Chapter::Beginning && self.all_healthy() => {
                self.chapter = Chapter::Calm;
                self.say(
                    Tone::Good,
                    "all three were verified, each repeated a fresh code: healthy",
                )
            }
            _ => Ok(()),
        }
    }

    fn all_healthy(&self) -> bool {
        let healthy = |endpoint: &v1::Endpoint| {
            endpoint
                .health
                .as_ref()
                .is_some_and(|health| health.state() == HealthState::Healthy)
        };
        self.known.len() == ENDPOINTS.len() && self.known.values().all(healthy)
    }

    async fn ejected(&mut self, name: &str, health: &v1::Health) -> Result<(), Error> {
        self.chapter = Chapter::Ejected;
        let facts = health
            .evidence
            .as_ref()
            .map_or_else(String::new, text::evidence);
        let cause = text::cause(health.cause());
        let after = match self.rejected {
            Some(at) => format!(" {} after its first 401", millis(at.elapsed())),
            None => " at once".to_owned(),
        };
        let view = text::view(health.view.as_ref());
        self.say(
            Tone::Bad,
            &format!(
                "{name} is unhealthy ({cause}: {facts}){after}, for every proxy from view {view} on"
            ),
        )?;
        let next = next_check(health.checking, health.next_check_time.as_ref());
        self.say(
            Tone::Plain,
            &format!("the failure queue holds {name}{next}"),
        )
    }

    /// Tells of checks that have failed; the queue counts them, a view does not.
    fn queue(&mut self, entries: &[v1::FailureQueueEntry]) -> Result<(), Error> {
        self.checks_failed
            .retain(|name, _| entries.iter().any(|entry| entry.endpoint == *name));
        for entry in entries {
            let told = self
                .checks_failed
                .entry(entry.endpoint.clone())
                .or_default();
            if entry.verification_attempts <= *told {
                continue;
            }
            *told = entry.verification_attempts;
            let facts = entry
                .evidence
                .as_ref()
                .map_or_else(String::new, text::evidence);
            let next = next_check(entry.checking, entry.due_time.as_ref());
            let (number, name) = (entry.verification_attempts, &entry.endpoint);
            let what = format!("check {number} of {name} failed ({facts}){next}");
            self.say(Tone::Bad, &what)?;
        }
        Ok(())
    }

    async fn answer(&mut self, answer: &super::trickle::Answer) -> Result<(), Error> {
        self.answers += 1;
        let (status, endpoint, attempts) = (answer.status, &answer.endpoint, answer.attempts);
        if status != 200 {
            self.failures += 1;
            let status = if status == 0 {
                "no answer".to_owned()
            } else {
                format!("status {status}")
            };
            return self.say(Tone::Bad, &format!("the client got {status}"));
        }
        if attempts > 1 {
            self.say(Tone::Good, &format!("a request met the 401; the client got 200, from {endpoint}, at attempt {attempts}"))?;
        }
        if self.chapter == Chapter::Recovered && *endpoint == ENDPOINTS[0].0 {
            self.chapter = Chapter::End;
            self.say(Tone::Good, &format!("requests go to {endpoint} again"))?;
            return self.sum_up().await;
        }
        if self.last_word.elapsed() >= QUIET {
            return self.count();
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Error> {
        let (answers, failures) = (self.answers, self.failures);
        self.say(
            Tone::Plain,
            &format!("{answers} requests so far; failed for the client: {failures}"),
        )
    }

    async fn sum_up(&mut self) -> Result<(), Error> {
        self.count()?;
        if let Some(stats) = self.stats().await {
            let v1::FailureQueueStats {
                length,
                total_failed,
                total_verified,
                total_recovered,
                total_still_failed,
            } = stats;
            self.say(Tone::Plain, &format!(
                "failure queue: {length} waiting; total_failed {total_failed}, total_verified {total_verified}, \
                 total_recovered {total_recovered}, total_still_failed {total_still_failed}"
            ))?;
        }
        self.say(
            Tone::Plain,
            "that was it; everything keeps running until Ctrl-C",
        )
    }

    async fn stats(&self) -> Option<v1::FailureQueueStats> {
        let channel = Endpoint::try_from(format!("http://{}", self.control))
            .ok()?
            .connect()
            .await
            .ok()?;
        let request = v1::GetFailureQueueStatsRequest {};
        let response = FailureQueueServiceClient::new(channel)
            .get_failure_queue_stats(request)
            .await
            .ok()?;
        response.into_inner().stats
    }
}

/// When the next check is, as the end of a sentence.
fn next_check(checking: bool, time: Option<&prost_types::Timestamp>) -> String {
    match (checking, time) {
        (true, _) => "; it is being checked".to_owned(),
        (false, Some(time)) => {
            format!(
                "; the next check is {}",
                text::until(SystemTime::now(), Some(time))
            )
        }
        (false, None) => String::new(),
    }
}

fn millis(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "less than 1 ms".to_owned(),
        millis => format!("{millis} ms"),
    }
}
