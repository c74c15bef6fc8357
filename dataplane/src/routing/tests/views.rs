//! What changes of the view do to requests under way.

use OutcomeClass::{Auth, Connect, RateLimited, ServerError, Success};
use qcc_proto::v1::Cause;

use super::*;

#[test]
fn a_request_keeps_its_view_from_its_first_attempt_on() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut routing = testbed.begin();
    testbed.publish();
    drop(attempt(routing.next(testbed.now)));
    assert_eq!(routing.view().revision, 2); // Nothing was tried before.
    testbed.endpoints.push(endpoint("c"));
    testbed.publish();
    assert_eq!(name(&attempt(routing.next(testbed.now))), "b");
    assert_eq!(routing.view().revision, 2);
}

#[test]
fn an_endpoint_that_the_newest_view_shuts_out_is_not_taken_from_an_older_one() {
    let shut: [fn(&mut Routed); 6] = [
        |a| a.health = Health::Unhealthy { cause: Cause::Auth },
        |a| a.admin = AdminState::Disabled,
        |a| a.admin = AdminState::Draining,
        |a| {
            a.health = Health::Degraded {
                cause: Cause::RateLimited,
                until: Instant::now() + Duration::from_secs(1000),
            };
        },
        renew,
        |a| {
            a.endpoint = Arc::new(Endpoint {
                name: "other".into(),
                ..Endpoint::clone(&a.endpoint)
            })
        },
    ];
    for change in shut {
        let last = Routed {
            priority: 3,
            ..endpoint("c")
        };
        let mut testbed = Testbed::new([endpoint("b"), spare("a"), last]);
        let mut routing = testbed.begin();
        testbed.finish(attempt(routing.next(testbed.now)), ServerError);
        testbed.change("a", change);
        assert_eq!(name(&attempt(routing.next(testbed.now))), "c");
    }
}

#[test]
fn a_pause_in_the_view_ends_without_the_control_plane() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let until = testbed.now + Duration::from_secs(30);
    testbed.change("a", |a| {
        a.health = Health::Degraded {
            cause: Cause::RateLimited,
            until,
        };
    });
    assert_eq!(testbed.reason("a"), "rate limited for 30s");
    testbed.pass(29.9);
    assert!(matches!(testbed.next(), Next::Wait { .. }));
    testbed.pass(0.1);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn an_unhealthy_endpoint_is_never_selected() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.change("a", |a| {
        a.health = Health::Unhealthy {
            cause: Cause::CheckFailed,
        }
    });
    assert_eq!(testbed.reason("a"), "unhealthy: check failed");
    assert!(matches!(testbed.next(), Next::Unavailable(_)));
}

#[test]
fn counts_outlive_generations_and_marks_do_not() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), Success);
    testbed.finish(testbed.attempt(), Auth);
    testbed.change("a", renew);
    testbed.finish(testbed.attempt(), Success);
    let table = testbed.router.table().unwrap();
    let totals = table.find("a").unwrap().live.totals();
    let load =
        |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((load(&totals.attempts), load(&totals.successes)), (3, 2));
}

#[test]
fn a_control_plane_that_starts_over_voids_marks_and_old_attempts() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let old = testbed.attempt();
    testbed.finish(testbed.attempt(), Auth);
    assert_eq!(testbed.reports().len(), 1);
    testbed.view = View {
        term: 1,
        revision: 1,
    };
    testbed.publish_as(true); // The same generation number, but of another registry.
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    testbed.finish(old, Auth);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    // Nobody knows that generation any more: neither report goes out.
    assert!(testbed.outbox.buffer().is_empty());
}

#[test]
fn successes_are_urgent_only_while_the_view_holds_something_against_the_endpoint() {
    let testbed = Testbed::new([endpoint("a"), unproven("b")]);
    let table = testbed.router.table().unwrap();
    assert!(table.find("a").unwrap().routed.is_clean());
    assert!(!table.find("b").unwrap().routed.is_clean());
}

#[test]
fn a_pause_that_the_fleet_has_lifted_is_over_here_too() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.throttle(testbed.attempt(), RateLimited, 400.0);
    testbed.publish();
    // It was not about that.
    let paused = "rate limited here, next try in 60s";
    assert_eq!(testbed.reason("a"), paused);
    let until = testbed.now + Duration::from_secs(400);
    testbed.change("a", |a| {
        a.health = Health::Degraded {
            cause: Cause::RateLimited,
            until,
        };
    });
    testbed.change("a", |a| a.health = Health::Healthy);
    assert_eq!(testbed.reason("a"), "");
}

#[test]
fn a_lifted_pause_is_over_whatever_failed_beside_it() {
    for class in [RateLimited, Connect] {
        let other = if class == Connect {
            RateLimited
        } else {
            Connect
        };
        let mut testbed = Testbed::new([endpoint("a")]);
        let (one, two) = (testbed.attempt(), testbed.attempt());
        for (attempt, class) in [(one, class), (two, other)] {
            testbed.throttle(attempt, class, 400.0);
        }
        let until = testbed.now + Duration::from_secs(400);
        testbed.change("a", |a| {
            a.health = Health::Degraded {
                cause: Cause::RateLimited,
                until,
            };
        });
        testbed.change("a", |a| a.health = Health::Healthy);
        testbed.pass(5.0);
        assert_eq!(testbed.reason("a"), "", "{class:?} first");
    }
}
