//! What operators do, and what holds against that.

use super::*;

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
fn what_was_read_of_a_registry_that_is_gone_changes_nothing() {
    let (gone, mut story) = (Story::new(&["a"], &[]), Story::new(&["a"], &[]));
    story.registry.meta.registry_id = "another".into();
    let read = |story: &Story| {
        let endpoint = &story.registry.endpoints["a"];
        endpoint.etag(&story.registry.meta.registry_id)
    };
    let write = |etag| Mutation::UpdateEndpoint {
        spec: Spec {
            weight: 7,
            ..spec("a")
        },
        key: KeyChange::Keep,
        etag: Some(etag),
    };
    let (old, current) = (read(&gone), read(&story));
    let refused = story.mutate(write(old));
    assert_eq!(
        refused,
        Err(Error::EtagMismatch {
            current: current.clone()
        })
    );
    story.mutate(write(current)).expect("it is the present one");
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
