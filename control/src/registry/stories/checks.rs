//! How an endpoint comes back: checks, when they are made and what they prove.

use super::*;

#[test]
fn recovery_takes_a_check_that_passes() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    let fallen = story.endpoint("a").generation;
    for expected in 1..=3 {
        let order = story.next_check();
        story.answer(&order, false, OutcomeClass::Success);
        assert_eq!(story.totals().still_failed, expected);
        assert_eq!(
            story.cause("a"),
            Some(Cause::CheckFailed),
            "it answered without the code"
        );
    }
    let order = story.next_check();
    story.answer(&order, true, OutcomeClass::Success);
    assert!(story.is_healthy("a"));
    assert!(story.endpoint("a").generation > fallen);
    assert!(
        !story.endpoint("a").proven,
        "the check proves nothing about traffic"
    );
    let expected = QueueTotals {
        failed: 1,
        verified: 4,
        recovered: 1,
        still_failed: 3,
    };
    assert_eq!(story.totals(), expected);
}

#[test]
fn a_failure_during_a_check_wins_over_its_success() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let chosen = story.choose("a");
    story.see("p", "a", OutcomeClass::Auth);
    let order = story.next_check();
    story.report("p", chosen, Facts::of(OutcomeClass::Auth));
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(story.cause("a"), Some(Cause::Auth));
    assert_eq!(story.totals().still_failed, 1);
}

#[test]
fn a_verdict_on_another_generation_is_void() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    let order = story.next_check();
    story
        .mutate(Mutation::Restore { name: name("a") })
        .expect("it exists");
    story.see("p", "a", OutcomeClass::Auth);
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(story.cause("a"), Some(Cause::Auth));
    assert_eq!(story.totals().verified, 0);
}

#[test]
fn checks_back_off_and_never_overlap() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::ServerError);
    story.see("p", "a", OutcomeClass::ServerError);
    story.see("p", "a", OutcomeClass::ServerError);
    assert_eq!(story.cause("a"), Some(Cause::ServerError));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let began = story.now.clock;
        let order = story.next_check();
        waits.push(story.now.clock.since(began).as_secs());
        story.wait(Duration::from_secs(500));
        assert!(story.orders.is_empty(), "one is in flight");
        story.answer(&order, false, OutcomeClass::ServerError);
    }
    assert!(
        (4..=5).contains(&waits[0]) && waits[..4].is_sorted(),
        "{waits:?}"
    );
    assert!(
        waits[4..].iter().all(|wait| (48..=60).contains(wait)),
        "{waits:?}"
    );
}

#[test]
fn a_check_that_lifts_nothing_makes_nobodys_evidence_old() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let verify = Mutation::Verify { name: name("a") };
    story.mutate(verify).expect("it exists");
    let order = story.next_check();
    story.answer(&order, true, OutcomeClass::Success);
    story.see("p", "a", OutcomeClass::Overloaded);
    assert_eq!(story.cause("a"), Some(Cause::Overloaded));
}

#[test]
fn a_check_that_the_provider_refuses_says_nothing_about_the_traffic() {
    let mut story = Story::new(&["a"], &["p"]);
    let order = story
        .orders
        .pop()
        .expect("new endpoints are checked at once");
    story.answer(&order, false, OutcomeClass::Request);
    assert!(matches!(story.endpoint("a").health, Health::Unknown { .. }));
    story.see("p", "a", OutcomeClass::Success);
    assert!(story.is_healthy("a"));
}

#[test]
fn spending_on_checks_is_bounded() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let policy = Policy {
        verification: VerificationSchedule {
            first: Duration::from_secs(1),
            max: Duration::from_secs(1),
            auth_max: Duration::from_secs(1),
            per_hour_max: 10,
        },
        ..Policy::default()
    };
    let cluster = ClusterName::default_cluster();
    story
        .mutate(Mutation::UpdateCluster {
            name: cluster,
            policy,
            etag: None,
        })
        .expect("it exists");
    story.see("p", "a", OutcomeClass::Auth);
    let began = story.now.clock;
    let mut checks = 0;
    while story.now.clock.since(began) < Duration::from_secs(3000) {
        story.wait(Duration::from_secs(1));
        for order in std::mem::take(&mut story.orders) {
            checks += 1;
            story.answer(&order, false, OutcomeClass::Auth);
        }
    }
    assert_eq!(checks, 9, "ten an hour, the first of which was at creation");
}

#[test]
fn an_incident_that_a_check_found_starts_with_the_first_wait() {
    let mut story = Story::new(&["a"], &["p"]);
    for _ in 0..5 {
        let order = story.next_check();
        story.answer(&order, false, OutcomeClass::Request);
    }
    let order = story.next_check();
    story.answer(&order, false, OutcomeClass::Auth);
    let due = story.endpoint("a").checks.due.expect("it is queued");
    assert!(due.since(story.now.clock) <= Duration::from_secs(5));
    assert_eq!(story.endpoint("a").checks.failed, 0);
}

#[test]
fn a_change_of_the_rules_postpones_no_check() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    let before = story.endpoint("a").checks.due.expect("it is queued");
    story.wait(Duration::from_secs(3));
    let cluster = ClusterName::default_cluster;
    let update = |policy| Mutation::UpdateCluster {
        name: cluster(),
        policy,
        etag: None,
    };
    let mut policy = Policy {
        attempts_max: 2,
        ..Policy::default()
    };
    story.mutate(update(policy.clone())).expect("it exists");
    assert_eq!(story.endpoint("a").checks.due, Some(before));
    policy.credential_scheme = CredentialScheme::Bearer;
    story.mutate(update(policy)).expect("it exists");
    assert_eq!(story.orders.len(), 1, "another question is asked at once");
}

#[test]
fn a_check_whose_verdict_would_be_void_is_given_up() {
    let mut story = Story::new(&["a"], &[]);
    let order = story
        .orders
        .pop()
        .expect("new endpoints are checked at once");
    story
        .registry
        .mutate(Mutation::Restore { name: name("a") }, None, story.now)
        .expect("it exists");
    let effects = story.registry.settle().effects;
    let given_up = |effect: &Effect| matches!(effect, Effect::GiveUp(id) if *id == order.id);
    assert!(effects.iter().any(given_up), "{effects:?}");
}
