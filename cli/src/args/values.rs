//! Values of flags that are more than text.

use std::time::Duration;

use http::Uri;
use qcc_proto::v1::HealthState;

/// An address such as `http://127.0.0.1:7870`; the scheme may be left out.
pub(crate) fn url(text: &str) -> Result<Uri, String> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = with_scheme
        .parse()
        .map_err(|_| "not a URL such as http://127.0.0.1:7870".to_owned())?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is available; servers do not speak TLS yet".to_owned());
    }
    if uri
        .authority()
        .is_none_or(|authority| authority.as_str().contains('@'))
        || uri.path() != "/"
        || uri.query().is_some()
    {
        return Err("must be http://HOST:PORT and nothing more".to_owned());
    }
    Ok(uri)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port_with_or_without_scheme() {
        for text in [
            "http://127.0.0.1:7870",
            "http://[::1]:1/",
            "control.example:7870",
            "127.0.0.1:0",
        ] {
            assert!(url(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "https://a:1",
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
