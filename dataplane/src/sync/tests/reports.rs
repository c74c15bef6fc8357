//! Reports out: each once, whatever happens on the way.

use super::*;

#[tokio::test]
async fn every_outcome_is_delivered_in_order() {
    let testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    testbed.attempt(OutcomeClass::Forbidden);
    testbed.attempt(OutcomeClass::StreamBroken);
    testbed.delivered().await;
    use OutcomeClass::{Forbidden, ServerError, StreamBroken};
    assert_eq!(testbed.applied(), [ServerError, Forbidden, StreamBroken]);
    let applied = testbed.script().applied.lock().unwrap();
    assert_eq!(
        (applied[0].endpoint.as_str(), applied[0].generation),
        ("a", 1)
    );
    assert_eq!(applied[0].view, Some(view(1, 1)));
}

#[tokio::test]
async fn successes_are_merged_before_they_leave() {
    let testbed = Testbed::start().await;
    (0..50).for_each(|_| testbed.attempt(OutcomeClass::Success));
    testbed.delivered().await;
    let applied = testbed.script().applied.lock().unwrap();
    let counts: u32 = applied.iter().map(|outcome| outcome.count).sum();
    assert_eq!(counts, 50);
    assert!(applied.len() <= 2, "{}", applied.len());
}

#[tokio::test]
async fn what_was_applied_but_not_acknowledged_is_sent_again_and_counts_once() {
    let testbed = Testbed::start().await;
    testbed.script().answers_to_lose.store(3, Ordering::SeqCst);
    for _ in 0..5 {
        testbed.attempt(OutcomeClass::ServerError);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    testbed.delivered().await;
    assert_eq!(testbed.applied().len(), 5);
}

#[tokio::test]
async fn a_busy_control_plane_is_asked_later_and_the_watch_goes_on() {
    let testbed = Testbed::start().await;
    testbed.script().refusals.store(3, Ordering::SeqCst);
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    assert_eq!(testbed.applied(), [OutcomeClass::ServerError]);
    assert_eq!(testbed.script().watches.lock().unwrap().len(), 1);
    assert!(testbed.link.state().connected.is_some());
}

#[test]
fn a_busy_control_plane_says_how_long_to_wait_within_reason() {
    let busy = |asked| {
        let mut details = ErrorDetails::new();
        details.set_retry_info(asked);
        Status::with_error_details(tonic::Code::ResourceExhausted, "busy", details)
    };
    let asked = |millis| busy(Some(Duration::from_millis(millis)));
    let plain = Status::resource_exhausted("busy");
    for (status, millis) in [
        (plain, 200),
        (busy(None), 200),
        (asked(0), 200),
        (asked(50), 50),
        (asked(3_600_000), 5_000),
    ] {
        let bounds = [0.0, 1.0].map(|random| super::reporter::pause(&status, random).as_millis());
        assert_eq!(bounds, [millis, 2 * millis]);
    }
}

#[tokio::test]
async fn reports_wait_while_the_control_plane_is_away() {
    let mut testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    testbed.stop_server().await;
    testbed.attempt(OutcomeClass::Forbidden); // It still routes by the last view.
    assert_eq!(testbed.outbox.buffer().len(), 1);
    testbed.fake.messages.send_replace(bookmark(1, 1));
    testbed.start_server().await;
    testbed.delivered().await;
    assert_eq!(
        testbed.applied(),
        [OutcomeClass::ServerError, OutcomeClass::Forbidden]
    );
    until(|| testbed.link.state().connected.is_some()).await;
    let watches = testbed.script().watches.lock().unwrap();
    assert_eq!(watches.last().unwrap().resume_from, Some(view(1, 1)));
}

#[tokio::test]
async fn reports_of_a_registry_that_is_no_more_are_dropped() {
    let mut testbed = Testbed::start().await;
    testbed.stop_server().await;
    testbed.attempt(OutcomeClass::Forbidden);
    testbed.script().deaf.store(true, Ordering::SeqCst);
    testbed.fake.messages.send_replace(snapshot(1, 0, 1));
    testbed.start_server().await;
    until(|| testbed.link.state().view == Some(view(1, 0))).await;
    assert!(testbed.outbox.buffer().is_empty());
    assert_eq!(testbed.outbox.buffer().dropped_total(), 1);
}

#[tokio::test]
async fn a_gap_in_the_reports_is_closed() {
    let testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::ServerError);
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    testbed.script().forget.store(true, Ordering::SeqCst); // In the middle of a stream.
    testbed.attempt(OutcomeClass::Forbidden);
    testbed.delivered().await;
    assert_eq!(testbed.applied().last(), Some(&OutcomeClass::Forbidden));
    assert_eq!(testbed.applied().len(), 3);
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(super::reporter::cut("grün", 3), "gr");
    assert_eq!(super::reporter::cut("grün", 4), "grü");
    assert_eq!(super::reporter::cut("grün", 400), "grün");
}
