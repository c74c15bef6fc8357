//! A page of metrics, read strictly: what Prometheus would forgive fails the test.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use hyper::Method;

use crate::client::Call;

/// Every label that a page may have. None of them can hold a URL, a key or a client.
const LABELS: [&str; 10] = [
    "admin_state",
    "cause",
    "class",
    "endpoint",
    "limit",
    "listener",
    "reason",
    "result",
    "state",
    "version",
];

/// Longest page that a test's few endpoints make.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// The samples of a page, by series as they are written: `name{label="value"}`.
#[derive(Debug)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Asks a server for its page.
    ///
    /// # Panics
    ///
    /// If it is not a page of metrics, or breaks a rule.
    pub async fn of(server: SocketAddr) -> Self {
        let call = Call::new(server, Method::GET, "/metrics");
        let answer = call.await.expect_status(200);
        let kind = answer.header("content-type").map(str::to_owned);
        assert_eq!(
            kind.as_deref(),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        Self::parse(&answer.text())
    }

    /// Returns the value of a series.
    ///
    /// # Panics
    ///
    /// If it is not there.
    pub fn value(&self, series: &str) -> f64 {
        let known = self.samples.get(series);
        *known.unwrap_or_else(|| panic!("no `{series}` among {:#?}", self.samples))
    }

    /// Reads a page.
    ///
    /// # Panics
    ///
    /// If it breaks a rule.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n') && text.len() <= PAGE_BYTES_MAX);
        assert!(!text.contains("://"), "a page shows a URL");
        let mut samples = BTreeMap::new();
        let mut names = BTreeSet::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (name, help) = after(line, "# HELP ");
            assert!(is_name(name) && name.starts_with("qcc_"), "{line}");
            assert!(help.ends_with('.') && help.len() > 5, "{line}");
            assert!(names.insert(name.to_owned()), "{name} comes twice");
            let (same, kind) = after(lines.next().unwrap_or_default(), "# TYPE ");
            assert_eq!(same, name);
            let unit = name.ends_with("_total");
            assert_eq!(unit, kind == "counter", "{name} is a {kind}");
            let mut family = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                family.push(sample(line));
            }
            assert!(!family.is_empty(), "{name} has no samples");
            match kind {
                "histogram" => histogram(name, &family),
                "counter" | "gauge" => {
                    for (series, labels, value) in &family {
                        let of = series.split('{').next();
                        assert_eq!(of, Some(name));
                        assert!(*value >= 0.0, "{series} {value}");
                        for (label, _) in labels {
                            assert!(LABELS.contains(&label.as_str()), "{series}");
                        }
                    }
                }
                _ => panic!("{name} is a {kind}"),
            }
            for (series, _, value) in family {
                let before = samples.insert(series.clone(), value);
                assert_eq!(before, None, "{series} comes twice");
            }
        }
        Self { samples }
    }
}

/// A series as written, its labels, and its value.
type Sample = (String, Vec<(String, String)>, f64);

fn after<'a>(line: &'a str, start: &str) -> (&'a str, &'a str) {
    let rest = line.strip_prefix(start);
    let rest = rest.unwrap_or_else(|| panic!("`{line}` does not begin with `{start}`"));
    rest.split_once(' ')
        .unwrap_or_else(|| panic!("`{line}` ends early"))
}

fn is_name(name: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    !name.is_empty() && name.bytes().all(of_name)
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
    let value = value
        .parse()
        .unwrap_or_else(|_| panic!("`{line}` has no number"));
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("labels are closed")),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    (series.to_owned(), pairs(labels), value)
}

/// Reads `name="value",…`, values unescaped.
fn pairs(mut text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text
            .split_once("=\"")
            .expect("a label has a value in quotes");
        assert!(is_name(name), "{text}");
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next().expect("quotes are closed") {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some(c @ ('"' | '\\')) => c,
                    other => panic!("`\\{other:?}` escapes nothing"),
                }),
                (_, c) => value.push(c),
            }
        };
        pairs.push((name.to_owned(), value));
        text = &rest[end + 1..];
        if let Some(more) = text.strip_prefix(',') {
            assert!(!more.is_empty(), "a comma and no label");
            text = more;
        } else {
            assert!(text.is_empty(), "`{text}` after a label");
        }
    }
    pairs
}

/// Buckets by growing bounds, none lower than the one before, the last without a bound and
/// equal to the count.
fn histogram(name: &str, family: &[Sample]) {
    let [buckets @ .., sum, count] = family else {
        panic!("{name} is no histogram");
    };
    let (mut bound, mut below) = (0.0, 0.0);
    for (series, labels, value) in buckets {
        assert!(series.starts_with(&format!("{name}_bucket{{")), "{series}");
        let [(label, text)] = &labels[..] else {
            panic!("{series} has other labels than its bound");
        };
        assert_eq!(label, "le");
        let next: f64 = text.parse().expect("a bound is a number");
        assert!(next > bound && *value >= below, "{series} {value}");
        (bound, below) = (next, *value);
    }
    assert_eq!(bound, f64::INFINITY, "{name} leaves something out");
    assert_eq!(sum.0, format!("{name}_sum"));
    assert_eq!(
        (count.0.as_str(), count.2),
        (format!("{name}_count").as_str(), below)
    );
}
