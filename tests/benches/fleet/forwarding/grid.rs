//! The table: a row for each workload, a column for each who takes part.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use serde_json::{Value, json};

use super::contestant::Kind;
use crate::{
    figure::{self, Figure, Samples, aligned, median, number},
    machine::SCRATCH,
};

/// All that was measured.
pub(super) struct Grid {
    /// Who took part, and which version.
    columns: Vec<(Kind, String)>,
    rows: Vec<Row>,
}

/// One workload.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) goal: Goal,
    /// What each came to, round by round.
    pub(super) cells: BTreeMap<Kind, Vec<Cell>>,
}

/// One measurement of one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) value: f64,
    pub(super) pace: Option<Pace>,
}

/// At which pace it was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Requests, or events, in a second.
    pub(super) rate: f64,
    /// Share of its core that the proxy had, and of theirs that clients and endpoint had,
    /// in percent.
    pub(super) proxy_busy: f64,
    pub(super) load_busy: f64,
}

/// What ours must come to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// At most so many times what the floor and nginx take; nginx only if given.
    Times { hyper: f64, nginx: Option<f64> },
    /// At most so much more than the floor.
    Over(f64),
    /// At most so much.
    AtMost(f64),
}

impl Grid {
    pub(super) fn new(columns: Vec<(Kind, String)>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table and writes the file.
    pub(super) fn publish(&self) {
        let directory = Path::new(SCRATCH).parent();
        let directory = directory.expect("the scratch directory is in `target`");
        let file = directory.join("bench").join("forwarding.json");
        let text = format!(
            "\nmedians of {}; processor time of the proxy's processes, from the kernel\n\n{}\n\
             pace: requests or events a second, share of the proxy's core / of the core of clients and endpoint\n\n{}\nwritten to {}\n",
            figure::ROUNDS,
            aligned(&self.values()),
            aligned(&self.paces()),
            file.display()
        );
        std::io::stdout()
            .write_all(text.as_bytes())
            .expect("somebody reads what is printed");
        let writable = "the build's directory can be written";
        fs::create_dir_all(directory.join("bench")).expect(writable);
        fs::write(file, format!("{:#}\n", self.to_json())).expect(writable);
    }

    /// Returns ours beside the floor.
    pub(super) fn figures(&self) -> Vec<Figure> {
        self.rows.iter().map(Row::figure).collect()
    }

    fn headings(&self, others: &[&str]) -> Vec<String> {
        let columns = self.columns.iter().map(|(_, version)| version.as_str());
        let all = std::iter::once("").chain(columns);
        all.chain(others.iter().copied())
            .map(str::to_owned)
            .collect()
    }

    fn values(&self) -> Vec<Vec<String>> {
        let headings = self.headings(&["x bare hyper", "x nginx", "must be"]);
        let rows = self.rows.iter().map(|row| {
            let name = format!("{}, {}", row.name, row.unit);
            let cells = self.columns.iter().map(|(kind, _)| {
                let value = row.value(*kind);
                value.map_or("-".into(), number)
            });
            let times = [Kind::Hyper, Kind::Nginx].map(|kind| {
                let times = row.times(kind);
                times.map_or("-".into(), |times| format!("{times:.2}"))
            });
            let all = std::iter::once(name).chain(cells).chain(times);
            all.chain([row.verdict()]).collect()
        });
        std::iter::once(headings).chain(rows).collect()
    }

    fn paces(&self) -> Vec<Vec<String>> {
        let paced = |row: &&Row| row.cells.values().flatten().any(|it| it.pace.is_some());
        let rows = self.rows.iter().filter(paced).map(|row| {
            let cells = self.columns.iter().map(|(kind, _)| row.pace(*kind));
            std::iter::once(row.name.to_owned()).chain(cells).collect()
        });
        std::iter::once(self.headings(&[])).chain(rows).collect()
    }

    fn to_json(&self) -> Value {
        let columns = self.columns.iter();
        let columns = columns.map(|(kind, version)| (kind.name(), version));
        json!({
            "contestants": columns.collect::<BTreeMap<_, _>>(),
            "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Row {
    fn values(&self, kind: Kind) -> Vec<f64> {
        let cells = self.cells.get(&kind).into_iter().flatten();
        cells.map(|cell| cell.value).collect()
    }

    fn value(&self, kind: Kind) -> Option<f64> {
        let values = self.values(kind);
        (!values.is_empty()).then(|| median(&values))
    }

    /// Returns how many times as much as another one ours takes, round by round.
    fn times(&self, other: Kind) -> Option<f64> {
        let (ours, others) = (self.values(Kind::Qcc), self.values(other));
        let pairs = ours.iter().zip(&others);
        let times: Vec<_> = pairs.map(|(ours, other)| ours / other).collect();
        (!times.is_empty()).then(|| median(&times))
    }

    fn pace(&self, kind: Kind) -> String {
        let cells = self.cells.get(&kind).into_iter().flatten();
        let paces: Vec<_> = cells.filter_map(|cell| cell.pace).collect();
        if paces.is_empty() {
            return "-".into();
        }
        let of = |field: fn(&Pace) -> f64| median(&paces.iter().map(field).collect::<Vec<_>>());
        format!(
            "{} {:.0} / {:.0} %",
            number(of(|it| it.rate)),
            of(|it| it.proxy_busy),
            of(|it| it.load_busy)
        )
    }

    fn is_reached(&self) -> bool {
        let is_within = |kind, most| self.times(kind).is_none_or(|times| times <= most);
        match self.goal {
            Goal::Times { hyper, nginx } => {
                is_within(Kind::Hyper, hyper)
                    && nginx.is_none_or(|most| is_within(Kind::Nginx, most))
            }
            Goal::Over(most) => match (self.value(Kind::Qcc), self.value(Kind::Hyper)) {
                (Some(ours), Some(floor)) => ours <= floor + most,
                _ => true,
            },
            Goal::AtMost(most) => self.value(Kind::Qcc).is_none_or(|ours| ours <= most),
        }
    }

    fn verdict(&self) -> String {
        let goal = match self.goal {
            Goal::Times { hyper, nginx } => {
                let beside = nginx.map(|most| format!(", {most} x nginx"));
                format!("{hyper} x bare hyper{}", beside.unwrap_or_default())
            }
            Goal::Over(most) => format!("bare hyper + {most}"),
            Goal::AtMost(most) => format!("{most}"),
        };
        match self.is_reached() {
            true => goal,
            false => format!("{goal}: **missed**"),
        }
    }

    fn figure(&self) -> Figure {
        let samples = Samples::of(self.values(Kind::Qcc), self.values(Kind::Hyper));
        let name = format!("proxied: {}", self.name);
        Figure::cost(name, self.unit, "hyper", samples).goal(match self.goal {
            Goal::Times { hyper, .. } => figure::Goal::Times(hyper),
            Goal::Over(most) => figure::Goal::Over(most),
            Goal::AtMost(most) => figure::Goal::AtMost(most),
        })
    }

    fn to_json(&self) -> Value {
        let cells = self.cells.iter().map(|(kind, cells)| {
            let pace = |field: fn(&Pace) -> f64| -> Vec<f64> {
                cells
                    .iter()
                    .filter_map(|it| it.pace.as_ref().map(field))
                    .collect()
            };
            let cell = json!({
                "median": self.value(*kind),
                "samples": self.values(*kind),
                "per_second": pace(|it| it.rate),
                "proxy_busy_percent": pace(|it| it.proxy_busy),
                "load_busy_percent": pace(|it| it.load_busy),
            });
            (kind.name(), cell)
        });
        json!({
            "name": self.name,
            "unit": self.unit,
            "contestants": cells.collect::<BTreeMap<_, _>>(),
            "times_hyper": self.times(Kind::Hyper),
            "times_nginx": self.times(Kind::Nginx),
            "goal": self.verdict(),
            "reached": self.is_reached(),
        })
    }
}
