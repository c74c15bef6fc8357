//! Evidence that may be its reporter's own trouble.

use super::*;

#[test]
fn one_proxy_without_egress_takes_nothing_from_the_others() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    for _ in 0..50 {
        story.see("p", "a", OutcomeClass::Connect);
    }
    assert!(story.is_healthy("a"));
    assert_eq!(story.endpoint("a").doubts.len(), 1);
    // Failures arrived while the first check ran, so it settles nothing.
    for _ in 0..2 {
        let order = story.next_check();
        story.answer(&order, true, OutcomeClass::Success);
        assert!(story.is_healthy("a"));
    }
    assert!(story.endpoint("a").doubts.is_empty());
}

#[test]
fn a_second_proxy_that_agrees_within_the_window_ejects() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    story.see("p", "a", OutcomeClass::Timeout);
    story.wait(Duration::from_secs(31));
    story.see("q", "a", OutcomeClass::Timeout);
    assert!(story.is_healthy("a"), "the window has passed");
    story.wait(Duration::from_secs(29));
    story.see("p", "a", OutcomeClass::Connect);
    assert_eq!(story.cause("a"), Some(Cause::Connect));
    assert_eq!(story.totals().failed, 1);
}

#[test]
fn the_control_planes_own_failing_check_ejects_too() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    story.see("p", "a", OutcomeClass::Timeout);
    let order = story.orders.pop().expect("a check starts at once");
    story.answer(&order, false, OutcomeClass::Timeout);
    assert_eq!(story.cause("a"), Some(Cause::Timeout));
}

#[test]
fn the_word_of_the_only_proxy_is_enough() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Timeout);
    assert_eq!(story.cause("a"), Some(Cause::Timeout));
}

#[test]
fn after_a_restart_the_first_to_come_back_is_not_alone() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    story.registry = Registry::new(2, saved(&story.registry), seed(), story.now);
    story.registry.connect(&key("p"), story.now);
    story.see("p", "a", OutcomeClass::Timeout);
    assert!(story.is_healthy("a"), "the other proxy is expected back");
    story.wait(Duration::from_secs(31));
    story.see("p", "a", OutcomeClass::Timeout);
    assert_eq!(story.cause("a"), Some(Cause::Timeout), "it did not come");
}

#[test]
fn who_comes_back_first_after_all_connections_broke_is_not_alone() {
    let mut story = Story::healthy(&["a"], &["p", "q", "r"]);
    for proxy in ["q", "r", "p"] {
        story.registry.disconnect(&key(proxy), story.now);
    }
    story.wait(Duration::from_secs(1));
    story.registry.connect(&key("p"), story.now);
    story.see("p", "a", OutcomeClass::Timeout);
    assert!(story.is_healthy("a"), "the others are expected back");
    story.wait(Duration::from_secs(15));
    story.see("p", "a", OutcomeClass::Timeout);
    assert_eq!(story.cause("a"), Some(Cause::Timeout), "they did not come");
}

#[test]
fn the_only_proxy_is_believed_after_its_own_connection_broke() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.registry.disconnect(&key("p"), story.now);
    story.registry.connect(&key("p"), story.now);
    story.see("p", "a", OutcomeClass::Timeout);
    assert_eq!(story.cause("a"), Some(Cause::Timeout));
}

#[test]
fn a_check_as_long_as_the_window_still_confirms_the_doubt_it_was_started_for() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    story.see("p", "a", OutcomeClass::Timeout);
    let order = story.orders.pop().expect("a check starts at once");
    story.wait(Duration::from_secs(31));
    story.answer(&order, false, OutcomeClass::Timeout);
    assert_eq!(story.cause("a"), Some(Cause::Timeout));
}

#[test]
fn a_doubt_that_nobody_shares_is_forgotten() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    story.see("p", "a", OutcomeClass::Timeout);
    for _ in 0..4 {
        let order = story.orders.pop();
        if let Some(order) = order {
            story.answer(&order, false, OutcomeClass::Request);
        }
        story.wait(Duration::from_secs(60));
    }
    assert!(story.endpoint("a").doubts.is_empty());
    assert!(story.endpoint("a").checks.due.is_none());

    story.see("p", "a", OutcomeClass::Timeout);
    story.see("p", "a", OutcomeClass::Success);
    assert!(
        story.endpoint("a").doubts.is_empty(),
        "its own success answers it"
    );
}
