//! Figures: how they are compared, printed and written down.

use std::{fs, io::Write, path::Path};

use serde_json::{Value, json};

use crate::machine::{Machine, Neighbours, SCRATCH};

/// Measurements of each side. Odd, so that there is one in the middle.
const ROUNDS: usize = 5;

/// One figure: ours and the floor's, measured in turns.
#[derive(Debug)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// In what.
    pub(crate) unit: &'static str,
    /// Whether more of it is better.
    pub(crate) is_rate: bool,
    /// The measurements.
    pub(crate) samples: Samples,
    /// What else there is to say.
    pub(crate) note: String,
}

/// The measurements of both sides, round by round.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    ours: Vec<f64>,
    floor: Vec<f64>,
}

/// All figures of a run, and whose they are.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Machine,
    neighbours: Neighbours,
    figures: Vec<Figure>,
}

/// Measures both sides five times, in turns. Each measurement may give several values.
/// Who begins changes from round to round, so that a drift of the machine favours
/// neither.
pub(crate) fn compare<const N: usize>(
    mut ours: impl FnMut() -> [f64; N],
    mut floor: impl FnMut() -> [f64; N],
) -> [Samples; N] {
    let mut samples: [Samples; N] = std::array::from_fn(|_| Samples::default());
    for round in 0..ROUNDS {
        let (of_ours, of_floor) = if round % 2 == 0 {
            let of_ours = ours();
            (of_ours, floor())
        } else {
            let of_floor = floor();
            (ours(), of_floor)
        };
        for (at, samples) in samples.iter_mut().enumerate() {
            samples.ours.push(of_ours[at]);
            samples.floor.push(of_floor[at]);
        }
    }
    samples
}

/// Returns the value below which so many of a hundred lie.
///
/// # Panics
///
/// If there are no values.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

fn median(values: &[f64]) -> f64 {
    percentile(&mut values.to_vec(), 50)
}

impl Figure {
    /// Returns how many times as much as the floor ours costs, round by round: the
    /// floor is 1, and more is worse.
    fn costs(&self) -> Vec<f64> {
        let Samples { ours, floor } = &self.samples;
        let pairs = ours.iter().zip(floor);
        pairs
            .map(|(ours, floor)| match self.is_rate {
                true => floor / ours,
                false => ours / floor,
            })
            .collect()
    }

    fn row(&self) -> [String; 6] {
        let costs = self.costs();
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(0.0, f64::max);
        [
            self.name.clone(),
            number(median(&self.samples.ours)),
            number(median(&self.samples.floor)),
            self.unit.to_owned(),
            format!("{:.2} ({least:.2}-{most:.2})", median(&costs)),
            self.note.clone(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "better": if self.is_rate { "more" } else { "less" },
            "qcc": median(&self.samples.ours),
            "floor": median(&self.samples.floor),
            "times_floor": median(&self.costs()),
            "samples": { "qcc": self.samples.ours, "floor": self.samples.floor },
            "note": self.note,
        })
    }
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self {
            machine,
            neighbours: Neighbours::now(),
            figures: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    /// Prints the table and writes the file.
    pub(crate) fn publish(&self) {
        let target = Path::new(SCRATCH)
            .parent()
            .expect("the scratch directory is in `target`");
        let file = target.join("bench").join("fleet.json");
        let others = self.neighbours.share();
        let text = format!(
            "\n{}; others had {others} % of the machine\nmedians of {ROUNDS}; `x floor` is the cost as a multiple of the floor's (least-most of {ROUNDS})\n\n{}\nwritten to {}\n",
            self.machine.describe(),
            self.table(),
            file.display()
        );
        std::io::stdout()
            .write_all(text.as_bytes())
            .expect("somebody reads what is printed");
        let json = json!({
            "machine": self.machine.to_json(),
            "others_percent": others,
            "figures": self.figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
        });
        let writable = "the build's directory can be written";
        fs::create_dir_all(target.join("bench")).expect(writable);
        fs::write(file, format!("{json:#}\n")).expect(writable);
    }

    fn table(&self) -> String {
        let headings = ["figure", "qcc", "floor", "unit", "x floor", ""].map(str::to_owned);
        let rows: Vec<_> = std::iter::once(headings)
            .chain(self.figures.iter().map(Figure::row))
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max();
        let widths: [usize; 6] = std::array::from_fn(|column| width(column).unwrap_or_default());
        let mut table = String::new();
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let is_number = (1..3).contains(&column);
                table += &match is_number {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                };
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
        table
    }
}

/// Prints a number to about three digits.
fn number(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
