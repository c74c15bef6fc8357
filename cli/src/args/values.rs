//! Values of flags that are more than text.

use std::time::{Duration, SystemTime};

use http::Uri;
use prost_types::Timestamp;
use qcc_proto::v1::{EventKind, HealthState};

use crate::{operator::Operator, text};

/// An address such as `http://127.0.0.1:7870`; without a scheme it is `http`.
pub(crate) fn url(text: &str) -> Result<Uri, String> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = with_scheme
        .parse()
        .map_err(|_| "not a URL such as http://127.0.0.1:7870".to_owned())?;
    if !matches!(uri.scheme_str(), Some("http" | "https"))
        || uri
            .authority()
            .is_none_or(|authority| authority.as_str().contains('@'))
        || uri.path() != "/"
        || uri.query().is_some()
    {
        return Err("must be http://HOST:PORT or https://HOST:PORT and nothing more".to_owned());
    }
    Ok(uri)
}

/// A host name without a port.
pub(crate) fn host(text: &str) -> Result<String, String> {
    if qcc_proto::plain::is_host_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a host name without a port".to_owned())
    }
}

/// A duration such as `30s`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    qcc_proto::duration::parse(text)
        .map_err(|_| "whole numbers with units, such as 250ms, 30s, 5m or 1h30m".to_owned())
}

/// A duration for the wire.
pub(crate) fn wire_duration(text: &str) -> Result<prost_types::Duration, String> {
    duration(text).map(qcc_proto::duration::to_proto)
}

/// A label, `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// A model's other name, `FROM=TO`.
pub(crate) fn alias(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("must be FROM=TO".to_owned()),
    }
}

/// A health state by its short name.
pub(crate) fn state(text: &str) -> Result<HealthState, String> {
    match text {
        "unknown" => Ok(HealthState::Unknown),
        "healthy" => Ok(HealthState::Healthy),
        "degraded" => Ok(HealthState::Degraded),
        "unhealthy" => Ok(HealthState::Unhealthy),
        _ => Err("must be unknown, healthy, degraded or unhealthy".to_owned()),
    }
}

/// Who asks, in printable ASCII.
pub(crate) fn operator(text: &str) -> Result<Operator, String> {
    Operator::new(text)
}

/// A moment: a time as in `events`, or how long ago it was.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = qcc_proto::duration::parse(text) {
        let moment = SystemTime::now().checked_sub(ago);
        return moment
            .map(Timestamp::from)
            .ok_or_else(|| "longer ago than there has been time".to_owned());
    }
    // What prost reads besides (a date alone, a time without a zone) can be meant in two ways.
    let has_zone = text.ends_with(['Z', 'z']) || text.rfind(['+', '-']) > text.find([':']);
    text.parse()
        .ok()
        .filter(|_| has_zone && text.contains(['T', 't']))
        .ok_or_else(|| {
            "how long ago, such as 90s or 1h, or a time such as 2026-01-31T13:00:00Z".to_owned()
        })
}

/// A kind of event, by the word with which it is shown.
pub(crate) fn event_kind(text: &str) -> Result<EventKind, String> {
    // The first is never sent.
    let kinds = (1..).map_while(|number| EventKind::try_from(number).ok());
    let mut words = Vec::new();
    for kind in kinds {
        let word = text::event_kind(kind);
        if word == text {
            return Ok(kind);
        }
        words.push(word);
    }
    Err(format!("must be one of {}", words.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_span_before_now_or_a_time_with_a_zone() {
        let ago = moment("1h").unwrap();
        let elapsed = SystemTime::now()
            .duration_since(ago.try_into().unwrap())
            .unwrap();
        assert!((3600..3660).contains(&elapsed.as_secs()), "{elapsed:?}");
        for text in [
            "2026-01-31T13:00:00Z",
            "2026-01-31T14:00:00+01:00",
            "2026-01-31T13:00:00.000Z",
        ] {
            assert_eq!(moment(text).map(|time| time.seconds), Ok(1_769_864_400));
        }
        for text in [
            "",
            "1",
            "yesterday",
            "2026-01-31",
            "2026-01-31T13:00:00",
            "2026-01-31 13:00:00Z",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_kind_of_event_has_a_word() {
        assert_eq!(event_kind("ejected"), Ok(EventKind::EndpointEjected));
        assert_eq!(event_kind("cluster_deleted"), Ok(EventKind::ClusterDeleted));
        let error = event_kind("unspecified").unwrap_err();
        assert!(
            error.contains("control_started, ejected, paused"),
            "{error}"
        );
        assert!(
            error.ends_with("cluster_deleted") && !error.contains("endpoint_"),
            "{error}"
        );
    }

    #[test]
    fn addresses_are_host_and_port_with_or_without_scheme() {
        for text in [
            "http://127.0.0.1:7870",
            "http://[::1]:1/",
            "control.example:7870",
            "https://control.example:7870",
            "127.0.0.1:0",
        ] {
            assert!(url(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "http://a/b",
            "http://a?x",
            "http://user:pw@a",
            "ftp://a",
            "http://",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_has_a_key_and_may_have_an_empty_value() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a="), Ok(("a".to_owned(), String::new())));
        assert!(label("a").is_err() && label("=b").is_err());
    }
}
