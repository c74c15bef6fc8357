//! Random histories, and the rules that hold in all of them.
//!
//! A history is a list of steps: proxies choose endpoints under the views they hold,
//! attempts end, reports arrive late, twice or not at all, checks are answered,
//! operators act, time passes. After each step every rule is checked.

mod world;

use proptest::{collection::vec, prelude::*, strategy::Strategy};

use super::*;

use world::{Act, ENDPOINTS, PROXIES, Step, World};
pub(super) use world::{saved, seed};

/// The rules of one step: from `before` to `after`.
fn check(step: &Step, before: &Endpoint, after: &Endpoint) {
    assert!(after.generation >= before.generation, "generations grow");
    let operator = matches!(step, Step::Operate { .. });
    let fell = before.health.incident().is_none() && after.health.incident().is_some();
    let rose = before.health.incident().is_some() && after.health.incident().is_none();
    if rose {
        assert!(
            after.generation > before.generation,
            "a recovery begins a generation"
        );
        assert!(
            operator || matches!(step, Step::Answer { passed: true, .. }),
            "only a verification or an operator lifts unhealthy"
        );
    }
    if fell && !operator {
        assert_eq!(
            after.generation, before.generation,
            "a fall ends nothing yet"
        );
    }
    if after.spec.admin_state != before.spec.admin_state {
        assert!(operator, "evidence never changes the operator's wish");
    }
    if let (Health::Degraded { until: was, .. }, Health::Degraded { until: is, .. }) =
        (&before.health, &after.health)
    {
        let newer = after
            .mark
            .evidence
            .as_ref()
            .is_some_and(|e| e.view >= before.mark.view);
        assert!(
            is >= was || newer,
            "only newer evidence brings an end forward"
        );
    }
    if let (Some(one), Some(two)) = (before.health.incident(), after.health.incident())
        && before.generation == after.generation
    {
        assert_eq!(
            one.first_failure, two.first_failure,
            "it is the same incident"
        );
        assert!(two.observations >= one.observations);
    }
    let idle = after.checks.due.is_none() && after.checks.running.is_none();
    let enabled = after.spec.admin_state != AdminState::Disabled;
    if enabled && after.health.incident().is_some() {
        assert!(!idle, "whoever is queued will be checked");
    }
    if enabled && matches!(after.health, Health::Unknown { .. }) {
        assert!(!idle, "whoever is unknown will be checked");
    }
    if !enabled {
        assert!(
            after.checks.running.is_none(),
            "nobody asks a disabled endpoint"
        );
    }
}

fn class() -> impl Strategy<Value = OutcomeClass> {
    use OutcomeClass::*;
    prop_oneof![
        4 => Just(Success),
        2 => Just(Auth),
        1 => prop_oneof![Just(Forbidden), Just(RateLimited), Just(Overloaded)],
        1 => prop_oneof![Just(ServerError), Just(StreamBroken)],
        2 => prop_oneof![Just(Timeout), Just(Connect)],
        1 => prop_oneof![Just(Request), Just(Cancelled)],
    ]
}

fn act() -> impl Strategy<Value = Act> {
    use Act::*;
    prop_oneof![
        2 => Just(Enable),
        1 => prop_oneof![Just(Disable), Just(Drain), Just(Eject)],
        1 => prop_oneof![Just(Restore), Just(RemoveFailure), Just(Verify)],
        1 => prop_oneof![Just(RotateKey), Just(DeleteAndCreate)],
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let proxy = 0..PROXIES.len();
    let endpoint = 0..ENDPOINTS.len();
    prop_oneof![
        4 => proxy.clone().prop_map(|proxy| Step::Sync { proxy }),
        6 => (proxy.clone(), endpoint.clone())
            .prop_map(|(proxy, endpoint)| Step::Begin { proxy, endpoint }),
        6 => (any::<usize>(), class(), proptest::option::of(0..200_000_u64)).prop_map(
            |(attempt, class, retry_after)| Step::Finish { attempt, class, retry_after }
        ),
        5 => (proxy, any::<bool>()).prop_map(|(proxy, answer_lost)| Step::Send { proxy, answer_lost }),
        4 => (any::<usize>(), any::<bool>(), class())
            .prop_map(|(check, passed, class)| Step::Answer { check, passed, class }),
        1 => (endpoint, act()).prop_map(|(endpoint, act)| Step::Operate { endpoint, act }),
        3 => (0..120_000_u64).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_rules_hold_in_every_history(steps in vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            let before: Vec<_> = ENDPOINTS.iter().map(|name| world.endpoint(name)).collect();
            let revision = world.registry.view();
            world.step(step.clone());
            let changed = !world.registry.publication.is_empty();
            world.settle();
            for (name, before) in ENDPOINTS.iter().zip(before) {
                let after = world.endpoint(name);
                check(&step, &before, &after);
                let fell = before.health.incident().is_none() && after.health.incident().is_some();
                world.incidents += u64::from(fell);
                let live = world.orders.iter().filter(|order| {
                    after.checks.running.is_some_and(|running| running.id == order.id)
                });
                prop_assert!(live.count() <= 1, "never two checks for one endpoint");
                if !before.health.acts_like(&after.health) || before.generation != after.generation {
                    prop_assert!(world.registry.view() > revision, "news makes a new view");
                }
            }
            prop_assert!(world.registry.view() >= revision, "views never go back");
            prop_assert_eq!(world.registry.view() > revision, changed || matches!(step, Step::Restart));
            let totals = world.registry.meta.totals;
            prop_assert_eq!(totals.failed, world.incidents, "one incident, one count");
            prop_assert_eq!(totals.verified, totals.recovered + totals.still_failed);
        }

    }

    /// However bad the history: once the causes are gone and checks are answered,
    /// every enabled endpoint comes back without an operator.
    #[test]
    fn no_state_is_for_ever(steps in vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.settle();
        }
        for _ in 0..200 {
            world.step(Step::Wait { millis: 60_000 });
            world.settle();
            while !world.orders.is_empty() {
                world.step(Step::Answer { check: 0, passed: true, class: OutcomeClass::Success });
                world.settle();
            }
        }
        for name in ENDPOINTS {
            let endpoint = world.endpoint(name);
            let selectable = match endpoint.health {
                Health::Healthy { .. } => true,
                Health::Degraded { until, .. } => until <= world.now.clock,
                Health::Unknown { .. } | Health::Unhealthy(_) => false,
            };
            let wanted = endpoint.spec.admin_state != AdminState::Disabled;
            prop_assert!(selectable || !wanted, "{name} is stuck: {:?}", endpoint.health);
        }
    }
}
