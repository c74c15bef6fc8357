//! What reports come to, and what they do not.

use super::*;

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
    let Chosen {
        generation, view, ..
    } = story.choose("a");
    let batch = ReportBatch {
        first_sequence: 1,
        outcomes: vec![Outcome {
            endpoint: "a".into(),
            generation,
            view,
            count: 1,
            facts: Facts::of(OutcomeClass::Auth),
            age: Duration::ZERO,
        }],
        ..ReportBatch::default()
    };
    let registry = &mut story.registry;
    registry.report(&key("p"), batch, now);
    let before = registry.view();
    assert!(registry.reveal().is_some());
    assert!(registry.view() > before);
    let settlement = registry.settle();
    assert!(settlement.publication.is_none(), "it has been seen");
    assert!(!settlement.dirty.endpoints.is_empty() && !settlement.dirty.events.is_empty());

    let restore = Mutation::Restore { name: name("a") };
    registry.mutate(restore, None, now).expect("it is queued");
    assert!(registry.reveal().is_none());
    assert!(registry.settle().publication.is_some());
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
