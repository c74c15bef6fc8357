//! Which endpoint a request gets, and which it does not get twice.

use std::collections::BTreeMap;

use OutcomeClass::{Auth, ServerError, StreamBroken, Timeout};
use qcc_proto::v1::Cause;

use super::*;

#[test]
fn priority_comes_before_health_and_health_before_weight() {
    let degraded = |name| Routed {
        health: Health::Degraded {
            cause: Cause::Overloaded,
            until: Instant::now(),
        },
        ..endpoint(name)
    };
    let mut testbed = Testbed::new([
        spare("late"),
        degraded("third"),
        Routed {
            health: Health::Unknown,
            ..endpoint("second")
        },
        endpoint("first"),
    ]);
    testbed.policy.attempts_max = 4;
    testbed.pass(1.0);
    testbed.publish();
    let mut routing = testbed.begin();
    let order: Vec<String> = (0..4)
        .map(|_| name(&attempt(routing.next(testbed.now))))
        .collect();
    assert_eq!(order, ["first", "second", "third", "late"]);
}

#[test]
fn weight_decides_the_shares_within_a_tier() {
    let light = Routed {
        weight: 100,
        ..endpoint("light")
    };
    let heavy = Routed {
        weight: 300,
        ..endpoint("heavy")
    };
    let testbed = Testbed::new([light, heavy]);
    let mut chosen = BTreeMap::new();
    for _ in 0..10_000 {
        *chosen.entry(testbed.choice().unwrap()).or_insert(0) += 1;
    }
    assert!((7_300..7_700).contains(&chosen["heavy"]), "{chosen:?}");
}

#[test]
fn weights_hold_among_the_few_that_are_left() {
    let mut testbed = Testbed::new((0..50).map(|i| Routed {
        weight: 1000,
        health: Health::Healthy,
        ..endpoint(&format!("e{i:02}"))
    }));
    for routed in &mut testbed.endpoints[2..] {
        routed.admin = AdminState::Enabled;
    }
    testbed.endpoints[0].weight = 1;
    testbed.endpoints[1].weight = 3;
    testbed.publish();
    while let Next::Attempt(attempt) = testbed.next() {
        // Everything that is met goes, but for the two light ones.
        if ["e00", "e01"].contains(&&*name(&attempt)) {
            drop(attempt);
            let left = testbed.endpoints[2..].iter();
            if left
                .clone()
                .all(|routed| !testbed.reason(&routed.endpoint.name).is_empty())
            {
                break;
            }
        } else {
            testbed.finish(attempt, Auth);
        }
    }
    let mut chosen = BTreeMap::new();
    for _ in 0..4_000 {
        *chosen.entry(testbed.choice().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(chosen.len(), 2);
    assert!((2_850..3_150).contains(&chosen["e01"]), "{chosen:?}");
}

#[test]
fn a_request_gets_every_endpoint_once_and_not_more_than_attempts_max() {
    let testbed = Testbed::new(["a", "b", "c", "d"].map(endpoint));
    let mut routing = testbed.begin();
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let attempt = attempt(routing.next(testbed.now));
        assert!(met.insert(name(&attempt)), "twice");
        testbed.finish(attempt, ServerError);
    }
    assert_eq!(routing.attempts(), 3);
    assert!(matches!(routing.next(testbed.now), Next::Exhausted));
}

#[test]
fn no_endpoint_comes_twice_even_if_no_other_is_left() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut routing = testbed.begin();
    for expected in ["a", "b"] {
        let attempt = attempt(routing.next(testbed.now));
        assert_eq!(name(&attempt), expected);
        testbed.finish(attempt, ServerError);
    }
    assert!(matches!(routing.next(testbed.now), Next::Exhausted));
}

#[test]
fn an_endpoint_that_lost_an_idle_connection_comes_once_more_after_the_others() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut routing = testbed.begin();
    for expected in ["a", "b", "a"] {
        let attempt = attempt(routing.next(testbed.now));
        assert_eq!(name(&attempt), expected);
        testbed.finish(attempt, StreamBroken);
        if expected == "a" {
            routing.once_more();
        }
    }
    assert!(matches!(routing.next(testbed.now), Next::Exhausted));
}

#[test]
fn once_more_is_not_twice_more() {
    let testbed = Testbed::new([endpoint("a")]);
    let mut routing = testbed.begin();
    while let Next::Attempt(attempt) = routing.next(testbed.now) {
        testbed.finish(attempt, StreamBroken);
        routing.once_more();
    }
    assert_eq!(routing.attempts(), 2);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn one_request_cannot_eject_the_only_endpoint() {
    let testbed = Testbed::new([endpoint("a")]);
    let mut provoking = testbed.begin();
    while let Next::Attempt(attempt) = provoking.next(testbed.now) {
        testbed.finish(attempt, ServerError);
    }
    assert_eq!(provoking.attempts(), 1);
    assert_eq!(testbed.choice().as_deref(), Some("a")); // One failure of three.
}

#[test]
fn an_endpoint_that_was_marked_never_comes_again_in_the_same_request() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let mut routing = testbed.begin();
    testbed.finish(attempt(routing.next(testbed.now)), Timeout);
    testbed.pass(6.0); // The mark is over, for others.
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    assert!(matches!(routing.next(testbed.now), Next::Exhausted));
}

#[test]
fn nothing_selectable_means_unavailable_whatever_was_tried() {
    let disabled = Routed {
        admin: AdminState::Disabled,
        ..endpoint("b")
    };
    let testbed = Testbed::new([endpoint("a"), disabled]);
    let mut routing = testbed.begin();
    testbed.finish(attempt(routing.next(testbed.now)), Auth);
    let Next::Unavailable(unavailable) = routing.next(testbed.now) else {
        panic!("something is available");
    };
    let reasons: Vec<String> = unavailable
        .reasons
        .iter()
        .map(|(n, r)| format!("{n}: {r}"))
        .collect();
    assert_eq!(reasons, ["a: credential rejected here", "b: disabled"]);
    assert_eq!(unavailable.retry_after, Duration::from_secs(5));
}

#[test]
fn the_earliest_chance_is_never_less_than_a_second() {
    let mut testbed = Testbed::new(["a", "b"].map(endpoint));
    testbed.policy.queue_timeout = Duration::ZERO;
    testbed.publish();
    for seconds in [40.0, 8.5] {
        let class = OutcomeClass::RateLimited;
        testbed.throttle(testbed.attempt(), class, seconds);
    }
    let retry_after = |testbed: &Testbed| testbed.begin().unavailable(testbed.now).retry_after;
    assert_eq!(retry_after(&testbed), Duration::from_millis(8_500));
    testbed.pass(8.2);
    assert_eq!(retry_after(&testbed), Duration::from_secs(1));
}

#[test]
fn the_next_check_is_a_chance_as_far_as_it_is_known() {
    let unhealthy = |name, cause| Routed {
        health: Health::Unhealthy { cause },
        ..endpoint(name)
    };
    let mut testbed = Testbed::new([unhealthy("a", Cause::Connect), unhealthy("b", Cause::Auth)]);
    let told = |testbed: &Testbed| {
        let unavailable = testbed.begin().unavailable(testbed.now);
        let first = unavailable.reasons[0].1.to_string();
        (unavailable.retry_after.as_secs(), first)
    };
    let expect = |testbed: &Testbed, name: &'static str, seconds| {
        let due = testbed.now + Duration::from_secs(seconds);
        testbed.router.expect_checks([(name, due)]);
    };
    assert_eq!(told(&testbed), (5, "unhealthy: no connection".to_owned()));
    expect(&testbed, "a", 31);
    expect(&testbed, "b", 200);
    let next = "unhealthy: no connection, next check in 31s";
    assert_eq!(
        told(&testbed),
        (33, next.to_owned()),
        "a check takes a while"
    );
    assert!(
        matches!(testbed.next(), Next::Unavailable(_)),
        "nobody waits for it"
    );

    testbed.pass(31.0);
    let now = "unhealthy: no connection, checked now";
    assert_eq!(told(&testbed), (2, now.to_owned()));
    testbed.pass(15.5); // The control plane is gone, or busy with others.
    assert_eq!(told(&testbed), (5, "unhealthy: no connection".to_owned()));

    // Not longer than the policy lets anybody wait: somebody may help sooner.
    expect(&testbed, "b", 10_000);
    expect(&testbed, "a", 10_000);
    assert_eq!(told(&testbed).0, 60);
    testbed.change("a", |a| a.admin = AdminState::Disabled);
    assert_eq!(told(&testbed).0, 30, "an operator has to act");
    testbed.policy.verification.auth_max = Duration::from_secs(20);
    testbed.publish();
    assert_eq!(told(&testbed).0, 20);
}

#[test]
fn a_pause_within_reach_is_waited_for_but_not_by_who_caused_it() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let mut causer = testbed.begin();
    let rejected = attempt(causer.next(testbed.now));
    testbed.throttle(rejected, OutcomeClass::RateLimited, 1.0);
    assert!(matches!(causer.next(testbed.now), Next::Unavailable(_)));
    let Next::Wait { until: Some(until) } = testbed.next() else {
        panic!("the pause is short enough to be waited for");
    };
    assert_eq!(until, testbed.now + Duration::from_secs(1));
    testbed.now = until;
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn of_thousands_that_are_out_a_few_are_named_and_the_others_counted() {
    let disabled = |name: &str| Routed {
        admin: AdminState::Disabled,
        ..endpoint(name)
    };
    let names = (0..10_000).map(|i| format!("e{i:05}"));
    let mut testbed = Testbed::new(names.map(|name| disabled(&name)));
    let unavailable = unavailable(testbed.next());
    let named: Vec<_> = unavailable
        .reasons
        .iter()
        .map(|(name, _)| &**name)
        .collect();
    assert_eq!((named.len(), named[0], named[19]), (20, "e00000", "e00019"));
    assert_eq!(unavailable.others, 9_980);
    assert!(unavailable.is_for_people);
    assert_eq!(unavailable.retry_after, Duration::from_secs(30));
    // One that is not named is a chance like any other.
    testbed.change("e09999", |last| {
        last.admin = AdminState::Enabled;
        last.health = Health::Unhealthy {
            cause: Cause::Connect,
        };
    });
    let unavailable = self::unavailable(testbed.next());
    assert_eq!(unavailable.retry_after, Duration::from_secs(5));
    assert!(!unavailable.is_for_people);
}

#[test]
fn that_nothing_is_selectable_is_found_once_and_forgotten_with_the_first_change() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    for _ in 0..2 {
        testbed.finish(testbed.attempt(), Auth);
    }
    let found = unavailable(testbed.next());
    assert!(Arc::ptr_eq(&found, &unavailable(testbed.next())));
    testbed.change("b", renew);
    assert_eq!(testbed.choice().as_deref(), Some("b"));

    // Nobody tells of the end of a pause, nor that it has come within reach.
    testbed.throttle(testbed.attempt(), OutcomeClass::RateLimited, 2.05);
    let found = unavailable(testbed.next());
    testbed.pass(0.04);
    assert!(Arc::ptr_eq(&found, &unavailable(testbed.next())));
    testbed.pass(0.01);
    assert!(matches!(testbed.next(), Next::Wait { until: Some(_) }));
    testbed.policy.queue_timeout = Duration::ZERO;
    testbed.publish();
    testbed.pass(1.95);
    let found = unavailable(testbed.next());
    testbed.pass(0.04);
    assert!(Arc::ptr_eq(&found, &unavailable(testbed.next())));
    testbed.pass(0.01);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
}

fn unavailable(next: Next) -> Arc<Unavailable> {
    match next {
        Next::Unavailable(unavailable) => unavailable,
        other => panic!("not unavailable but {other:?}"),
    }
}

#[test]
fn without_a_view_nothing_begins() {
    let router = Router::new(1, Arc::new(Outbox::new(1)));
    assert!(router.begin().is_none());
}

#[test]
fn an_empty_cluster_is_unavailable() {
    let testbed = Testbed::new([]);
    assert!(matches!(testbed.next(), Next::Unavailable(_)));
}
