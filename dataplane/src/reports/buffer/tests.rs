use std::{collections::BTreeMap, time::Instant};

use proptest::{collection::vec, prelude::*};
use qcc_proto::v1::OutcomeClass;

use super::*;
use crate::routing::Outcome;

fn report(endpoint: &str, revision: u64, class: OutcomeClass) -> Report {
    Report {
        endpoint: endpoint.into(),
        generation: 1,
        life: 0,
        view: View { term: 1, revision },
        count: 1,
        at: Instant::now(),
        outcome: Outcome::of(class),
    }
}

fn success(endpoint: &str) -> Report {
    report(endpoint, 1, OutcomeClass::Success)
}

fn failure(endpoint: &str) -> Report {
    report(endpoint, 1, OutcomeClass::ServerError)
}

/// What is in the next batch: `a3` for three successes of `a`, `a!` for a failure.
fn sent(buffer: &mut ReportBuffer) -> String {
    let reports = buffer.next_batch().map(|batch| batch.reports.clone());
    let text = |report: &Report| match report.is_success() {
        true => format!("{}{}", report.endpoint, report.count),
        false => format!("{}!", report.endpoint),
    };
    let texts: Vec<String> = reports.unwrap_or_default().iter().map(text).collect();
    texts.join(" ")
}

fn filled(reports: impl IntoIterator<Item = Report>) -> ReportBuffer {
    let mut buffer = ReportBuffer::new(100);
    reports.into_iter().for_each(|report| buffer.push(report));
    buffer
}

#[test]
fn successes_merge_unless_a_failure_lies_between() {
    let mut buffer = filled([
        success("a"),
        success("b"),
        success("a"),
        failure("a"),
        success("a"),
        success("b"),
        report("b", 2, OutcomeClass::Success),
    ]);
    assert_eq!(sent(&mut buffer), "a2 b2 a! a1 b1");
}

#[test]
fn a_batch_stays_as_it_is_until_acknowledged() {
    let mut buffer = filled([success("a")]);
    let first = buffer.next_batch().cloned();
    buffer.push(success("a"));
    assert_eq!(buffer.next_batch().cloned(), first);
    buffer.acknowledge(0); // Late news.
    assert_eq!(buffer.next_batch().cloned(), first);
    buffer.acknowledge(1);
    let second = buffer.next_batch().cloned().unwrap();
    assert_eq!((second.first_sequence, second.reports.len()), (2, 1));
    buffer.acknowledge(1); // The same acknowledgement again.
    assert_eq!(buffer.len(), 1);
    buffer.acknowledge(2);
    assert!(buffer.is_empty());
    assert!(buffer.next_batch().is_none());
}

#[test]
fn part_of_a_batch_can_be_acknowledged() {
    let mut buffer = filled([failure("a"), failure("b"), failure("c")]);
    buffer.next_batch();
    buffer.acknowledge(2);
    assert_eq!(buffer.next_batch().unwrap().first_sequence, 3);
    assert_eq!(sent(&mut buffer), "c!");
}

#[test]
fn a_long_queue_goes_out_in_several_batches() {
    let mut buffer = ReportBuffer::new(10_000);
    (0..4_500).for_each(|revision| buffer.push(report("a", revision, OutcomeClass::Success)));
    let mut sizes = Vec::new();
    while let Some(batch) = buffer.next_batch() {
        sizes.push(batch.reports.len());
        let last = batch.last_sequence();
        buffer.acknowledge(last);
    }
    assert_eq!(sizes, [2000, 2000, 500]);
}

#[test]
fn at_the_bound_the_oldest_success_goes_and_failures_last() {
    let mut buffer = ReportBuffer::new(3);
    for report in [
        failure("a"),
        success("b"),
        success("b"),
        success("c"),
        failure("d"),
    ] {
        buffer.push(report);
    }
    assert_eq!(buffer.dropped_total(), 2);
    buffer.push(failure("e"));
    assert_eq!(buffer.dropped_total(), 3);
    buffer.push(failure("f"));
    let batch = buffer.next_batch().unwrap();
    assert_eq!((batch.first_sequence, batch.dropped), (1, 4));
    assert_eq!(sent(&mut buffer), "d! e! f!");
    buffer.acknowledge(3);
    buffer.push(failure("g"));
    assert_eq!(buffer.next_batch().unwrap().dropped, 0);
}

#[test]
fn a_rejected_credential_is_told_whatever_else_is_dropped() {
    let rejection = |endpoint| report(endpoint, 1, OutcomeClass::Auth);
    let mut buffer = ReportBuffer::new(2);
    for report in [
        rejection("a"),
        rejection("a"), // Says nothing more.
        failure("b"),
        rejection("c"),
        failure("d"),
        success("e"),
    ] {
        buffer.push(report);
    }
    assert_eq!(sent(&mut buffer), "a! c!");
    assert_eq!(buffer.dropped_total(), 4);
    // While all are in flight there is room for as many that matter, and one that does not.
    for report in [success("e"), rejection("f"), success("g"), rejection("h")] {
        buffer.push(report);
    }
    assert_eq!(buffer.len(), 4);
    buffer.push(rejection("i"));
    buffer.acknowledge(2);
    assert_eq!(sent(&mut buffer), "h! i!");
    assert_eq!(buffer.dropped_total(), 7);
}

#[test]
fn what_was_dropped_takes_in_no_more() {
    let mut buffer = ReportBuffer::new(1);
    buffer.push(success("a"));
    buffer.push(failure("b"));
    buffer.push(success("a"));
    assert_eq!(sent(&mut buffer), "a1");
    assert_eq!(buffer.dropped_total(), 2);
}

#[test]
fn after_a_break_what_was_not_acknowledged_is_sent_again() {
    let mut buffer = filled([failure("a"), failure("b")]);
    let sent_before = buffer.next_batch().cloned();
    buffer.resume(0);
    assert_eq!(buffer.next_batch().cloned(), sent_before);
    buffer.resume(2); // It had arrived, only the answer was lost.
    assert!(buffer.is_empty());
}

#[test]
fn a_control_plane_that_has_forgotten_is_told_how_much() {
    let mut buffer = filled([failure("a"), failure("b")]);
    buffer.next_batch();
    buffer.acknowledge(2);
    buffer.resume(0);
    buffer.push(failure("c"));
    let batch = buffer.next_batch().unwrap();
    assert_eq!((batch.first_sequence, batch.dropped), (3, 2));
    buffer.resume(1); // Once more, with a batch on its way.
    assert_eq!(buffer.next_batch().unwrap().dropped, 2);
}

#[test]
fn nothing_outlasts_its_registry_but_the_numbers() {
    let mut buffer = filled([failure("a"), success("b"), success("b")]);
    buffer.next_batch();
    buffer.push(failure("c"));
    buffer.belong_to(&"r2".into(), 1);
    assert!(buffer.is_empty());
    assert_eq!(buffer.dropped_total(), 4);
    buffer.push(failure("c")); // Its attempt began in the life before.
    assert!(buffer.is_empty());
    assert_eq!(buffer.dropped_total(), 5);
    buffer.push(Report {
        life: 1,
        ..failure("d")
    });
    assert_eq!(buffer.next_batch().unwrap().first_sequence, 3);
}

#[derive(Debug, Clone)]
enum Step {
    Success(u8),
    Failure(u8),
    Send,
    /// The control plane applies what was sent, and its answer arrives, or not.
    Deliver(bool),
    /// The stream breaks and is opened again.
    Resume,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    /// Whatever is sent twice, lost on its way or dropped: each attempt is applied
    /// once, or counted as dropped.
    #[test]
    fn nothing_is_lost_or_doubled(
        capacity in 1..20usize,
        steps in vec(
            prop_oneof![
                6 => (0..3u8).prop_map(Step::Success),
                2 => (0..3u8).prop_map(Step::Failure),
                3 => Just(Step::Send),
                3 => any::<bool>().prop_map(Step::Deliver),
                1 => Just(Step::Resume),
            ],
            1..200,
        ),
    ) {
        let mut buffer = ReportBuffer::new(capacity);
        let mut pushed = 0u64;
        let mut on_its_way: Option<Batch> = None;
        let mut applied: BTreeMap<u64, u32> = BTreeMap::new();
        let apply = |batch: &Batch, applied: &mut BTreeMap<u64, u32>| {
            let next = applied.len() as u64 + 1;
            assert!(batch.first_sequence <= next, "a gap");
            for (sequence, report) in (batch.first_sequence..).zip(&batch.reports) {
                applied.entry(sequence).or_insert(report.count);
            }
        };
        for step in steps {
            match step {
                Step::Success(which) => {
                    buffer.push(success(&which.to_string()));
                    pushed += 1;
                }
                Step::Failure(which) => {
                    buffer.push(failure(&which.to_string()));
                    pushed += 1;
                }
                Step::Send => on_its_way = buffer.next_batch().cloned(),
                Step::Deliver(answered) => {
                    if let Some(batch) = &on_its_way {
                        apply(batch, &mut applied);
                        if answered {
                            buffer.acknowledge(applied.len() as u64);
                        }
                    }
                }
                Step::Resume => buffer.resume(applied.len() as u64),
            }
            prop_assert!(buffer.len() <= capacity + 1);
        }
        buffer.resume(applied.len() as u64);
        while let Some(batch) = buffer.next_batch().cloned() {
            apply(&batch, &mut applied);
            buffer.acknowledge(applied.len() as u64);
        }
        let told: u64 = applied.values().map(|count| u64::from(*count)).sum();
        prop_assert_eq!(told + buffer.dropped_total(), pushed);
    }
}
