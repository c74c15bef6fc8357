//! Endpoints that asked for a pause.

use super::*;

#[test]
fn a_paused_endpoint_that_nobody_tries_is_checked_after_its_pause() {
    let mut story = Story::healthy(&["a", "b"], &["p"]);
    story.see("p", "a", OutcomeClass::Overloaded);
    story.wait(Duration::from_secs(11));
    assert!(story.orders.is_empty(), "requests may find out");
    let order = story.next_check();
    assert!(story.now.clock.since(Clock(0)) <= Duration::from_secs(80));
    story.answer(&order, true, OutcomeClass::Success);
    assert_eq!(
        story.endpoint("a").health,
        Health::Healthy { failures: 0 },
        "all of its load went to the other one"
    );
}

#[test]
fn what_fails_after_a_pause_puts_its_check_not_off() {
    let mut story = Story::healthy(&["a", "b"], &["p"]);
    story.see("p", "a", OutcomeClass::Overloaded);
    let planned = story.endpoint("a").checks.due;
    assert!(planned.is_some());
    for _ in 0..2 {
        story.wait(Duration::from_secs(20));
        story.see("p", "a", OutcomeClass::Forbidden); // All that comes its way.
        assert_eq!(story.endpoint("a").checks.due, planned);
    }
    let order = story.next_check();
    story.answer(&order, true, OutcomeClass::Success);
    assert!(story.is_healthy("a"));
}

#[test]
fn a_success_after_a_pause_saves_the_check() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Overloaded);
    story.wait(Duration::from_secs(11));
    story.see("p", "a", OutcomeClass::Success);
    assert_eq!(story.endpoint("a").checks.due, None);
}

#[test]
fn a_pause_ends_when_the_provider_said() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let chosen = story.choose("a");
    let facts = |seconds| Facts {
        retry_after: Some(Duration::from_secs(seconds)),
        ..Facts::of(OutcomeClass::RateLimited)
    };
    story.report("p", chosen, facts(1));
    let until = story.now.clock.after(Duration::from_secs(1));
    assert!(
        matches!(story.endpoint("a").health, Health::Degraded { until: end, .. } if end == until)
    );
    // Asked for eighteen days, it gets the longest that the policy allows.
    story.wait(Duration::from_secs(2));
    let trial = story.choose("a");
    story.report("p", trial, facts(18 * 86_400));
    let until = story.now.clock.after(Duration::from_secs(600));
    assert!(
        matches!(story.endpoint("a").health, Health::Degraded { until: end, .. } if end == until)
    );
    assert_eq!(story.totals().failed, 0, "back-pressure is no failure");
    let order = story.next_check();
    assert!(story.now.clock < until, "long pauses are checked inside");
    story.answer(&order, true, OutcomeClass::Success);
    assert!(story.is_healthy("a"));
}

#[test]
fn a_throttled_burst_that_is_over_does_not_begin_again() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let burst = story.choose("a");
    story.report("p", burst, Facts::of(OutcomeClass::Overloaded));
    story.wait(Duration::from_secs(11));
    story.see("p", "a", OutcomeClass::Success);
    assert!(story.is_healthy("a"));
    story.report("p", burst, Facts::of(OutcomeClass::Overloaded));
    assert!(story.is_healthy("a"), "it left before the success");
}

#[test]
fn only_what_a_provider_asks_for_is_capped() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let mut policy = Policy::default();
    policy.cool_downs.max = Duration::from_secs(1);
    let cluster = ClusterName::default_cluster();
    let update = Mutation::UpdateCluster {
        name: cluster,
        policy: policy.clone(),
        etag: None,
    };
    story.mutate(update).expect("it exists");
    story.see("p", "a", OutcomeClass::RateLimited);
    let until = story.now.clock.after(policy.cool_downs.rate_limited);
    assert!(
        matches!(story.endpoint("a").health, Health::Degraded { until: end, .. } if end == until)
    );
}
