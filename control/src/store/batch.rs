//! Records, and changes to them.

use std::fmt;

use zeroize::Zeroizing;

/// A set of records with keys of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Facts about the whole: revision, counters.
    Meta,
    /// Clusters by name.
    Clusters,
    /// Endpoints by name. Sealed: they hold API keys.
    Endpoints,
    /// Proxies by id, and how far their reports have been applied.
    Proxies,
    /// Recent mutating requests by id, so that they can be repeated.
    Requests,
    /// What has happened, by number.
    Events,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 6] = [
        Self::Meta,
        Self::Clusters,
        Self::Endpoints,
        Self::Proxies,
        Self::Requests,
        Self::Events,
    ];

    /// Its name in the file.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Proxies => "proxies",
            Self::Requests => "requests",
            Self::Events => "events",
        }
    }

    /// Whether its values are encrypted in the file.
    pub(super) const fn sealed(self) -> bool {
        match self {
            Self::Endpoints => true,
            Self::Meta | Self::Clusters | Self::Proxies | Self::Requests | Self::Events => false,
        }
    }
}

/// One record. Prints without its value, which may hold a credential and is wiped
/// from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The table it is in.
    pub table: Table,
    /// Its key in the table.
    pub key: String,
    /// Whatever was put.
    pub value: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("table", &self.table)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Changes that are committed together. They apply in the order of the calls.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) changes: Vec<Change>,
}

/// One change of a batch.
#[derive(Debug)]
pub(crate) enum Change {
    Put(Record),
    Delete(Table, String),
}

impl Batch {
    /// Returns a batch without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a record, replacing the one with this key.
    pub fn put(&mut self, table: Table, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put(Record {
            table,
            key: key.into(),
            value: Zeroizing::new(value.into()),
        }));
    }

    /// Removes a record, if there is one.
    pub fn delete(&mut self, table: Table, key: impl Into<String>) {
        self.changes.push(Change::Delete(table, key.into()));
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }
}
