//! Whatever happens in whatever order: the rules hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use qcc_proto::v1::Cause;

use super::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A new client request begins.
    Begin,
    /// A request makes its next attempt.
    Next(usize),
    /// An attempt gets a 2xx head.
    Answered(usize),
    /// An attempt ends.
    Finish(usize, OutcomeClass, Option<u16>),
    /// A client goes away.
    Cancel(usize),
    /// Time passes, in tenths of a second.
    Pass(u16),
    /// The view changes.
    Change(usize, Change),
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Renew,
    Eject,
    Recover,
    Pause(u16),
    Admin(bool),
    Prove,
    Nothing,
}

fn step() -> impl Strategy<Value = Step> {
    use OutcomeClass as C;
    let class = prop::sample::select(vec![
        C::Success,
        C::Success,
        C::Auth,
        C::Forbidden,
        C::RateLimited,
        C::Overloaded,
        C::ServerError,
        C::Timeout,
        C::Connect,
        C::StreamBroken,
        C::Request,
    ]);
    let change = prop_oneof![
        Just(Change::Renew),
        Just(Change::Eject),
        Just(Change::Recover),
        (0..300u16).prop_map(Change::Pause),
        any::<bool>().prop_map(Change::Admin),
        Just(Change::Prove),
        Just(Change::Nothing),
    ];
    prop_oneof![
        3 => Just(Step::Begin),
        8 => any::<usize>().prop_map(Step::Next),
        2 => any::<usize>().prop_map(Step::Answered),
        6 => (any::<usize>(), class, prop::option::of(0..600u16))
            .prop_map(|(which, class, wait)| Step::Finish(which, class, wait)),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (0..200u16).prop_map(Step::Pass),
        1 => (0..NAMES.len(), change).prop_map(|(which, change)| Step::Change(which, change)),
    ]
}

/// What an observer knows without looking into the router.
#[derive(Default)]
struct Observer {
    /// (name, generation) that answered 401.
    rejected: BTreeSet<(String, u64)>,
    /// (name, generation) that is allowed more than the cap.
    proven: BTreeSet<(String, u64)>,
    in_flight: BTreeMap<(String, u64), u32>,
    reportable: u64,
}

struct World {
    testbed: Testbed,
    observer: Observer,
    requests: Vec<Request>,
    attempts: Vec<Attempt>,
}

struct Request {
    routing: Routing,
    tried: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            testbed: Testbed::new([unproven("a"), endpoint("b"), spare("c")]),
            observer: Observer::default(),
            requests: Vec::new(),
            attempts: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Begin => self.requests.push(Request {
                routing: self.testbed.begin(),
                tried: Vec::new(),
            }),
            Step::Next(which) if !self.requests.is_empty() => {
                let which = which % self.requests.len();
                self.next(which)?;
            }
            Step::Answered(which) if !self.attempts.is_empty() => {
                let attempt = &self.attempts[which % self.attempts.len()];
                attempt.answered();
                self.observer.proven.insert(key(attempt));
            }
            Step::Finish(which, class, wait) if !self.attempts.is_empty() => {
                self.finish(which, class, wait);
            }
            Step::Cancel(which) if !self.attempts.is_empty() => {
                let attempt = self.take(which);
                drop(attempt);
            }
            Step::Pass(tenths) => self.testbed.pass(f64::from(tenths) / 10.0),
            Step::Change(which, change) => self.change(NAMES[which], change),
            Step::Next(_) | Step::Answered(_) | Step::Finish(..) | Step::Cancel(_) => {}
        }
        Ok(())
    }

    fn next(&mut self, which: usize) -> Result<(), TestCaseError> {
        let request = &mut self.requests[which];
        let next = request.routing.next(self.testbed.now);
        let table = self.testbed.router.table().unwrap();
        match next {
            Next::Attempt(attempt) => {
                let key = key(&attempt);
                let entry = table.find(&key.0).unwrap();
                // Rules 7, 10, 11: never a rejected, ended, ejected or disabled one.
                prop_assert!(!self.observer.rejected.contains(&key), "rejected");
                prop_assert_eq!(entry.routed.endpoint.generation, key.1);
                prop_assert_eq!(entry.routed.admin, AdminState::Enabled);
                let is_unhealthy = matches!(entry.routed.health, Health::Unhealthy { .. });
                prop_assert!(!is_unhealthy, "unhealthy");
                if let Health::Degraded { until, .. } = entry.routed.health {
                    prop_assert!(until <= self.testbed.now, "paused");
                }
                // The unproven cap.
                let in_flight = self.observer.in_flight.entry(key.clone()).or_default();
                *in_flight += 1;
                let is_proven = entry.routed.proven || self.observer.proven.contains(&key);
                prop_assert!(is_proven || *in_flight <= 4, "cap");
                prop_assert!(!request.tried.contains(&key.0), "twice");
                request.tried.push(key.0);
                prop_assert!(request.tried.len() <= 3, "attempts");
                self.attempts.push(attempt);
            }
            Next::Unavailable(unavailable) => {
                prop_assert!(unavailable.retry_after >= Duration::from_secs(1));
                if request.tried.is_empty() {
                    for name in NAMES {
                        prop_assert!(!self.testbed.reason(name).is_empty(), "{} is there", name);
                    }
                }
            }
            Next::Exhausted => prop_assert!(!request.tried.is_empty()),
            Next::Wait { until } => {
                prop_assert!(until.is_none_or(|until| until > self.testbed.now));
            }
        }
        Ok(())
    }

    fn finish(&mut self, which: usize, class: OutcomeClass, wait: Option<u16>) {
        let attempt = self.take(which);
        let key = key(&attempt);
        match class {
            OutcomeClass::Auth => drop(self.observer.rejected.insert(key)),
            OutcomeClass::Success => drop(self.observer.proven.insert(key)),
            _ => {}
        }
        if class != OutcomeClass::Request {
            self.observer.reportable += 1;
        }
        let retry_after = wait.map(|tenths| Duration::from_millis(u64::from(tenths) * 100));
        let outcome = Outcome {
            retry_after,
            ..Outcome::of(class)
        };
        if which.is_multiple_of(2) {
            drop(attempt.hold(outcome, self.testbed.now)); // It stands as it is dropped.
        } else {
            attempt.finish(outcome, self.testbed.now);
        }
    }

    fn take(&mut self, which: usize) -> Attempt {
        let attempt = self.attempts.swap_remove(which % self.attempts.len());
        *self.observer.in_flight.get_mut(&key(&attempt)).unwrap() -= 1;
        attempt
    }

    fn change(&mut self, name: &str, change: Change) {
        let now = self.testbed.now;
        self.testbed.change(name, |routed| match change {
            Change::Renew => {
                renew(routed);
                routed.health = Health::Unknown;
                routed.proven = false;
            }
            Change::Eject => routed.health = Health::Unhealthy { cause: Cause::Auth },
            Change::Recover => {
                renew(routed);
                routed.health = Health::Healthy;
                routed.proven = false;
            }
            Change::Pause(tenths) => {
                let until = now + Duration::from_millis(u64::from(tenths) * 100);
                let cause = Cause::Overloaded;
                routed.health = Health::Degraded { cause, until };
            }
            Change::Admin(true) => routed.admin = AdminState::Enabled,
            Change::Admin(false) => routed.admin = AdminState::Disabled,
            Change::Prove => routed.proven = true,
            Change::Nothing => {}
        });
    }

    /// What must be true between any two steps.
    fn check(&self) -> Result<(), TestCaseError> {
        let table = self.testbed.router.table().unwrap();
        for name in NAMES {
            let entry = table.find(name).unwrap();
            let key = (name.to_owned(), entry.routed.endpoint.generation);
            let in_flight = self
                .observer
                .in_flight
                .get(&key)
                .copied()
                .unwrap_or_default();
            prop_assert_eq!(entry.live.in_flight(), in_flight);
        }
        Ok(())
    }

    /// Every attempt that says something is reported once.
    fn check_reports(&self) -> Result<(), TestCaseError> {
        let reported: u64 = self
            .testbed
            .reports()
            .iter()
            .map(|report| u64::from(report.count))
            .sum();
        prop_assert_eq!(reported, self.observer.reportable);
        Ok(())
    }
}

fn key(attempt: &Attempt) -> (String, u64) {
    (name(attempt), attempt.endpoint().generation)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_rules_hold_for_any_interleaving(steps in vec(step(), 1..150)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
            world.check()?;
        }
        world.check_reports()?;
    }

    /// Every bad state but a rejected credential ends by itself.
    #[test]
    fn time_heals_all_but_a_rejected_credential(steps in vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step)?;
        }
        world.attempts.clear();
        world.testbed.pass(1000.0);
        for name in NAMES {
            let table = world.testbed.router.table().unwrap();
            let entry = table.find(name).unwrap();
            let key = (name.to_owned(), entry.routed.endpoint.generation);
            let is_open = entry.routed.admin == AdminState::Enabled
                && !matches!(entry.routed.health, Health::Unhealthy { .. })
                && !world.observer.rejected.contains(&key);
            prop_assert_eq!(is_open, world.testbed.reason(name).is_empty(), "{}", world.testbed.reason(name));
        }
    }
}
