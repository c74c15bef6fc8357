//! The rules, one story each, with time made by hand.

mod history;
mod rotation;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    properties::{saved, seed},
    *,
};

/// A registry with endpoints in the default cluster, and whoever talks to it.
struct Story {
    registry: Registry,
    now: Moment,
    sent: BTreeMap<&'static str, u64>,
    orders: Vec<CheckOrder>,
}

/// An attempt under way: what was chosen, and under which view.
#[derive(Clone, Copy)]
struct Chosen {
    name: &'static str,
    generation: Generation,
    view: View,
}

impl Story {
    fn new(endpoints: &[&'static str], proxies: &[&'static str]) -> Self {
        let now = Moment {
            clock: Clock(1_000),
            wall_ms: 0,
        };
        let registry = Registry::new(1, Saved::default(), seed(), now);
        let mut story = Self {
            registry,
            now,
            sent: BTreeMap::new(),
            orders: Vec::new(),
        };
        for proxy in proxies {
            story.registry.connect(&key(proxy), now);
        }
        for name in endpoints {
            story
                .mutate(Mutation::CreateEndpoint(spec(name)))
                .expect("the name is free");
        }
        story
    }

    /// All endpoints have passed their first check.
    fn healthy(endpoints: &[&'static str], proxies: &[&'static str]) -> Self {
        let mut story = Self::new(endpoints, proxies);
        for order in std::mem::take(&mut story.orders) {
            story.answer(&order, true, OutcomeClass::Success);
        }
        story
    }

    fn mutate(&mut self, mutation: Mutation) -> Result<Answer, Error> {
        let answer = self.registry.mutate(mutation, None, self.now);
        self.settle();
        answer
    }

    fn settle(&mut self) {
        self.registry.advance(self.now);
        for effect in self.registry.settle().effects {
            if let Effect::Check(order) = effect {
                self.orders.push(*order);
            }
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now.clock = self.now.clock.after(span);
        self.settle();
    }

    fn choose(&self, name: &'static str) -> Chosen {
        Chosen {
            name,
            generation: self.endpoint(name).generation,
            view: self.registry.view(),
        }
    }

    fn report(&mut self, proxy: &'static str, chosen: Chosen, facts: Facts) {
        let sequence = self.sent.entry(proxy).or_default();
        *sequence += 1;
        let outcome = Outcome {
            endpoint: chosen.name.into(),
            generation: chosen.generation,
            view: chosen.view,
            count: 1,
            facts,
            age: Duration::ZERO,
        };
        let batch = ReportBatch {
            first_sequence: *sequence,
            dropped: 0,
            registry_id: None,
            outcomes: vec![outcome],
        };
        self.registry.report(&key(proxy), batch, self.now);
        self.settle();
    }

    /// A proxy chooses, and reports at once.
    fn see(&mut self, proxy: &'static str, name: &'static str, class: OutcomeClass) {
        let chosen = self.choose(name);
        self.report(proxy, chosen, Facts::of(class));
    }

    fn answer(&mut self, order: &CheckOrder, passed: bool, class: OutcomeClass) {
        let verdict = Verdict {
            passed,
            facts: Facts::of(class),
        };
        self.registry
            .conclude(&order.endpoint, order.id, verdict, self.now);
        self.settle();
    }

    /// Waits for the next check and takes its order.
    fn next_check(&mut self) -> CheckOrder {
        for _ in 0..1000 {
            if let Some(order) = self.orders.pop() {
                return order;
            }
            self.wait(Duration::from_secs(1));
        }
        panic!("no check in a thousand seconds");
    }

    fn endpoint(&self, name: &str) -> &Arc<Endpoint> {
        self.registry.endpoints.get(name).expect("it exists")
    }

    fn cause(&self, name: &str) -> Option<Cause> {
        self.endpoint(name).health.cause()
    }

    fn is_healthy(&self, name: &str) -> bool {
        matches!(self.endpoint(name).health, Health::Healthy { .. })
    }

    fn totals(&self) -> QueueTotals {
        self.registry.meta.totals
    }
}

fn key(proxy: &str) -> ProxyKey {
    ProxyKey {
        id: ProxyId::new(proxy),
        incarnation: "1".into(),
    }
}

fn spec(name: &str) -> Spec {
    Spec {
        name: name.try_into().expect("a valid name"),
        cluster: ClusterName::default_cluster(),
        base_url: "https://api.example".into(),
        api_key: Some(ApiKey::new("key".into())),
        priority: 1,
        weight: 100,
        max_failures: None,
        timeout: None,
        admin_state: AdminState::Enabled,
        check: None,
        labels: BTreeMap::new(),
        allow_plaintext: false,
    }
}

fn name(text: &str) -> EndpointName {
    text.try_into().expect("a valid name")
}

#[test]
fn a_rejected_key_is_one_incident_however_many_report_it() {
    let mut story = Story::healthy(&["a"], &["p", "q"]);
    let chosen = story.choose("a");
    for _ in 0..13 {
        story.report("p", chosen, Facts::of(OutcomeClass::Auth));
        story.report("q", chosen, Facts::of(OutcomeClass::Auth));
    }
    assert_eq!(story.totals().failed, 1);
    assert_eq!(
        story
            .endpoint("a")
            .health
            .incident()
            .map(|i| i.observations),
        Some(26)
    );
}

#[test]
fn a_success_that_left_before_the_fall_changes_nothing() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let parked = story.choose("a");
    story.see("p", "a", OutcomeClass::Auth);
    let before = format!("{:?}", story.endpoint("a").health);
    story.report("p", parked, Facts::of(OutcomeClass::Success));
    assert_eq!(format!("{:?}", story.endpoint("a").health), before);
    assert_eq!(story.registry.report_counts.stale, 1);
}

#[test]
fn a_failure_of_an_older_generation_condemns_nobody() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let old = story.choose("a");
    let rotated = Spec {
        api_key: Some(ApiKey::new("new".into())),
        ..spec("a")
    };
    let key = KeyChange::Set(rotated.api_key.clone());
    story
        .mutate(Mutation::UpdateEndpoint {
            spec: rotated,
            key,
            etag: None,
        })
        .expect("it exists");
    assert!(story.endpoint("a").generation > old.generation);
    story.report("p", old, Facts::of(OutcomeClass::Auth));
    assert_eq!((story.cause("a"), story.totals().failed), (None, 0));
    assert_eq!(story.endpoint("a").stats.stale, 1);
}

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
fn a_request_that_every_endpoint_refuses_blames_nobody() {
    let mut story = Story::healthy(&["a", "b"], &["p"]);
    for _ in 0..100 {
        story.see("p", "a", OutcomeClass::Request);
        story.see("p", "b", OutcomeClass::Cancelled);
    }
    assert!(story.is_healthy("a") && story.is_healthy("b"));
}

#[test]
fn a_name_that_is_created_again_does_not_meet_its_past() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let past = story.choose("a");
    let delete = Mutation::DeleteEndpoint {
        name: name("a"),
        etag: None,
        allow_missing: false,
    };
    story.mutate(delete).expect("it exists");
    story.report("p", past, Facts::of(OutcomeClass::Auth));
    assert_eq!(story.registry.report_counts.unknown_endpoint, 1);
    story
        .mutate(Mutation::CreateEndpoint(spec("a")))
        .expect("the name is free again");
    story.report("p", past, Facts::of(OutcomeClass::Auth));
    assert_eq!(story.cause("a"), None);
}

#[test]
fn removed_from_the_queue_and_failed_again_counts_again() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    story
        .mutate(Mutation::RemoveFailure { name: name("a") })
        .expect("it is queued");
    assert!(matches!(story.endpoint("a").health, Health::Unknown { .. }));
    story.see("p", "a", OutcomeClass::Auth);
    assert_eq!(story.totals().failed, 2);
}

#[test]
fn an_ejection_by_an_operator_holds() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let hold = Duration::from_secs(300);
    story
        .mutate(Mutation::Eject {
            name: name("a"),
            reason: "maintenance".into(),
            hold,
        })
        .expect("it exists");
    assert_eq!(story.cause("a"), Some(Cause::Operator));
    story.wait(Duration::from_secs(299));
    assert!(story.orders.is_empty(), "no check within the hold");
    let order = story.next_check();
    story.answer(&order, true, OutcomeClass::Success);
    assert!(story.is_healthy("a"));
}

#[test]
fn a_disabled_endpoint_is_not_checked_until_it_is_enabled() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Auth);
    let set = |state| Mutation::SetAdminState {
        name: name("a"),
        state,
    };
    story.mutate(set(AdminState::Disabled)).expect("it exists");
    story.wait(Duration::from_secs(10_000));
    assert!(story.orders.is_empty());
    assert_eq!(
        story.mutate(Mutation::Verify { name: name("a") }),
        Err(Error::Disabled(name("a")))
    );
    story.mutate(set(AdminState::Enabled)).expect("it exists");
    story.next_check();
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
fn a_request_that_is_repeated_is_answered_alike_and_done_once() {
    let mut story = Story::new(&[], &[]);
    let request = || {
        Some(Request {
            id: "r1".into(),
            digest: 7,
        })
    };
    let create = || Mutation::CreateEndpoint(spec("a"));
    let first = story.registry.mutate(create(), request(), story.now);
    assert_eq!(first, story.registry.mutate(create(), request(), story.now));
    let other = Some(Request {
        id: "r1".into(),
        digest: 8,
    });
    assert_eq!(
        story.registry.mutate(create(), other, story.now),
        Err(Error::RequestIdReused)
    );
    story.wait(Duration::from_secs(601));
    let late = story.registry.mutate(create(), request(), story.now);
    assert_eq!(
        late,
        Err(Error::EndpointExists(name("a"))),
        "the window has passed"
    );
}

#[test]
fn another_base_url_asks_for_the_key_again() {
    let mut story = Story::healthy(&["a"], &[]);
    let moved = Spec {
        base_url: "https://evil.example".into(),
        ..spec("a")
    };
    let refused = story.mutate(Mutation::UpdateEndpoint {
        spec: moved.clone(),
        key: KeyChange::Keep,
        etag: None,
    });
    assert_eq!(refused, Err(Error::CredentialNeeded(name("a"))));
    let key = KeyChange::Set(Some(ApiKey::new("entered again".into())));
    story
        .mutate(Mutation::UpdateEndpoint {
            spec: moved,
            key,
            etag: None,
        })
        .expect("with a key");
}

#[test]
fn a_declaration_is_applied_whole_or_not_at_all() {
    let mut story = Story::healthy(&["a", "b"], &[]);
    let declared = |spec| DeclaredEndpoint {
        spec,
        key: KeyChange::Keep,
        admin_state: None,
    };
    let wrong = Spec {
        cluster: "nowhere".try_into().expect("a valid name"),
        ..spec("d")
    };
    let before = story.registry.view();
    let refused = story.mutate(Mutation::Apply(Declaration {
        endpoints: vec![declared(spec("c")), declared(wrong)],
        ..Declaration::default()
    }));
    assert!(refused.is_err());
    assert_eq!(story.registry.view(), before);
    assert!(!story.registry.endpoints.contains_key("c"));

    let declaration = || Declaration {
        endpoints: vec![
            declared(Spec {
                weight: 5,
                ..spec("a")
            }),
            declared(spec("c")),
        ],
        prune: true,
        ..Declaration::default()
    };
    let Ok(Answer::Changes(changes)) = story.mutate(Mutation::Apply(declaration())) else {
        panic!("it is valid");
    };
    let actions: Vec<_> = changes.iter().map(|change| change.action).collect();
    assert_eq!(actions, [Action::Updated, Action::Deleted, Action::Created]);
    assert_eq!(changes[0].fields, ["weight"]);
    let before = story.registry.view();
    story
        .mutate(Mutation::Apply(declaration()))
        .expect("it is valid");
    assert_eq!(
        story.registry.view(),
        before,
        "the second time changes nothing"
    );
}

#[test]
fn reports_must_not_skip_what_is_missing() {
    let mut story = Story::healthy(&["a"], &["p"]);
    story.see("p", "a", OutcomeClass::Success);
    let batch = |first_sequence, dropped| ReportBatch {
        first_sequence,
        dropped,
        registry_id: None,
        outcomes: Vec::new(),
    };
    let receipt = story.registry.report(&key("p"), batch(5, 0), story.now);
    assert_eq!(
        receipt,
        Receipt {
            acknowledged: 1,
            gap: true,
            dropped: 0
        }
    );
    let receipt = story.registry.report(&key("p"), batch(5, 3), story.now);
    assert_eq!(
        receipt,
        Receipt {
            acknowledged: 4,
            gap: false,
            dropped: 3
        },
        "unless they were dropped"
    );
}

#[test]
fn reports_on_another_registry_are_taken_and_change_nothing() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let chosen = story.choose("a");
    let batch = |first_sequence, registry: &str| ReportBatch {
        first_sequence,
        dropped: 0,
        registry_id: Some(registry.into()),
        outcomes: vec![Outcome {
            endpoint: chosen.name.into(),
            generation: chosen.generation,
            view: chosen.view,
            count: 1,
            facts: Facts::of(OutcomeClass::Auth),
            age: Duration::ZERO,
        }],
    };
    let receipt = story
        .registry
        .report(&key("p"), batch(1, "lost"), story.now);
    assert_eq!((receipt.acknowledged, story.cause("a")), (1, None));
    story.registry.report(&key("p"), batch(2, "r"), story.now);
    assert_eq!(story.cause("a"), Some(Cause::Auth));
}

#[test]
fn evidence_may_be_seen_before_it_is_stored_and_promises_may_not() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let now = story.now;
    let mut evidence_only = |change: &mut dyn FnMut(&mut Registry)| {
        change(&mut story.registry);
        story.registry.settle().evidence_only
    };
    let chosen = View {
        term: 1,
        revision: 2,
    };
    let batch = ReportBatch {
        first_sequence: 1,
        outcomes: vec![Outcome {
            endpoint: "a".into(),
            generation: Generation(2),
            view: chosen,
            count: 1,
            facts: Facts::of(OutcomeClass::Auth),
            age: Duration::ZERO,
        }],
        ..ReportBatch::default()
    };
    assert!(evidence_only(&mut |registry| {
        registry.report(&key("p"), batch.clone(), now);
    }));
    assert!(!evidence_only(&mut |registry| {
        let restore = Mutation::Restore { name: name("a") };
        registry.mutate(restore, None, now).expect("it is queued");
    }));
    assert!(evidence_only(&mut |registry| {
        registry.connect(&key("q"), now);
    }));
}

#[test]
fn a_revision_that_was_seen_but_not_stored_is_not_given_out_again() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let stored = saved(&story.registry);
    story.see("p", "a", OutcomeClass::Auth);
    let seen = story.registry.view();
    let restarted = Registry::new(2, stored, seed(), story.now);
    assert!(restarted.view().revision >= seen.revision);
    assert!(restarted.view() > seen);
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

#[test]
fn of_attempts_side_by_side_failures_count_no_more_than_successes() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let chosen = story.choose("a");
    for attempt in 0..100 {
        let class = if attempt % 20 == 0 {
            OutcomeClass::ServerError
        } else {
            OutcomeClass::Success
        };
        story.report("p", chosen, Facts::of(class));
    }
    assert!(story.is_healthy("a"), "95 of 100 succeeded");
}

#[test]
fn a_success_from_before_the_failures_does_not_end_their_row() {
    let mut story = Story::healthy(&["a"], &["p"]);
    let before = story.choose("a");
    story.see("p", "a", OutcomeClass::ServerError);
    story.see("p", "a", OutcomeClass::ServerError);
    story.report("p", before, Facts::of(OutcomeClass::Success));
    story.see("p", "a", OutcomeClass::ServerError);
    assert_eq!(story.cause("a"), Some(Cause::ServerError));
}
