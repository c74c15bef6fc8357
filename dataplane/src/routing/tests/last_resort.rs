//! Endpoints that are tried although they are out.

use OutcomeClass::{Auth, RateLimited, ServerError, Success, Timeout};
use qcc_proto::v1::Cause;

use super::*;
use crate::routing::Leniency;

fn unhealthy(name: &str, cause: Cause) -> Routed {
    Routed {
        health: Health::Unhealthy { cause },
        ..endpoint(name)
    }
}

/// Endpoints of a cluster that uses the least bad when nothing is left.
fn with_last_resort(endpoints: impl IntoIterator<Item = Routed>) -> Testbed {
    let mut testbed = Testbed::new(endpoints);
    testbed.policy.attempts_max = 10;
    testbed.policy.last_resort = true;
    testbed.publish();
    testbed
}

/// Endpoints of a cluster of which only so many may be out for failing.
fn with_most_ejected(percent: u32, endpoints: impl IntoIterator<Item = Routed>) -> Testbed {
    let mut testbed = Testbed::new(endpoints);
    testbed.policy.attempts_max = 10;
    testbed.policy.max_ejected_percent = percent;
    testbed.publish();
    testbed
}

/// Where one request goes, each attempt being cancelled, and what it is told in the end.
fn way(testbed: &Testbed) -> (Vec<String>, Next) {
    let mut routing = testbed.begin();
    let mut names = Vec::new();
    loop {
        match routing.next(testbed.now) {
            Next::Attempt(attempt) => names.push(name(&attempt)),
            other => return (names, other),
        }
    }
}

#[test]
fn nobody_goes_to_what_is_out_unless_the_policy_says_so() {
    let testbed = Testbed::new([unhealthy("a", Cause::Timeout)]);
    assert!(matches!(testbed.next(), Next::Unavailable(_)));
    assert_eq!(testbed.router.resorts(), 0);
}

#[test]
fn the_least_bad_come_first_and_none_that_only_people_can_bring_back() {
    let mut testbed = with_last_resort([
        unhealthy("answers-wrongly", Cause::CheckFailed),
        unhealthy("refuses", Cause::Connect),
        unhealthy("fails", Cause::ServerError),
        Routed {
            priority: 2,
            ..unhealthy("breaks", Cause::StreamBroken)
        },
        endpoint("pauses"),
        unhealthy("rejects", Cause::Auth),
        unhealthy("forbids", Cause::Forbidden),
        unhealthy("ejected", Cause::Operator),
        unhealthy("unheard-of", Cause::Unspecified),
        Routed {
            admin: AdminState::Draining,
            ..unhealthy("drains", Cause::Timeout)
        },
        Routed {
            admin: AdminState::Disabled,
            ..unhealthy("disabled", Cause::Timeout)
        },
    ]);
    testbed.throttle(testbed.attempt(), RateLimited, 50.0);
    let until = testbed.now + Duration::from_secs(40);
    testbed.endpoints.push(Routed {
        health: Health::Degraded {
            cause: Cause::Overloaded,
            until,
        },
        ..endpoint("pauses-less")
    });
    testbed.publish();
    let (names, end) = way(&testbed);
    let expected = [
        "pauses-less",
        "pauses",
        "fails",
        "breaks",
        "refuses",
        "answers-wrongly",
    ];
    assert_eq!(names, expected); // None of them twice.
    assert!(matches!(end, Next::Unavailable(_)));
    assert_eq!(testbed.router.resorts(), 6);
}

#[test]
fn the_worse_of_what_the_view_says_and_what_was_seen_here_counts() {
    let mut testbed = with_last_resort([endpoint("a"), spare("b")]);
    testbed.finish(testbed.attempt(), Timeout);
    testbed.change("a", |a| {
        a.health = Health::Unhealthy {
            cause: Cause::ServerError,
        };
    });
    testbed.change("b", |b| {
        b.health = Health::Unhealthy {
            cause: Cause::StreamBroken,
        };
    });
    assert_eq!(way(&testbed).0, ["b", "a"]);
}

#[test]
fn an_attempt_made_so_counts_like_any_other() {
    let mut testbed = with_last_resort([endpoint("a")]);
    testbed.finish(testbed.attempt(), Timeout);
    assert_eq!(
        testbed.reason("a"),
        "no answer in time here, next try in 5s"
    );
    testbed.pass(1.0);
    testbed.finish(testbed.attempt(), Success);
    assert_eq!(testbed.reason("a"), ""); // Chosen after the mark was made.
    assert_eq!(testbed.router.resorts(), 1);
    let reports = testbed.reports();
    let success = reports.iter().find(|it| it.outcome.class == Success);
    let success = success.unwrap();
    assert_eq!((success.generation, success.view), (1, testbed.view));
}

#[test]
fn a_success_does_not_lift_what_the_view_says() {
    let testbed = with_last_resort([unhealthy("a", Cause::ServerError)]);
    testbed.finish(testbed.attempt(), Success);
    assert_eq!(testbed.reason("a"), "unhealthy: server errors");
}

#[test]
fn a_rejected_key_is_no_resort() {
    let testbed = with_last_resort([unhealthy("a", Cause::ServerError)]);
    testbed.finish(testbed.attempt(), Auth);
    assert!(matches!(testbed.next(), Next::Unavailable(_)));
}

#[test]
fn only_a_few_at_a_time_go_to_the_last_resort() {
    let testbed = with_last_resort([unhealthy("a", Cause::Connect)]);
    let attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    assert!(matches!(testbed.next(), Next::Unavailable(_)));
    drop(attempts);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn a_pause_within_reach_is_waited_for_all_the_same() {
    let testbed = with_last_resort([endpoint("a"), unhealthy("b", Cause::Timeout)]);
    testbed.throttle(testbed.attempt(), RateLimited, 1.0);
    assert!(matches!(testbed.next(), Next::Wait { until: Some(_) }));
}

#[test]
fn while_something_works_for_others_there_is_no_last_resort() {
    let testbed = with_last_resort([endpoint("a"), unhealthy("b", Cause::Timeout)]);
    let mut routing = testbed.begin();
    testbed.finish(attempt(routing.next(testbed.now)), ServerError);
    assert!(matches!(routing.next(testbed.now), Next::Exhausted));
}

#[test]
fn what_the_newest_view_disables_is_no_resort_for_those_who_began_before() {
    let mut testbed = with_last_resort([endpoint("a"), unhealthy("b", Cause::Timeout)]);
    let mut routing = testbed.begin();
    testbed.finish(attempt(routing.next(testbed.now)), Timeout);
    testbed.change("b", |b| b.admin = AdminState::Disabled);
    assert!(matches!(routing.next(testbed.now), Next::Unavailable(_)));
}

#[test]
fn beyond_the_share_the_least_bad_are_kept_behind_all_that_are_selectable() {
    let testbed = with_most_ejected(
        50,
        [
            unhealthy("silent", Cause::Timeout),
            unhealthy("failing", Cause::ServerError),
            unhealthy("wrong", Cause::CheckFailed),
            spare("well"),
        ],
    );
    let (names, end) = way(&testbed);
    assert_eq!(names, ["well", "failing"]);
    assert!(matches!(end, Next::Exhausted));
}

#[test]
fn kept_endpoints_share_by_weight_and_are_limited_only_while_unproven() {
    let heavy = Routed {
        weight: 300,
        ..unhealthy("heavy", Cause::Connect)
    };
    let mut testbed = with_most_ejected(1, [heavy, unhealthy("light", Cause::ServerError)]);
    let chosen: Vec<String> = (0..1_000).filter_map(|_| testbed.choice()).collect();
    assert_eq!(chosen.len(), 1_000);
    let heavy = chosen.iter().filter(|name| *name == "heavy").count();
    assert!((690..810).contains(&heavy), "{heavy}");

    testbed.endpoints = vec![Routed {
        proven: false,
        ..unhealthy("new", Cause::Connect)
    }];
    testbed.publish();
    let mut attempts: Vec<Attempt> = (0..4).map(|_| testbed.attempt()).collect();
    let mut waiting = testbed.begin();
    let next = waiting.next(testbed.now);
    assert!(matches!(next, Next::Wait { until: None }), "{next:?}");
    attempts.pop();
    assert!(matches!(waiting.next(testbed.now), Next::Attempt(_)));
}

#[test]
fn rejected_keys_and_pauses_are_no_part_of_the_share() {
    let testbed = with_most_ejected(
        50,
        [
            endpoint("paused"),
            unhealthy("rejected", Cause::Auth),
            unhealthy("failing", Cause::ServerError),
            unhealthy("silent", Cause::Timeout),
        ],
    );
    testbed.throttle(testbed.attempt(), RateLimited, 60.0);
    assert!(matches!(testbed.next(), Next::Unavailable(_))); // Two of four: as many as may be.
}

#[test]
fn people_are_told_what_is_used_although_it_is_out() {
    let mut testbed = with_most_ejected(
        50,
        [
            unhealthy("failing", Cause::ServerError),
            unhealthy("silent", Cause::Timeout),
            unhealthy("rejected", Cause::Auth),
        ],
    );
    testbed.policy.last_resort = true;
    testbed.publish();
    let leniency = Leniency::of(&testbed.router.table().unwrap(), testbed.now);
    let kept = "used after all others, for max_ejected_percent";
    assert_eq!(leniency.words("failing"), Some(kept));
    assert_eq!(
        leniency.words("silent"),
        Some("may be used as a last resort")
    );
    assert_eq!(leniency.words("rejected"), None);
}
