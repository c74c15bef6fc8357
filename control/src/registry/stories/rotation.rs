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
