//! Our copy of the control plane's state, and the rules by which it follows: a view
//! is taken whole or not at all, never skipped, and never goes back, unless the
//! control plane itself has gone back and says so in a snapshot that we asked for.
//!
//! Views and generations mean something within one registry only. A snapshot that
//! names another one than we hold begins a new history, whatever its view is. A
//! control plane that does not name its registry is known by its views alone.

use std::{fmt, sync::Arc, time::Instant};

use imbl::OrdMap;
use qcc_proto::v1::{
    AdminState, RoutedEndpoint, SnapshotChunk, SnapshotDelta, View, WatchSnapshotsResponse,
    watch_snapshots_response::Update as Message,
};

use super::convert::{self, Clocks};
use crate::{
    routing::{Changes, Policy, Routed, Update},
    seeded::{Bug, seeded},
    view_file::Kept,
};

/// Most endpoints of a cluster. Ten times what the product is sized for: a bound on
/// what a broken control plane can make us hold, not a limit to plan with.
const ENDPOINTS_MAX: usize = 100_000;

/// The state of one cluster as of one view.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    view: Option<View>,
    contents: Contents,
    /// A snapshot whose last chunk is still to come.
    incoming: Option<Contents>,
    /// The stream was opened without a view to resume from: its first snapshot is
    /// what the control plane has, even if that is less than we had.
    fresh: bool,
    /// The next stream must not resume: we and the control plane disagree.
    restart: bool,
}

#[derive(Debug, Clone, Default)]
struct Contents {
    /// What the views belong to; empty if the control plane does not say.
    registry_id: Arc<str>,
    policy: Arc<Policy>,
    /// Shares all that is alike with those of the views before.
    endpoints: OrdMap<Arc<str>, Arc<Routed>>,
    /// Endpoints that are shut or missing, since what the view says of them cannot be used.
    left_out: OrdMap<Arc<str>, convert::Error>,
}

/// What a message changed.
#[derive(Debug)]
pub(crate) enum Applied {
    /// Part of a snapshot; nothing is visible yet.
    Partial,
    /// Nothing: we are current.
    Current,
    /// A new view is to be routed by.
    View(Update),
}

/// An endpoint that could not be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Its name.
    pub name: String,
    /// Why.
    pub error: convert::Error,
}

/// Why a message was not applied: the stream must be opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutOfStep {
    /// The message is older than what we have.
    Backwards {
        /// Its view.
        theirs: View,
        /// Ours.
        ours: View,
    },
    /// The message builds on a view that we do not have.
    Gap {
        /// What it builds on.
        theirs: View,
        /// Ours, if any.
        ours: Option<View>,
    },
    /// The message makes no sense here.
    Nonsense(&'static str),
}

impl fmt::Display for OutOfStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backwards { theirs, ours } => write!(f, "view {theirs} after {ours}"),
            Self::Gap {
                theirs,
                ours: Some(ours),
            } => {
                write!(f, "a change of view {theirs}, but we are at {ours}")
            }
            Self::Gap { theirs, ours: None } => {
                write!(f, "a change of view {theirs}, but we have none")
            }
            Self::Nonsense(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for OutOfStep {}

impl Replica {
    /// Takes over the view that an earlier process kept, and returns it to be routed by.
    /// The next stream resumes from it.
    pub(crate) fn restore(&mut self, kept: Kept) -> Update {
        let has_left_out = kept.has_left_out;
        let by_name = |routed: Arc<Routed>| (Arc::clone(&routed.endpoint.name), routed);
        *self = Self::default();
        self.contents = Contents {
            registry_id: kept.registry_id.into(),
            policy: Arc::new(kept.policy),
            endpoints: kept.endpoints.into_iter().map(by_name).collect(),
            left_out: OrdMap::new(),
        };
        self.view = Some(kept.view);
        // Whoever kept it may not have understood what we do.
        self.restart = has_left_out;
        Update {
            restored: Some(kept.rejected),
            has_left_out,
            ..self.update(kept.view, false, None)
        }
    }

    /// Begins a new stream, and returns the view to resume from.
    pub(crate) fn open(&mut self) -> Option<View> {
        self.incoming = None;
        let resume = self.view.filter(|_| !self.restart);
        self.fresh = resume.is_none();
        resume
    }

    /// Names the registry that the view belongs to; empty if that is not known.
    pub(crate) fn registry_id(&self) -> &str {
        &self.contents.registry_id
    }

    /// Makes the next stream begin with a snapshot.
    pub(crate) fn restart(&mut self) {
        self.restart = true;
    }

    /// Applies one message of the stream. `left_out` collects endpoints that could
    /// not be used.
    pub(crate) fn apply(
        &mut self,
        message: WatchSnapshotsResponse,
        received: Instant,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Applied, OutOfStep> {
        let clocks = Clocks {
            clock_ms: message.clock_ms,
            received,
        };
        let applied = self.step(message, clocks, left_out);
        self.restart =
            applied.is_err() || (self.restart && matches!(applied, Ok(Applied::Partial)));
        applied
    }

    fn step(
        &mut self,
        message: WatchSnapshotsResponse,
        clocks: Clocks,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Applied, OutOfStep> {
        let view = message
            .view
            .ok_or(OutOfStep::Nonsense("a message without a view"))?;
        let comparable = !self.fresh && !self.is_of_another_registry(message.update.as_ref());
        if let Some(ours) = self
            .view
            .filter(|ours| comparable && view < *ours && !seeded(Bug::ViewGoesBack))
        {
            return Err(OutOfStep::Backwards { theirs: view, ours });
        }
        match message.update {
            Some(Message::Snapshot(chunk)) => self.snapshot(view, chunk, clocks, left_out),
            Some(_) if self.incoming.is_some() => {
                Err(OutOfStep::Nonsense("a change in the middle of a snapshot"))
            }
            Some(Message::Delta(delta)) => self.delta(view, delta, clocks, left_out),
            Some(Message::Bookmark(bookmark)) => self.bookmark(view, &bookmark.registry_id),
            None => Err(OutOfStep::Nonsense("a message without an update")),
        }
    }

    fn snapshot(
        &mut self,
        view: View,
        chunk: SnapshotChunk,
        clocks: Clocks,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Applied, OutOfStep> {
        let mut contents = if chunk.first {
            let policy = chunk
                .policy
                .as_ref()
                .map(convert::policy)
                .unwrap_or_default();
            Contents {
                registry_id: chunk.registry_id.into(),
                policy: Arc::new(policy),
                ..Contents::default()
            }
        } else {
            (self.incoming.take()).ok_or(OutOfStep::Nonsense("a snapshot without its beginning"))?
        };
        let is_other = are_different(&self.contents.registry_id, &contents.registry_id);
        let before = (!is_other).then_some(&self.contents);
        for endpoint in chunk.endpoints {
            contents.put(endpoint, before, clocks, left_out)?;
        }
        if !chunk.last {
            self.incoming = Some(contents);
            return Ok(Applied::Partial);
        }
        self.incoming = None;
        let reset = is_other || self.view.is_some_and(|ours| view < ours);
        self.contents = contents;
        Ok(self.publish(view, reset, None))
    }

    fn delta(
        &mut self,
        view: View,
        delta: SnapshotDelta,
        clocks: Clocks,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Applied, OutOfStep> {
        let theirs = delta.from_view.unwrap_or_default();
        self.expect(theirs, &delta.registry_id)?;
        if let Some(policy) = &delta.policy
            && !seeded(Bug::PolicyIgnored)
        {
            self.contents.policy = Arc::new(convert::policy(policy));
        }
        let before = self.contents.clone();
        let mut names: Vec<Arc<str>> = Vec::with_capacity(delta.endpoints.len());
        for name in delta.removed_endpoints {
            self.contents.endpoints.remove(name.as_str());
            self.contents.left_out.remove(name.as_str());
            names.push(name.into());
        }
        for endpoint in delta.endpoints {
            names.push(
                self.contents
                    .put(endpoint, Some(&before), clocks, left_out)?,
            );
        }
        let changes = Changes {
            from: theirs,
            names,
        };
        Ok(self.publish(view, false, Some(changes)))
    }

    fn bookmark(&mut self, view: View, registry_id: &str) -> Result<Applied, OutOfStep> {
        self.expect(view, registry_id)?;
        Ok(Applied::Current)
    }

    /// Returns whether a message is part of a snapshot of another registry than ours.
    fn is_of_another_registry(&self, update: Option<&Message>) -> bool {
        let theirs = match update {
            Some(Message::Snapshot(chunk)) if chunk.first => Some(&*chunk.registry_id),
            Some(Message::Snapshot(_)) => self.incoming.as_ref().map(|begun| &*begun.registry_id),
            Some(Message::Delta(_) | Message::Bookmark(_)) | None => None,
        };
        theirs.is_some_and(|theirs| are_different(&self.contents.registry_id, theirs))
    }

    /// Looks whether what a message builds on is what we have.
    fn expect(&self, theirs: View, registry_id: &str) -> Result<(), OutOfStep> {
        let ours = self.view;
        if are_different(&self.contents.registry_id, registry_id) {
            return Err(OutOfStep::Nonsense("a change of another registry"));
        }
        // After a fresh start only a snapshot can tell what the control plane has.
        if (ours == Some(theirs) && !self.fresh) || seeded(Bug::GapIgnored) {
            Ok(())
        } else {
            Err(OutOfStep::Gap { theirs, ours })
        }
    }

    fn publish(&mut self, view: View, reset: bool, changes: Option<Changes>) -> Applied {
        self.view = Some(view);
        self.fresh = false;
        Applied::View(self.update(view, reset, changes))
    }

    fn update(&self, view: View, reset: bool, changes: Option<Changes>) -> Update {
        Update {
            view,
            registry_id: Arc::clone(&self.contents.registry_id),
            policy: Arc::clone(&self.contents.policy),
            endpoints: self.contents.endpoints.clone(),
            changes,
            has_left_out: !self.contents.left_out.is_empty(),
            reset,
            restored: None,
        }
    }
}

impl Contents {
    /// Takes an endpoint as it is now, and returns its name. One that cannot be used stays
    /// as it was `before`, but shut: with it goes what this process knows of it. It is told
    /// once.
    fn put(
        &mut self,
        endpoint: RoutedEndpoint,
        before: Option<&Self>,
        clocks: Clocks,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Arc<str>, OutOfStep> {
        let name = endpoint.name.clone();
        let name = match convert::routed(endpoint, clocks) {
            Ok(routed) => {
                let name = Arc::clone(&routed.endpoint.name);
                self.endpoints.insert(Arc::clone(&name), Arc::new(routed));
                self.left_out.remove(&name);
                name
            }
            Err(error) => {
                let known = before.and_then(|before| before.endpoints.get(name.as_str()));
                if let Some(known) = known {
                    let mut shut = Routed::clone(known);
                    shut.admin = AdminState::Disabled;
                    let name = Arc::clone(&shut.endpoint.name);
                    self.endpoints.insert(name, Arc::new(shut));
                }
                let told = before.and_then(|before| before.left_out.get(name.as_str()));
                if told != Some(&error) {
                    left_out.push(LeftOut {
                        name: name.clone(),
                        error: error.clone(),
                    });
                }
                let name: Arc<str> = name.into();
                self.left_out.insert(Arc::clone(&name), error);
                name
            }
        };
        if self.endpoints.len().max(self.left_out.len()) > ENDPOINTS_MAX {
            return Err(OutOfStep::Nonsense("more than 100,000 endpoints"));
        }
        Ok(name)
    }
}

/// Returns whether both registries are named, and not the same.
fn are_different(ours: &str, theirs: &str) -> bool {
    let are_named = !ours.is_empty() && !theirs.is_empty();
    are_named && ours != theirs && !seeded(Bug::RegistryUnrecognised)
}

#[cfg(test)]
mod tests;
