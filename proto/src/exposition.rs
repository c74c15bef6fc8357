//! Metrics as Prometheus reads them: its text format, version 0.0.4.
//!
//! A page is written anew for each question, from counters that are kept anyway. So metrics cost
//! nothing while nobody asks, and there is no registry of them beside the code that knows.
//!
//! ```
//! use qcc_proto::exposition::{Kind, Page};
//!
//! let mut page = Page::default();
//! page.family("qcc_requests_total", Kind::Counter, "Requests taken.").sample(&[], 3_u64);
//! assert_eq!(
//!     page.into_text(),
//!     "# HELP qcc_requests_total Requests taken.\n# TYPE qcc_requests_total counter\n\
//!      qcc_requests_total 3\n",
//! );
//! ```

use std::{
    fmt::{self, Write},
    time::Duration,
};

/// The media type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Endpoints that get series of their own; a page says how many more there are. At five lines
/// each of about 80 bytes that is half a MiB, about what a scrape should be at most.
pub const ENDPOINTS_MAX: usize = 1_000;

/// What a family of samples is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a restart. Its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram,
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// A measure.
    Real(f64),
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// The samples of one name.
#[derive(Debug)]
pub struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Page {
    /// Begins a family. Its name is given once in a page, and its samples follow at once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    /// Writes a counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, Kind::Counter, help).sample(&[], value);
    }

    /// Writes a gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Into<Value>) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    /// Returns what was written.
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // To write into a text cannot fail.
        let _ = self.text.write_fmt(line);
    }
}

impl Family<'_> {
    /// Writes one sample. Label names are ours; values may hold anything.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.write("", labels, value.into());
    }

    /// Writes a histogram without labels: its buckets, the shortest first, each with its inclusive
    /// upper bound (`None` for the last) and its own count, and the sum of all observations.
    pub fn histogram(
        &mut self,
        buckets: impl Iterator<Item = (Option<Duration>, u64)>,
        sum: Duration,
    ) {
        let mut below = 0;
        for (bound, count) in buckets {
            below += count;
            let bound = bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
            let bound = Value::Real(bound).to_string();
            self.write("_bucket", &[("le", &bound)], Value::Whole(below));
        }
        self.write("_sum", &[], Value::from(sum));
        self.write("_count", &[], Value::Whole(below));
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], value: Value) {
        self.page.line(format_args!("{}{suffix}", self.name));
        for (at, (name, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            self.page
                .line(format_args!("{open}{name}=\"{}\"", Escaped(text)));
        }
        if !labels.is_empty() {
            self.page.line(format_args!("}}"));
        }
        self.page.line(format_args!(" {value}\n"));
    }
}

/// A label's value between its quotes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Real(f64::INFINITY) => f.write_str("+Inf"),
            Self::Real(f64::NEG_INFINITY) => f.write_str("-Inf"),
            Self::Real(value) => write!(f, "{value}"),
        }
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Duration> for Value {
    /// In seconds.
    fn from(value: Duration) -> Self {
        Self::Real(value.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_help_are_escaped() {
        let mut page = Page::default();
        let mut family = page.family("a", Kind::Gauge, "One\nline, one \\.");
        family.sample(&[("x", "\"\\\n"), ("y", "é{}")], 1.5);
        assert_eq!(
            page.into_text(),
            "# HELP a One\\nline, one \\\\.\n# TYPE a gauge\na{x=\"\\\"\\\\\\n\",y=\"é{}\"} 1.5\n"
        );
    }

    #[test]
    fn values_are_written_as_they_are() {
        for (value, text) in [
            (Value::from(u64::MAX), "18446744073709551615"),
            (Value::from(true), "1"),
            (Value::from(0.1), "0.1"),
            (Value::from(f64::NAN), "NaN"),
            (Value::from(f64::INFINITY), "+Inf"),
            (Value::from(Duration::from_micros(5)), "0.000005"),
        ] {
            assert_eq!(value.to_string(), text);
        }
    }

    #[test]
    fn the_buckets_of_a_histogram_add_up() {
        let bound = |millis| Some(Duration::from_millis(millis));
        let buckets = [(bound(1), 2), (bound(10), 0), (None, 1)];
        let mut page = Page::default();
        page.family("h_seconds", Kind::Histogram, "Spans.")
            .histogram(buckets.into_iter(), Duration::from_millis(24));
        assert_eq!(
            page.into_text(),
            "# HELP h_seconds Spans.\n# TYPE h_seconds histogram\n\
             h_seconds_bucket{le=\"0.001\"} 2\nh_seconds_bucket{le=\"0.01\"} 2\n\
             h_seconds_bucket{le=\"+Inf\"} 3\nh_seconds_sum 0.024\nh_seconds_count 3\n"
        );
    }
}
