//! Where a session belongs, and when it moves.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::routing::{ReturnPolicy, Session};

const SESSIONS: u32 = 2000;

impl Testbed {
    /// The endpoint that a request of a session would get; the attempt is cancelled.
    fn home(&self, session: u32) -> String {
        let mut routing = self.begin();
        routing.keep(Session::of(&session.to_be_bytes()));
        name(&attempt(routing.next(self.now)))
    }

    fn homes(&self, sessions: u32) -> BTreeMap<u32, String> {
        (0..sessions).map(|it| (it, self.home(it))).collect()
    }
}

fn numbered(count: usize) -> Vec<Routed> {
    let names = (0..count).map(|number| format!("e{number}"));
    names.map(|name| endpoint(&name)).collect()
}

/// The sessions that are elsewhere now.
fn moved(before: &BTreeMap<u32, String>, after: &BTreeMap<u32, String>) -> BTreeSet<u32> {
    let moved = before
        .iter()
        .filter(|(session, home)| after[session] != **home);
    moved.map(|(session, _)| *session).collect()
}

#[test]
fn every_proxy_chooses_alike_however_it_came_by_its_view() {
    let one = Testbed::new(numbered(200));
    let mut other = Testbed::new([]);
    for routed in numbered(200).into_iter().rev() {
        other.endpoints.push(routed);
        other.publish();
    }
    assert_eq!(one.homes(SESSIONS), other.homes(SESSIONS));
}

#[test]
fn shares_are_as_the_weights_say() {
    let heavy = Routed {
        weight: 300,
        ..endpoint("heavy")
    };
    let testbed = Testbed::new([endpoint("light"), heavy]);
    let homes = testbed.homes(10_000);
    let share = homes.values().filter(|home| *home == "heavy").count();
    assert!((7_300..7_700).contains(&share), "{share}");
}

#[test]
fn a_session_goes_back_when_its_endpoint_does() {
    let mut testbed = Testbed::new(numbered(40));
    let before = testbed.homes(SESSIONS);
    testbed.change("e7", |routed| {
        routed.health = Health::Unhealthy {
            cause: qcc_proto::v1::Cause::Timeout,
        };
    });
    let without = testbed.homes(SESSIONS);
    testbed.change("e7", |routed| {
        renew(routed);
        routed.health = Health::Healthy;
        routed.proven = false;
    });
    testbed.change("e7", |routed| routed.proven = true);
    let at_first = moved(&without, &testbed.homes(SESSIONS)).len();
    assert!((1..10).contains(&at_first), "{at_first}");
    testbed.pass(30.0);
    assert_eq!(testbed.homes(SESSIONS), before);
}

#[test]
fn a_session_may_stay_where_it_went() {
    let mut testbed = Testbed::new(numbered(3));
    testbed.policy.affinity.return_policy = ReturnPolicy::Stay;
    testbed.publish();
    testbed.change("e1", |routed| routed.admin = AdminState::Disabled);
    let without = testbed.homes(100);
    testbed.change("e1", |routed| routed.admin = AdminState::Enabled);
    // Two that have one place to be remembered at forget each other.
    assert!(moved(&without, &testbed.homes(100)).len() <= 2);
    let stranger = (100..1000).find(|it| testbed.home(*it) == "e1");
    assert!(stranger.is_some(), "who was not here before goes home");
}

#[test]
fn a_local_mark_moves_a_session_to_where_the_view_would() {
    let mut testbed = Testbed::new(numbered(50));
    let session = (0..).find(|it| testbed.home(*it) == "e3").unwrap();
    let mut routing = testbed.begin();
    routing.keep(Session::of(&u32::to_be_bytes(session)));
    testbed.finish(attempt(routing.next(testbed.now)), OutcomeClass::Auth);
    let second = name(&attempt(routing.next(testbed.now)));
    assert_eq!(testbed.home(session), second);
    testbed.change("e3", |routed| routed.admin = AdminState::Disabled);
    assert_eq!(testbed.home(session), second);
}

#[test]
fn switched_off_there_are_no_sessions() {
    let mut testbed = Testbed::new(numbered(2));
    testbed.policy.affinity.enabled = false;
    testbed.publish();
    let homes: BTreeSet<_> = (0..100).map(|_| testbed.home(1)).collect();
    assert_eq!(homes.len(), 2);
}

proptest! {
    #[test]
    fn who_leaves_moves_its_own_sessions_only(
        count in 2..100_usize,
        leaves in any::<prop::sample::Index>(),
        weights in prop::collection::vec(1..500_u32, 100),
    ) {
        let mut endpoints = numbered(count);
        for (routed, weight) in endpoints.iter_mut().zip(weights) {
            routed.weight = weight;
        }
        let mut testbed = Testbed::new(endpoints);
        let before = testbed.homes(200);
        let gone = format!("e{}", leaves.index(count));
        testbed.change(&gone, |routed| routed.admin = AdminState::Draining);
        let after = testbed.homes(200);
        let own: BTreeSet<_> = (before.iter())
            .filter(|(_, home)| **home == gone)
            .map(|(session, _)| *session)
            .collect();
        prop_assert_eq!(moved(&before, &after), own);
    }
}
