//! Tables without lines: columns three spaces apart, nothing at the end of a row.

use unicode_width::UnicodeWidthStr;

/// What a cell means, for colour. Every table is readable without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As usual.
    Plain,
    /// As it should be.
    Good,
    /// To be watched.
    Doubtful,
    /// Broken.
    Bad,
}

impl Tone {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Doubtful => Some("33"),
            Self::Bad => Some("31"),
        }
    }
}

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    /// The cell with more text of the same tone.
    pub(crate) fn followed_by(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// The cell as it is printed, without padding.
    pub(crate) fn paint(&self, color: bool) -> String {
        match self.tone.code().filter(|_| color) {
            Some(code) => format!("\u{1b}[{code}m{}\u{1b}[0m", self.text),
            None => self.text.clone(),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self {
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Width of each column.
    pub(crate) fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|title| title.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        widths
    }

    /// The table with columns at least as wide as `widths`, so that one table can continue another.
    pub(crate) fn render(&self, widths: &[usize], with_header: bool, color: bool) -> String {
        let mut text = String::new();
        if with_header {
            let header: Vec<Cell> = self.header.iter().map(|title| Cell::from(*title)).collect();
            push_row(&mut text, &header, widths, color);
        }
        for row in &self.rows {
            push_row(&mut text, row, widths, color);
        }
        text
    }
}

fn push_row(text: &mut String, row: &[Cell], widths: &[usize], color: bool) {
    let mut gap = 0;
    for (cell, width) in row.iter().zip(widths) {
        text.extend(std::iter::repeat_n(' ', gap));
        text.push_str(&cell.paint(color));
        gap = width.saturating_sub(cell.text.width()) + 3;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "STATE", "CAUSE"]);
        table.row(vec![
            "eu-1".into(),
            Cell::new("healthy", Tone::Good),
            "-".into(),
        ]);
        table.row(vec![
            "a-longer-name".into(),
            Cell::new("unhealthy", Tone::Bad),
            "auth".into(),
        ]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let table = table();
        assert_eq!(
            table.render(&table.widths(), true, false),
            "NAME            STATE       CAUSE\n\
             eu-1            healthy     -\n\
             a-longer-name   unhealthy   auth\n"
        );
    }

    #[test]
    fn wide_characters_take_two_places() {
        let mut table = Table::new(&["NAME", "ID"]);
        table.row(vec!["\u{6211}\u{7684}".into(), "1".into()]);
        table.row(vec!["abcd".into(), "2".into()]);
        let text = table.render(&table.widths(), false, false);
        assert_eq!(text, "\u{6211}\u{7684}   1\nabcd   2\n");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let table = table();
        let plain = table.render(&table.widths(), false, false);
        let painted = table.render(&table.widths(), false, true);
        assert_ne!(plain, painted);
        let stripped = painted
            .replace("\u{1b}[32m", "")
            .replace("\u{1b}[31m", "")
            .replace("\u{1b}[0m", "");
        assert_eq!(stripped, plain);
    }
}
