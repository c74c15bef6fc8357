//! A new key that takes the place of the present one once it is proven.
//!
//! While it waits the present key serves as before, in its generation, and is checked as
//! before; beside that, checks ask with the new one. It takes over, in a new generation,
//! when such a check passes; when the present one is refused, since then there is nothing
//! to lose; and when its time is up, unless the provider has just rejected it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ApiKey, Blame, Cause, CheckKind, Clock, EndpointName, EventKind, Evidence, Generation, Health,
    Policy, Registry, State,
    endpoint::{AdminState, Endpoint, Turn},
};

/// The key that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Staged {
    /// Stored apart, sealed.
    #[serde(skip, default = "ApiKey::nothing")]
    pub key: ApiKey,
    /// When it takes over unless it is rejected.
    pub until: Clock,
    /// When it is asked with next.
    due: Clock,
    /// Checks of it in a row that did not pass.
    failed: u32,
    /// The last of them was rejected.
    rejected: bool,
}

impl Endpoint {
    /// Whether a new key can wait to be proven: there is one that serves, and checks that
    /// show a key to the provider.
    pub(super) fn can_stage(&self, policy: &Policy) -> bool {
        self.spec.api_key.is_some() && self.can_prove(policy)
    }

    fn can_prove(&self, policy: &Policy) -> bool {
        let shows_key = match self.check(policy).kind {
            CheckKind::Conversation { .. } | CheckKind::Http(_) => true,
            CheckKind::Tcp | CheckKind::None => false,
        };
        shows_key
            && self.spec.admin_state != AdminState::Disabled
            && self.health.state() != State::Unhealthy
    }

    /// Lets a new key wait, and has it checked at once. One that waits already goes on
    /// waiting.
    pub(super) fn stage(&mut self, key: ApiKey, overlap: Duration, policy: &Policy, turn: Turn) {
        self.unstage();
        self.staged = Some(Staged {
            key,
            until: turn.now.clock.after(overlap),
            due: turn.now.clock,
            failed: 0,
            rejected: false,
        });
        self.plan_check(policy, turn.now.clock);
    }

    /// Gives up the key that waits, and a check that asks with it.
    pub(super) fn unstage(&mut self) {
        self.staged = None;
        if self.checks.running.is_some_and(|running| running.staged) {
            self.checks.disown();
        }
    }

    /// Whether this key waits.
    pub(super) fn awaits(&self, key: &ApiKey) -> bool {
        self.staged
            .as_ref()
            .is_some_and(|staged| staged.key == *key)
    }

    /// Returns when something has to be done about the key that waits: ask with it, or let
    /// it take over.
    pub(super) fn staged_due(&self, policy: &Policy) -> Option<Clock> {
        let staged = self.staged.as_ref()?;
        let asked = self.can_prove(policy).then_some(staged.due);
        let up = (!staged.rejected).then_some(staged.until);
        asked.into_iter().chain(up).min()
    }

    /// Returns the key that waits, if the next check is to ask with it. Doubts about the
    /// endpoint itself come first.
    pub(super) fn key_to_prove(&self, policy: &Policy, now: Clock) -> Option<&ApiKey> {
        let staged = self.staged.as_ref()?;
        let due = staged.due <= now && self.doubts.is_empty() && self.can_prove(policy);
        due.then_some(&staged.key)
    }

    /// Whether the key that waits has to take over now.
    pub(super) fn is_overdue(&self, now: Clock) -> bool {
        let refused = self.health.state() == State::Unhealthy
            && matches!(self.health.cause(), Some(Cause::Auth | Cause::Forbidden));
        self.staged
            .as_ref()
            .is_some_and(|staged| refused || (staged.until <= now && !staged.rejected))
    }

    /// Puts the key that waits in the place of the present one. What an operator has
    /// ejected stays ejected.
    pub(super) fn promote(&mut self, generation: Generation, health: Health, turn: Turn) {
        let Some(staged) = self.staged.take() else {
            return;
        };
        Arc::make_mut(&mut self.spec).api_key = Some(staged.key);
        self.configured = turn.view;
        let ejected = self.health.cause() == Some(Cause::Operator);
        let (was, mark, held) = (self.health.clone(), self.mark.clone(), self.checks.held);
        self.regenerate(generation, health, turn);
        if ejected {
            self.health = was;
            self.mark.since = mark.since;
            self.mark.evidence = mark.evidence;
            self.checks.hold(held);
        }
    }

    /// Applies the verdict of a check that asked with the key that waits: nothing else
    /// is held against the endpoint for it.
    pub(super) fn conclude_staged(
        &mut self,
        passed: bool,
        evidence: &Evidence,
        policy: &Policy,
        recovered: Generation,
        turn: Turn,
    ) {
        if passed {
            self.promote(recovered, Health::Healthy { failures: 0 }, turn);
        }
        if let Some(staged) = &mut self.staged {
            let schedule = &policy.verification;
            let wait = schedule.first.saturating_mul(1 << staged.failed.min(20));
            staged.due = turn.now.clock.after(wait.min(schedule.auth_max));
            staged.failed = staged.failed.saturating_add(1);
            staged.rejected = evidence.rejects_key();
        }
    }
}

impl Evidence {
    /// Whether a check was told that its key is wrong.
    fn rejects_key(&self) -> bool {
        matches!(self.facts.outcome.blame(), Blame::Credential(_))
    }
}

impl Registry {
    /// Lets the key that waits take over although it is not proven.
    pub(super) fn promote(&mut self, name: &EndpointName, turn: Turn) {
        // The endpoint may be in one that was drawn in this turn and is not counted yet.
        if let Some(endpoint) = self.endpoints.get(name) {
            self.meta.generation = self.meta.generation.max(endpoint.generation);
        }
        let generation = self.draw_generation();
        self.touch(name, turn, |endpoint, policy, turn| {
            endpoint.promote(generation, Health::Unknown { failures: 0 }, turn);
            endpoint.plan_check(policy, turn.now.clock);
        });
    }

    /// Logs that a check was told that the key that waits is wrong.
    pub(super) fn log_staged_verdict(
        &mut self,
        name: &EndpointName,
        evidence: &Evidence,
        turn: Turn,
    ) {
        if evidence.rejects_key() {
            let kind = EventKind::NewCredentialRejected;
            self.log_repeated(kind, name, 1, turn, |_, event| {
                event.evidence = Some(Box::new(evidence.clone()));
            });
        }
    }
}
