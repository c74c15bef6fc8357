//! Views and generations, each with the registry that it is of: a control plane that has
//! lost its disk counts them from the beginning again.

use std::fmt;

use qcc_control::registry::{Snapshot, View};
use qcc_proto::v1;

/// A view of a registry. One of a later registry is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) registry: u64,
    pub(crate) view: View,
}

/// A generation of an endpoint, and the registry that has given it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation {
    pub(crate) registry: u64,
    pub(crate) number: u64,
}

impl Position {
    /// Returns a view as it comes over the wire; unset means the one before the first.
    pub(crate) fn of_wire(registry_id: &str, view: Option<v1::View>) -> Self {
        let view = view.unwrap_or_default();
        Self {
            registry: number(registry_id),
            view: View {
                term: view.term,
                revision: view.revision,
            },
        }
    }

    /// Returns the view of a state.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        Self {
            registry: number(&snapshot.registry_id),
            view: snapshot.view,
        }
    }

    /// Returns a generation of this registry.
    pub(crate) fn generation(self, number: u64) -> Generation {
        Generation {
            registry: self.registry,
            number,
        }
    }
}

/// Returns the number by which a registry is named; 0 for no name.
pub(crate) fn number(registry_id: &str) -> u64 {
    registry_id.parse().unwrap_or_default()
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of registry {}", self.view, self.registry)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of registry {}", self.number, self.registry)
    }
}
