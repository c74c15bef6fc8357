//! `qcc-ctl status`

mod propagation;

use std::time::SystemTime;

use qcc_proto::v1::{self, HealthState, control_service_client::ControlServiceClient as Client};

use super::{Answer, Context, missing, reload};
use crate::{
    args::whole::Status,
    client::Server,
    error::Error,
    output::tone,
    table::{Cell, Tone},
    text,
};

pub(super) async fn run(args: &Status, context: &Context) -> Result<Answer, Error> {
    let status = get(&context.control).await?;
    let address = context.control.address().await?;
    let people = || people(&status, &address, context);
    context
        .output
        .one(("ControlStatus", &status), "control".to_owned(), people)?;
    let problems = problems(&status);
    if !args.check || problems.is_empty() {
        return Ok(Answer::Done);
    }
    for problem in problems {
        context.output.note(&format!("problem: {problem}"));
    }
    Ok(Answer::Problems)
}

/// Returns the control plane's status.
pub(super) async fn get(control: &Server) -> Result<v1::ControlStatus, Error> {
    let request = v1::GetControlStatusRequest {};
    let response = control
        .call(request, async |c, q| {
            Client::new(c).get_control_status(q).await
        })
        .await?;
    response.status.ok_or_else(|| missing("status"))
}

fn count(status: &v1::ControlStatus, state: HealthState) -> u32 {
    status
        .endpoint_states
        .iter()
        .filter(|count| count.state() == state)
        .map(|count| count.endpoints)
        .sum()
}

fn problems(status: &v1::ControlStatus) -> Vec<String> {
    let unhealthy = count(status, HealthState::Unhealthy);
    let stale = status.proxies.saturating_sub(status.proxies_synced);
    let config = status.config.clone().unwrap_or_default();
    [
        (
            config.last_reload_failed,
            "the last reload of the configuration failed".to_owned(),
        ),
        (status.endpoints == 0, "there are no endpoints".to_owned()),
        (
            unhealthy > 0,
            format!("{unhealthy} of {} endpoints unhealthy", status.endpoints),
        ),
        (status.proxies == 0, "no proxy is connected".to_owned()),
        (
            stale > 0,
            format!("{stale} of {} proxies behind", status.proxies),
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, problem)| is_so.then_some(problem))
    .collect()
}

fn people(status: &v1::ControlStatus, address: &str, context: &Context) -> String {
    let queue = status.failure_queue.unwrap_or_default();
    let reports = status.reports.unwrap_or_default();
    let color = context.output.color;
    let states = [
        HealthState::Healthy,
        HealthState::Unknown,
        HealthState::Degraded,
        HealthState::Unhealthy,
    ]
    .into_iter()
    .map(|state| (state, count(status, state)))
    .filter(|(_, endpoints)| *endpoints > 0)
    .map(|(state, endpoints)| {
        Cell::new(format!("{endpoints} {}", text::state(state)), tone(state)).paint(color)
    })
    .collect::<Vec<_>>();
    let endpoints = match status.endpoints {
        0 => "none".to_owned(),
        endpoints => format!(
            "{endpoints} in {}: {}",
            text::plural(status.clusters, "cluster"),
            states.join(", ")
        ),
    };
    let proxies = match (status.proxies, status.proxies_synced) {
        (0, _) => Cell::new("none connected", Tone::Doubtful),
        (all, synced) if all == synced => Cell::new(format!("{synced}/{all} synced"), Tone::Good),
        (all, synced) => Cell::new(format!("{synced}/{all} synced"), Tone::Doubtful),
    };
    let uptime = text::since(SystemTime::now(), status.start_time.as_ref());
    let propagation = status.propagation.clone().unwrap_or_default();
    let mut properties: Vec<(&str, Cell)> = vec![
        (
            "control plane",
            format!(
                "{address}, version {}, up {uptime}",
                text::clean(&status.version)
            )
            .into(),
        ),
        ("view", text::view(status.view.as_ref()).into()),
        ("endpoints", endpoints.into()),
        (
            "failure queue",
            format!(
                "{} waiting; ever {} failed, {} verified, {} recovered, {} still failed",
                queue.length,
                queue.total_failed,
                queue.total_verified,
                queue.total_recovered,
                queue.total_still_failed
            )
            .into(),
        ),
        ("proxies", proxies),
        (
            "reports",
            format!(
                "{} applied, {} duplicate, {} stale, {} of unknown endpoints, {} dropped",
                reports.applied,
                reports.duplicate,
                reports.stale,
                reports.unknown_endpoint,
                reports.dropped
            )
            .into(),
        ),
        (
            "checks",
            format!(
                "{} made, {} refused since an endpoint's budget for the hour was spent",
                status.checks, status.checks_refused
            )
            .into(),
        ),
    ];
    let standing = reload::standing(status.config.as_ref());
    properties.extend(standing.map(|standing| ("configuration", standing)));
    // Last: its chart follows.
    properties.push(("propagation", propagation::summary(&propagation).into()));
    context.output.properties(&properties) + &propagation::chart(&propagation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_finds_what_somebody_should_look_at() {
        let fine = v1::ControlStatus {
            endpoints: 2,
            proxies: 1,
            proxies_synced: 1,
            ..Default::default()
        };
        assert_eq!(problems(&fine), Vec::<String>::new());
        let unhealthy = v1::StateCount {
            state: HealthState::Unhealthy.into(),
            endpoints: 1,
        };
        let bad = v1::ControlStatus {
            endpoint_states: vec![unhealthy],
            proxies: 3,
            ..fine
        };
        assert_eq!(
            problems(&bad),
            ["1 of 2 endpoints unhealthy", "2 of 3 proxies behind"]
        );
        assert_eq!(
            problems(&v1::ControlStatus::default()),
            ["there are no endpoints", "no proxy is connected"]
        );
    }
}
