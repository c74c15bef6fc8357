//! A request that fails wherever it goes takes nothing away from the others.

use OutcomeClass::{Connect, Forbidden, ServerError, StreamBroken, Success};

use super::*;

/// A request on its way, and what it is suspected of.
struct Client {
    routing: Routing,
    suspicion: Suspicion,
    fingerprint: u64,
}

impl Client {
    fn of(testbed: &Testbed, fingerprint: u64) -> Self {
        Self {
            routing: testbed.begin(),
            suspicion: Suspicion::default(),
            fingerprint,
        }
    }

    /// Its next attempt ends like this.
    fn meets(&mut self, testbed: &Testbed, class: OutcomeClass, symptom: Symptom) -> bool {
        let judged = self.hold(testbed, class);
        let fingerprint = self.fingerprint;
        self.routing.pursue();
        (self.suspicion).take(judged, Some(symptom), || fingerprint)
    }

    fn hold(&mut self, testbed: &Testbed, class: OutcomeClass) -> Judged {
        let attempt = attempt(self.routing.next(testbed.now));
        attempt.hold(Outcome::of(class), testbed.now)
    }

    fn is_killed(&mut self, testbed: &Testbed) -> bool {
        self.meets(testbed, Connect, Symptom::Killed)
    }

    fn gets_an_answer(mut self, testbed: &Testbed) {
        let attempt = attempt(self.routing.next(testbed.now));
        self.suspicion.clear();
        attempt.answered();
        testbed.finish(attempt, Success);
    }
}

fn refused(error_type: &str) -> Symptom {
    Symptom::Refused {
        http_status: 403,
        error_type: error_type.to_owned(),
    }
}

fn classes(testbed: &Testbed) -> Vec<(String, OutcomeClass)> {
    let reports = testbed.reports().into_iter();
    reports
        .map(|report| (report.endpoint.to_string(), report.outcome.class))
        .collect()
}

#[test]
fn few_requests_are_heard_at_a_time_and_each_once() {
    let testbed = Testbed::new([endpoint("a")]);
    let mut requests: Vec<_> = (0..5).map(|_| testbed.begin()).collect();
    let mut hearings: Vec<_> = requests.iter_mut().map(Routing::hear).collect();
    let is_heard: Vec<_> = hearings.iter().map(Option::is_some).collect();
    assert_eq!(is_heard, [true, true, true, true, false]);
    assert!(requests[0].hear().is_none());
    hearings.clear();
    assert!(requests[0].hear().is_none(), "it has been heard");
    assert!(requests[4].hear().is_some());
}

#[test]
fn a_request_that_is_killed_everywhere_blames_nobody() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    for _ in 0..20 {
        let mut poison = Client::of(&testbed, 1);
        assert!(!poison.is_killed(&testbed));
        assert_eq!(testbed.choice().as_deref(), Some("b"), "others keep away");
        assert!(poison.is_killed(&testbed));
        assert_eq!(testbed.choice().as_deref(), Some("a"), "at once");
        drop(poison);
    }
    assert_eq!(
        (testbed.reason("a"), testbed.reason("b")),
        (String::new(), String::new())
    );
    assert_eq!(testbed.reports(), []);
}

#[test]
fn of_many_at_once_none_blames_anybody() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut clients: Vec<_> = (0..50).map(|_| Client::of(&testbed, 1)).collect();
    let at_a: Vec<_> = (clients.iter_mut())
        .map(|client| attempt(client.routing.next(testbed.now)))
        .collect();
    for (client, attempt) in clients.iter_mut().zip(at_a) {
        let judged = attempt.hold(Outcome::of(Connect), testbed.now);
        client.routing.pursue();
        (client.suspicion).take(judged, Some(Symptom::Killed), || 1);
    }
    let at_b: Vec<_> = (clients.iter_mut())
        .map(|client| attempt(client.routing.next(testbed.now)))
        .collect();
    for (client, attempt) in clients.iter_mut().zip(at_b) {
        let judged = attempt.hold(Outcome::of(Connect), testbed.now);
        assert!((client.suspicion).take(judged, Some(Symptom::Killed), || 1));
    }
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    drop(clients);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    assert_eq!(testbed.reports(), []);
}

#[test]
fn two_that_fail_at_different_endpoints_do_not_wait_for_each_other() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let (mut one, mut two) = (Client::of(&testbed, 1), Client::of(&testbed, 1));
    one.is_killed(&testbed);
    two.is_killed(&testbed); // At `b`, since `a` is held.
    assert!(matches!(testbed.next(), Next::Wait { until: None }));
    assert!(one.is_killed(&testbed));
    assert!(two.is_killed(&testbed));
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    drop((one, two));
    assert_eq!(testbed.reports(), []);
}

#[test]
fn refusals_in_the_same_words_do_not_add_up() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    for _ in 0..10 {
        let mut client = Client::of(&testbed, 1);
        assert!(!client.meets(&testbed, Forbidden, refused("permission_error")));
        assert!(client.meets(&testbed, Forbidden, refused("permission_error")));
    }
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    assert_eq!(testbed.reports(), []);
}

#[test]
fn refusals_in_other_words_are_each_endpoints_own() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    for _ in 0..3 {
        let mut client = Client::of(&testbed, 1);
        client.meets(&testbed, Forbidden, refused("permission_error"));
        assert!(!client.meets(&testbed, Forbidden, refused("billing_error")));
    }
    assert_eq!(testbed.choice(), None);
    let reported = [("a".to_owned(), Forbidden), ("b".to_owned(), Forbidden)];
    assert_eq!(classes(&testbed), [&reported[..]; 3].concat());
}

#[test]
fn what_is_held_stands_when_the_next_endpoint_answers() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut client = Client::of(&testbed, 1);
    client.is_killed(&testbed);
    assert_eq!(testbed.reports(), [], "held");
    client.gets_an_answer(&testbed);
    assert_eq!(testbed.reason("a"), "no connection here, next try in 5s");
    assert_eq!(
        classes(&testbed),
        [("a".to_owned(), Connect), ("b".to_owned(), Success)]
    );
}

#[test]
fn what_is_held_stands_when_the_next_verdict_is_of_another_kind() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut client = Client::of(&testbed, 1);
    client.is_killed(&testbed);
    let next = attempt(client.routing.next(testbed.now));
    let judged = next.judge(Outcome::of(ServerError), testbed.now);
    assert!(!client.suspicion.take(judged, None, || 1));
    assert_eq!(
        classes(&testbed),
        [("a".to_owned(), Connect), ("b".to_owned(), ServerError)]
    );
    assert_eq!(testbed.choice().as_deref(), Some("b"));
}

#[test]
fn a_client_that_goes_takes_no_evidence_with_it() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut client = Client::of(&testbed, 1);
    client.is_killed(&testbed);
    drop(client);
    assert_eq!(classes(&testbed), [("a".to_owned(), Connect)]);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
    let judged = Client::of(&testbed, 2).hold(&testbed, Connect);
    drop(judged); // It went before the verdict was weighed.
    assert_eq!(testbed.choice(), None);
}

#[test]
fn evidence_is_held_for_a_bounded_time_and_counts_from_when_it_was_seen() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut client = Client::of(&testbed, 1);
    let slow = attempt(client.routing.next(testbed.now));
    testbed.pass(2.0);
    let judged = slow.hold(Outcome::of(Connect), testbed.now);
    client.suspicion.take(judged, Some(Symptom::Killed), || 1);
    let seen = testbed.now;
    let held_until = client.suspicion.held_until().unwrap();
    assert_eq!(
        held_until - seen,
        Duration::from_secs(5),
        "1 s, and twice 2 s"
    );
    testbed.now = held_until - Duration::from_secs(1);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
    assert!(client.suspicion.stand());
    assert_eq!(testbed.reason("a"), "no connection here, next try in 1s");
    assert_eq!(testbed.reports()[0].at, seen);
    assert_eq!(client.suspicion.held_until(), None);
    // The next one is killed too, but too late to take it back.
    assert!(!client.is_killed(&testbed));
}

#[test]
fn a_request_that_is_served_in_the_end_was_not_to_blame() {
    let testbed = Testbed::new([
        endpoint("a"),
        spare("b"),
        Routed {
            priority: 3,
            ..endpoint("c")
        },
    ]);
    let mut client = Client::of(&testbed, 1);
    client.is_killed(&testbed);
    assert!(client.is_killed(&testbed));
    assert_eq!(
        testbed.choice().as_deref(),
        Some("a"),
        "in doubt nobody is to blame"
    );
    client.gets_an_answer(&testbed);
    assert_eq!(testbed.choice().as_deref(), Some("c"));
    let reported = classes(&testbed);
    assert_eq!(
        reported[..2],
        [("a".to_owned(), Connect), ("b".to_owned(), Connect)]
    );
}

#[test]
fn when_request_after_request_is_killed_it_is_none_of_them() {
    let third = Routed {
        priority: 3,
        ..endpoint("c")
    };
    let mut testbed = Testbed::new([endpoint("a"), spare("b"), third]);
    testbed.policy.attempts_max = 2; // None gets as far as `c`, which works.
    testbed.publish();
    for request in [1, 2, 1, 2] {
        let mut client = Client::of(&testbed, request);
        client.is_killed(&testbed);
        client.is_killed(&testbed);
        drop(client);
        assert_eq!(testbed.choice().as_deref(), Some("a"), "{request}");
    }
    let mut client = Client::of(&testbed, 3);
    client.is_killed(&testbed);
    assert!(!client.is_killed(&testbed));
    drop(client);
    assert_eq!(testbed.choice().as_deref(), Some("c"));
    assert_eq!(
        classes(&testbed),
        [("a".to_owned(), Connect), ("b".to_owned(), Connect)]
    );
}

#[test]
fn requests_that_are_served_in_between_keep_the_blame_with_those_that_are_not() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    for request in 1..20 {
        let mut client = Client::of(&testbed, request);
        client.is_killed(&testbed);
        client.is_killed(&testbed);
        drop(client);
        let served = testbed.attempt();
        assert_eq!(name(&served), "a");
        served.answered(); // A head is enough.
        drop(served);
        let mut b = testbed.begin();
        drop(attempt(b.next(testbed.now)));
        let at_b = attempt(b.next(testbed.now));
        assert_eq!(name(&at_b), "b");
        testbed.finish(at_b, Success);
    }
    let of_b = |report: &Report| report.outcome.class == Success;
    assert!(
        testbed.reports().iter().all(of_b),
        "{:?}",
        testbed.reports()
    );
}

#[test]
fn a_connection_that_may_have_been_stale_says_nothing_against_a_killed_request() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    let mut client = Client::of(&testbed, 1);
    client.meets(&testbed, StreamBroken, Symptom::Killed); // A pooled one.
    assert!(client.meets(&testbed, StreamBroken, Symptom::Killed));
    client.routing.once_more();
    client.is_killed(&testbed); // On a new one, at `b` again.
    drop(client);
    assert_eq!(testbed.choice().as_deref(), Some("a"));
    assert_eq!(testbed.reports(), []);
}

#[test]
fn a_trial_that_is_killed_leaves_the_suspension_as_it_was() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    testbed.finish(testbed.attempt(), Connect);
    testbed.pass(5.0);
    let mut poison = Client::of(&testbed, 1);
    poison.is_killed(&testbed);
    assert_eq!(testbed.choice().as_deref(), Some("b"));
    assert!(poison.is_killed(&testbed));
    let trial = testbed.attempt(); // The place of the trial is free again.
    assert_eq!(name(&trial), "a");
    assert_eq!(testbed.choice().as_deref(), Some("b"), "one at a time");
    testbed.finish(trial, Connect);
    testbed.pass(9.9);
    assert_eq!(
        testbed.choice().as_deref(),
        Some("b"),
        "prolonged by its own trial"
    );
}

#[test]
fn a_request_that_waits_for_a_held_endpoint_is_told_to_wait() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    testbed.change("b", |b| b.admin = AdminState::Disabled);
    let mut client = Client::of(&testbed, 1);
    client.is_killed(&testbed);
    assert!(matches!(testbed.next(), Next::Wait { until: None }));
    assert!(client.suspicion.stand());
    assert!(matches!(testbed.next(), Next::Unavailable(_)));
}

#[test]
fn failures_that_add_to_what_is_held_are_those_of_the_newest_view() {
    let mut testbed = Testbed::new([endpoint("a"), spare("b")]);
    for (earlier, later) in [(2, 0), (0, 2)] {
        testbed.change("b", |b| b.failures = earlier);
        let mut other = testbed.begin();
        let at_a = attempt(other.next(testbed.now));
        testbed.change("b", |b| b.failures = later);
        let mut client = Client::of(&testbed, 1);
        let _also_at_a = attempt(client.routing.next(testbed.now));
        let refusal = client.hold(&testbed, Forbidden);
        drop(at_a);
        match (testbed.reason("b").as_str(), other.next(testbed.now)) {
            ("", Next::Attempt(at_b)) => assert_eq!((later, name(&at_b)), (0, "b".to_owned())),
            (_, Next::Wait { until: None }) => assert_eq!(later, 2),
            (reason, other) => panic!("{later} failures, `{reason}`: {other:?}"),
        }
        assert_eq!(refusal.endpoint().name.as_ref(), "b");
        testbed.change("b", renew);
    }
}

#[test]
fn a_request_is_not_called_suspect_if_one_of_the_two_endpoints_is_blamed() {
    let testbed = Testbed::new([endpoint("a"), spare("b")]);
    for fingerprint in [1, 2] {
        let mut client = Client::of(&testbed, fingerprint);
        client.is_killed(&testbed);
        assert!(client.is_killed(&testbed));
        // `b` serves others, `a` does not.
        let mut other = testbed.begin();
        let _at_a = attempt(other.next(testbed.now));
        let at_b = attempt(other.next(testbed.now));
        assert_eq!(name(&at_b), "b");
        at_b.answered();
    }
    let mut third = Client::of(&testbed, 3);
    third.is_killed(&testbed);
    assert!(!third.is_killed(&testbed));
    assert_eq!(classes(&testbed), [("a".to_owned(), Connect)]);
}
