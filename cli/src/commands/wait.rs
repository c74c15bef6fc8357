//! `qcc-ctl wait`

use std::time::Duration;

use qcc_proto::v1::{self, SyncState};
use tokio::time::Instant;

use super::{Answer, Context, endpoints, proxies, queue};
use crate::{
    args::whole::{Condition, WAIT_TIMEOUT, Wait},
    error::{Error, Exit},
    text,
};

/// Between two looks: short enough for scripts, and a light load for the control plane.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(super) async fn run(args: Wait, context: &Context) -> Result<Answer, Error> {
    let condition = args.condition().map_err(Error::usage)?;
    let limit = context.control.given_timeout().unwrap_or(WAIT_TIMEOUT);
    let deadline = Instant::now() + limit;
    let mut seen = "nothing was learned".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look(&condition, context)).await {
            Ok(Ok(Look { met: true, now })) => {
                context.output.text(&format!("{now}\n"))?;
                return Ok(Answer::Done);
            }
            Ok(Ok(Look { met: false, now })) => seen = now,
            // A control plane that is starting or restarting is worth waiting for.
            Ok(Err(error))
                if error.exit() == Exit::Unreachable && Instant::now() + LOOK_AGAIN < deadline =>
            {
                tracing::debug!(%error, "looking again");
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let limit = qcc_proto::duration::format(limit);
                return Err(Error::new(
                    Exit::Unreachable,
                    format!("not met within {limit}: {seen}"),
                ));
            }
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
    }
}

/// What one look showed.
struct Look {
    met: bool,
    now: String,
}

async fn look(condition: &Condition, context: &Context) -> Result<Look, Error> {
    match condition {
        Condition::Endpoint(name, wanted) => {
            let endpoint = endpoints::get(&context.control, name.clone()).await?;
            let health = endpoint.health.unwrap_or_default();
            let met = health.state() == *wanted;
            Ok(Look {
                met,
                now: format!(
                    "endpoint/{} is {}",
                    text::clean(name),
                    text::state(health.state())
                ),
            })
        }
        Condition::QueueEmpty => {
            let v1::FailureQueueStats { length, .. } = queue::stats(&context.control).await?;
            let now = if length == 0 {
                "the queue is empty".to_owned()
            } else {
                format!("the queue's length is {length}")
            };
            Ok(Look {
                met: length == 0,
                now,
            })
        }
        Condition::ProxiesSynced => {
            let proxies = proxies::list_all(&context.control).await?.proxies;
            let connected = proxies
                .iter()
                .filter(|proxy| proxy.sync_state() != SyncState::Gone)
                .count();
            let synced = proxies
                .iter()
                .filter(|proxy| proxy.sync_state() == SyncState::Synced)
                .count();
            let now = match connected {
                0 => "no proxy is connected".to_owned(),
                connected => format!("{synced}/{connected} proxies are synced"),
            };
            Ok(Look {
                met: connected > 0 && synced == connected,
                now,
            })
        }
    }
}
