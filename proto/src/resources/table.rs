//! One TOML table, read key by key.
//!
//! Every read notes its key as known, so [`Table::finish`] can refuse the others and suggest what
//! was meant, without a second list of keys that could drift from the reads.

use std::{collections::BTreeMap, time::Duration};

use toml::{Spanned, de::DeValue};

use super::Error;
use crate::duration;

type Value<'i> = Spanned<DeValue<'i>>;

/// Turns a position in the text into errors that name the line.
#[derive(Clone, Copy)]
pub(super) struct Source<'i>(pub(super) &'i str);

impl Source<'_> {
    pub(super) fn error(self, offset: usize, message: String) -> Error {
        let before = self.0.as_bytes().get(..offset).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::Invalid { line, message }
    }
}

/// A table with a name for messages, such as ``endpoint `eu-1` ``.
pub(super) struct Table<'i> {
    source: Source<'i>,
    name: String,
    offset: usize,
    entries: BTreeMap<String, (usize, Value<'i>)>,
    known: Vec<&'static str>,
}

impl<'i> Table<'i> {
    /// Takes `value` apart, or refuses it for not being a table.
    pub(super) fn new(source: Source<'i>, name: String, value: Value<'i>) -> Result<Self, Error> {
        let offset = value.span().start;
        let table = match value.into_inner() {
            DeValue::Table(table) => table,
            other => {
                return Err(source.error(
                    offset,
                    format!("{name} must be a table, not {}", kind(&other)),
                ));
            }
        };
        let entries = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (key.span().start, value)))
            .collect();
        Ok(Self {
            source,
            name,
            offset,
            entries,
            known: Vec::new(),
        })
    }

    /// Where the table begins.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Adds to the name what has been learned about the table.
    pub(super) fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// An error at the table as a whole.
    pub(super) fn error(&self, message: &str) -> Error {
        self.source
            .error(self.offset, format!("{}: {message}", self.name))
    }

    /// Takes the value of `key`, if there is one.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value<'i>> {
        self.known.push(key);
        self.entries.remove(key).map(|(_, value)| value)
    }

    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<(usize, String)>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let offset = value.span().start;
        match value.into_inner() {
            DeValue::String(text) => Ok(Some((offset, text.into_owned()))),
            other => Err(self.wrong(offset, key, &shown(&other), "must be a text in quotes")),
        }
    }

    pub(super) fn string(&mut self, key: &'static str) -> Result<Option<String>, Error> {
        Ok(self.text(key)?.map(|(_, text)| text))
    }

    /// A text that no message may show.
    pub(super) fn secret(&mut self, key: &'static str) -> Result<Option<(usize, String)>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let offset = value.span().start;
        match value.into_inner() {
            DeValue::String(text) => Ok(Some((offset, text.into_owned()))),
            other => Err(self.wrong(offset, key, kind(&other), "must be a text in quotes")),
        }
    }

    pub(super) fn required(&mut self, key: &'static str) -> Result<String, Error> {
        match self.string(key)? {
            Some(text) => Ok(text),
            None => Err(self.error(&format!("`{key}` is missing; it is required"))),
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Result<Option<bool>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Boolean(value) => Ok(Some(*value)),
            other => Err(self.wrong(
                value.span().start,
                key,
                &shown(other),
                "must be true or false",
            )),
        }
    }

    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<u32>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let rule = "must be a whole number from 0 to 4294967295";
        match whole(value.get_ref()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(value.span().start, key, &shown(value.get_ref()), rule)),
        }
    }

    pub(super) fn numbers(&mut self, key: &'static str) -> Result<Vec<u32>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let numbers = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| whole(item.get_ref())).collect(),
            _ => None,
        };
        let rule = "must be a list of whole numbers, such as [200, 204]";
        numbers.ok_or_else(|| self.wrong(value.span().start, key, &shown(value.get_ref()), rule))
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Result<Vec<String>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let text = |item: &Value<'_>| item.get_ref().as_str().map(str::to_owned);
        let texts = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(text).collect(),
            _ => None,
        };
        let rule = "must be a list of texts in quotes, such as [\"a\", \"b\"]";
        texts.ok_or_else(|| self.wrong(value.span().start, key, &shown(value.get_ref()), rule))
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
    ) -> Result<Option<prost_types::Duration>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let offset = value.span().start;
        let parsed: Result<Duration, String> = match value.get_ref() {
            DeValue::String(text) => duration::parse(text).map_err(|error| error.to_string()),
            other => Err(format!("{} must be a text such as \"30s\"", shown(other))),
        };
        match parsed {
            Ok(duration) => Ok(Some(duration::to_proto(duration))),
            Err(rule) => Err(self
                .source
                .error(offset, format!("{}: `{key}`: {rule}", self.name))),
        }
    }

    /// One of the words of a closed list.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, Error> {
        let Some((offset, text)) = self.text(key)? else {
            return Ok(None);
        };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*meaning));
        }
        let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let rule = format!("must be one of {}", all.join(", "));
        Err(self.wrong(offset, key, &format!("`{text}`"), &rule))
    }

    /// A table inside this one.
    pub(super) fn table(&mut self, key: &'static str) -> Result<Option<Table<'i>>, Error> {
        let name = format!("{}: `{key}`", self.name);
        self.value(key)
            .map(|value| Table::new(self.source, name, value))
            .transpose()
    }

    /// A table inside this one, or a text that stands for a table with nothing but `only` in it.
    pub(super) fn table_or(
        &mut self,
        key: &'static str,
        only: &str,
    ) -> Result<Option<Table<'i>>, Error> {
        let name = format!("{}: `{key}`", self.name);
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        if !value.get_ref().is_str() {
            return Table::new(self.source, name, value).map(Some);
        }
        let offset = value.span().start;
        let entries = BTreeMap::from([(only.to_owned(), (offset, value))]);
        Ok(Some(Self {
            source: self.source,
            name,
            offset,
            entries,
            known: Vec::new(),
        }))
    }

    /// Names with texts, both free.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<BTreeMap<String, String>, Error> {
        let Some(table) = self.table(key)? else {
            return Ok(BTreeMap::new());
        };
        let mut texts = BTreeMap::new();
        for (name, (offset, value)) in table.entries {
            match value.into_inner() {
                DeValue::String(text) => texts.insert(name, text.into_owned()),
                other => {
                    return Err(self.wrong(
                        offset,
                        &format!("{key}.{name}"),
                        &shown(&other),
                        "must be a text in quotes",
                    ));
                }
            };
        }
        Ok(texts)
    }

    /// A list of tables (`[[key]]`), each named after its place.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        noun: &str,
    ) -> Result<Vec<Table<'i>>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let offset = value.span().start;
        let DeValue::Array(items) = value.into_inner() else {
            return Err(self.source.error(
                offset,
                format!("`{key}` must be a list of tables: write `[[{key}]]`"),
            ));
        };
        items
            .into_iter()
            .enumerate()
            .map(|(at, item)| Table::new(self.source, format!("{noun} {}", at + 1), item))
            .collect()
    }

    /// Refuses a key's value. `shown` is how messages may show it.
    pub(super) fn wrong(&self, offset: usize, key: &str, shown: &str, rule: &str) -> Error {
        self.source.error(
            offset,
            format!("{}: `{key}` is {shown}: it {rule}", self.name),
        )
    }

    /// Refuses what no read has asked for.
    pub(super) fn finish(self) -> Result<(), Error> {
        let Some((key, (offset, _))) = self.entries.iter().min_by_key(|(_, (offset, _))| *offset)
        else {
            return Ok(());
        };
        let expected = match self.known.iter().min_by_key(|known| distance(key, known)) {
            Some(near) if distance(key, near) <= 1 + near.len() / 4 => {
                format!("did you mean `{near}`?")
            }
            _ => format!("known keys are {}", quoted(&self.known)),
        };
        let place = if self.name.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.name)
        };
        Err(self
            .source
            .error(*offset, format!("{place}unknown key `{key}`; {expected}")))
    }
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

fn whole(value: &DeValue<'_>) -> Option<u32> {
    let DeValue::Integer(number) = value else {
        return None;
    };
    u32::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value as messages show it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("`{}`", text.chars().take(60).collect::<String>()),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => kind(value).to_owned(),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Edits that turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
