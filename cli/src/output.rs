//! Where answers go: data on stdout in the chosen format, everything else on stderr.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use prost::Message;

use crate::{
    args::{Color, Format, Global},
    error::Error,
    message,
    table::{Cell, Table, Tone},
};

/// How to write, as asked for.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) color: bool,
    headers: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if set("NO_COLOR") => false,
            Color::Auto => set("CLICOLOR_FORCE") || io::stdout().is_terminal(),
        };
        Self {
            format: global.output,
            color,
            headers: !global.no_headers,
        }
    }

    /// Writes text for people.
    pub(crate) fn text(&self, text: &str) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Says something that is not data.
    pub(crate) fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Writes a list: one document with all of it, one row or one name for each.
    pub(crate) fn list<M: Message>(
        &self,
        (name, response): (&str, &M),
        names: impl IntoIterator<Item = String>,
        table: impl FnOnce(bool) -> Table,
        empty: &str,
    ) -> Result<(), Error> {
        match self.format {
            Format::Json | Format::Yaml => self.document(name, response),
            Format::Name => self.names(names),
            Format::Table | Format::Wide => {
                let table = table(self.format == Format::Wide);
                if table.is_empty() {
                    self.note(empty);
                    return Ok(());
                }
                self.table(&table)
            }
        }
    }

    /// Writes one resource: a document, its name, or text for people.
    pub(crate) fn one<M: Message>(
        &self,
        (name, message): (&str, &M),
        reference: String,
        people: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Json | Format::Yaml => self.document(name, message),
            Format::Name => self.names([reference]),
            Format::Table | Format::Wide => self.text(&people()),
        }
    }

    /// Writes a message as a JSON or YAML document.
    pub(crate) fn document(&self, name: &str, message: &impl Message) -> Result<(), Error> {
        self.value(&message::to_json(name, message)?)
    }

    /// Writes a JSON or YAML document.
    pub(crate) fn value(&self, value: &serde_json::Value) -> Result<(), Error> {
        let text = match self.format {
            Format::Yaml => {
                serde_norway::to_string(value).map_err(|error| Error::failed(error.to_string()))?
            }
            _ => format!("{value:#}\n"),
        };
        self.text(&text)
    }

    /// Writes one document of a stream: a line of JSON, or a YAML document behind its mark.
    pub(crate) fn stream_document(&self, name: &str, message: &impl Message) -> Result<(), Error> {
        let value = message::to_json(name, message)?;
        match self.format {
            Format::Yaml => {
                self.text("---\n")?;
                self.value(&value)
            }
            _ => self.text(&format!("{value}\n")),
        }
    }

    /// Writes names, one a line.
    pub(crate) fn names(&self, names: impl IntoIterator<Item = String>) -> Result<(), Error> {
        self.text(
            &names
                .into_iter()
                .map(|name| name + "\n")
                .collect::<String>(),
        )
    }

    /// Writes a table.
    pub(crate) fn table(&self, table: &Table) -> Result<(), Error> {
        self.text(&self.rendered(table))
    }

    /// A table as text.
    pub(crate) fn rendered(&self, table: &Table) -> String {
        table.render(&table.widths(), self.headers, self.color)
    }

    /// Writes the next part of a table; `widths` of the parts before are kept, and grow.
    pub(crate) fn continue_table(
        &self,
        table: &Table,
        widths: &mut Vec<usize>,
    ) -> Result<(), Error> {
        let first = widths.is_empty();
        widths.resize(table.widths().len(), 0);
        for (width, now) in widths.iter_mut().zip(table.widths()) {
            *width = (*width).max(now);
        }
        self.text(&table.render(widths, first && self.headers, self.color))
    }

    /// Properties under each other, names in one column.
    pub(crate) fn properties(&self, properties: &[(&str, Cell)]) -> String {
        let width = properties
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or_default();
        properties
            .iter()
            .map(|(name, value)| format!("{name:width$}   {}\n", value.paint(self.color)))
            .collect()
    }
}

/// The tone of a health state.
pub(crate) fn tone(state: qcc_proto::v1::HealthState) -> Tone {
    use qcc_proto::v1::HealthState;
    match state {
        HealthState::Healthy => Tone::Good,
        HealthState::Degraded => Tone::Doubtful,
        HealthState::Unhealthy => Tone::Bad,
        HealthState::Unknown | HealthState::Unspecified => Tone::Plain,
    }
}
