//! What a choice costs, by strategy and number of endpoints, and for a request that names
//! its session: an endpoint is chosen, its place taken and given back, in process, on one
//! thread. One row more has the request's beginning in it, for which the newest view is looked
//! up and the request is counted.
//!
//! All endpoints are equals that have answered, none is left out and none is new. 1,000 sessions take turns,
//! as many as a proxy remembers easily; what one costs that it does not remember is a
//! figure of its own.
//!
//! The floor is a draw by weight and nothing else: a number from the same generator, looked
//! up in a list of sums.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use qcc_dataplane::simulation::{Choosing, Proxy};
use qcc_proto::v1::{
    AdminState, ClusterPolicy, HealthState, RoutedEndpoint, SnapshotChunk, Strategy, View,
    WatchSnapshotsResponse, watch_snapshots_response::Update,
};

use crate::{
    figure::{Figure, Goal, compare},
    machine::{self, Cores},
};

/// Numbers of endpoints, and what a choice among them may cost, in nanoseconds.
const SIZES: [(u32, f64); 2] = [(10, 100.0), (10_000, 500.0)];

const STRATEGIES: [(Strategy, &str); 6] = [
    (Strategy::Priority, "priority"),
    (Strategy::Weighted, "weighted"),
    (Strategy::RoundRobin, "round robin"),
    (Strategy::Random, "random"),
    (Strategy::LeastInflight, "least in flight"),
    (Strategy::PeakEwma, "peak EWMA"),
];

/// Sessions that take turns.
const SESSIONS: u64 = 1000;

/// How soon endpoints have answered.
const LATENCY: Duration = Duration::from_millis(20);

/// Choices between two looks at the clock.
const BATCH: u64 = 1000;

/// How long one side is measured in a round.
const SPAN: Duration = Duration::from_millis(200);

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    machine::spawn_on(cores.measured, "selection", measure)
        .join()
        .expect("a measurement ends")
}

fn measure() -> Vec<Figure> {
    let mut figures = Vec::new();
    for (endpoints, most) in SIZES {
        let goal = Goal::AtMost(most);
        for (strategy, name) in STRATEGIES {
            let mut request = warm(&proxy(endpoints, strategy), endpoints);
            let figure = figure(endpoints, name, |now, _| request.choose(None, now));
            figures.push(figure.goal(goal));
        }
        let proxy = proxy(endpoints, Strategy::Priority);
        let mut request = warm(&proxy, endpoints);
        let mut name = *b"00000000-8f1e-4a39-9f43-0f3d3a2e8c11"; // As long as they are.
        let mut choose = |session: u64, now| {
            name[..8].copy_from_slice(&session.to_be_bytes());
            request.choose(Some(&name), now)
        };
        let known = figure(endpoints, "a session", |now, count| {
            choose(count % SESSIONS, now)
        });
        figures.push(known.goal(goal));
        let new = figure(endpoints, "a session never seen", |now, count| {
            choose(SESSIONS + count, now)
        });
        figures.push(new);
        let whole = figure(endpoints, "priority, with the beginning", |now, _| {
            let request = proxy.choosing();
            request.is_some_and(|mut request| request.choose(None, now))
        });
        figures.push(whole);
    }
    figures
}

/// Begins a request, once all endpoints have answered some.
fn warm(proxy: &Proxy, endpoints: u32) -> Choosing {
    let now = Instant::now();
    let mut request = proxy.choosing().expect("there is a view");
    for _ in 0..20 * endpoints {
        request.serve(LATENCY, now);
    }
    request
}

fn figure(endpoints: u32, what: &str, mut choose: impl FnMut(Instant, u64) -> bool) -> Figure {
    let sums: Vec<u64> = (1..=u64::from(endpoints)).map(|sum| sum * 100).collect();
    let total = u64::from(endpoints) * 100;
    let mut seed = 1;
    let mut count = 0;
    let [samples] = compare(
        || {
            [nanoseconds(|now| {
                count += 1;
                assert!(choose(now, count), "there is an endpoint");
            })]
        },
        || {
            [nanoseconds(|_| {
                let point = random(&mut seed) % total;
                black_box(sums.partition_point(|&sum| sum <= point));
            })]
        },
    );
    let name = format!("selection: {what}, {endpoints} endpoints");
    Figure::cost(name, "ns", "a draw by weight", samples)
}

/// Returns how long one of many takes.
fn nanoseconds(mut one: impl FnMut(Instant)) -> f64 {
    let start = Instant::now();
    let (mut now, mut count) = (start, 0.0);
    while now - start < SPAN {
        for _ in 0..BATCH {
            one(now);
        }
        count += BATCH as f64;
        now = Instant::now();
    }
    (now - start).as_nanos() as f64 / count
}

/// Returns a data plane with so many endpoints that are equals.
fn proxy(endpoints: u32, strategy: Strategy) -> Proxy {
    let endpoint = |number| RoutedEndpoint {
        name: format!("endpoint-{number:05}"),
        base_url: "http://127.0.0.1:1".into(),
        generation: 1,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        max_failures: 3,
        proven: true,
        weight: 100,
        ..RoutedEndpoint::default()
    };
    let policy = ClusterPolicy {
        strategy: strategy.into(),
        ..ClusterPolicy::default()
    };
    let chunk = SnapshotChunk {
        policy: Some(policy),
        endpoints: (0..endpoints).map(endpoint).collect(),
        first: true,
        last: true,
        registry_id: "bench".into(),
    };
    let mut proxy = Proxy::new("bench", "1", 1000, 1);
    let _ = proxy.watch();
    let message = WatchSnapshotsResponse {
        view: Some(View {
            term: 1,
            revision: 1,
        }),
        clock_ms: 0,
        update: Some(Update::Snapshot(chunk)),
        planned_checks: Vec::new(),
    };
    let applied = proxy.apply(message, Instant::now());
    applied.expect("a snapshot is applied");
    proxy
}

/// Steps splitmix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
