//! What must hold of this crate's readers for any input: the door through which fuzz
//! targets and the tests that replay their corpus come in (feature `fuzzing`).
//!
//! Each function takes the bytes of one case and panics if a promise is broken.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use crate::{duration, resources, upstream, v1};

/// 2026-11-21 00:00:00 UTC, for dates in headers.
const NOW: Duration = Duration::from_secs(1_795_219_200);

/// The value of every environment variable: no text of a file contains it.
const ENVIRONMENT_KEY: &str = "sk-of-the-environment-0451";

/// A resources file: it is printed as it was read, or refused with a place and a reason, in which
/// no key is.
///
/// # Panics
///
/// If that does not hold.
pub fn resources(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return; // Refused before it is parsed.
    };
    // What is in the files of this machine is no part of the case.
    if text.contains("api_key_file") || text.contains(ENVIRONMENT_KEY) {
        return;
    }
    let environment = |name: &str| match name {
        "ABSENT" => None,
        "INVALID" => Some(format!("{ENVIRONMENT_KEY} and more")),
        _ => Some(ENVIRONMENT_KEY.to_owned()),
    };
    let parse = |text: &str| resources::parse(text, Path::new("/nowhere"), &environment);
    match parse(text) {
        Ok(mut declared) => {
            for endpoint in &mut declared.endpoints {
                endpoint.credential = None;
                if endpoint.admin_state() == v1::AdminState::Enabled {
                    endpoint.set_admin_state(v1::AdminState::Unspecified);
                }
            }
            let printed = resources::render(&declared.clusters, &declared.endpoints);
            let again = match parse(&printed) {
                Ok(again) => again,
                Err(error) => panic!("what was printed is refused: {error}\n{printed}"),
            };
            assert_eq!(again, declared, "it changes by being printed:\n{printed}");
        }
        Err(resources::Error::Invalid { line, message }) => {
            let lines = 1 + text.matches('\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}");
            assert!(!message.is_empty(), "a refusal has a reason");
            assert!(!message.contains(ENVIRONMENT_KEY), "a key is shown");
        }
        Err(error) => panic!("a text is not a file: {error}"),
    }
}

/// A response head, as lines: the status, then `name: value`. The wait that is asked for is within
/// bounds, runs out as time passes, and agrees with whom the answer blames.
///
/// # Panics
///
/// If that does not hold.
pub fn retry_after(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let status = lines
        .next()
        .and_then(|line| StatusCode::from_bytes(line).ok());
    let status = status.unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(at) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[at + 1..])) {
            headers.append(name, value);
        }
    }
    let now = SystemTime::UNIX_EPOCH + NOW;
    let wait = upstream::retry_after(&headers, now);
    let second = Duration::from_secs(1);
    let later = upstream::retry_after(&headers, now + second);
    assert_eq!(
        wait.is_some(),
        later.is_some(),
        "time makes no sense of garbage"
    );
    if let (Some(wait), Some(later)) = (wait, later) {
        assert!(wait <= upstream::RETRY_AFTER_MAX, "{wait:?}");
        assert!(
            later <= wait && wait - later <= second,
            "{wait:?}, then {later:?}"
        );
    }
    if let Some(seconds) = plain_seconds(&headers) {
        let expected = Duration::from_secs(seconds).min(upstream::RETRY_AFTER_MAX);
        assert_eq!(wait, Some(expected));
    }

    let verdict = upstream::classify(status, &headers, now);
    let class = verdict.class;
    assert_ne!(class, v1::OutcomeClass::Unspecified);
    assert_eq!(class == v1::OutcomeClass::Success, status.as_u16() < 400);
    if class == v1::OutcomeClass::Success {
        assert_eq!(verdict.retry_after, None, "a success asks for no wait");
    }
    if status.as_u16() == 503 {
        let busy = class == v1::OutcomeClass::Overloaded;
        assert_eq!(busy, verdict.retry_after.is_some());
    }
    if status.as_u16() == 429 {
        assert_eq!(verdict.retry_after, wait);
    }
    assert!(
        verdict
            .retry_after
            .is_none_or(|wait| wait <= upstream::RETRY_AFTER_MAX)
    );
}

/// `retry-after` as a whole number of seconds, if nothing else asks for a wait.
fn plain_seconds(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key("retry-after-ms") {
        return None;
    }
    let text = headers.get("retry-after")?.to_str().ok()?;
    let digits = (1..=12).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// A duration: what was read is written as the same, and goes over the wire.
///
/// # Panics
///
/// If that does not hold.
pub fn duration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match duration::parse(text) {
        Ok(read) => {
            let written = duration::format(read);
            assert_eq!(duration::parse(&written), Ok(read), "{written}");
            assert_eq!(duration::from_proto(&duration::to_proto(read)), Some(read));
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        Err(error) => assert!(error.to_string().len() < 300, "an error is one line"),
    }
}

/// A base URL and a path, each in a line: joined byte for byte, and to the same host.
///
/// # Panics
///
/// If that does not hold.
pub fn target(data: &[u8]) {
    let Some((base, path)) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.split_once('\n'))
    else {
        return;
    };
    let Ok(base) = base.parse::<Uri>() else {
        return;
    };
    let Ok(joined) = upstream::target(&base, path) else {
        let plain = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'/')
        };
        let whole = base.scheme().is_some() && base.authority().is_some() && plain(base.path());
        assert!(!(whole && path.starts_with('/') && plain(path) && data.len() < 60_000));
        return;
    };
    assert_eq!(joined.scheme(), base.scheme());
    assert_eq!(joined.authority(), base.authority());
    let base_path = base.path().trim_end_matches('/');
    let sent = joined.path_and_query().map(|path| path.as_str().to_owned());
    assert_eq!(sent, Some([base_path, path].concat()));
    assert_eq!(
        joined.to_string().parse::<Uri>().ok().as_ref(),
        Some(&joined)
    );
}
