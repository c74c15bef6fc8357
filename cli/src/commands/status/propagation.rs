//! How long views take to reach proxies, for people.

use std::time::Duration;

use qcc_proto::{duration, v1};

use crate::text;

/// Length of the longest bar.
const BAR_LENGTH: u64 = 30;

/// In one line: `1204 views applied: half within 1ms, 99 % within 5ms, the slowest 12ms`.
pub(super) fn summary(propagation: &v1::Propagation) -> String {
    if propagation.count == 0 {
        return "nothing to measure yet".to_owned();
    }
    format!(
        "{}: p50 within {}, p99 within {}, longest {}",
        text::plural(propagation.count, "acknowledgement"),
        quantile(propagation, 50),
        quantile(propagation, 99),
        short(span(propagation.max.as_ref())),
    )
}

/// A bar for each range that lies between observations.
pub(super) fn chart(propagation: &v1::Propagation) -> String {
    let counts: Vec<u64> = propagation.buckets.iter().map(|b| b.count).collect();
    let first = counts.iter().position(|count| *count > 0);
    let last = counts.iter().rposition(|count| *count > 0);
    let (Some(first), Some(last)) = (first, last) else {
        return String::new();
    };
    let most = counts.iter().copied().max().unwrap_or_default();
    let mut chart = String::new();
    let ranges = counts.iter().enumerate().take(last + 1).skip(first);
    for (index, count) in ranges {
        // Whatever was seen at all has a mark.
        let length = (count * BAR_LENGTH).div_ceil(most.max(1));
        let bar = "#".repeat(usize::try_from(length).unwrap_or_default());
        let width = usize::try_from(BAR_LENGTH).unwrap_or_default();
        let range = range(propagation, index);
        chart.push_str(&format!("  {range:>9}   {bar:width$}   {count}\n"));
    }
    chart
}

/// The range of a bucket: up to its bound, or beyond that of the one before.
fn range(propagation: &v1::Propagation, index: usize) -> String {
    let bound = |index: usize| propagation.buckets[index].upper_bound.as_ref();
    match (bound(index), index.checked_sub(1)) {
        (Some(_), _) => format!("<= {}", text::exact(bound(index))),
        (None, Some(before)) => format!("> {}", text::exact(bound(before))),
        (None, None) => "any".to_owned(),
    }
}

/// The duration that so many percent of the observations do not exceed, as far as the ranges tell.
fn quantile(propagation: &v1::Propagation, percent: u64) -> String {
    let rank = (propagation.count.saturating_mul(percent)).div_ceil(100);
    let max = span(propagation.max.as_ref());
    let mut seen = 0;
    let bucket = propagation.buckets.iter().find(|bucket| {
        seen += bucket.count;
        seen >= rank
    });
    let bound = bucket.and_then(|bucket| bucket.upper_bound.as_ref());
    short(bound.map_or(max, |bound| span(Some(bound)).min(max)))
}

fn span(wire: Option<&prost_types::Duration>) -> Duration {
    wire.and_then(duration::from_proto).unwrap_or_default()
}

/// Three digits before the unit: `850us`, `4.12ms`, `41.2ms`, `1.25s`.
fn short(span: Duration) -> String {
    let micros = span.as_micros();
    let millis = span.as_secs_f64() * 1e3;
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..10_000 => format!("{millis:.2}ms"),
        10_000..100_000 => format!("{millis:.1}ms"),
        100_000..1_000_000 => format!("{millis:.0}ms"),
        _ => format!("{:.2}s", span.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> v1::Propagation {
        let wire = |micros| duration::to_proto(Duration::from_micros(micros));
        let bucket = |bound: Option<u64>, count| v1::PropagationBucket {
            upper_bound: bound.map(wire),
            count,
        };
        v1::Propagation {
            count: 100,
            sum: Some(wire(90_000)),
            max: Some(wire(12_340)),
            buckets: vec![
                bucket(Some(250), 0),
                bucket(Some(500), 60),
                bucket(Some(1_000), 0),
                bucket(Some(5_000), 39),
                bucket(None, 1),
            ],
        }
    }

    #[test]
    fn quantiles_are_bounds_that_hold() {
        assert_eq!(
            summary(&histogram()),
            "100 acknowledgements: p50 within 500us, p99 within 5.00ms, longest 12.3ms"
        );
        let mut slower = histogram();
        slower.buckets[4].count = 2;
        slower.buckets[3].count = 38;
        assert!(summary(&slower).contains("p99 within 12.3ms"));
        assert_eq!(
            summary(&v1::Propagation::default()),
            "nothing to measure yet"
        );
    }

    #[test]
    fn each_range_between_observations_has_a_bar() {
        assert_eq!(
            chart(&histogram()),
            "   <= 500us   ##############################   60\n\
             \x20    <= 1ms                                    0\n\
             \x20    <= 5ms   ####################             39\n\
             \x20     > 5ms   #                                1\n"
        );
        assert_eq!(chart(&v1::Propagation::default()), "");
    }
}
