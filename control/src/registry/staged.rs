//! A new key that takes the place of the present one once it is proven.
//!
//! While it waits the present key serves as before, in its generation. Checks ask with
//! the new one. It takes over, in a new generation, when a check passes; when the
//! present one is rejected, since then there is nothing to lose; and when its time is
//! up, since that is what the operator has asked for.

use std::time::Duration;

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
    /// When it takes over in any case.
    pub until: Clock,
    /// Checks of it in a row that did not pass.
    pub failed: u32,
}

impl Endpoint {
    /// Whether a new key can wait to be proven: there is one that serves, and somebody
    /// who asks.
    pub(super) fn can_stage(&self, policy: &Policy) -> bool {
        self.spec.api_key.is_some()
            && self.spec.admin_state != AdminState::Disabled
            && self.check(policy).kind != CheckKind::None
            && self.health.cause() != Some(Cause::Auth)
    }

    /// Lets a new key wait, and has it checked at once.
    pub(super) fn stage(&mut self, key: ApiKey, overlap: Duration, policy: &Policy, turn: Turn) {
        self.checks.disown(); // It asks with the wrong key.
        self.staged = Some(Staged {
            key,
            until: turn.now.clock.after(overlap),
            failed: 0,
        });
        self.plan_check(policy, turn.now.clock);
    }

    /// Whether the next check asks with the key that waits.
    pub(super) fn checks_staged(&self) -> bool {
        self.staged.is_some()
            && self.health.state() != State::Unhealthy
            && self.spec.admin_state != AdminState::Disabled
    }

    /// Whether the key that waits has to take over now.
    pub(super) fn is_overdue(&self, now: Clock) -> bool {
        let rejected =
            self.health.cause() == Some(Cause::Auth) && self.health.state() == State::Unhealthy;
        self.staged
            .as_ref()
            .is_some_and(|staged| rejected || staged.until <= now)
    }

    /// Puts the key that waits in the place of the present one.
    pub(super) fn promote(&mut self, generation: Generation, health: Health, turn: Turn) {
        if let Some(staged) = self.staged.take() {
            std::sync::Arc::make_mut(&mut self.spec).api_key = Some(staged.key);
            self.configured = turn.view;
            self.regenerate(generation, health, turn);
        }
    }

    /// Applies the verdict of a check that asked with the key that waits: nothing else
    /// is held against the endpoint for it. Returns whether the key was rejected.
    pub(super) fn conclude_staged(
        &mut self,
        passed: bool,
        evidence: &Evidence,
        recovered: Generation,
        turn: Turn,
    ) -> bool {
        if passed {
            self.promote(recovered, Health::Healthy { failures: 0 }, turn);
            return false;
        }
        if let Some(staged) = &mut self.staged {
            staged.failed = staged.failed.saturating_add(1);
        }
        matches!(
            evidence.facts.outcome.blame(),
            Blame::Credential(_) | Blame::Endpoint(Cause::Forbidden)
        )
    }
}

impl Registry {
    /// Lets the key that waits take over although it is not proven.
    pub(super) fn promote(&mut self, name: &EndpointName, turn: Turn) {
        let generation = self.draw_generation();
        self.touch(name, turn, |endpoint, policy, turn| {
            endpoint.promote(generation, Health::Unknown { failures: 0 }, turn);
            endpoint.plan_check(policy, turn.now.clock);
        });
    }

    /// Logs that the key that waits was rejected.
    pub(super) fn log_rejected_key(
        &mut self,
        name: &EndpointName,
        evidence: &Evidence,
        turn: Turn,
    ) {
        let kind = EventKind::NewCredentialRejected;
        self.log_repeated(kind, name, 1, turn, |_, event| {
            event.evidence = Some(Box::new(evidence.clone()));
        });
    }
}
