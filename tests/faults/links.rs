//! Networks that lose, refuse, cut and delay what is sent between proxies and the
//! control plane.

use std::time::Duration;

use qcc_proto::v1::{
    ApplyResourcesRequest, DisableEndpointRequest, Endpoint, HealthState, ListProxiesRequest,
    Proxy as Listed, SyncState, VerifyEndpointRequest,
};
use qcc_tests::{ControlPlane, Load, Network, Proxy, Testbed, eventually};

use crate::{in_network, story};

/// What one client thinks between two requests.
const THINKING: Duration = Duration::from_millis(100);

/// How many bytes pass before a connection is cut: inside the first frame, inside a
/// message, and between messages wherever that falls.
const CUTS_BYTES: [u32; 4] = [100, 1_000, 3_000, 10_000];

/// Packets in a hundred that are lost each way.
const LOST_PERCENT: u32 = 15;

/// What a slow link carries.
const SLOW_KILOBITS: u32 = 64;

/// Several seconds' worth of changes for a slow link.
const NEW_ENDPOINTS: usize = 200;

/// What a long way adds to each direction.
const DELAY: Duration = Duration::from_millis(1_500);

/// Two proxies and a control plane, each on a machine of its own.
async fn fleet(network: &Network) -> Testbed {
    Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .on(network)
        .proxies(2)
        .await
}

/// The proxies as the control plane lists them.
async fn listed(control: &ControlPlane) -> Result<Vec<Listed>, String> {
    let request = ListProxiesRequest::default();
    let response = control.proxies().list_proxies(request).await;
    let response = response.map_err(|status| status.to_string())?;
    Ok(response.into_inner().proxies)
}

/// Waits until the control plane shows a proxy as not current.
async fn missed_by(control: &ControlPlane, proxy: usize) {
    eventually("the control plane misses the proxy", async || {
        let proxies = listed(control).await?;
        match proxies[proxy].sync_state() {
            SyncState::Synced => Err(format!("{proxies:?}")),
            _ => Ok(()),
        }
    })
    .await;
}

/// Waits until a proxy says itself that nobody keeps it up to date.
async fn noticed_by(proxy: &Proxy) {
    let what = "on its own, and says so";
    let status = proxy
        .eventually_is(what, |it| it.stale || it.connected_control_url.is_empty())
        .await;
    assert!(status.ready, "{status:?}");
}

/// Ends a story: nothing was lost, nothing counted twice, nobody restarted.
async fn all_is_well(testbed: &Testbed, load: Load) {
    for proxy in testbed.proxies() {
        proxy.eventually_knows("a", HealthState::Unhealthy).await;
    }
    assert_eq!(load.stop().await, [""; 0]);
    testbed.settled().await;
    let stats = testbed.control().queue_stats().await;
    assert_eq!(stats.total_failed, 1);
    testbed.expect_every_outcome_once(&["a", "b"]).await;
}

pub(crate) fn a_cut_both_ways_costs_nothing_and_heals() {
    in_network("partitions", async |network| cut(network, true, true).await);
}

pub(crate) fn answers_that_are_lost_cost_nothing_and_count_once() {
    in_network("lost answers", async |network| {
        cut(network, true, false).await
    });
}

pub(crate) fn requests_that_are_lost_cost_nothing_and_are_repeated() {
    in_network("lost requests", async |network| {
        cut(network, false, true).await
    });
}

async fn cut(network: Network, sends: bool, receives: bool) {
    let testbed = fleet(&network).await;
    let (control, alone) = (testbed.control(), testbed.proxy(0));
    let load = Load::paced(THINKING, testbed.proxies().iter().map(Proxy::message));
    load.goes_on(10).await;

    let peer = alone.host().ip();
    if sends {
        control.host().sends(&[&format!("ip daddr {peer} drop")]);
    }
    if receives {
        control.host().receives(&[&format!("ip saddr {peer} drop")]);
    }
    load.goes_on(10).await; // Outcomes are under way, and their acknowledgements.
    testbed.upstream("a").respond(401);
    control.eventually_is("a", HealthState::Unhealthy).await; // The other one tells.
    alone.eventually_avoids("a").await; // It finds out by itself.
    missed_by(control, 0).await;
    noticed_by(alone).await;
    load.goes_on(10).await;

    control.host().heal();
    all_is_well(&testbed, load).await;
}

pub(crate) fn connections_that_are_reset_cost_nothing() {
    in_network("resets", async |network| {
        let testbed = fleet(&network).await;
        let (control, proxy) = (testbed.control(), testbed.proxy(0));
        let load = Load::paced(THINKING, testbed.proxies().iter().map(Proxy::message));
        for round in 0..10 {
            load.goes_on(2).await;
            if round == 5 {
                testbed.upstream("a").respond(401);
            }
            control.host().reset_connections_with(proxy.host());
        }
        let peer = proxy.host().ip();
        let refuse = format!("ip saddr {peer} meta l4proto tcp reject with tcp reset");
        control.host().receives(&[&refuse]);
        noticed_by(proxy).await;
        load.goes_on(10).await;
        control.host().heal();
        all_is_well(&testbed, load).await;
    });
}

pub(crate) fn connections_that_are_cut_after_some_bytes_cost_nothing() {
    in_network("connections cut after some bytes", async |network| {
        let testbed = fleet(&network).await;
        let (control, proxy) = (testbed.control(), testbed.proxy(0));
        let load = Load::paced(THINKING, testbed.proxies().iter().map(Proxy::message));
        let (here, there) = (control.host().ip(), proxy.host().ip());
        for bytes in CUTS_BYTES {
            let cut = format!("quota over {bytes} bytes meta l4proto tcp reject with tcp reset");
            // What it reports is cut, and it hears so.
            control
                .host()
                .receives(&[&format!("ip saddr {there} {cut}")]);
            noticed_by(proxy).await;
            control.host().heal();
            proxy
                .eventually_is("connected", |it| !it.connected_control_url.is_empty())
                .await;
            // What it is told is cut, and the control plane hears so.
            proxy.host().receives(&[&format!("ip saddr {here} {cut}")]);
            missed_by(control, 0).await;
            proxy.host().heal();
            proxy
                .eventually_is("connected", |it| !it.connected_control_url.is_empty())
                .await;
        }
        testbed.upstream("a").respond(401);
        all_is_well(&testbed, load).await;
    });
}

pub(crate) fn packets_that_are_lost_change_nothing() {
    in_network("lost packets", async |network| {
        let testbed = fleet(&network).await;
        let control = testbed.control();
        for proxy in testbed.proxies() {
            let lose = format!("numgen random mod 100 < {LOST_PERCENT} drop");
            proxy
                .host()
                .receives(&[&format!("ip saddr {} {lose}", control.host().ip())]);
            proxy
                .host()
                .sends(&[&format!("ip daddr {} {lose}", control.host().ip())]);
        }
        let load = Load::paced(THINKING, testbed.proxies().iter().map(Proxy::message));
        load.goes_on(20).await;
        testbed.upstream("a").respond(401);
        control.eventually_is("a", HealthState::Unhealthy).await;
        all_is_well(&testbed, load).await;
        testbed.upstream("a").respond(200);
        let request = VerifyEndpointRequest {
            name: "a".to_owned(),
        };
        let verified = control.endpoints().verify_endpoint(request).await;
        verified.expect("the check passes");
        for proxy in testbed.proxies() {
            proxy.eventually_knows("a", HealthState::Healthy).await;
        }
    });
}

pub(crate) fn a_slow_link_holds_up_nobody_else() {
    in_network("slow links", async |network| {
        let testbed = fleet(&network).await;
        let (control, slow, other) = (testbed.control(), testbed.proxy(0), testbed.proxy(1));
        slow.host().slow_down(SLOW_KILOBITS);
        let endpoints = (0..NEW_ENDPOINTS).map(|number| Endpoint {
            name: format!("new-{number}"),
            base_url: "http://127.0.0.1:9".to_owned(),
            check: Some(qcc_tests::no_check()),
            ..Default::default()
        });
        let request = ApplyResourcesRequest {
            endpoints: endpoints.collect(),
            ..Default::default()
        };
        let applied = control.resources().apply_resources(request).await;
        applied.expect("they are valid");
        let request = DisableEndpointRequest {
            name: "a".to_owned(),
            ..Default::default()
        };
        let disabled = control.endpoints().disable_endpoint(request).await;
        disabled.expect("operators are not kept waiting");
        other.eventually_avoids("a").await;
        eventually("the slow one is behind", async || {
            let proxies = listed(control).await?;
            match proxies[0].lag_revisions {
                0 => Err(format!("{proxies:?}")),
                _ => Ok(()),
            }
        })
        .await;
        eventually("the slow one has caught up", async || {
            let proxies = listed(control).await?;
            match proxies[0].lag_revisions {
                0 => Ok(()),
                lag => Err(lag.to_string()),
            }
        })
        .await;
        slow.host().speed_up();
        slow.eventually_avoids("a").await;
        testbed.settled().await;
    });
}

pub(crate) fn a_long_way_delays_what_is_known_and_nothing_else() {
    story(async {
        let testbed = Testbed::start()
            .patient_checks()
            .endpoints(["a", "b"])
            .relayed()
            .proxies(2)
            .await;
        testbed.relay().delay(DELAY);
        testbed.upstream("a").respond(401);
        let start = std::time::Instant::now();
        let response = testbed.proxy(0).message().await.expect_status(200);
        assert_eq!(response.served_by(), "b");
        assert!(start.elapsed() < DELAY, "a request has waited for it");
        testbed.proxy(1).eventually_avoids("a").await;
        // One way for the report, one for the view.
        let known = start.elapsed();
        assert!(known >= 2 * DELAY, "{known:?}: nothing was delayed");
        testbed.proxy(1).message().await.expect_status(200);
        assert_eq!(testbed.upstream("a").client_requests(), 1);
        testbed.settled().await;
    });
}
