//! How one of several equals is chosen.

use std::collections::BTreeMap;

use super::*;
use crate::routing::Strategy;

fn testbed(strategy: Strategy, endpoints: impl IntoIterator<Item = Routed>) -> Testbed {
    let mut testbed = Testbed::new(endpoints);
    testbed.policy.strategy = strategy;
    testbed.publish();
    testbed
}

/// How often each endpoint is chosen in so many requests, none of which stays.
fn shares(testbed: &Testbed, requests: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        *shares.entry(testbed.choice().unwrap()).or_insert(0) += 1;
    }
    shares
}

fn weighing(name: &str, weight: u32) -> Routed {
    Routed {
        weight,
        ..endpoint(name)
    }
}

const ALL: [Strategy; 6] = [
    Strategy::Priority,
    Strategy::Weighted,
    Strategy::RoundRobin,
    Strategy::Random,
    Strategy::LeastInflight,
    Strategy::PeakEwma,
];

#[test]
fn by_weight_priority_does_not_count() {
    let spare = Routed {
        priority: 9,
        weight: 300,
        ..endpoint("b")
    };
    let testbed = testbed(Strategy::Weighted, [endpoint("a"), spare]);
    let shares = shares(&testbed, 10_000);
    assert!((7_300..7_700).contains(&shares["b"]), "{shares:?}");
}

#[test]
fn all_others_exhaust_a_priority_first() {
    for strategy in ALL.into_iter().filter(|it| *it != Strategy::Weighted) {
        let testbed = testbed(strategy, [endpoint("a"), spare("b")]);
        assert_eq!(shares(&testbed, 100).len(), 1, "{strategy:?}");
        testbed.finish(testbed.attempt(), OutcomeClass::Auth);
        assert_eq!(testbed.choice().as_deref(), Some("b"), "{strategy:?}");
    }
}

#[test]
fn health_comes_first_whatever_the_strategy() {
    for strategy in ALL {
        let unknown = Routed {
            health: Health::Unknown,
            ..endpoint("a")
        };
        let testbed = testbed(strategy, [unknown, endpoint("b")]);
        assert_eq!(shares(&testbed, 100).len(), 1, "{strategy:?}");
        assert_eq!(testbed.choice().as_deref(), Some("b"), "{strategy:?}");
    }
}

#[test]
fn a_change_of_strategy_changes_the_order() {
    let mut testbed = testbed(Strategy::Weighted, [endpoint("a"), spare("b")]);
    assert_eq!(shares(&testbed, 100).len(), 2);
    testbed.policy.strategy = Strategy::Priority;
    testbed.publish();
    assert_eq!(shares(&testbed, 100).len(), 1);
}

#[test]
fn in_turn_each_gets_the_same() {
    let endpoints = [weighing("a", 1), weighing("b", 500), endpoint("c")];
    let testbed = testbed(Strategy::RoundRobin, endpoints);
    assert!(shares(&testbed, 300).values().all(|share| *share == 100));
}

#[test]
fn at_random_weight_does_not_count() {
    let testbed = testbed(Strategy::Random, [weighing("a", 1), weighing("b", 500)]);
    let shares = shares(&testbed, 10_000);
    assert!((4_700..5_300).contains(&shares["a"]), "{shares:?}");
}

#[test]
fn who_is_busy_gets_less() {
    let testbed = testbed(Strategy::LeastInflight, ["a", "b"].map(endpoint));
    let running: Vec<_> = (0..100).map(|_| testbed.attempt()).collect();
    let on_a = running.iter().filter(|it| name(it) == "a").count();
    assert!((45..=55).contains(&on_a), "{on_a}");
}

#[test]
fn who_weighs_more_is_busy_with_more() {
    for strategy in [Strategy::LeastInflight, Strategy::PeakEwma] {
        let mut heavy = endpoint("heavy");
        heavy.weight *= 3;
        let testbed = testbed(strategy, [endpoint("light"), heavy]);
        let running: Vec<_> = (0..400).map(|_| testbed.attempt()).collect();
        let on_light = running.iter().filter(|it| name(it) == "light").count();
        assert!((90..=110).contains(&on_light), "{strategy:?}: {on_light}");
    }
}

#[test]
fn what_fails_fast_is_not_idle() {
    for strategy in [Strategy::LeastInflight, Strategy::PeakEwma] {
        let mut bad = endpoint("bad");
        bad.failures_max = 1000;
        let testbed = testbed(strategy, [bad, endpoint("good")]);
        let (mut running, mut failed) = (Vec::new(), 0);
        for _ in 0..200 {
            let attempt = testbed.attempt();
            if name(&attempt) == "bad" {
                testbed.finish(attempt, OutcomeClass::ServerError);
                failed += 1;
            } else {
                attempt.timed(testbed.now + Duration::from_millis(5));
                running.push(attempt);
            }
        }
        assert!(
            failed <= 110,
            "{strategy:?}: {failed} went to who fails at once"
        );
    }
}

#[test]
fn who_answers_sooner_gets_more() {
    let testbed = testbed(Strategy::PeakEwma, ["fast", "slow"].map(endpoint));
    let mut counts = BTreeMap::new();
    for _ in 0..1000 {
        let attempt = testbed.attempt();
        let took = if name(&attempt) == "fast" { 10 } else { 100 };
        attempt.timed(testbed.now + Duration::from_millis(took));
        *counts.entry(name(&attempt)).or_insert(0) += 1;
        testbed.finish(attempt, OutcomeClass::Success);
    }
    // It is drawn twice in a quarter of all cases, and has to be tried then.
    assert!(counts["fast"] > 700, "{counts:?}");
}

#[test]
fn a_new_endpoint_gets_its_share_little_by_little() {
    let mut testbed = Testbed::new([endpoint("old"), endpoint("new")]);
    testbed.change("new", |routed| {
        renew(routed);
        routed.proven = false;
    });
    testbed.change("new", |routed| routed.proven = true);
    for (seconds, expected) in [(0.0, 400..600), (15.0, 3_000..3_700), (15.0, 4_700..5_300)] {
        testbed.pass(seconds);
        let shares = shares(&testbed, 10_000);
        assert!(expected.contains(&shares["new"]), "{shares:?}");
    }
}

#[test]
fn a_new_endpoint_that_is_alone_grows_as_well() {
    let mut testbed = Testbed::new([endpoint("old"), endpoint("new")]);
    testbed.change("old", |routed| routed.admin = AdminState::Draining);
    testbed.change("new", |routed| {
        renew(routed);
        routed.proven = false;
    });
    testbed.change("new", |routed| routed.proven = true);
    assert_eq!(shares(&testbed, 1)["new"], 1);
    testbed.pass(30.0);
    testbed.change("old", |routed| routed.admin = AdminState::Enabled);
    let shares = shares(&testbed, 10_000);
    assert!((4_700..5_300).contains(&shares["new"]), "{shares:?}");
}

#[test]
fn if_all_are_new_they_share_as_ever() {
    let mut testbed = Testbed::new(["a", "b"].map(unproven));
    for name in ["a", "b"] {
        testbed.change(name, |routed| routed.proven = true);
    }
    let shares = shares(&testbed, 10_000);
    assert!((4_700..5_300).contains(&shares["a"]), "{shares:?}");
}

#[test]
fn a_start_from_a_kept_view_makes_nobody_new() {
    let mut testbed = Testbed::new([]);
    testbed.endpoints = vec![endpoint("a"), endpoint("b")];
    testbed.router = Router::new(7, Arc::clone(&testbed.outbox));
    let endpoints = testbed.endpoints.iter().cloned().map(Arc::new);
    let policy = Arc::new(testbed.policy.clone());
    testbed.router.publish(Update {
        restored: Some(Vec::new()),
        ..Update::whole(testbed.view, policy, endpoints, false)
    });
    let table = testbed.router.table().unwrap();
    let is_proven = |name| table.find(name).unwrap().live.proven();
    while !is_proven("a") {
        testbed.finish(testbed.attempt(), OutcomeClass::Success);
    }
    testbed.change("b", |routed| routed.failures = 1);
    assert!(is_proven("b"));
    let shares = shares(&testbed, 10_000);
    assert!((4_700..5_300).contains(&shares["a"]), "{shares:?}");
}
