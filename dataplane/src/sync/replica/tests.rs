use qcc_proto::v1::{AdminState, HealthState, SnapshotBookmark};

use super::*;

fn view(term: u64, revision: u64) -> View {
    View { term, revision }
}

fn endpoint(name: &str) -> RoutedEndpoint {
    RoutedEndpoint {
        name: name.into(),
        base_url: "http://127.0.0.1:1".into(),
        generation: 1,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        ..Default::default()
    }
}

fn chunk(names: &[&str], first: bool, last: bool) -> Message {
    Message::Snapshot(SnapshotChunk {
        policy: None,
        endpoints: names.iter().map(|name| endpoint(name)).collect(),
        first,
        last,
        registry_id: if first { "r1".into() } else { String::new() },
    })
}

fn snapshot(names: &[&str]) -> Message {
    chunk(names, true, true)
}

/// A snapshot from another registry, or (`""`) from a server that does not name its own.
fn snapshot_of(registry_id: &str, names: &[&str]) -> Message {
    let Message::Snapshot(chunk) = snapshot(names) else {
        unreachable!("a snapshot");
    };
    Message::Snapshot(SnapshotChunk {
        registry_id: registry_id.into(),
        ..chunk
    })
}

fn delta(from_view: View, changed: &[&str], removed: &[&str]) -> Message {
    Message::Delta(SnapshotDelta {
        from_view: Some(from_view),
        policy: None,
        endpoints: changed.iter().map(|name| endpoint(name)).collect(),
        removed_endpoints: removed.iter().map(ToString::to_string).collect(),
        registry_id: String::new(),
    })
}

const BOOKMARK: Message = Message::Bookmark(SnapshotBookmark {
    registry_id: String::new(),
});

struct Follower(Replica);

impl Follower {
    fn new() -> Self {
        let mut replica = Replica::default();
        assert_eq!(replica.open(), None);
        Self(replica)
    }

    /// At view 1.5 with endpoints `a` and `b`, on a stream that resumed.
    fn at_1_5() -> Self {
        let mut follower = Self::new();
        follower.apply(view(1, 5), snapshot(&["a", "b"])).unwrap();
        assert_eq!(follower.0.open(), Some(view(1, 5)));
        follower
    }

    /// Applies a message that makes a new view.
    fn update(&mut self, view: View, update: Message) -> Result<Update, OutOfStep> {
        let message = WatchSnapshotsResponse {
            view: Some(view),
            clock_ms: 0,
            update: Some(update),
            planned_checks: Vec::new(),
        };
        match self.0.apply(message, Instant::now(), &mut Vec::new())? {
            Applied::View(update) => Ok(update),
            other => panic!("no new view but {other:?}"),
        }
    }

    /// Applies a message; `Some` with the names if there is something new to route by.
    fn apply(&mut self, view: View, update: Message) -> Result<Option<Vec<String>>, OutOfStep> {
        let message = WatchSnapshotsResponse {
            view: Some(view),
            clock_ms: 0,
            update: Some(update),
            planned_checks: Vec::new(),
        };
        match self.0.apply(message, Instant::now(), &mut Vec::new())? {
            Applied::Partial | Applied::Current => Ok(None),
            Applied::View(update) => {
                assert_eq!(update.view, view);
                let names = update
                    .endpoints
                    .values()
                    .map(|routed| routed.endpoint.name.to_string());
                Ok(Some(names.collect()))
            }
        }
    }
}

#[test]
fn snapshot_and_deltas_make_the_newest_view() {
    let mut follower = Follower::new();
    let names = follower.apply(view(1, 5), snapshot(&["a", "b"])).unwrap();
    assert_eq!(names.unwrap(), ["a", "b"]);
    let names = follower
        .apply(view(1, 6), delta(view(1, 5), &["c"], &["a"]))
        .unwrap();
    assert_eq!(names.unwrap(), ["b", "c"]);
    let names = follower
        .apply(view(2, 7), delta(view(1, 6), &[], &[]))
        .unwrap();
    assert_eq!(names.unwrap(), ["b", "c"]); // Not ours, but the view moves on.
    assert_eq!(follower.apply(view(2, 7), BOOKMARK), Ok(None));
    assert_eq!(follower.0.open(), Some(view(2, 7)));
}

#[test]
fn a_snapshot_in_parts_counts_only_when_it_is_whole() {
    let mut follower = Follower::at_1_5();
    assert_eq!(
        follower.apply(view(1, 8), chunk(&["x"], true, false)),
        Ok(None)
    );
    assert_eq!(
        follower.apply(view(1, 8), chunk(&["y"], false, false)),
        Ok(None)
    );
    let names = follower
        .apply(view(1, 8), chunk(&["z"], false, true))
        .unwrap();
    assert_eq!(names.unwrap(), ["x", "y", "z"]);
}

#[test]
fn a_snapshot_that_breaks_off_leaves_nothing_behind() {
    let mut follower = Follower::at_1_5();
    follower
        .apply(view(1, 8), chunk(&["x"], true, false))
        .unwrap();
    assert_eq!(follower.0.open(), Some(view(1, 5)));
    let names = follower
        .apply(view(1, 6), delta(view(1, 5), &["c"], &[]))
        .unwrap();
    assert_eq!(names.unwrap(), ["a", "b", "c"]);
}

#[test]
fn what_does_not_fit_is_refused_and_followed_by_a_fresh_start() {
    let wrong: [(View, Message); 6] = [
        (view(1, 4), snapshot(&[])),               // Backwards.
        (view(0, 9), snapshot(&[])),               // An older life.
        (view(1, 7), delta(view(1, 6), &[], &[])), // A gap.
        (view(1, 7), delta(view(1, 4), &[], &[])), // A change of something else.
        (view(1, 6), BOOKMARK),                    // A missed change.
        (view(1, 6), chunk(&["x"], false, true)),  // No beginning.
    ];
    for (at, update) in wrong {
        let mut follower = Follower::at_1_5();
        assert!(
            follower.apply(at, update.clone()).is_err(),
            "{at} {update:?}"
        );
        assert_eq!(follower.0.open(), None, "{at} {update:?}");
    }
}

#[test]
fn a_change_in_the_middle_of_a_snapshot_is_nonsense() {
    let mut follower = Follower::at_1_5();
    follower
        .apply(view(1, 8), chunk(&["x"], true, false))
        .unwrap();
    assert!(follower.apply(view(1, 8), BOOKMARK).is_err());
}

#[test]
fn a_message_without_view_or_update_is_nonsense() {
    let mut replica = Replica::default();
    replica.open();
    let empty = WatchSnapshotsResponse::default();
    assert!(
        replica
            .apply(empty, Instant::now(), &mut Vec::new())
            .is_err()
    );
    let no_update = WatchSnapshotsResponse {
        view: Some(view(1, 1)),
        ..Default::default()
    };
    assert!(
        replica
            .apply(no_update, Instant::now(), &mut Vec::new())
            .is_err()
    );
}

#[test]
fn a_fresh_start_accepts_what_the_control_plane_has_even_if_it_is_less() {
    let mut follower = Follower::at_1_5();
    follower.apply(view(1, 2), snapshot(&["n"])).unwrap_err();
    assert_eq!(follower.0.open(), None);
    let message = WatchSnapshotsResponse {
        view: Some(view(1, 2)),
        clock_ms: 0,
        update: Some(snapshot(&["n"])),
        planned_checks: Vec::new(),
    };
    let applied = follower
        .0
        .apply(message, Instant::now(), &mut Vec::new())
        .unwrap();
    assert!(matches!(applied, Applied::View(Update { reset: true, .. })));
    let names = follower
        .apply(view(1, 3), delta(view(1, 2), &["m"], &[]))
        .unwrap();
    assert_eq!(names.unwrap(), ["m", "n"]);
}

#[test]
fn another_registry_is_recognised_by_its_id_whatever_its_views_are() {
    for theirs in [view(1, 2), view(1, 5), view(1, 9), view(7, 1)] {
        let mut follower = Follower::at_1_5();
        let update = follower.update(theirs, snapshot_of("r2", &["n"])).unwrap();
        assert!(update.reset, "{theirs}");
        assert_eq!(follower.0.registry_id(), "r2");
        let names = follower
            .apply(
                view(theirs.term, theirs.revision + 1),
                delta(theirs, &["m"], &[]),
            )
            .unwrap();
        assert_eq!(names.unwrap(), ["m", "n"], "{theirs}");
    }
}

#[test]
fn what_follows_a_view_of_another_registry_is_not_taken_for_ours() {
    for (registry_id, is_ours) in [("r2", false), ("r1", true), ("", true)] {
        let Message::Delta(mut changed) = delta(view(1, 5), &["m"], &[]) else {
            unreachable!("a change");
        };
        changed.registry_id = registry_id.into();
        let unchanged = Message::Bookmark(SnapshotBookmark {
            registry_id: registry_id.into(),
        });
        for (theirs, message) in [
            (view(1, 6), Message::Delta(changed)),
            (view(1, 5), unchanged),
        ] {
            let mut follower = Follower::at_1_5();
            let applied = follower.apply(theirs, message);
            assert_eq!(applied.is_ok(), is_ours, "{registry_id}");
            let resumes = follower.0.open();
            assert_eq!(resumes.is_some(), is_ours, "{registry_id}");
        }
    }
}

#[test]
fn another_registry_may_come_in_parts_of_which_only_the_first_names_it() {
    let mut follower = Follower::at_1_5();
    let Message::Snapshot(mut first) = snapshot_of("r2", &["n"]) else {
        unreachable!("a snapshot");
    };
    first.last = false;
    let first = Message::Snapshot(first);
    assert_eq!(follower.apply(view(1, 2), first), Ok(None));
    assert_eq!(follower.0.registry_id(), "r1"); // Not whole yet.
    let last = chunk(&["o"], false, true);
    assert!(follower.update(view(1, 2), last).unwrap().reset);
    assert_eq!(follower.0.registry_id(), "r2");
}

#[test]
fn the_same_registry_voids_nothing_however_far_it_is() {
    let mut follower = Follower::at_1_5();
    let update = follower.update(view(9, 9), snapshot(&["a"])).unwrap();
    assert!(!update.reset);
}

#[test]
fn a_registry_without_an_id_is_told_by_its_views_only() {
    for (held, theirs) in [("", "r2"), ("r1", ""), ("", "")] {
        let mut follower = Follower::new();
        let first = snapshot_of(held, &["a"]);
        follower.apply(view(1, 5), first).unwrap();
        assert_eq!(follower.0.open(), Some(view(1, 5)));
        let later = snapshot_of(theirs, &["a"]);
        let update = follower.update(view(1, 6), later).unwrap();
        assert!(!update.reset, "{held:?} {theirs:?}");
        let earlier = snapshot_of("", &["a"]);
        assert!(follower.apply(view(1, 4), earlier).is_err());
    }
}

#[test]
fn a_fresh_start_begins_with_a_snapshot() {
    let mut follower = Follower::at_1_5();
    follower.0.restart();
    assert_eq!(follower.0.open(), None);
    assert!(follower.apply(view(1, 5), BOOKMARK).is_err());
}

#[test]
fn an_endpoint_that_cannot_be_used_stays_in_the_table_but_shut() {
    let mut follower = Follower::at_1_5();
    let broken = RoutedEndpoint {
        base_url: "gopher://a".into(),
        ..endpoint("a")
    };
    let message = WatchSnapshotsResponse {
        view: Some(view(1, 6)),
        clock_ms: 0,
        update: Some(Message::Delta(SnapshotDelta {
            from_view: Some(view(1, 5)),
            endpoints: vec![broken],
            ..Default::default()
        })),
        planned_checks: Vec::new(),
    };
    let mut left_out = Vec::new();
    let applied = follower
        .0
        .apply(message, Instant::now(), &mut left_out)
        .unwrap();
    let Applied::View(update) = applied else {
        panic!("a new view");
    };
    // In its generation, so that marks of this process outlast it.
    assert_eq!(update.endpoints["a"].admin, AdminState::Disabled);
    assert_eq!(update.endpoints["a"].endpoint.generation, 1);
    assert_eq!(update.endpoints["b"].admin, AdminState::Enabled);
    assert_eq!(left_out[0].name, "a");
    assert_eq!(left_out[0].error, convert::Error::BaseUrl);
}

#[test]
fn what_cannot_be_used_is_told_once_until_it_changes() {
    let mut follower = Follower::at_1_5();
    let mut told = Vec::new();
    let odd = |state: i32, scheme: i32| {
        Message::Delta(SnapshotDelta {
            endpoints: vec![RoutedEndpoint {
                state,
                credential_scheme: scheme,
                api_key: "key".into(),
                ..endpoint("a")
            }],
            ..Default::default()
        })
    };
    let states = [(99, 1), (99, 1), (98, 1), (2, 77), (2, 77), (2, 1), (99, 1)];
    for (revision, (state, scheme)) in (6..).zip(states) {
        let Message::Delta(mut delta) = odd(state, scheme) else {
            unreachable!("a change");
        };
        delta.from_view = Some(view(1, revision - 1));
        let message = WatchSnapshotsResponse {
            view: Some(view(1, revision)),
            clock_ms: 0,
            update: Some(Message::Delta(delta)),
            planned_checks: Vec::new(),
        };
        let applied = follower.0.apply(message, Instant::now(), &mut told);
        let Ok(Applied::View(update)) = applied else {
            panic!("a new view");
        };
        let is_left_out = (state, scheme) != (2, 1);
        assert_eq!(update.has_left_out, is_left_out, "{state} {scheme}");
    }
    let told: Vec<_> = told.into_iter().map(|told| told.error).collect();
    assert_eq!(
        told,
        [
            convert::Error::State(99),
            convert::Error::State(98),
            convert::Error::CredentialScheme(77),
            convert::Error::State(99),
        ]
    );
}

#[test]
fn a_view_of_which_somebody_could_not_use_all_is_asked_for_anew() {
    for has_left_out in [false, true] {
        let mut replica = Replica::default();
        let update = replica.restore(Kept {
            registry_id: "r1".into(),
            view: view(1, 5),
            policy: Policy::default(),
            endpoints: Vec::new(),
            rejected: Vec::new(),
            has_left_out,
            age: std::time::Duration::ZERO,
        });
        assert_eq!(update.has_left_out, has_left_out);
        let resumes_from = replica.open();
        assert_eq!(resumes_from.is_none(), has_left_out);
    }
}

#[test]
fn an_endpoint_that_no_snapshot_can_use_stays_shut_in_its_registry_only() {
    for (registry_id, stays) in [("r1", true), ("r2", false)] {
        let mut follower = Follower::at_1_5();
        let Message::Snapshot(mut chunk) = snapshot_of(registry_id, &["a", "b"]) else {
            unreachable!("a snapshot");
        };
        chunk.endpoints[0].state = 99;
        let update = follower
            .update(view(1, 6), Message::Snapshot(chunk))
            .unwrap();
        let admin = update.endpoints.get("a").map(|routed| routed.admin);
        assert_eq!(admin, stays.then_some(AdminState::Disabled));
    }
}
