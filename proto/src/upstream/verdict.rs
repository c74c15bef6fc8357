//! What a response head means: who is to blame, and how long to wait.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER};

use crate::v1::OutcomeClass;

/// The longest wait that is understood; what asks for more asks for this. Adding it
/// to any present time cannot overflow. Policies cap waits much lower.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Finer than `retry-after`, and sent beside it by OpenAI-compatible APIs.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// `remaining` and `reset` of each limit that a 429 of the Anthropic API reports.
const LIMITS: [[HeaderName; 2]; 4] = [
    [
        HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
        HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-input-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-input-tokens-reset"),
    ],
    [
        HeaderName::from_static("anthropic-ratelimit-output-tokens-remaining"),
        HeaderName::from_static("anthropic-ratelimit-output-tokens-reset"),
    ],
];

/// What a response head says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Who is to blame. `SUCCESS` may still turn into something worse: the body can
    /// break off, or report an error in band.
    pub class: OutcomeClass,
    /// How long the provider wants to be left alone, before any cap of ours.
    /// Always `None` with `SUCCESS`.
    pub retry_after: Option<Duration>,
}

impl Verdict {
    /// Nobody.
    pub const SUCCESS: Self = Self {
        class: OutcomeClass::Success,
        retry_after: None,
    };
}

/// Tells who is to blame for a response, by its head alone.
pub fn classify(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Verdict {
    let asked = || asked_wait(headers, now);
    let (class, retry_after) = match status.as_u16() {
        ..400 => (OutcomeClass::Success, None),
        401 => (OutcomeClass::Auth, asked()),
        402 | 403 => (OutcomeClass::Forbidden, asked()),
        429 => (OutcomeClass::RateLimited, retry_after(headers, now)),
        400..500 => (OutcomeClass::Request, asked()),
        529 => (OutcomeClass::Overloaded, asked()),
        503 => match asked() {
            // Who says when to come back is there, only busy.
            Some(wait) => (OutcomeClass::Overloaded, Some(wait)),
            None => (OutcomeClass::ServerError, None),
        },
        500.. => (OutcomeClass::ServerError, asked()),
    };
    Verdict { class, retry_after }
}

/// Tells who is to blame for an error inside a 200, such as SSE `event: error`, by
/// its `error.type`: as the status that the type stands for.
///
/// Gateways that name a number mean the status itself. An unknown type is a
/// `SERVER_ERROR`: the provider broke its promise of a 200, and one such error alone
/// ejects nobody.
pub fn class_of_error_type(error_type: &str) -> OutcomeClass {
    match error_type {
        "authentication_error" | "invalid_api_key" => OutcomeClass::Auth,
        "permission_error" | "billing_error" => OutcomeClass::Forbidden,
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" => {
            OutcomeClass::RateLimited
        }
        "overloaded_error" => OutcomeClass::Overloaded,
        "invalid_request_error" | "not_found_error" | "conflict_error" | "request_too_large" => {
            OutcomeClass::Request
        }
        // `api_error`, `timeout_error`, `server_error` and what nobody knows yet.
        _ => class_of_status(error_type).unwrap_or(OutcomeClass::ServerError),
    }
}

fn class_of_status(text: &str) -> Option<OutcomeClass> {
    let status = StatusCode::from_u16(text.parse().ok()?).ok()?;
    let is_error = status.is_client_error() || status.is_server_error();
    let verdict = || classify(status, &HeaderMap::new(), SystemTime::UNIX_EPOCH);
    is_error.then(|| verdict().class)
}

/// Returns how long a rate-limited provider wants to be left alone: by
/// `retry-after-ms`, else `retry-after` (seconds or a date), else the latest reset
/// among the `anthropic-ratelimit-*` limits that are used up.
///
/// A time in the past is a wait of zero. A value that makes no sense counts as
/// absent; one above [`RETRY_AFTER_MAX`] counts as that.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    asked_wait(headers, now).or_else(|| limits_reset(headers, now))
}

/// The wait that is asked for outright. The limits say nothing about answers other
/// than a 429: every answer carries them.
fn asked_wait(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let milliseconds = || text(headers.get(RETRY_AFTER_MS)).and_then(|ms| number(ms, 0.001));
    let seconds_or_date = || {
        let value = text(headers.get(RETRY_AFTER))?;
        number(value, 1.0).or_else(|| Some(until(httpdate::parse_http_date(value).ok()?, now)))
    };
    milliseconds().or_else(seconds_or_date)
}

fn limits_reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    LIMITS
        .iter()
        .filter(|[remaining, _]| text(headers.get(remaining)) == Some("0"))
        .filter_map(|[_, reset]| text(headers.get(reset))?.parse::<jiff::Timestamp>().ok())
        .map(|reset| until(reset.into(), now))
        .max()
}

fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value?.to_str().ok().map(str::trim)
}

/// A plain decimal number of units. Signs, exponents, `inf` and `NaN`, which `f64`
/// would take, are garbage here.
fn number(text: &str, unit_seconds: f64) -> Option<Duration> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds = text.parse::<f64>().ok().filter(|_| plain)? * unit_seconds;
    Some(Duration::from_secs_f64(
        seconds.min(RETRY_AFTER_MAX.as_secs_f64()),
    ))
}

fn until(time: SystemTime, now: SystemTime) -> Duration {
    let wait = time.duration_since(now).unwrap_or_default();
    wait.min(RETRY_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 00:00:00 UTC, a Saturday.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_219_200)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn wait(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        retry_after(&headers(pairs), now())
    }

    #[test]
    fn a_status_blames_whom_it_should() {
        use OutcomeClass::*;
        for (status, class) in [
            (200, Success),
            (204, Success),
            (304, Success),
            (307, Success),
            (400, Request),
            (401, Auth),
            (402, Forbidden),
            (403, Forbidden),
            (404, Request),
            (405, Request),
            (408, Request),
            (409, Request),
            (413, Request),
            (415, Request),
            (418, Request),
            (422, Request),
            (429, RateLimited),
            (499, Request),
            (500, ServerError),
            (501, ServerError),
            (502, ServerError),
            (503, ServerError),
            (504, ServerError),
            (529, Overloaded),
            (599, ServerError),
            (999, ServerError),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let verdict = classify(status, &HeaderMap::new(), now());
            assert_eq!(verdict.class, class, "{status}");
            assert_eq!(verdict.retry_after, None, "{status}");
        }
    }

    #[test]
    fn a_503_that_names_a_time_is_only_busy() {
        let unavailable =
            |pairs: &[_]| classify(StatusCode::SERVICE_UNAVAILABLE, &headers(pairs), now()).class;
        assert_eq!(
            unavailable(&[("retry-after", "7")]),
            OutcomeClass::Overloaded
        );
        assert_eq!(
            unavailable(&[("retry-after-ms", "7")]),
            OutcomeClass::Overloaded
        );
        assert_eq!(
            unavailable(&[("retry-after", "soon")]),
            OutcomeClass::ServerError
        );
    }

    #[test]
    fn a_success_asks_for_no_wait() {
        let verdict = classify(StatusCode::OK, &headers(&[("retry-after", "7")]), now());
        assert_eq!(verdict.retry_after, None);
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        for (value, milliseconds) in [
            ("0", Some(0)),
            ("1", Some(1_000)),
            (" 120 ", Some(120_000)),
            ("1.5", Some(1_500)),
            ("Sat, 21 Nov 2026 00:00:30 GMT", Some(30_000)),
            ("Saturday, 21-Nov-26 00:00:30 GMT", Some(30_000)),
            ("Sat Nov 21 00:00:30 2026", Some(30_000)),
            ("Fri, 20 Nov 2026 23:59:59 GMT", Some(0)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("1.2.3", None),
            (".", None),
            ("inf", None),
            ("NaN", None),
            ("1, 2", None),
            ("soon", None),
            ("2026-11-21", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(wait(&[("retry-after", value)]), expected, "{value:?}");
        }
    }

    #[test]
    fn a_huge_wait_saturates() {
        let digits = "9".repeat(400);
        for value in [
            "31536001",
            "18446744073709551616",
            &digits,
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert_eq!(
                wait(&[("retry-after", value)]),
                Some(RETRY_AFTER_MAX),
                "{value}"
            );
        }
        assert_eq!(wait(&[("retry-after-ms", &digits)]), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn bytes_that_are_no_text_are_garbage() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(retry_after(&headers, now()), None);
    }

    #[test]
    fn milliseconds_go_before_seconds_unless_they_are_garbage() {
        assert_eq!(
            wait(&[("retry-after", "2"), ("retry-after-ms", "1500")]),
            Some(Duration::from_millis(1500)),
        );
        assert_eq!(
            wait(&[("retry-after", "2"), ("retry-after-ms", "?")]),
            Some(Duration::from_secs(2)),
        );
    }

    #[test]
    fn a_429_without_retry_after_waits_for_the_latest_used_up_limit() {
        let limits = [
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-21T00:00:05Z"),
            ("anthropic-ratelimit-tokens-remaining", "12"),
            ("anthropic-ratelimit-tokens-reset", "2026-11-21T01:00:00Z"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            (
                "anthropic-ratelimit-input-tokens-reset",
                "2026-11-21T02:00:20+02:00",
            ),
            ("anthropic-ratelimit-output-tokens-remaining", "0"),
            ("anthropic-ratelimit-output-tokens-reset", "tomorrow"),
        ];
        let of = |status, pairs: &[_]| classify(status, &headers(pairs), now()).retry_after;
        let limited = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(of(limited, &limits), Some(Duration::from_secs(20)));
        assert_eq!(of(StatusCode::INTERNAL_SERVER_ERROR, &limits), None);

        let outright = [&limits[..], &[("retry-after", "3")]].concat();
        assert_eq!(of(limited, &outright), Some(Duration::from_secs(3)));

        let past = [
            ("anthropic-ratelimit-tokens-remaining", "0"),
            ("anthropic-ratelimit-tokens-reset", "2025-01-01T00:00:00Z"),
        ];
        assert_eq!(of(limited, &past), Some(Duration::ZERO));
        assert_eq!(of(limited, &limits[2..4]), None);
    }

    #[test]
    fn an_error_type_counts_as_the_status_it_stands_for() {
        use OutcomeClass::*;
        for (error_type, class) in [
            ("invalid_request_error", Request),
            ("authentication_error", Auth),
            ("billing_error", Forbidden),
            ("permission_error", Forbidden),
            ("not_found_error", Request),
            ("conflict_error", Request),
            ("request_too_large", Request),
            ("rate_limit_error", RateLimited),
            ("api_error", ServerError),
            ("timeout_error", ServerError),
            ("overloaded_error", Overloaded),
            ("server_error", ServerError),
            ("insufficient_quota", RateLimited),
            ("", ServerError),
            ("something_new", ServerError),
            ("401", Auth),
            ("429", RateLimited),
            ("503", ServerError),
            ("200", ServerError),
            ("70000", ServerError),
        ] {
            assert_eq!(class_of_error_type(error_type), class, "{error_type}");
        }
    }
}
