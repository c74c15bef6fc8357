//! Losing the control plane loses no request and no report.

use std::{fs, time::Duration};

use qcc_proto::v1::{
    self, ApplyResourcesRequest, Cluster, ClusterPolicy, Credential, DisableEndpointRequest,
    EnableEndpointRequest, Endpoint, HealthState, ListProxiesRequest, ProxyEndpoint, ProxyStatus,
    SyncState,
};
use qcc_tests::{Answer, Gate, Load, Piece, Testbed, eventually, no_check, schedule};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_control_plane_costs_no_request_and_no_report() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b", "c"])
        .proxies(2)
        .await;
    let control = testbed.control();
    let before = testbed.proxy(0).status().await.expect("the proxy answers");
    let load = Load::start((0..6).map(|client| testbed.proxy(client % 2).message()));
    load.goes_on(20).await;
    for round in 0..3 {
        control.kill();
        load.goes_on(20).await;
        if round == 1 {
            testbed.upstream("a").respond(401); // Found out by each proxy alone.
            load.goes_on(20).await;
        }
        control.start().await;
        load.goes_on(20).await;
    }
    assert_eq!(load.stop().await, [""; 0]);

    let endpoint = control.eventually_is("a", HealthState::Unhealthy).await;
    for proxy in testbed.proxies() {
        proxy.eventually_knows("a", HealthState::Unhealthy).await;
        let seen = proxy.endpoint("a").await.expect("the proxy answers");
        assert_eq!(seen.generation, endpoint.generation);
    }
    testbed.settled().await;
    assert_eq!(control.queue_stats().await.total_failed, 1);
    testbed.expect_every_outcome_once(&["a", "b", "c"]).await;
    let after = testbed.proxy(0).status().await.expect("the proxy answers");
    assert_eq!(after.incarnation, before.incarnation);
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_serve_behind_a_cut_and_catch_up_after_it() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .relayed()
        .proxies(2)
        .await;
    let before = testbed.proxy(0).status().await.expect("the proxy answers");
    testbed.relay().cut();
    eventually("the proxy has noticed", async || {
        let status = testbed
            .proxy(0)
            .status()
            .await
            .map_err(|status| status.to_string())?;
        match status.connected_control_url.as_str() {
            "" => Ok(()),
            url => Err(url.to_owned()),
        }
    })
    .await;
    let request = DisableEndpointRequest {
        name: "a".to_owned(),
        reason: String::new(),
    };
    testbed
        .control()
        .endpoints()
        .disable_endpoint(request)
        .await
        .expect("it exists");
    for proxy in testbed.proxies() {
        let response = proxy.message().await.expect_status(200);
        assert_eq!(response.served_by(), "a"); // It cannot know.
        assert!(proxy.status().await.expect("the proxy answers").ready);
    }
    testbed.relay().heal();
    for proxy in testbed.proxies() {
        proxy.eventually_avoids("a").await;
        assert_eq!(proxy.message().await.expect_status(200).served_by(), "b");
    }
    let after = testbed.proxy(0).status().await.expect("the proxy answers");
    assert_eq!(after.incarnation, before.incarnation);
    testbed.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_noticed_and_replaced() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .relayed()
        .proxies(1)
        .await;
    let proxy = testbed.proxy(0);
    testbed.relay().stall();
    let request = DisableEndpointRequest {
        name: "a".to_owned(),
        reason: String::new(),
    };
    testbed
        .control()
        .endpoints()
        .disable_endpoint(request)
        .await
        .expect("it exists");
    proxy.message().await.expect_status(200);
    eventually("the proxy has noticed", async || {
        let status = proxy.status().await.map_err(|status| status.to_string())?;
        if status.stale || status.connected_control_url.is_empty() {
            return Ok(());
        }
        Err(format!("{status:?}"))
    })
    .await;
    proxy.message().await.expect_status(200);
    testbed.relay().heal();
    proxy.eventually_avoids("a").await;
    testbed.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_control_plane_slows_nobody() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    let control = testbed.control();
    control.freeze();
    testbed.upstream("a").respond(401);
    testbed.proxy(0).messages(20).expect_all(200).await;
    control.thaw();
    control.eventually_is("a", HealthState::Unhealthy).await;
    testbed.settled().await;
    assert_eq!(control.queue_stats().await.total_failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_has_lost_its_disk_is_another_one() {
    let builder = Testbed::start().unchecked().endpoints(["a", "b"]);
    let testbed = builder.proxies(2).await;
    let (control, upstream) = (testbed.control(), testbed.upstream("a"));
    let generation = control.endpoint("a").await.generation;
    let mut declared = Vec::new();
    for (name, priority) in [("a", 1), ("b", 2)] {
        declared.push(Endpoint {
            name: name.to_owned(),
            cluster: "default".to_owned(),
            base_url: testbed.upstream(name).url(),
            credential: Some(Credential {
                api_key: format!("key-of-{name}"),
                ..Credential::default()
            }),
            priority: Some(priority),
            ..Endpoint::default()
        });
    }
    control.kill();
    upstream.respond(401);
    testbed.proxy(0).message().await.expect_status(200); // By "b", and nobody is told why.
    testbed.proxy(0).eventually_avoids("a").await;
    upstream.respond(200);
    fs::remove_dir_all(control.data_dir()).expect("it is there");
    control.start().await;
    let policy = ClusterPolicy {
        check: Some(no_check()),
        verification: Some(schedule(Duration::from_secs(3600))),
        ..ClusterPolicy::default()
    };
    let request = ApplyResourcesRequest {
        clusters: vec![Cluster {
            name: "default".to_owned(),
            policy: Some(policy),
            ..Cluster::default()
        }],
        endpoints: declared,
        ..ApplyResourcesRequest::default()
    };
    let applied = control.resources().apply_resources(request).await;
    applied.expect("it was valid before");

    // The same number, and yet another generation: the mark was about that of before.
    assert_eq!(control.endpoint("a").await.generation, generation);
    // This view has the number of the one before. Who has the next one has understood that.
    let request = DisableEndpointRequest {
        name: "b".to_owned(),
        ..Default::default()
    };
    let disabled = control.endpoints().disable_endpoint(request).await;
    disabled.expect("it exists");
    let request = EnableEndpointRequest {
        name: "b".to_owned(),
        ..Default::default()
    };
    let enabled = control.endpoints().enable_endpoint(request).await;
    enabled.expect("it exists");
    let view = control.view().await;
    for proxy in testbed.proxies() {
        let is_there = |status: &ProxyStatus| status.applied_view == Some(view);
        proxy.eventually_is("at the new view", is_there).await;
    }
    let is_selectable = |seen: &ProxyEndpoint| seen.selectable;
    let proxy = testbed.proxy(0);
    proxy
        .eventually_sees("a", "selectable", is_selectable)
        .await;
    let all_told = |status: &ProxyStatus| status.pending_outcomes == 0;
    proxy.eventually_is("done with its reports", all_told).await;
    assert_eq!(control.queue_stats().await.total_failed, 0);

    upstream.respond(401);
    testbed.proxy(1).message().await.expect_status(200);
    control.eventually_is("a", HealthState::Unhealthy).await;
    proxy.eventually_knows("a", HealthState::Unhealthy).await;
    assert_eq!(control.queue_stats().await.total_failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_waits_for_its_first_view() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .relayed()
        .await;
    testbed.relay().cut();
    let relay = testbed.relay().clone();
    let healing = async {
        relay.tried(3).await; // The proxy has asked in vain.
        relay.heal();
    };
    let (proxy, ()) = tokio::join!(testbed.add_proxy(), healing);
    testbed.proxy(proxy).message().await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_finds_the_control_plane_that_answers() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let url = testbed.control().url();
    let proxy = testbed.add_proxy_of(&["http://127.0.0.1:1", &url]).await;
    testbed.proxy(proxy).message().await.expect_status(200);
    let status = testbed
        .proxy(proxy)
        .status()
        .await
        .expect("the proxy answers");
    assert_eq!(status.connected_control_url.trim_end_matches('/'), url);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_plane_knows_who_is_current() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(2)
        .await;
    let control = testbed.control();
    testbed.proxy(0).messages(3).expect_all(200).await;
    testbed.settled().await;
    let listed = async || {
        let request = ListProxiesRequest::default();
        control
            .proxies()
            .list_proxies(request)
            .await
            .map(|answer| answer.into_inner().proxies)
    };
    let state_of = |proxy: &v1::Proxy| (proxy.id.clone(), proxy.sync_state());
    eventually("both proxies are current", async || match listed().await {
        Ok(proxies)
            if proxies.iter().map(state_of).eq([
                ("proxy-0".to_owned(), SyncState::Synced),
                ("proxy-1".to_owned(), SyncState::Synced),
            ]) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    let proxies = listed().await.expect("the control plane answers");
    assert_eq!(
        proxies[0].http_address,
        testbed.proxy(0).http_address().to_string()
    );
    assert!(proxies[0].acknowledged_sequence >= 1, "{proxies:?}");
    assert!(!proxies[0].duplicate_id, "{proxies:?}");
    // A frozen proxy is not current, whatever it has said before.
    testbed.proxy(1).signal(Signal::STOP);
    let request = DisableEndpointRequest {
        name: "a".to_owned(),
        reason: String::new(),
    };
    control
        .endpoints()
        .disable_endpoint(request)
        .await
        .expect("it exists");
    eventually("the frozen proxy is behind", async || {
        match listed().await {
            Ok(proxies)
                if proxies[0].sync_state() == SyncState::Synced
                    && proxies[1].sync_state() != SyncState::Synced
                    && proxies[1].lag_revisions > 0 =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    testbed.proxy(1).signal(Signal::CONT);
    testbed.proxy(1).eventually_avoids("a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_proxy_finishes_what_it_has_begun() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(2)
        .await;
    let (control, proxy) = (testbed.control(), testbed.proxy(0));
    let gate = Gate::new();
    let stream = [
        "data: 1\n\n".into(),
        Piece::Wait(gate.clone()),
        "data: 2\n\n".into(),
    ];
    testbed.upstream("a").respond(Answer::stream(stream));
    let mut stream = proxy.message().open().await.expect("an answer");
    stream.expect("data: 1\n\n").await;
    proxy.signal(Signal::TERM);
    eventually("new connections are refused", async || {
        match proxy.get("/").send().await {
            Err(_) => Ok(()),
            Ok(response) => Err(format!("{response:?}")),
        }
    })
    .await;
    gate.open();
    stream.expect("data: 2\n\n").await;
    stream.finish().await.expect("a proper end");
    assert!(proxy.ended().await.success());
    let stats = control.endpoint("a").await.stats.unwrap_or_default();
    assert_eq!(
        testbed.upstream("a").client_requests() as u64,
        stats.attempts,
        "reports were lost"
    );
    testbed.upstream("a").respond(200);
    testbed.proxy(1).message().await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_takes_nobody_with_it() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(2)
        .await;
    testbed.upstream("a").respond_once(Answer::hang());
    let mut lost = tokio::task::JoinSet::new();
    lost.spawn(testbed.proxy(0).message().send());
    testbed.upstream("a").received(1).await;
    testbed.proxy(0).kill();
    let lost = lost.join_next().await.expect("one task").expect("no panic");
    lost.expect_err("its proxy is gone");
    testbed.proxy(1).messages(20).expect_all(200).await;
    let request = EnableEndpointRequest {
        name: "a".to_owned(),
        reason: String::new(),
    };
    testbed
        .control()
        .endpoints()
        .enable_endpoint(request)
        .await
        .expect("it exists");
    assert_eq!(testbed.control().queue_stats().await.total_failed, 0);
}
