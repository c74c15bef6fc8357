//! `qcc-ctl proxy diff`: a proxy's view beside the control plane's.

use std::{collections::BTreeMap, time::Duration};

use qcc_proto::v1::{self, HealthState};
use serde_json::json;

use super::{
    super::{Answer, Context, endpoints},
    list_all, mark, status,
};
use crate::{
    args::Format,
    error::Error,
    message,
    table::{Cell, Table, Tone},
    text,
};

/// Looks before a proxy counts as behind, and the pause between two: a change that is on its way when
/// the first look falls on it has arrived by the second.
const LOOKS: usize = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(150);

/// Both views, read one after the other.
struct Views {
    status: v1::ProxyStatus,
    proxy: v1::ListProxyEndpointsResponse,
    control: v1::ListEndpointsResponse,
}

/// One thing in which an endpoint differs.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    endpoint: String,
    field: &'static str,
    control: String,
    proxy: String,
}

/// The field of a mark that the proxy has set itself, on evidence that the view does not hold yet.
const LOCAL_MARK: &str = "local mark";

pub(super) async fn run(context: &Context) -> Result<Answer, Error> {
    let mut views = look(context).await?;
    for _ in 1..LOOKS {
        if views.proxy.view == views.control.view {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        views = look(context).await?;
    }
    let differences = compare(&views.control.endpoints, &views.proxy.endpoints);
    show(&views, &differences, context)?;
    Ok(if differences.is_empty() {
        Answer::Done
    } else {
        Answer::No
    })
}

async fn look(context: &Context) -> Result<Views, Error> {
    let status = status(&context.proxy).await?;
    let proxy = list_all(&context.proxy).await?;
    let request = v1::ListEndpointsRequest {
        cluster: status.cluster.clone(),
        ..Default::default()
    };
    let control = endpoints::list_all(&context.control, request).await?;
    Ok(Views {
        status,
        proxy,
        control,
    })
}

/// What differs, by endpoint.
fn compare(control: &[v1::Endpoint], proxy: &[v1::ProxyEndpoint]) -> Vec<Difference> {
    let mut pairs: BTreeMap<&str, (Option<&v1::Endpoint>, Option<&v1::ProxyEndpoint>)> =
        BTreeMap::new();
    for endpoint in control {
        pairs.entry(&endpoint.name).or_default().0 = Some(endpoint);
    }
    for endpoint in proxy {
        pairs.entry(&endpoint.name).or_default().1 = Some(endpoint);
    }
    let mut differences = Vec::new();
    for (name, pair) in pairs {
        let mut differs = |field, control: String, proxy: String| {
            if control != proxy {
                differences.push(Difference {
                    endpoint: text::clean(name),
                    field,
                    control,
                    proxy,
                });
            }
        };
        let (exists, missing) = ("exists".to_owned(), "missing".to_owned());
        match pair {
            (Some(control), Some(proxy)) => compare_one(control, proxy, &mut differs),
            (Some(_), None) => differs("endpoint", exists, missing),
            (None, _) => differs("endpoint", missing, exists),
        }
    }
    differences
}

fn compare_one(
    control: &v1::Endpoint,
    proxy: &v1::ProxyEndpoint,
    differs: &mut impl FnMut(&'static str, String, String),
) {
    let health = control.health.clone().unwrap_or_default();
    differs(
        "generation",
        control.generation.to_string(),
        proxy.generation.to_string(),
    );
    differs(
        "state",
        text::state(health.state()),
        text::state(proxy.state()),
    );
    differs(
        "cause",
        text::cause(health.cause()),
        text::cause(proxy.cause()),
    );
    differs(
        "admin state",
        text::admin_state(control.admin_state()),
        text::admin_state(proxy.admin_state()),
    );
    // A proxy of an older version does not say them.
    for (field, control, proxy) in [
        ("priority", control.priority, proxy.priority),
        ("weight", control.weight, proxy.weight),
    ] {
        if proxy.is_some() {
            differs(field, text::number(control), text::number(proxy));
        }
    }
    if let Some(own) = proxy
        .local_mark
        .as_ref()
        .filter(|own| is_news(own, &health))
    {
        differs(LOCAL_MARK, text::state(health.state()), describe(own));
    }
}

/// Whether a proxy's own mark says more than the control plane knows.
fn is_news(own: &v1::LocalMark, health: &v1::Health) -> bool {
    health.state() != HealthState::Unhealthy && own.cause() != health.cause()
        || health.cause() == v1::Cause::Unspecified
}

fn describe(own: &v1::LocalMark) -> String {
    match (own.cause(), own.failures) {
        (v1::Cause::Unspecified, failures) => {
            format!("{} seen here alone", text::plural(failures, "failure"))
        }
        _ => mark(own),
    }
}

fn show(views: &Views, differences: &[Difference], context: &Context) -> Result<(), Error> {
    let output = &context.output;
    match output.format {
        Format::Json | Format::Yaml => output.value(&document(views, differences)?),
        Format::Name => {
            let mut names: Vec<_> = differences
                .iter()
                .map(|difference| format!("endpoint/{}", difference.endpoint))
                .collect();
            names.dedup();
            output.names(names)
        }
        Format::Table | Format::Wide => {
            let id = format!("proxy {}", text::clean(&views.status.id));
            output.text(&output.properties(&[
                (
                    "control plane",
                    text::view(views.control.view.as_ref()).into(),
                ),
                (&id, proxy_view(views)),
            ]))?;
            if differences.is_empty() {
                output.note("no differences");
                return Ok(());
            }
            output.text("\n")?;
            output.table(&table(differences))
        }
    }
}

/// The proxy's view and how old it is.
fn proxy_view(views: &Views) -> Cell {
    let status = &views.status;
    let mut text = text::view(views.proxy.view.as_ref());
    if let Some(age) = &status.view_age {
        text.push_str(&format!(", confirmed {} ago", text::wire_span(Some(age))));
    }
    let behind = behind(views.control.view, views.proxy.view);
    if let Some(behind) = &behind {
        text.push_str(&format!(", {behind}"));
    }
    if status.connected_control_url.is_empty() {
        text.push_str(", no control plane is connected");
    }
    let fine = behind.is_none() && !status.stale;
    Cell::new(text, if fine { Tone::Good } else { Tone::Doubtful })
}

/// How far the proxy's view is from the control plane's.
fn behind(control: Option<v1::View>, proxy: Option<v1::View>) -> Option<String> {
    let (control, proxy) = (control.unwrap_or_default(), proxy.unwrap_or_default());
    if control == proxy {
        None
    } else if control.term != proxy.term {
        Some("of another term".to_owned())
    } else if control > proxy {
        let revisions = control.revision - proxy.revision;
        Some(format!("{} behind", text::plural(revisions, "revision")))
    } else {
        Some("newer than the one that it is compared with".to_owned())
    }
}

fn table(differences: &[Difference]) -> Table {
    let mut table = Table::new(&["ENDPOINT", "FIELD", "CONTROL PLANE", "PROXY"]);
    for difference in differences {
        let tone = match difference.field {
            // The proxy is ahead, not behind.
            LOCAL_MARK => Tone::Doubtful,
            _ => Tone::Bad,
        };
        table.row(vec![
            difference.endpoint.clone().into(),
            difference.field.into(),
            difference.control.clone().into(),
            Cell::new(difference.proxy.clone(), tone),
        ]);
    }
    table
}

fn document(views: &Views, differences: &[Difference]) -> Result<serde_json::Value, Error> {
    let view = |view: &Option<v1::View>| match view {
        Some(view) => message::to_json("View", view),
        None => Ok(serde_json::Value::Null),
    };
    let differences: Vec<_> = differences
        .iter()
        .map(|Difference { endpoint, field, control, proxy }| {
            json!({ "endpoint": endpoint, "field": field.replace(' ', "_"), "control": control, "proxy": proxy })
        })
        .collect();
    Ok(json!({
        "control_view": view(&views.control.view)?,
        "proxy_view": view(&views.proxy.view)?,
        "proxy_status": message::to_json("ProxyStatus", &views.status)?,
        "differences": differences,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> (v1::Endpoint, v1::ProxyEndpoint) {
        let control = v1::Endpoint {
            name: name.to_owned(),
            generation: 3,
            priority: Some(1),
            weight: Some(100),
            admin_state: v1::AdminState::Enabled.into(),
            health: Some(v1::Health {
                state: HealthState::Healthy.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let proxy = v1::ProxyEndpoint {
            name: name.to_owned(),
            generation: 3,
            priority: Some(1),
            weight: Some(100),
            admin_state: v1::AdminState::Enabled.into(),
            state: HealthState::Healthy.into(),
            ..Default::default()
        };
        (control, proxy)
    }

    /// The differences as `endpoint field control proxy`.
    fn differences(control: &[v1::Endpoint], proxy: &[v1::ProxyEndpoint]) -> Vec<String> {
        compare(control, proxy)
            .iter()
            .map(|d| format!("{} {}: {} / {}", d.endpoint, d.field, d.control, d.proxy))
            .collect()
    }

    #[test]
    fn alike_is_no_difference_and_every_field_counts() {
        let (mut control, mut proxy) = known("a");
        let alike = compare(&[control.clone()], &[proxy.clone()]);
        assert_eq!(alike, []);
        proxy.priority = None;
        proxy.weight = None;
        let older = compare(&[control.clone()], &[proxy.clone()]);
        assert_eq!(older, [], "an older proxy does not say them");
        proxy.priority = Some(2);
        proxy.weight = Some(7);
        control.generation = 4;
        control.set_admin_state(v1::AdminState::Draining);
        control.health = Some(v1::Health {
            state: HealthState::Unhealthy.into(),
            cause: v1::Cause::Auth.into(),
            ..Default::default()
        });
        assert_eq!(
            differences(&[control], &[proxy]),
            [
                "a generation: 4 / 3",
                "a state: unhealthy / healthy",
                "a cause: auth / -",
                "a admin state: draining / enabled",
                "a priority: 1 / 2",
                "a weight: 100 / 7",
            ]
        );
    }

    #[test]
    fn what_only_one_of_them_has_is_named() {
        let ((a, _), (_, b)) = (known("a"), known("b"));
        assert_eq!(
            differences(&[a], &[b]),
            [
                "a endpoint: exists / missing",
                "b endpoint: missing / exists"
            ]
        );
    }

    #[test]
    fn a_local_mark_is_a_difference_only_while_the_view_does_not_hold_it() {
        let (mut control, mut proxy) = known("a");
        proxy.local_mark = Some(v1::LocalMark {
            cause: v1::Cause::Auth.into(),
            ..Default::default()
        });
        assert_eq!(
            differences(&[control.clone()], &[proxy.clone()]),
            ["a local mark: healthy / auth"]
        );
        control.health = Some(v1::Health {
            state: HealthState::Unhealthy.into(),
            cause: v1::Cause::Auth.into(),
            ..Default::default()
        });
        proxy.set_state(HealthState::Unhealthy);
        proxy.set_cause(v1::Cause::Auth);
        assert_eq!(compare(&[control], &[proxy]), []);

        let (control, mut proxy) = known("a");
        proxy.local_mark = Some(v1::LocalMark {
            failures: 2,
            ..Default::default()
        });
        assert_eq!(
            differences(&[control], &[proxy]),
            ["a local mark: healthy / 2 failures seen here alone"]
        );
    }
}
