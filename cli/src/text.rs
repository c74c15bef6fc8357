//! Words, times and foreign text, as people read them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use qcc_proto::v1;

/// What stands for nothing in a table.
pub(crate) const NOTHING: &str = "-";

/// Removes control characters, which in foreign text could rewrite a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        // Line ends become spaces; a bidirectional override can make text read as something else.
        .map(|c| {
            if matches!(c, '\n' | '\r' | '\t') {
                ' '
            } else {
                c
            }
        })
        .filter(|c| {
            !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .collect()
}

/// The short word of an enum value: `HEALTH_STATE_HEALTHY` is `healthy`. Unspecified is nothing.
pub(crate) fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => NOTHING.to_owned(),
        word => word.to_lowercase(),
    }
}

pub(crate) fn state(state: v1::HealthState) -> String {
    word(state.as_str_name(), "HEALTH_STATE_")
}

pub(crate) fn admin_state(state: v1::AdminState) -> String {
    word(state.as_str_name(), "ADMIN_STATE_")
}

pub(crate) fn cause(cause: v1::Cause) -> String {
    word(cause.as_str_name(), "CAUSE_")
}

pub(crate) fn outcome(class: v1::OutcomeClass) -> String {
    word(class.as_str_name(), "OUTCOME_CLASS_")
}

pub(crate) fn sync_state(state: v1::SyncState) -> String {
    word(state.as_str_name(), "SYNC_STATE_")
}

/// An event's kind without the noun that nearly all of them are about: `ejected`, `provider_busy`.
pub(crate) fn event_kind(kind: v1::EventKind) -> String {
    let word = word(kind.as_str_name(), "EVENT_KIND_");
    word.strip_prefix("endpoint_").unwrap_or(&word).to_owned()
}

pub(crate) fn view(view: Option<&v1::View>) -> String {
    view.map_or_else(|| NOTHING.to_owned(), ToString::to_string)
}

/// A text, or a mark that there is none.
pub(crate) fn or_nothing(text: &str) -> String {
    if text.is_empty() {
        NOTHING.to_owned()
    } else {
        clean(text)
    }
}

/// The facts of a piece of evidence, the hardest first: `http 401, authentication_error`.
pub(crate) fn evidence(evidence: &v1::Evidence) -> String {
    let mut facts = Vec::new();
    if evidence.http_status != 0 {
        facts.push(format!("http {}", evidence.http_status));
    }
    if !evidence.error_type.is_empty() {
        facts.push(clean(&evidence.error_type));
    }
    // Some details only repeat the status in words.
    let repeats =
        evidence.http_status != 0 && evidence.detail.contains(&evidence.http_status.to_string());
    // `Connection refused (os error 111)`: the number helps nobody.
    let detail = evidence.detail.split(" (os error").next();
    let detail = detail.filter(|detail| !detail.is_empty() && !repeats);
    facts.extend(detail.map(clean));
    if facts.is_empty() {
        outcome(evidence.outcome())
    } else {
        facts.join(", ")
    }
}

/// The facts of a piece of evidence as short as they can be said: `401 authentication_error`.
pub(crate) fn short_evidence(evidence: &v1::Evidence) -> String {
    let full = self::evidence(evidence);
    match full.strip_prefix("http ") {
        Some(status) => status.replacen(", ", " ", 1),
        None => full,
    }
}

/// A time to the millisecond, as logs and `--since` write it: `2026-01-31T13:00:00.250Z`.
pub(crate) fn moment(time: Option<&Timestamp>) -> String {
    let Some(time) = time else {
        return NOTHING.to_owned();
    };
    let millis = time.nanos.clamp(0, 999_999_999) / 1_000_000;
    let seconds = Timestamp { nanos: 0, ..*time }.to_string();
    format!("{}.{millis:03}Z", seconds.trim_end_matches('Z'))
}

/// How long ago, in whole seconds at best: `42s`.
pub(crate) fn since(now: SystemTime, time: Option<&Timestamp>) -> String {
    match time.and_then(system_time) {
        Some(time) => span(Duration::from_secs(
            now.duration_since(time).unwrap_or_default().as_secs(),
        )),
        None => NOTHING.to_owned(),
    }
}

/// How far ahead: `in 18s`, or `now`.
pub(crate) fn until(now: SystemTime, time: Option<&Timestamp>) -> String {
    match left(now, time) {
        Some(left) if left >= Duration::from_millis(500) => {
            let rounded = Duration::from_secs((left + Duration::from_millis(500)).as_secs());
            format!("in {}", span(rounded))
        }
        Some(_) => "now".to_owned(),
        None => NOTHING.to_owned(),
    }
}

/// How much time is left: none, once it has passed.
pub(crate) fn left(now: SystemTime, time: Option<&Timestamp>) -> Option<Duration> {
    let time = time.and_then(system_time)?;
    Some(time.duration_since(now).unwrap_or_default())
}

/// When the next check is: the plan, or that one is running.
pub(crate) fn next_check(now: SystemTime, checking: bool, time: Option<&Timestamp>) -> String {
    if checking {
        "running".to_owned()
    } else {
        until(now, time)
    }
}

/// A span on the wire, rounded.
pub(crate) fn wire_span(duration: Option<&prost_types::Duration>) -> String {
    duration
        .and_then(qcc_proto::duration::from_proto)
        .map_or_else(|| NOTHING.to_owned(), span)
}

/// How far behind, to the millisecond as long as that means something: `1250ms`.
pub(crate) fn lag(duration: Option<&prost_types::Duration>) -> String {
    match duration.and_then(qcc_proto::duration::from_proto) {
        Some(lag) if lag < Duration::from_secs(10) => format!("{}ms", lag.as_millis()),
        Some(lag) => span(lag),
        None => "0ms".to_owned(),
    }
}

/// A setting as it would be written: `1m30s`.
pub(crate) fn exact(duration: Option<&prost_types::Duration>) -> String {
    duration
        .and_then(qcc_proto::duration::from_proto)
        .map_or_else(|| NOTHING.to_owned(), qcc_proto::duration::format)
}

/// Yes or no, or left to a default.
pub(crate) fn yes_no(value: Option<bool>) -> String {
    value
        .map_or(NOTHING, |value| if value { "yes" } else { "no" })
        .to_owned()
}

/// A number that may be left to a default.
pub(crate) fn number(value: Option<u32>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

/// A number of things: `1 cluster`, `2 proxies`.
pub(crate) fn plural(number: impl Into<u64>, noun: &str) -> String {
    match (number.into(), noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (number, Some(stem)) => format!("{number} {stem}ies"),
        (number, None) => format!("{number} {noun}s"),
    }
}

/// A span in the largest unit that says enough: `250ms`, `42s`, `5m`, `3h`, `12d`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 if span.is_zero() => "0s".to_owned(),
        0 => format!("{}ms", span.as_millis()),
        1..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn system_time(time: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(time.seconds).ok()?;
    let nanos = u32::try_from(time.nanos).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enum_values_are_short_lower_case_words() {
        assert_eq!(state(v1::HealthState::Healthy), "healthy");
        assert_eq!(cause(v1::Cause::RateLimited), "rate_limited");
        assert_eq!(cause(v1::Cause::Unspecified), "-");
        assert_eq!(sync_state(v1::SyncState::Gone), "gone");
        assert_eq!(admin_state(v1::AdminState::Draining), "draining");
    }

    #[test]
    fn times_are_relative() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        assert_eq!(since(now, at(1_000_000 - 42).as_ref()), "42s");
        assert_eq!(since(now, at(1_000_000 - 3 * 3600).as_ref()), "3h");
        assert_eq!(
            since(now, at(1_000_005).as_ref()),
            "0s",
            "clocks of two machines differ"
        );
        assert_eq!(until(now, at(1_000_018).as_ref()), "in 18s");
        let soon = Timestamp {
            seconds: 1_000_001,
            nanos: 900_000_000,
        };
        assert_eq!(until(now, Some(&soon)), "in 2s");
        assert_eq!(until(now, at(999_000).as_ref()), "now");
        assert_eq!(until(now, None), "-");
        assert_eq!(
            since(
                now,
                Some(&Timestamp {
                    seconds: -1,
                    nanos: 0
                })
            ),
            "-"
        );
        assert_eq!(moment(Some(&soon)), "1970-01-12T13:46:41.900Z");
        assert_eq!(moment(at(0).as_ref()), "1970-01-01T00:00:00.000Z");
        assert_eq!(span(Duration::from_millis(1)), "1ms");
        assert_eq!(span(Duration::from_secs(119)), "119s");
        assert_eq!(span(Duration::from_secs(120)), "2m");
    }

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{9b}\u{202e}d\u{7f}"), "a[2Jb cd");
        let facts = |http_status, error_type: &str, detail: &str| v1::Evidence {
            outcome: v1::OutcomeClass::Connect.into(),
            http_status,
            error_type: error_type.to_owned(),
            detail: detail.to_owned(),
            ..Default::default()
        };
        let evidence_of = |status, error_type, detail| evidence(&facts(status, error_type, detail));
        let short = |status, error_type, detail| short_evidence(&facts(status, error_type, detail));
        assert_eq!(
            evidence_of(401, "authentication_error", ""),
            "http 401, authentication_error"
        );
        assert_eq!(
            short(401, "authentication_error", ""),
            "401 authentication_error"
        );
        assert_eq!(short(503, "", ""), "503");
        assert_eq!(
            short(0, "", "connection refused (os error 111)"),
            "connection refused"
        );
        assert_eq!(
            evidence_of(0, "", "connection\r\nrefused"),
            "connection  refused"
        );
        assert_eq!(evidence_of(0, "", ""), "connect");
    }
}
