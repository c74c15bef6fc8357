//! The cap on attempts at an endpoint that has not yet succeeded.

use OutcomeClass::{Auth, RateLimited, Request, Success};

use super::*;

#[test]
fn the_rest_go_to_the_next_endpoint() {
    let testbed = Testbed::new([unproven("a"), spare("b")]);
    let attempts: Vec<Attempt> = (0..100).map(|_| testbed.attempt()).collect();
    let at_a = attempts
        .iter()
        .filter(|attempt| name(attempt) == "a")
        .count();
    assert_eq!(at_a, 4);
}

#[test]
fn the_rest_wait_if_there_is_no_other() {
    let testbed = Testbed::new([unproven("a")]);
    let mut attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    let mut waiting = testbed.begin();
    assert!(matches!(
        waiting.next(testbed.now),
        Next::Wait { until: None }
    ));
    drop(attempts.pop());
    assert!(matches!(waiting.next(testbed.now), Next::Attempt(_)));
}

#[test]
fn that_all_are_busy_is_found_once_and_forgotten_with_the_first_change() {
    let mut testbed = Testbed::new([endpoint("a"), unproven("b")]);
    let is_known = |testbed: &Testbed| {
        let table = testbed.router.table().unwrap();
        let outlook = testbed.router.outlook();
        outlook.get(&table, testbed.now).is_some()
    };
    testbed.throttle(testbed.attempt(), RateLimited, 2.05);
    let mut attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    assert!(!is_known(&testbed));
    assert!(matches!(testbed.next(), Next::Wait { until: None }));
    assert!(is_known(&testbed));

    // Nobody tells that a pause has come within reach.
    testbed.pass(0.04);
    assert!(matches!(testbed.next(), Next::Wait { until: None }));
    testbed.pass(0.01);
    assert!(!is_known(&testbed));
    assert!(matches!(testbed.next(), Next::Wait { until: Some(_) }));
    assert!(is_known(&testbed));

    drop(attempts.pop());
    assert!(!is_known(&testbed));
    assert_eq!(testbed.choice().as_deref(), Some("b"));
}

#[test]
fn that_nobody_has_anywhere_to_go_is_found_once_for_who_has_tried_some_too() {
    let mut testbed = Testbed::new([endpoint("a"), endpoint("b"), endpoint("c")]);
    let told = |next| match next {
        Next::Unavailable(unavailable) => unavailable,
        other => panic!("{other:?}"),
    };
    let mut tried = testbed.begin();
    testbed.finish(attempt(tried.next(testbed.now)), Auth);
    for _ in 0..2 {
        testbed.finish(testbed.attempt(), Auth);
    }
    let found = told(testbed.next());
    assert!(Arc::ptr_eq(&found, &told(tried.next(testbed.now))));

    // By a later table it holds for an older one.
    testbed.publish();
    let found = told(testbed.next());
    assert!(Arc::ptr_eq(&found, &told(tried.next(testbed.now))));
    testbed.change("b", renew);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
    assert!(!Arc::ptr_eq(&found, &told(tried.next(testbed.now))));

    // With a pause within reach each has another thing to wait for.
    let testbed = Testbed::new([endpoint("a"), endpoint("b")]);
    let mut tried = testbed.begin();
    testbed.throttle(attempt(tried.next(testbed.now)), RateLimited, 1.0);
    testbed.finish(testbed.attempt(), Auth);
    assert!(matches!(testbed.next(), Next::Wait { until: Some(_) }));
    told(tried.next(testbed.now));
}

#[test]
fn a_2xx_head_lifts_the_cap() {
    let testbed = Testbed::new([unproven("a")]);
    let attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    assert_eq!(testbed.choice(), None);
    attempts[0].answered();
    let more: Vec<Attempt> = (0..10).map(|_| testbed.attempt()).collect();
    assert_eq!(more.len(), 10);
}

#[test]
fn anything_but_success_proves_nothing() {
    let testbed = Testbed::new([unproven("a")]);
    for _ in 0..10 {
        testbed.finish(testbed.attempt(), Request);
    }
    let _attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    assert_eq!(testbed.choice(), None);
}

#[test]
fn success_elsewhere_proves_it_here() {
    let mut testbed = Testbed::new([unproven("a")]);
    let _attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    let mut waiting = testbed.begin();
    assert!(matches!(waiting.next(testbed.now), Next::Wait { .. }));
    testbed.change("a", |a| a.proven = true);
    assert!(matches!(waiting.next(testbed.now), Next::Attempt(_)));
}

#[test]
fn a_new_generation_has_to_prove_itself_again() {
    let mut testbed = Testbed::new([unproven("a")]);
    testbed.finish(testbed.attempt(), Success);
    testbed.change("a", renew);
    let _attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    assert_eq!(testbed.choice(), None);
}

#[test]
fn whoever_waits_for_a_place_does_not_get_one_at_a_rejected_endpoint() {
    let testbed = Testbed::new([unproven("a")]);
    let attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    for attempt in attempts {
        testbed.finish(attempt, Auth);
        assert!(matches!(testbed.next(), Next::Unavailable(_)));
    }
}

#[tokio::test]
async fn a_freed_place_wakes_whoever_waits_even_before_it_is_awaited() {
    let testbed = Testbed::new([unproven("a")]);
    let mut attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    let mut waiting = testbed.begin();
    let changed = testbed.router.changed();
    assert!(matches!(waiting.next(testbed.now), Next::Wait { .. }));
    attempts.pop();
    changed.await;
    assert!(matches!(waiting.next(testbed.now), Next::Attempt(_)));
}
