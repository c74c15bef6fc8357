//! Views in: whom a proxy follows, and what it makes of what it is told.

use super::*;

#[tokio::test]
async fn the_first_control_plane_that_answers_is_followed() {
    let testbed = Testbed::start().await;
    assert_eq!(testbed.link.state().view, Some(view(1, 1)));
    let connected = testbed.link.state().connected.unwrap();
    assert_eq!(
        connected.authority().unwrap().as_str(),
        testbed.address.to_string()
    );
    assert_eq!(testbed.router.table().unwrap().view(), view(1, 1));
    until(|| !testbed.script().reports.lock().unwrap().is_empty()).await;
    let hello = testbed.script().reports.lock().unwrap()[0].clone();
    assert_eq!(hello.proxy.unwrap().id, "p1");
}

#[tokio::test]
async fn an_applied_view_is_told_at_once() {
    let testbed = Testbed::start().await;
    testbed.fake.messages.send_replace(snapshot(1, 2, 1));
    let told = || {
        let reports = testbed.script().reports.lock().unwrap();
        let last = reports.last().and_then(|message| message.batch.clone());
        last.and_then(|batch| batch.applied_view)
    };
    until(|| told() == Some(view(1, 2))).await;
}

#[tokio::test]
async fn a_gap_in_the_view_leads_to_a_fresh_snapshot() {
    let testbed = Testbed::start().await;
    testbed.fake.messages.send_replace(bookmark(1, 9)); // Something was missed.
    until(|| testbed.script().watches.lock().unwrap().len() >= 2).await;
    assert_eq!(
        testbed.script().watches.lock().unwrap()[1].resume_from,
        None
    );
    testbed.fake.messages.send_replace(snapshot(1, 9, 1));
    until(|| testbed.link.state().view == Some(view(1, 9))).await;
}

#[tokio::test]
async fn a_control_plane_that_lost_its_data_is_accepted_after_asking_twice() {
    let testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::Auth);
    testbed.delivered().await;
    testbed.fake.messages.send_replace(snapshot(3, 7, 1));
    until(|| testbed.link.state().view == Some(view(3, 7))).await;
    assert!(
        testbed
            .router
            .begin()
            .unwrap()
            .unavailable(Instant::now())
            .reasons
            .len()
            == 1
    );

    testbed.script().forget.store(true, Ordering::SeqCst);
    testbed.fake.messages.send_replace(snapshot(1, 2, 1));
    until(|| testbed.link.state().view == Some(view(1, 2))).await;
    testbed.attempt(OutcomeClass::ServerError); // The mark of another registry is void.
    testbed.delivered().await;
    assert_eq!(testbed.applied().last(), Some(&OutcomeClass::ServerError));
}

#[tokio::test]
async fn another_registry_voids_marks_and_reports_even_if_its_views_go_on() {
    let mut testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::Auth);
    testbed.delivered().await;
    assert_eq!(testbed.registries().last().unwrap(), "r1");
    testbed.stop_server().await;
    assert!(matches!(
        testbed.router.begin().unwrap().next(Instant::now()),
        Next::Unavailable(_)
    ));

    testbed.script().forget.store(true, Ordering::SeqCst);
    let mut other = snapshot(9, 9, 1); // The same generation number, by chance.
    if let Some(Update::Snapshot(chunk)) = &mut other.update {
        chunk.registry_id = "r2".into();
    }
    testbed.fake.messages.send_replace(other);
    testbed.start_server().await;
    until(|| testbed.link.state().view == Some(view(9, 9))).await;
    let watch = testbed.script().watches.lock().unwrap().last().cloned();
    let watch = watch.unwrap();
    assert_eq!(
        (watch.resume_from, watch.registry_id.as_str()),
        (Some(view(1, 1)), "r1")
    );
    testbed.attempt(OutcomeClass::ServerError); // It is there: its key is another one.
    testbed.delivered().await;
    assert_eq!(testbed.registries().last().unwrap(), "r2");
    let changes = testbed
        .registries()
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    assert!(changes <= 2, "{:?}", testbed.registries()); // From none to one, and on.
}
