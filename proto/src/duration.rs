//! Durations as people write them: `250ms`, `30s`, `1m30s`.
//!
//! Whole numbers with units, the largest unit first. [`format()`] writes what [`parse`] reads back as
//! the same value, to the nanosecond.

use std::{fmt, time::Duration};

/// Units from the largest to the smallest, each with its length in nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The longest span that `google.protobuf.Duration` allows: about 10,000 years.
const MAX: Duration = Duration::from_secs(315_576_000_000);

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    text: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a duration: whole numbers with units, such as `250ms`, `30s`, `5m` or `1h30m`",
            self.text
        )
    }
}

impl std::error::Error for Error {}

/// Reads a duration. Units are `d`, `h`, `m`, `s`, `ms`, `us` and `ns`, each at most once and in
/// this order.
pub fn parse(text: &str) -> Result<Duration, Error> {
    read(text).ok_or_else(|| Error {
        // An error is one line of a terminal; what is longer than this was no duration anyway.
        text: text.chars().take(40).collect(),
    })
}

/// Writes a duration with the fewest units, such as `1m30s`.
pub fn format(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, nanos) in UNITS {
        let number = rest / nanos;
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
        rest %= nanos;
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// Converts for the wire. Longer than the wire allows becomes the longest.
pub fn to_proto(duration: Duration) -> prost_types::Duration {
    let duration = duration.min(MAX);
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// Converts from the wire. `None` if the value is negative or not a valid
/// `google.protobuf.Duration`.
pub fn from_proto(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    if nanos >= 1_000_000_000 {
        return None;
    }
    let duration = Duration::new(seconds, nanos);
    (duration <= MAX).then_some(duration)
}

fn read(text: &str) -> Option<Duration> {
    let mut total: u128 = 0;
    let mut units = UNITS.iter();
    let mut rest = text;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u128 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (_, nanos) = units.find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(*nanos)?)?;
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(total / 1_000_000_000).ok()?;
    let nanos = u32::try_from(total % 1_000_000_000).ok()?;
    let duration = Duration::new(seconds, nanos);
    (duration <= MAX).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        for (text, expected) in [
            ("0s", Duration::ZERO),
            ("250ms", Duration::from_millis(250)),
            ("30s", Duration::from_secs(30)),
            ("5m", Duration::from_secs(300)),
            ("1h", Duration::from_secs(3600)),
            ("1m30s", Duration::from_secs(90)),
            ("1d2h3m4s5ms6us7ns", Duration::new(93_784, 5_006_007)),
        ] {
            assert_eq!(parse(text), Ok(expected));
            assert_eq!(format(expected), text);
        }
        assert_eq!(parse("90s").map(format), Ok("1m30s".to_owned()));
    }

    #[test]
    fn other_texts_are_refused_with_the_rule() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "+5s",
            "1.5s",
            "5 s",
            " 5s",
            "5s ",
            "30s1m",
            "1s1s",
            "5S",
            "5x",
            "５s",
            "1é",
            "99999999999999999999999999999999999999999999s",
            "9999999999999d",
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(text.get(..30).unwrap_or(text)), "{error}");
            assert!(error.contains("such as `250ms`"), "{error}");
        }
    }

    #[test]
    fn the_wire_carries_every_duration_that_can_be_written() {
        for text in ["0s", "1ns", "1m30s", "999ms", "3652500d"] {
            let duration = parse(text).unwrap();
            assert_eq!(from_proto(&to_proto(duration)), Some(duration));
        }
        assert_eq!(to_proto(Duration::MAX), to_proto(MAX));
        let wire = |seconds, nanos| prost_types::Duration { seconds, nanos };
        for invalid in [
            wire(-1, 0),
            wire(0, -1),
            wire(0, 1_000_000_000),
            wire(i64::MAX, 0),
        ] {
            assert_eq!(from_proto(&invalid), None);
        }
    }
}
