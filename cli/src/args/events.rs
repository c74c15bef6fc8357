//! `qcc-ctl events`

use clap::Args;
use qcc_proto::v1::EventKind;

use super::{change::OfCluster, values};

/// How many of the newest events are shown unless the user says otherwise.
const SHOWN: usize = 100;
/// The same before new ones are waited for: enough to see what led to now.
const SHOWN_FIRST: usize = 10;

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on with new ones until interrupted.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only those that concern this endpoint, also a deleted one.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) endpoint: String,
    #[command(flatten)]
    pub(crate) of: OfCluster,
    /// Only those since then: how long ago, such as 1h, or a time such as 2026-01-31T13:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = values::moment)]
    pub(crate) since: Option<prost_types::Timestamp>,
    /// Only those of this kind, such as ejected or provider_busy; repeatable.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = values::event_kind)]
    pub(crate) kinds: Vec<EventKind>,
    /// Only so many of the newest [default: 100; 10 with --follow; all with --since].
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

impl Events {
    /// How many events that have happened already are shown at most.
    pub(crate) fn limit(&self) -> usize {
        match (self.limit, &self.since, self.follow) {
            (Some(limit), _, _) => limit,
            (None, Some(_), _) => usize::MAX,
            (None, None, true) => SHOWN_FIRST,
            (None, None, false) => SHOWN,
        }
    }

    /// Whether somebody who wanted more may not know that there is a limit.
    pub(crate) fn limit_is_default(&self) -> bool {
        self.limit.is_none()
    }
}
