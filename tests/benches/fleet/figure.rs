//! Figures: how they are compared, printed and written down.

use std::{fs, io::Write, path::Path};

use serde_json::{Value, json};

use crate::machine::{Machine, Neighbours, SCRATCH};

/// Measurements of each side. Odd, so that there is one in the middle.
pub(crate) const ROUNDS: usize = 5;

/// Columns of the table.
const COLUMNS: usize = 7;

/// One figure: ours and the floor's, measured in turns.
#[derive(Debug)]
pub(crate) struct Figure {
    /// What was measured.
    name: String,
    /// In what.
    unit: &'static str,
    /// What the floor is.
    beside: &'static str,
    /// Whether more of it is better.
    is_rate: bool,
    /// What it must come to.
    goal: Goal,
    /// The measurements.
    samples: Samples,
    /// What else there is to say.
    note: String,
}

/// What a figure must come to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// Nothing: it is there to explain others.
    None,
    /// At most so many times the floor's cost.
    Times(f64),
    /// At most so much more than the floor's cost.
    Over(f64),
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
}

/// The measurements of both sides, round by round.
#[derive(Debug, Clone, Default)]
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
    ours: impl FnMut() -> [f64; N],
    floor: impl FnMut() -> [f64; N],
) -> [Samples; N] {
    compare_in_turns(1, ours, floor, |turns| turns[0])
}

/// The same, with each measurement made in several short turns: what others do on the machine
/// comes and goes within seconds.
pub(crate) fn compare_in_turns<T, const N: usize>(
    turns: usize,
    mut ours: impl FnMut() -> T,
    mut floor: impl FnMut() -> T,
    sum: impl Fn(Vec<T>) -> [f64; N],
) -> [Samples; N] {
    let mut samples: [Samples; N] = std::array::from_fn(|_| Samples::default());
    for round in 0..ROUNDS {
        let (mut of_ours, mut of_floor) = (Vec::new(), Vec::new());
        for turn in 0..turns {
            if (round + turn) % 2 == 0 {
                of_ours.push(ours());
                of_floor.push(floor());
            } else {
                of_floor.push(floor());
                of_ours.push(ours());
            }
        }
        let (of_ours, of_floor) = (sum(of_ours), sum(of_floor));
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

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(&mut values.to_vec(), 50)
}

impl Samples {
    /// Takes what was measured in turns.
    pub(crate) fn of(ours: Vec<f64>, floor: Vec<f64>) -> Self {
        Self { ours, floor }
    }

    /// Puts two series together, round by round.
    pub(crate) fn zip(&self, other: &Self, put: impl Fn(f64, f64) -> f64) -> Self {
        let pairs = |ours: &[f64], theirs: &[f64]| {
            let pairs = ours.iter().zip(theirs);
            pairs.map(|(ours, theirs)| put(*ours, *theirs)).collect()
        };
        Self {
            ours: pairs(&self.ours, &other.ours),
            floor: pairs(&self.floor, &other.floor),
        }
    }
}

impl Figure {
    /// Returns a figure of which less is better, measured in `unit` beside a floor.
    pub(crate) fn cost(
        name: impl Into<String>,
        unit: &'static str,
        beside: &'static str,
        samples: Samples,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            beside,
            is_rate: false,
            goal: Goal::None,
            samples,
            note: String::new(),
        }
    }

    /// Returns a figure of which more is better.
    pub(crate) fn rate(
        name: impl Into<String>,
        unit: &'static str,
        beside: &'static str,
        samples: Samples,
    ) -> Self {
        Self {
            is_rate: true,
            ..Self::cost(name, unit, beside, samples)
        }
    }

    /// Names what it must come to.
    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }

    /// Says what else there is to say.
    pub(crate) fn note(self, note: String) -> Self {
        Self { note, ..self }
    }

    fn ours(&self) -> f64 {
        median(&self.samples.ours)
    }

    fn times_floor(&self) -> f64 {
        median(&self.costs())
    }

    /// Returns whether it comes to what it must; nothing if it need not.
    fn reached(&self) -> Option<bool> {
        match self.goal {
            Goal::None => None,
            Goal::Times(most) => Some(self.times_floor() <= most),
            Goal::Over(most) => Some(self.ours() <= median(&self.samples.floor) + most),
            Goal::AtMost(most) => Some(self.ours() <= most),
            Goal::AtLeast(least) => Some(self.ours() >= least),
        }
    }

    fn verdict(&self) -> String {
        let goal = match self.goal {
            Goal::None => return String::new(),
            Goal::Times(most) => format!("at most {most} x"),
            Goal::Over(most) => format!("at most {} more", number(most)),
            Goal::AtMost(most) => format!("at most {}", number(most)),
            Goal::AtLeast(least) => format!("at least {}", number(least)),
        };
        match self.reached() {
            Some(false) => format!("{goal}: **missed**"),
            _ => goal,
        }
    }

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

    fn row(&self) -> [String; COLUMNS] {
        let costs = self.costs();
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(0.0, f64::max);
        let name = match self.note.as_str() {
            "" => self.name.clone(),
            note => format!("{} ({note})", self.name),
        };
        [
            name,
            self.unit.to_owned(),
            number(self.ours()),
            number(median(&self.samples.floor)),
            self.beside.to_owned(),
            format!("{:.2} ({least:.2}-{most:.2})", self.times_floor()),
            self.verdict(),
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "better": if self.is_rate { "more" } else { "less" },
            "qcc": self.ours(),
            "floor": median(&self.samples.floor),
            "floor_is": self.beside,
            "times_floor": self.times_floor(),
            "goal": self.verdict(),
            "reached": self.reached(),
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

    /// Returns the figures as a table in Markdown.
    fn table(&self) -> String {
        let headings = [
            "figure", "in", "qcc", "floor", "floor is", "x floor", "must be",
        ];
        let rows: Vec<_> = std::iter::once(headings.map(str::to_owned))
            .chain(self.figures.iter().map(Figure::row))
            .collect();
        aligned(&rows)
    }
}

/// Returns a table in Markdown, its columns aligned. The first row has the headings.
pub(crate) fn aligned(rows: &[impl AsRef<[String]>]) -> String {
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let lengths = rows.iter().map(|row| row.as_ref()[column].chars().count());
            lengths.max().unwrap_or_default()
        })
        .collect();
    let mut table = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            table.push_str(&format!("| {cell:width$} "));
        }
        table.push_str("|\n");
        if at == 0 {
            for width in &widths {
                table.push_str(&format!("| {} ", "-".repeat(*width)));
            }
            table.push_str("|\n");
        }
    }
    table
}

/// Prints a number to about three digits.
pub(crate) fn number(value: f64) -> String {
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
