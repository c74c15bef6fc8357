//! A new key while the old one still serves.

use super::*;

const OVERLAP: Duration = Duration::from_secs(600);

fn rotate(story: &mut Story, key: &str) {
    story
        .mutate(Mutation::UpdateEndpoint {
            spec: spec("a"),
            key: KeyChange::Stage {
                key: ApiKey::new(key.into()),
                overlap: OVERLAP,
            },
            etag: None,
        })
        .expect("it exists");
}

fn key_of(story: &Story) -> String {
    let key = story.endpoint("a").spec.api_key.clone();
    key.expect("it has one").expose().into()
}

#[test]
fn a_new_key_takes_over_once_it_is_proven() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let before = story.endpoint("a").generation;
    rotate(&mut story, "new");
    assert_eq!(
        (key_of(&story).as_str(), story.endpoint("a").generation),
        ("key", before)
    );
    let order = story.orders.pop().expect("it is checked at once");
    assert_eq!(order.api_key.as_ref().map(ApiKey::expose), Some("new"));
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(key_of(&story), "new");
    assert!(story.is_healthy("a") && story.endpoint("a").generation > before);
    assert!(story.endpoint("a").staged.is_none());
}

#[test]
fn a_new_key_that_is_rejected_takes_nothing_away() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "wrong");
    for _ in 0..3 {
        let order = story.next_check();
        story.answer(&order, false, OutcomeClass::Auth);
    }
    assert!(story.is_healthy("a"));
    assert_eq!((key_of(&story).as_str(), story.totals().failed), ("key", 0));
    rotate(&mut story, "right");
    let order = story.orders.pop().expect("another one is checked at once");
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(key_of(&story), "right");
}

#[test]
fn a_new_key_takes_over_when_the_old_one_is_rejected() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "new");
    story.orders.clear();
    story.see("p", "a", OutcomeClass::Auth);
    assert_eq!((key_of(&story).as_str(), story.cause("a")), ("new", None));
    assert_eq!(story.totals().failed, 1, "the old key did fail");
    let order = story.orders.pop().expect("it is checked at once");
    assert_eq!(order.api_key.as_ref().map(ApiKey::expose), Some("new"));
}

#[test]
fn a_new_key_takes_over_when_its_time_is_up_also_while_nobody_checks() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "new");
    let spec = Spec {
        admin_state: AdminState::Disabled,
        ..spec("a")
    };
    let disable = Mutation::UpdateEndpoint {
        spec,
        key: KeyChange::Keep,
        etag: None,
    };
    story.mutate(disable).expect("it exists");
    story.wait(OVERLAP);
    assert_eq!(key_of(&story), "new");
}

#[test]
fn the_verdict_on_the_old_key_is_not_that_on_the_new_one() {
    let mut story = Story::new(&["a"], &["p"]);
    let of_the_old = story
        .orders
        .pop()
        .expect("new endpoints are checked at once");
    rotate(&mut story, "new");
    story.answer(&of_the_old, true, OutcomeClass::Success);
    assert_eq!(key_of(&story), "key");
    let order = story.orders.pop().expect("the new one is checked at once");
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(key_of(&story), "new");
}

#[test]
fn a_key_that_waits_survives_a_restart() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "new");
    story.orders.clear();
    story.registry = Registry::new(2, saved(&story.registry), seed(), story.now);
    let order = story.next_check();
    assert_eq!(order.api_key.as_ref().map(ApiKey::expose), Some("new"));
}

#[test]
fn a_failure_newer_than_the_check_wins_over_its_success() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    rotate(&mut story, "new");
    let order = story.orders.pop().expect("it is checked at once");
    story.see("p", "a", OutcomeClass::Connect);
    story.see("q", "a", OutcomeClass::Connect);
    assert_eq!(story.cause("a"), Some(Cause::Connect));
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(story.cause("a"), Some(Cause::Connect));
    assert_eq!(
        (story.totals().verified, key_of(&story).as_str()),
        (0, "key")
    );
}

#[test]
fn an_ejection_by_an_operator_outlasts_a_rotation() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "new");
    let order = story.orders.pop().expect("it is checked at once");
    let hold = OVERLAP * 10;
    story
        .mutate(Mutation::Eject {
            name: name("a"),
            reason: String::new(),
            hold,
        })
        .expect("it exists");
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(story.cause("a"), Some(Cause::Operator));
    story.wait(OVERLAP);
    assert_eq!(key_of(&story), "new");
    assert_eq!(story.cause("a"), Some(Cause::Operator));
    assert!(story.orders.is_empty(), "the hold goes on");
    assert_eq!(story.totals().failed, 1);
}

#[test]
fn setting_the_present_key_again_withdraws_the_new_one() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "wrong");
    let fields = |story: &Story| story.registry.events().newest();
    let before = fields(&story);
    rotate(&mut story, "wrong");
    assert_eq!(fields(&story), before, "it waits already");
    rotate(&mut story, "key");
    assert!(story.endpoint("a").staged.is_none() && fields(&story) > before);
    story.wait(OVERLAP);
    assert!(story.is_healthy("a"));
    assert_eq!(key_of(&story), "key");
}

#[test]
fn a_key_that_is_known_to_be_wrong_does_not_take_over() {
    let mut story = Story::healthy(&["a"], &["p"]);
    rotate(&mut story, "wrong");
    let began = story.now.clock;
    while story.now.clock.since(began) < OVERLAP * 2 {
        for order in std::mem::take(&mut story.orders) {
            story.answer(&order, false, OutcomeClass::Auth);
        }
        story.wait(Duration::from_secs(5));
    }
    assert!(story.is_healthy("a"));
    assert_eq!((key_of(&story).as_str(), story.totals().failed), ("key", 0));
    let order = story.next_check();
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(key_of(&story), "wrong", "it is not wrong any more");
}

#[test]
fn doubts_are_about_the_key_that_serves() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    rotate(&mut story, "wrong");
    let order = story.orders.pop().expect("it is checked at once");
    story.answer(&order, false, OutcomeClass::Auth);
    story.see("p", "a", OutcomeClass::Connect);
    let order = story
        .orders
        .pop()
        .expect("the doubt is looked into at once");
    assert_eq!(order.api_key.as_ref().map(ApiKey::expose), Some("key"));
    story.answer(&order, false, OutcomeClass::Connect);
    assert_eq!(story.cause("a"), Some(Cause::Connect));
}

#[test]
fn where_nothing_serves_the_new_key_serves_at_once() {
    let mut story = Story::healthy(&["a"], &["p"]);
    for _ in 0..3 {
        story.see("p", "a", OutcomeClass::Forbidden);
    }
    assert_eq!(story.cause("a"), Some(Cause::Forbidden));
    rotate(&mut story, "new");
    assert_eq!((key_of(&story).as_str(), story.cause("a")), ("new", None));
}

#[test]
fn a_check_that_shows_no_key_proves_none() {
    for kind in [CheckKind::Tcp, CheckKind::None] {
        let mut story = Story::healthy(&["a"], &["p"]);
        rotate(&mut story, "new");
        let order = story.orders.pop().expect("it is checked at once");
        story.answer(&order, false, OutcomeClass::Timeout);
        let check = Check {
            kind,
            timeout: CHECK_TIMEOUT,
            precheck: None,
        };
        let spec = Spec {
            check: Some(Box::new(check)),
            ..spec("a")
        };
        let update = Mutation::UpdateEndpoint {
            spec,
            key: KeyChange::Keep,
            etag: None,
        };
        story.mutate(update).expect("it exists");
        for order in std::mem::take(&mut story.orders) {
            story.answer(&order, true, OutcomeClass::Success);
        }
        story.wait(OVERLAP / 2);
        assert_eq!(key_of(&story), "key");
        story.wait(OVERLAP / 2);
        assert_eq!(key_of(&story), "new", "its time is up");
    }
}
