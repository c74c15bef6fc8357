//! The promises that must hold between threads.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use OutcomeClass::{Auth, Request, Timeout};

use super::*;
use crate::routing::table::Place;

const THREADS: usize = 100;

/// Runs the same on many threads at once.
fn race(testbed: &Testbed, run: impl Fn(&Testbed) + Sync) {
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                run(testbed);
            });
        }
    });
}

fn in_flight(testbed: &Testbed) -> u32 {
    let table = testbed.router.table().unwrap();
    table.find("a").unwrap().live.in_flight()
}

/// Notes the highest number of attempts that were in flight at a time.
#[derive(Default)]
struct Gauge {
    now: AtomicU32,
    peak: AtomicU32,
    ever: AtomicU32,
}

impl Gauge {
    fn hold(&self, attempt: Attempt, then: impl FnOnce(Attempt)) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        self.ever.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
        self.now.fetch_sub(1, Ordering::SeqCst);
        then(attempt);
    }

    fn peak(&self) -> u32 {
        self.peak.load(Ordering::SeqCst)
    }
}

#[test]
fn the_unproven_cap_holds() {
    let testbed = Testbed::new([unproven("a")]);
    let gauge = Gauge::default();
    race(&testbed, |testbed| {
        for _ in 0..100 {
            if let Next::Attempt(attempt) = testbed.next() {
                gauge.hold(attempt, |attempt| testbed.finish(attempt, Request));
            }
        }
    });
    assert!(gauge.peak() <= 4, "{}", gauge.peak());
    assert!(gauge.peak() > 0);
}

#[test]
fn at_most_the_cap_ever_reaches_an_unproven_endpoint_that_answers_401() {
    for _ in 0..20 {
        let testbed = Testbed::new([unproven("a"), spare("b")]);
        let gauge = Gauge::default();
        race(&testbed, |testbed| {
            for _ in 0..10 {
                let attempt = testbed.attempt();
                if name(&attempt) == "a" {
                    gauge.hold(attempt, |attempt| testbed.finish(attempt, Auth));
                }
            }
        });
        let ever = gauge.ever.load(Ordering::SeqCst);
        assert!((1..=4).contains(&ever), "{ever}");
    }
}

#[test]
fn a_place_that_a_401_left_behind_is_given_back() {
    let testbed = Testbed::new([unproven("a")]);
    let first = testbed.attempt();
    let mut late = testbed.begin();
    // Between these two a thread may be suspended for as long as the system likes.
    let admission = late.usable(Place::default(), testbed.now).unwrap();
    testbed.finish(first, Auth);
    assert!(
        late.seize(Place::default(), admission, testbed.now)
            .is_none()
    );
    assert_eq!(in_flight(&testbed), 0);
}

#[test]
fn a_place_that_an_ejecting_view_overtook_is_given_back() {
    let mut testbed = Testbed::new([endpoint("a")]);
    let mut late = testbed.begin();
    let admission = late.usable(Place::default(), testbed.now).unwrap();
    let cause = qcc_proto::v1::Cause::Auth;
    testbed.change("a", |a| a.health = Health::Unhealthy { cause });
    assert!(
        late.seize(Place::default(), admission, testbed.now)
            .is_none()
    );
    assert_eq!(in_flight(&testbed), 0);
}

#[test]
fn no_selection_after_a_401_was_marked_returns_the_endpoint() {
    for _ in 0..20 {
        let testbed = Testbed::new([endpoint("a"), spare("b")]);
        let rejected = AtomicBool::new(false);
        race(&testbed, |testbed| {
            for turn in 0..10 {
                let after = rejected.load(Ordering::SeqCst);
                let attempt = testbed.attempt();
                assert!(!(after && name(&attempt) == "a"));
                if name(&attempt) == "a" && turn > 2 {
                    testbed.finish(attempt, Auth);
                    rejected.store(true, Ordering::SeqCst);
                }
            }
        });
    }
}

#[test]
fn a_trial_is_alone() {
    let mut testbed = Testbed::new([endpoint("a")]);
    testbed.finish(testbed.attempt(), Timeout);
    testbed.pass(5.0);
    let gauge = Gauge::default();
    race(&testbed, |testbed| {
        for _ in 0..100 {
            if let Next::Attempt(attempt) = testbed.next() {
                gauge.hold(attempt, drop);
            }
        }
    });
    assert_eq!(gauge.peak(), 1);
}

#[test]
fn no_place_is_lost() {
    let testbed = Testbed::new([unproven("a")]);
    race(&testbed, |testbed| {
        for _ in 0..50 {
            drop(testbed.next());
        }
    });
    assert_eq!(in_flight(&testbed), 0);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
}

#[test]
fn a_request_never_fails_for_want_of_luck() {
    let mut testbed = Testbed::new((0..20).map(|i| endpoint(&format!("e{i:02}"))));
    for routed in &mut testbed.endpoints[..19] {
        routed.admin = AdminState::Disabled;
    }
    testbed.publish();
    race(&testbed, |testbed| {
        for _ in 0..50 {
            assert_eq!(name(&testbed.attempt()), "e19");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_for_a_place_hears_of_it() {
    // No time passes: what is remembered is forgotten when somebody tells, or never.
    let testbed = Arc::new(Testbed::new(["a", "b", "c"].map(unproven)));
    let clients = (0..THREADS).map(|_| {
        let testbed = Arc::clone(&testbed);
        tokio::spawn(async move {
            for _ in 0..20 {
                let mut routing = testbed.begin();
                let attempt = loop {
                    let changed = testbed.router.changed();
                    match routing.next(testbed.now) {
                        Next::Attempt(attempt) => break attempt,
                        Next::Wait { .. } => changed.await,
                        other => panic!("neither a place nor a wait but {other:?}"),
                    }
                };
                tokio::task::yield_now().await;
                testbed.finish(attempt, Request);
            }
        })
    });
    let all = async {
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    assert!(all.is_ok(), "somebody waits for ever");
}
