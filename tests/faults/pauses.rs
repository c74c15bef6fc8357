//! Processes that stop moving for a while, and then go on as if nothing had been.

use std::time::Duration;

use qcc_proto::v1::{
    DisableEndpointRequest, Endpoint, HealthState, ListProxiesRequest, SyncState,
    UpdateEndpointRequest,
};
use qcc_tests::{Load, Testbed, eventually};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::story;

/// What one client thinks between two requests: enough for several stories to be
/// told at the same time on a small machine.
const THINKING: Duration = Duration::from_millis(200);

/// Longer than a short pause, shorter than a long one.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// After this long without a word a view counts as stale, with room to spare.
const SURELY_STALE: Duration = Duration::from_secs(20);

/// Changes that a frozen proxy misses.
const MISSED: u32 = 200;

pub(crate) fn a_control_plane_that_freezes_for_1_s_costs_nothing() {
    story(frozen_control_plane(Duration::from_secs(1)));
}

pub(crate) fn a_control_plane_that_freezes_for_10_s_costs_nothing() {
    story(frozen_control_plane(Duration::from_secs(10)));
}

pub(crate) fn a_control_plane_that_freezes_for_60_s_costs_nothing() {
    story(frozen_control_plane(Duration::from_secs(60)));
}

async fn frozen_control_plane(pause: Duration) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    let control = testbed.control();
    let load = Load::paced(THINKING, testbed.proxies().iter().map(|it| it.message()));
    load.goes_on(4).await;

    control.freeze();
    let end = Instant::now() + pause;
    testbed.upstream("a").respond(401); // Found out by each proxy alone.
    for proxy in testbed.proxies() {
        proxy.eventually_avoids("a").await;
    }
    if pause > SURELY_STALE {
        for proxy in testbed.proxies() {
            let status = proxy.eventually_is("stale", |status| status.stale).await;
            assert!(status.ready, "{status:?}");
        }
    }
    tokio::time::sleep_until(end).await; // How long it lasts is the fault itself.
    load.goes_on(4).await;
    control.thaw();

    control.eventually_is("a", HealthState::Unhealthy).await;
    for proxy in testbed.proxies() {
        proxy.eventually_knows("a", HealthState::Unhealthy).await;
        proxy.eventually_is("current", |status| !status.stale).await;
    }
    assert_eq!(load.stop().await, [""; 0]);
    testbed.settled().await;
    assert_eq!(control.queue_stats().await.total_failed, 1);
    testbed.expect_every_outcome_once(&["a", "b"]).await;
}

pub(crate) fn a_proxy_that_freezes_for_1_s_disturbs_nobody() {
    story(frozen_proxy(Duration::from_secs(1)));
}

pub(crate) fn a_proxy_that_freezes_for_10_s_disturbs_nobody() {
    story(frozen_proxy(Duration::from_secs(10)));
}

pub(crate) fn a_proxy_that_freezes_for_60_s_disturbs_nobody() {
    story(frozen_proxy(Duration::from_secs(60)));
}

async fn frozen_proxy(pause: Duration) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    let (control, frozen, other) = (testbed.control(), testbed.proxy(0), testbed.proxy(1));
    frozen.messages(3).expect_all(200).await;
    let load = Load::paced(THINKING, [other.message()]);
    load.goes_on(2).await;

    frozen.signal(Signal::STOP);
    let end = Instant::now() + pause;
    for weight in 1..=MISSED {
        let request = UpdateEndpointRequest {
            endpoint: Some(Endpoint {
                name: "b".to_owned(),
                weight: Some(weight),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["weight".to_owned()],
            }),
            ..Default::default()
        };
        let updated = control.endpoints().update_endpoint(request).await;
        updated.expect("operators are not kept waiting");
    }
    let request = DisableEndpointRequest {
        name: "a".to_owned(),
        ..Default::default()
    };
    let disabled = control.endpoints().disable_endpoint(request).await;
    disabled.expect("operators are not kept waiting");
    other.eventually_avoids("a").await;
    eventually("the frozen proxy is shown as behind", async || {
        let mut client = control.proxies();
        let listed = client.list_proxies(ListProxiesRequest::default()).await;
        let proxies = listed
            .map_err(|status| status.to_string())?
            .into_inner()
            .proxies;
        let states: Vec<_> = proxies.iter().map(|proxy| proxy.sync_state()).collect();
        match states[..] {
            [frozen, SyncState::Synced] if frozen != SyncState::Synced => Ok(()),
            _ => Err(format!("{states:?}")),
        }
    })
    .await;
    tokio::time::sleep_until(end).await; // How long it lasts is the fault itself.
    load.goes_on(2).await;
    let waiting = tokio::spawn(frozen.message().send());
    frozen.signal(Signal::CONT);

    let answer = waiting.await.expect("no panic").expect("it was only late");
    answer.expect_status(200);
    frozen.eventually_avoids("a").await;
    let served = frozen.message().await.expect_status(200);
    assert_eq!(served.served_by(), "b");
    assert_eq!(load.stop().await, [""; 0]);
    testbed.settled().await;
    assert_eq!(control.queue_stats().await.total_failed, 0);
    testbed.expect_every_outcome_once(&["a", "b"]).await;
}

pub(crate) fn an_upstream_that_freezes_for_1_s_is_waited_for() {
    story(frozen_upstream(Duration::from_secs(1)));
}

pub(crate) fn an_upstream_that_freezes_for_10_s_is_left_and_used_again() {
    story(frozen_upstream(Duration::from_secs(10)));
}

pub(crate) fn an_upstream_that_freezes_for_60_s_is_left_and_used_again() {
    story(frozen_upstream(Duration::from_secs(60)));
}

/// The upstream is a process of its own: the proxy of another fleet.
async fn frozen_upstream(pause: Duration) {
    let provider = Testbed::start()
        .patient_checks()
        .endpoints(["real"])
        .proxies(1)
        .await;
    let provider = provider.proxy(0);
    let testbed = Testbed::start()
        .eager_checks()
        .endpoint("a", |endpoint| {
            endpoint.base_url = format!("http://{}", provider.http_address());
            endpoint.timeout = prost_types::Duration::try_from(UPSTREAM_TIMEOUT).ok();
        })
        .endpoints(["b"])
        .proxies(1)
        .await;
    let (control, proxy) = (testbed.control(), testbed.proxy(0));
    let load = Load::paced(THINKING, [proxy.message(), proxy.message()]);
    load.goes_on(4).await;

    provider.signal(Signal::STOP);
    let end = Instant::now() + pause;
    let left = pause > UPSTREAM_TIMEOUT;
    if left {
        control.eventually_is("a", HealthState::Unhealthy).await;
        load.goes_on(4).await;
    }
    tokio::time::sleep_until(end).await; // How long it lasts is the fault itself.
    provider.signal(Signal::CONT);

    eventually("it is used again", async || {
        let response = proxy.message().send().await?;
        match response.served_by() {
            "a" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
    control.eventually_is("a", HealthState::Healthy).await;
    assert_eq!(load.stop().await, [""; 0]);
    testbed.settled().await;
    let failed = control.queue_stats().await.total_failed;
    assert_eq!(failed, u64::from(left));
}
