//! `qcc-ctl events`

pub(super) mod line;

use qcc_proto::v1::{self, event_service_client::EventServiceClient as Client};
use tonic::{Status, Streaming, transport::Channel};

use self::line::Lines;
use super::{
    Answer, Context,
    stream::{self, Reader},
};
use crate::{
    args::{Format, events::Events},
    client::PAGE_SIZE,
    error::Error,
    text,
};

pub(super) async fn run(args: &Events, context: &Context) -> Result<Answer, Error> {
    let past = list(args, context).await?;
    if args.follow {
        return follow(args, past, context).await;
    }
    let names = past.events.iter().rev().map(reference);
    context.output.list(
        ("ListEventsResponse", &past),
        names,
        |wide| Lines::default().table(past.events.iter().rev(), wide),
        "no event matches",
    )?;
    if !past.next_page_token.is_empty() && args.limit_is_default() {
        let note = "there are older ones: see `--limit` and `--since`";
        context.output.note(note);
    }
    Ok(Answer::Done)
}

/// Returns the newest events, as many as were asked for, as one answer: the newest first.
async fn list(args: &Events, context: &Context) -> Result<v1::ListEventsResponse, Error> {
    let mut all = v1::ListEventsResponse::default();
    while all.events.len() < args.limit() {
        let left = args.limit() - all.events.len();
        let request = v1::ListEventsRequest {
            page_size: i32::try_from(left).unwrap_or(PAGE_SIZE).min(PAGE_SIZE),
            page_token: std::mem::take(&mut all.next_page_token),
            endpoint: args.endpoint.clone(),
            cluster: args.of.cluster.clone(),
            since_time: args.since,
            kinds: kinds(args),
        };
        let method = async |c, q| Client::new(c).list_events(q).await;
        let page = context.control.call(request, method).await?;
        all.events.extend(page.events);
        all.next_page_token = page.next_page_token;
        all.oldest_id = page.oldest_id;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    Ok(all)
}

/// Shows what there is, then every new event, until interrupted.
async fn follow(
    args: &Events,
    past: v1::ListEventsResponse,
    context: &Context,
) -> Result<Answer, Error> {
    let mut screen = Screen {
        args,
        context,
        // Nothing matched: what follows came after the oldest of all.
        after_id: match past.events.first() {
            Some(newest) => Some(newest.id),
            None if args.limit() == 0 => None,
            None => Some(past.oldest_id.saturating_sub(1)),
        },
        registry_id: String::new(),
        since_time: None,
        lines: Lines::default(),
        widths: Vec::new(),
    };
    screen.show(past.events.iter().rev())?;
    stream::follow(&mut screen, context).await
}

/// What has been shown, and where the stream stands.
struct Screen<'a> {
    args: &'a Events,
    context: &'a Context,
    after_id: Option<u64>,
    /// The registry that it is of, once that has said so.
    registry_id: String,
    /// The time of the newest event that was shown, for a control plane that does not know its number.
    since_time: Option<prost_types::Timestamp>,
    lines: Lines,
    widths: Vec<usize>,
}

impl Reader for Screen<'_> {
    type Step = v1::WatchEventsResponse;

    async fn open(&self, channel: Channel) -> Result<Streaming<Self::Step>, Status> {
        let request = self.context.control.request(v1::WatchEventsRequest {
            endpoint: self.args.endpoint.clone(),
            cluster: self.args.of.cluster.clone(),
            since_time: match self.after_id {
                Some(_) => self.args.since,
                None => self.since_time,
            },
            kinds: kinds(self.args),
            after_id: self.after_id,
            registry_id: self.registry_id.clone(),
        });
        let response = Client::new(channel).watch_events(request).await?;
        Ok(response.into_inner())
    }

    fn take(&mut self, step: Self::Step) -> Result<(), Error> {
        if step.gap {
            let note = "some events are missing here: they were dropped before they could be shown";
            self.context.output.note(note);
        }
        self.show(step.events.iter())?;
        self.after_id = Some(step.position);
        self.registry_id = step.registry_id;
        Ok(())
    }

    fn broke(&mut self) {}

    fn start_over(&mut self) -> bool {
        self.registry_id.clear();
        self.after_id.take().is_some()
    }
}

impl Screen<'_> {
    fn show<'e>(
        &mut self,
        events: impl Iterator<Item = &'e v1::Event> + Clone,
    ) -> Result<(), Error> {
        if let Some(newest) = events.clone().last() {
            self.since_time = newest.last_time.or(newest.time);
        }
        let output = &self.context.output;
        match output.format {
            Format::Json | Format::Yaml => events
                .into_iter()
                .try_for_each(|event| output.stream_document("Event", event)),
            Format::Name => output.names(events.map(reference)),
            Format::Table | Format::Wide => {
                let table = self.lines.table(events, output.format == Format::Wide);
                if table.is_empty() {
                    return Ok(());
                }
                output.continue_table(&table, &mut self.widths)
            }
        }
    }
}

fn kinds(args: &Events) -> Vec<i32> {
    args.kinds.iter().map(|kind| (*kind).into()).collect()
}

fn reference(event: &v1::Event) -> String {
    text::clean(&format!("event/{}", event.id))
}
