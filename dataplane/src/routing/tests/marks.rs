//! What this process learns by itself.

use OutcomeClass::{
    Auth, Cancelled, Connect, Forbidden, Overloaded, RateLimited, Request, ServerError,
    StreamBroken, Success, Timeout,
};

use qcc_proto::v1::Cause;

use super::*;

#[test]
fn after_a_401_nothing_but_a_newer_generation_brings_it_back() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let parked = testbed.attempt();
    testbed.finish(testbed.attempt(), Auth);
    assert_eq!(testbed.choice(), None);
    testbed.finish(parked, Success); // It left before the 401 came.
    assert_eq!(testbed.choice(), None);
    testbed.pass(100_000.0);
    testbed.publish(); // The control plane has not heard of it yet.
    assert_eq!(testbed.choice(), None);
    testbed.change("a", renew);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn a_mark_acts_at_once_on_requests_that_pinned_an_older_table() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut early = testbed.begin();
    drop(attempt(early.next(testbed.now))); // Pins the first table; meets `a`.
    let mut other = testbed.begin();
    testbed.publish();
    testbed.finish(testbed.attempt(), Auth);
    assert_eq!(name(&attempt(early.next(testbed.now))), "b");
    assert_eq!(name(&attempt(other.next(testbed.now))), "b");
}

#[test]
fn a_parked_success_clears_nothing() {
    for class in [Timeout, Connect, RateLimited, Overloaded] {
        let mut testbed = Testbed::new([endpoint("a")]);
        testbed.policy.queue_timeout = Duration::ZERO;
        testbed.publish();
        let parked = testbed.attempt();
        testbed.finish(testbed.attempt(), class);
        let before = testbed.reason("a");
        parked.answered();
        testbed.finish(parked, Success);
        assert_eq!(testbed.reason("a"), before, "{class:?}");
        assert!(!before.is_empty(), "{class:?}");
    }
}

#[test]
fn a_suspended_endpoint_comes_back_one_trial_at_a_time() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), Timeout);
    testbed.pass(4.9);
    assert_eq!(
        testbed.reason("a"),
        "no answer in time here, next try in 1s"
    );
    testbed.pass(0.2);
    let trial = testbed.attempt();
    assert!(matches!(testbed.next(), Next::Wait { until: None }));
    assert_eq!(testbed.reason("a"), "busy: trial in flight");
    drop(trial); // The client went away: the next one tries.
    let trial = testbed.attempt();
    testbed.finish(trial, Success);
    let many: Vec<Attempt> = (0..10).map(|_| testbed.attempt()).collect();
    assert_eq!(many.len(), 10);
}

#[test]
fn each_failed_trial_doubles_the_suspension_up_to_a_minute() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), Connect);
    for seconds in [5.0, 10.0, 20.0, 40.0, 60.0, 60.0] {
        testbed.pass(seconds - 0.1);
        assert_eq!(testbed.choice(), None, "{seconds}");
        testbed.pass(0.1);
        testbed.finish(testbed.attempt(), Connect);
    }
}

#[test]
fn failures_of_the_same_incident_do_not_prolong_it() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let attempts: Vec<Attempt> = (0..100).map(|_| testbed.attempt()).collect();
    for attempt in attempts {
        testbed.finish(attempt, Timeout);
    }
    testbed.pass(5.0);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn a_2xx_head_ends_a_suspension_for_want_of_one() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), Timeout);
    testbed.pass(5.0);
    let trial = testbed.attempt();
    trial.answered();
    let second = testbed.attempt(); // The first may stream for minutes.
    testbed.finish(trial, StreamBroken);
    testbed.finish(second, Success);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn a_trial_that_was_answered_does_not_end_the_trial_of_a_later_suspension() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), Timeout);
    testbed.pass(5.0);
    let streaming = testbed.attempt();
    streaming.answered();
    testbed.finish(testbed.attempt(), Timeout);
    testbed.pass(5.0);
    let _trial = testbed.attempt();
    drop(streaming);
    assert_eq!(testbed.reason("a"), "busy: trial in flight");
}

#[test]
fn counted_failures_suspend_at_the_limit() {
    for class in [Forbidden, ServerError, StreamBroken] {
        let mut testbed = Testbed::new([endpoint("a")]);
        for _ in 0..2 {
            testbed.finish(testbed.attempt(), class);
        }
        assert_eq!(testbed.choice().as_deref(), Some("a"), "{class:?}");
        testbed.finish(testbed.attempt(), class);
        assert_eq!(testbed.choice(), None, "{class:?}");
        testbed.pass(5.0);
        testbed.finish(testbed.attempt(), class); // The trial fails: one is enough now.
        testbed.pass(9.9);
        assert_eq!(testbed.choice(), None, "{class:?}");
        testbed.pass(0.1);
        testbed.finish(testbed.attempt(), Success);
        testbed.finish(testbed.attempt(), class);
        assert_eq!(testbed.choice().as_deref(), Some("a"), "{class:?}");
    }
}

#[test]
fn failures_elsewhere_count_too_but_our_own_not_twice() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), ServerError);
    testbed.change("a", |a| a.failures = 1); // Ours has arrived.
    testbed.finish(testbed.attempt(), ServerError);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    testbed.finish(testbed.attempt(), Success);
    testbed.change("a", |a| a.failures = 2); // Two at other proxies.
    testbed.finish(testbed.attempt(), ServerError);
    assert_eq!(testbed.choice(), None);
}

#[test]
fn a_success_answers_the_count_that_the_view_still_shows() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.change("a", |a| a.failures = 2); // The last word of the control plane.
    testbed.finish(testbed.attempt(), Success);
    for _ in 0..2 {
        testbed.publish(); // A view in which this count has not changed.
        testbed.finish(testbed.attempt(), ServerError);
        assert_eq!(testbed.choice().as_deref(), Some("a"));
    }
    testbed.finish(testbed.attempt(), Success);
    testbed.change("a", |a| a.failures = 0);
    testbed.change("a", |a| a.failures = 2); // The same number, but other failures.
    testbed.finish(testbed.attempt(), ServerError);
    assert_eq!(testbed.choice(), None);
}

#[test]
fn back_pressure_lasts_as_long_as_asked_within_the_cap() {
    let cases = [
        (RateLimited, Some(1.0), 1.0),
        (RateLimited, Some(59.0), 59.0),
        (RateLimited, Some(100_000.0), 90.0),
        (RateLimited, None, 80.0),
        (Overloaded, None, 10.0),
        (Overloaded, Some(3.0), 3.0),
    ];
    for (class, asked, seconds) in cases {
        let mut testbed = Testbed::new([endpoint("a")]);
        // Within the first minute of what would last longer.
        testbed.policy.cool_downs.max = Duration::from_secs(90);
        testbed.policy.cool_downs.rate_limited = Duration::from_secs(80);
        testbed.publish();
        match asked {
            Some(asked) => testbed.throttle(testbed.attempt(), class, asked),
            None => testbed.finish(testbed.attempt(), class),
        }
        if seconds > 60.0 {
            testbed.pass(59.99);
            assert_eq!(testbed.choice(), None, "{class:?} {asked:?}");
            testbed.pass(0.01);
            let trial = testbed.attempt();
            testbed.pass(seconds - 60.01);
            assert_eq!(testbed.choice(), None, "one trial, and no more");
            drop((trial, testbed.pass(0.01)));
        } else {
            testbed.pass(seconds - 0.01);
            assert_eq!(testbed.choice(), None, "{class:?} {asked:?}");
            testbed.pass(0.01);
        }
        let both = [testbed.attempt(), testbed.attempt()];
        assert_eq!(both.map(|it| name(&it)), ["a", "a"], "{class:?} {asked:?}");
    }
}

#[test]
fn a_long_pause_that_the_fleet_does_not_share_is_tried_each_minute() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    let crossed = testbed.attempt();
    let paused = Health::Degraded {
        cause: Cause::RateLimited,
        until: testbed.now + Duration::from_secs(600),
    };
    // The fleet learns of the pause and of its end while our attempt is under way.
    testbed.change("a", |a| a.health = paused);
    testbed.change("a", |a| a.health = Health::Healthy);
    testbed.finish(crossed, RateLimited);
    for _ in 0..3 {
        testbed.pass(59.9);
        assert_eq!(testbed.choice().as_deref(), Some("b"));
        testbed.pass(0.1);
        let trial = testbed.attempt();
        assert_eq!(name(&trial), "a");
        assert_eq!(testbed.choice().as_deref(), Some("b"), "one at a time");
        testbed.finish(trial, RateLimited);
    }
    testbed.pass(60.0);
    let trial = testbed.attempt();
    trial.answered();
    assert_eq!(testbed.choice().as_deref(), Some("a"), "its head will do");
    testbed.finish(trial, Success);
    assert_eq!(testbed.reason("a"), "");
}

#[test]
fn a_trial_inside_of_a_pause_that_fails_in_another_way_is_not_repeated_at_once() {
    for class in [Timeout, Connect, ServerError] {
        let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
        testbed.finish(testbed.attempt(), RateLimited);
        testbed.pass(60.0);
        let trial = testbed.attempt();
        assert_eq!(name(&trial), "a");
        testbed.finish(trial, class);
        testbed.pass(59.9);
        assert_eq!(testbed.choice().as_deref(), Some("b"), "{class:?}");
        testbed.pass(0.1);
        assert_eq!(testbed.choice().as_deref(), Some("a"), "{class:?}");
    }
}

#[test]
fn evidence_that_was_held_brings_no_trial_of_a_pause_forward() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    let [refused, limited] = [testbed.attempt(), testbed.attempt()];
    let held = refused.hold(Outcome::of(Forbidden), testbed.now);
    testbed.pass(1.0);
    testbed.finish(limited, RateLimited);
    drop(held); // From here on it stands, as of a second ago.
    testbed.pass(59.9);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
    testbed.pass(0.1);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn no_deadline_is_shortened() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let attempts: Vec<Attempt> = (0..3).map(|_| testbed.attempt()).collect();
    let [first, second, third] = attempts.try_into().unwrap();
    testbed.throttle(first, RateLimited, 60.0);
    testbed.throttle(second, Overloaded, 1.0);
    testbed.finish(third, Timeout);
    testbed.pass(59.9);
    assert_eq!(testbed.choice(), None);
    testbed.pass(0.1);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn the_requests_fault_and_the_clients_wish_blame_nobody() {
    let testbed = Testbed::new([endpoint("a")]);
    for class in [Request, Cancelled] {
        for _ in 0..10 {
            testbed.finish(testbed.attempt(), class);
        }
    }
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    assert!(testbed.reports().is_empty());
}

#[test]
fn an_old_generation_is_reported_but_marks_nothing() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let old = testbed.attempt();
    testbed.change("a", renew);
    testbed.finish(old, Auth);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    let [report] = testbed.reports().try_into().unwrap();
    assert_eq!((report.generation, report.view.revision), (1, 1));
    assert_eq!(report.outcome.class, Auth);
}

#[test]
fn a_report_names_the_view_under_which_the_endpoint_was_chosen() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let attempt = testbed.attempt();
    testbed.publish();
    testbed.finish(attempt, ServerError);
    assert_eq!(testbed.reports()[0].view.revision, 1);
}

#[test]
fn of_attempts_side_by_side_failures_count_no_more_than_successes() {
    let testbed = Testbed::new([endpoint("a")]);
    let attempts: Vec<_> = (0..60).map(|_| testbed.attempt()).collect();
    for (number, attempt) in attempts.into_iter().enumerate() {
        let class = if number % 20 == 0 {
            ServerError
        } else {
            Success
        };
        testbed.finish(attempt, class);
    }
    assert_eq!(testbed.choice().as_deref(), Some("a"), "57 of 60 succeeded");
}

#[test]
fn a_success_from_before_the_failures_does_not_end_their_row() {
    let testbed = Testbed::new([endpoint("a")]);
    let before = testbed.attempt();
    testbed.finish(testbed.attempt(), ServerError);
    testbed.finish(testbed.attempt(), ServerError);
    testbed.finish(before, Success);
    testbed.finish(testbed.attempt(), ServerError);
    assert_eq!(testbed.choice(), None);
}

/// With the control plane away no view changes any more: what becomes of each mark then.
#[test]
fn while_nobody_else_speaks_each_mark_ends_as_its_cause_says() {
    for (class, seconds, is_by_trial) in [
        (Timeout, 5.0, true),
        (Connect, 5.0, true),
        (Forbidden, 5.0, true),
        (ServerError, 5.0, true),
        (StreamBroken, 5.0, true),
        (RateLimited, 60.0, true),
        (Overloaded, 10.0, false),
        (Auth, f64::INFINITY, false),
    ] {
        let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
        let parallel: Vec<_> = (0..3).map(|_| testbed.attempt()).collect();
        for attempt in parallel {
            testbed.finish(attempt, class); // As many as eject.
        }
        let days = 30.0 * 86_400.0;
        testbed.pass(f64::min(seconds, days) - 0.1);
        assert_eq!(testbed.choice().as_deref(), Some("b"), "{class:?} began");
        testbed.pass(0.1);
        if seconds > days {
            assert_eq!(testbed.choice().as_deref(), Some("b"), "{class:?} is final");
            testbed.change("a", renew);
            assert_eq!(
                testbed.choice().as_deref(),
                Some("a"),
                "but for a newer one"
            );
            continue;
        }
        let first = testbed.attempt();
        assert_eq!(name(&first), "a", "{class:?} is over");
        let second = if is_by_trial { "b" } else { "a" };
        assert_eq!(testbed.choice().as_deref(), Some(second), "{class:?}");
        testbed.finish(first, Success);
        assert_eq!(
            testbed.choice().as_deref(),
            Some("a"),
            "{class:?} is forgotten"
        );
    }
}

#[test]
fn a_count_below_the_limit_stays_until_a_success() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    testbed.finish(testbed.attempt(), ServerError);
    testbed.finish(testbed.attempt(), Forbidden);
    testbed.pass(86_400.0); // A quiet day proves nothing.
    testbed.finish(testbed.attempt(), StreamBroken);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
    testbed.pass(5.0);
    testbed.finish(testbed.attempt(), Success);
    testbed.finish(testbed.attempt(), ServerError);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}
