//! The cluster's rules, and what operators make of them while everything runs.

use std::time::Duration;

use qcc_control::registry::{
    Affinity, ApiFlavor, CHECK_MAX_TOKENS, CHECK_TIMEOUT, Check, CheckKind, ClusterName, CoolDowns,
    HttpCheck, Mutation, Policy, Timeouts, VerificationSchedule,
};

use crate::{
    plan::{Plan, STRATEGIES},
    random::Random,
    world::World,
};

impl World {
    /// Asks for the rules that a run begins with, and ends with.
    pub(crate) fn plain_rules(&mut self) -> Mutation {
        replace(plain(&self.plan))
    }

    /// Asks for other rules.
    pub(crate) fn other_rules(&mut self) -> Mutation {
        replace(draw(&mut self.random, &self.plan))
    }
}

fn replace(policy: Policy) -> Mutation {
    Mutation::UpdateCluster {
        name: ClusterName::default_cluster(),
        policy,
        etag: None,
    }
}

/// Returns rules by which everything is good again within the time that a run has for it.
fn plain(plan: &Plan) -> Policy {
    let usual = Policy::of(ApiFlavor::Anthropic);
    Policy {
        strategy: plan.strategy,
        affinity: Affinity {
            return_policy: plan.return_policy,
            ..usual.affinity
        },
        slow_start: match plan.slow_start {
            true => usual.slow_start,
            false => Duration::ZERO,
        },
        verification: VerificationSchedule {
            auth_max: Duration::from_secs(120),
            per_hour_max: 10_000,
            ..usual.verification
        },
        ..usual
    }
}

/// Draws rules.
fn draw(random: &mut Random, plan: &Plan) -> Policy {
    let mut seconds =
        |shortest: u64, longest: u64| Duration::from_secs(random.within(shortest..longest + 1));
    let (first_byte, window) = (seconds(2, 8), seconds(5, 60));
    let (overloaded, rate_limited, max) = (seconds(1, 20), seconds(5, 600), seconds(10, 600));
    let (first, longest, auth_max) = (seconds(1, 10), seconds(10, 60), seconds(30, 120));
    let queue_timeout = seconds(0, 4);
    let plain = plain(plan);
    Policy {
        attempts_max: random.within(1..6) as u32,
        max_failures: random.within(1..6) as u32,
        unproven_concurrency: random.within(1..7) as u32,
        timeouts: Timeouts {
            first_byte,
            ..plain.timeouts
        },
        cool_downs: CoolDowns {
            overloaded,
            rate_limited,
            max,
        },
        check: check(random),
        verification: VerificationSchedule {
            first,
            max: longest,
            auth_max,
            per_hour_max: if random.percent(40) {
                random.within(1..8) as u32
            } else {
                plain.verification.per_hour_max
            },
        },
        corroboration_window: window,
        queue_timeout,
        strategy: STRATEGIES[random.index(STRATEGIES.len())],
        ..plain
    }
}

/// Draws a check.
pub(crate) fn check(random: &mut Random) -> Check {
    let unbilled = || HttpCheck {
        method: "GET".into(),
        path: "/v1/models".into(),
        expected_statuses: vec![200],
        body: String::new(),
    };
    let kind = match random.within(0..10) {
        0..6 => CheckKind::Conversation {
            model: None,
            max_tokens: CHECK_MAX_TOKENS,
        },
        6..8 => CheckKind::Http(unbilled()),
        _ => CheckKind::None,
    };
    Check {
        precheck: (kind != CheckKind::None && random.percent(40)).then(unbilled),
        kind,
        timeout: CHECK_TIMEOUT,
    }
}
