//! A thousand proxies that all come back at the same moment.

use std::{
    io::{Write, stderr},
    time::{Duration, Instant},
};

use qcc_proto::v1::{
    ApplyResourcesRequest, DrainEndpointRequest, Endpoint, View, watch_snapshots_response::Update,
};
use qcc_tests::{ControlPlane, FakeProxy, Logs, eventually, no_check, possible};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{sync::watch, task::JoinSet};

use crate::story;

/// Data planes; each is no more than its connection.
const PROXIES: usize = 1_000;

/// Endpoints in the snapshot that each of them gets.
const ENDPOINTS: usize = 100;

/// Files that both sides' connections need, and some more.
const FILES: u64 = 4_096;

/// What it may come to altogether. Generous: met only if something waits in line.
const CURRENT_WITHIN: Duration = Duration::from_secs(25);

/// What an operator may have to wait meanwhile. Generous as well: the processes under
/// test are not optimised, and share the machine with the crowd and with other stories. The
/// figure is the benchmark's (`reconnect`).
const OPERATOR_MAX: Duration = Duration::from_secs(15);

/// Each proxy of the crowd waits at most so long before it comes back, as the first
/// wait of the real ones.
const JITTER_MS: u64 = 200;

/// Follows the control plane and tells which view it has, again and again from the
/// beginning.
async fn follow(proxy: FakeProxy, number: u64, applied: watch::Sender<View>) {
    loop {
        if let Ok(mut updates) = proxy.watch("default", None).await {
            while let Ok(Some(message)) = updates.message().await {
                let whole = match &message.update {
                    Some(Update::Snapshot(chunk)) => chunk.last,
                    Some(_) => true,
                    None => false,
                };
                if let Some(view) = message.view.filter(|_| whole) {
                    applied.send_replace(view);
                }
            }
        }
        let spread = number * JITTER_MS / PROXIES as u64;
        tokio::time::sleep(Duration::from_millis(spread)).await;
    }
}

/// Waits until the whole crowd has at least this view.
async fn current(crowd: &[watch::Receiver<View>], view: View) {
    eventually("everybody is current", async || {
        let behind = crowd.iter().filter(|it| *it.borrow() < view).count();
        match behind {
            0 => Ok(()),
            behind => Err(format!("{behind} are not")),
        }
    })
    .await;
}

pub(crate) fn a_thousand_proxies_come_back_at_once_and_all_are_served() {
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.unwrap_or(FILES).min(FILES);
    let needed = format!("{FILES} open files (ulimit -n)");
    if !possible(&needed, files == FILES, "a thousand reconnects") {
        return;
    }
    let wished = Rlimit {
        current: Some(limit.current.unwrap_or(FILES).max(FILES)),
        ..limit
    };
    setrlimit(Resource::Nofile, wished).expect("it is within the maximum");
    story(crowd());
}

async fn crowd() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let logs = Logs::default();
    let control = ControlPlane::alone(dir.path(), &logs).await;
    let endpoints = (0..ENDPOINTS).map(|number| Endpoint {
        name: format!("e-{number}"),
        base_url: "http://127.0.0.1:9".to_owned(),
        check: Some(no_check()),
        ..Default::default()
    });
    let request = ApplyResourcesRequest {
        endpoints: endpoints.collect(),
        ..Default::default()
    };
    let applied = control.resources().apply_resources(request).await;
    applied.expect("they are valid");

    let mut following = JoinSet::new();
    let mut crowd = Vec::new();
    for number in 0..PROXIES as u64 {
        let proxy = FakeProxy::apart(&control, &format!("p-{number}"), "1");
        let (applied, seen) = watch::channel(View::default());
        following.spawn(follow(proxy, number, applied));
        crowd.push(seen);
    }
    current(&crowd, control.view().await).await;

    control.kill();
    control.start().await;
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for drained in 0..10 {
        let asked = Instant::now();
        let request = DrainEndpointRequest {
            name: format!("e-{drained}"),
            ..Default::default()
        };
        let drained = control.endpoints().drain_endpoint(request).await;
        drained.expect("operators get through");
        slowest = slowest.max(asked.elapsed());
    }
    current(&crowd, control.view().await).await;
    let all = start.elapsed();
    // Not by `println`: a figure of an unoptimised build is for whoever looks.
    let _ = writeln!(
        stderr(),
        "{PROXIES} proxies were current {all:?} after a restart; operators waited at most {slowest:?}"
    );
    assert!(all < CURRENT_WITHIN, "{all:?}");
    assert!(slowest < OPERATOR_MAX, "{slowest:?}");
    following.shutdown().await;
}
