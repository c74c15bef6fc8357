//! The time from a 401 at one data plane until the last of all knows.
//!
//! It begins when the first data plane sends its report, and ends when the last one
//! has decoded the update; in between the control plane has made it durable. The floor
//! is a server that sends the same bytes to all its streams when it gets the report.

use std::time::{Duration, Instant};

use qcc_proto::v1::{
    HealthState, Outcome, OutcomeClass, RestoreEndpointRequest, WatchSnapshotsResponse,
    endpoint_service_client::EndpointServiceClient, watch_snapshots_response::Update,
};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};
use tonic::{Streaming, transport::Channel};

use crate::{
    figure::{Figure, compare, percentile},
    machine::{self, Cores},
    server::{Server, endpoint},
    stand_in::{Reports, StandIn, connect},
};

/// Data planes that watch.
const FLEETS: [usize; 3] = [1, 10, 100];

/// Rejected keys in one measurement.
const REJECTIONS: usize = 200;

/// An update that takes longer will not come.
const LIMIT: Duration = Duration::from_secs(10);

/// The endpoint whose key is rejected.
const ENDPOINT: &str = "endpoint-0";

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    FLEETS
        .into_iter()
        .flat_map(|proxies| of_fleet(cores, proxies))
        .collect()
}

fn of_fleet(cores: Cores, proxies: usize) -> [Figure; 2] {
    let runtime = machine::runtime();
    let endpoint = endpoint(ENDPOINT, "https://api.example".into());
    let control = Server::control(cores.measured, vec![endpoint]);
    let mut ours = runtime.block_on(Fleet::connect(&control, proxies));
    let mut operator = runtime.block_on(Operator::connect(&control));

    let update = runtime.block_on(async {
        let (_, update) = ours.reject().await;
        operator.restore(&mut ours).await;
        update
    });
    let bare = Server::bare(cores.measured, Some(update));
    let mut floor = runtime.block_on(Fleet::connect(&bare, proxies));

    let [p50, p99] = compare(
        || measure(&runtime, &mut ours, Some(&mut operator)),
        || measure(&runtime, &mut floor, None),
    );
    drop(runtime); // Closes all connections: a server that stops waits for that.
    let figure = |percent: &str, samples| Figure {
        name: format!("401 known to the last of {proxies}, {percent}"),
        unit: "us",
        is_rate: false,
        samples,
        note: String::new(),
    };
    [figure("p50", p50), figure("p99", p99)]
}

fn measure(runtime: &Runtime, fleet: &mut Fleet, mut operator: Option<&mut Operator>) -> [f64; 2] {
    runtime.block_on(async {
        let mut took = Vec::with_capacity(REJECTIONS);
        for _ in 0..REJECTIONS {
            let (elapsed, _) = fleet.reject().await;
            took.push(elapsed.as_secs_f64() * 1e6);
            if let Some(operator) = &mut operator {
                operator.restore(fleet).await;
            }
        }
        [percentile(&mut took, 50), percentile(&mut took, 99)]
    })
}

/// Data planes that all watch, of which the first reports.
struct Fleet {
    proxies: usize,
    reports: Reports,
    arrivals: UnboundedReceiver<Arrival>,
    generation: u64,
}

/// An update that one of them has decoded.
struct Arrival {
    at: Instant,
    state: HealthState,
    update: WatchSnapshotsResponse,
}

impl Fleet {
    async fn connect(server: &Server, proxies: usize) -> Self {
        let first = StandIn::connect(server.address(), 0).await;
        let (arrived, arrivals) = unbounded_channel();
        for number in 1..proxies {
            let proxy = StandIn::connect(server.address(), number).await;
            tokio::spawn(listen(begin(&proxy).await, arrived.clone()));
        }
        tokio::spawn(listen(begin(&first).await, arrived));
        let snapshot = first.snapshot().await;
        Self {
            proxies,
            reports: first.reports().await,
            arrivals,
            generation: snapshot.endpoints.first().map_or(1, |it| it.generation),
        }
    }

    /// Reports a 401 and waits until all know. Returns how long that took, and the
    /// last update.
    async fn reject(&mut self) -> (Duration, WatchSnapshotsResponse) {
        let generation = self.generation;
        let start = Instant::now();
        let rejection = |_, view| Outcome {
            endpoint: ENDPOINT.into(),
            generation,
            view: Some(view),
            class: OutcomeClass::Auth.into(),
            count: 1,
            http_status: 401,
            error_type: "authentication_error".into(),
            ..Outcome::default()
        };
        self.reports.send(1, rejection).await;
        let last = self.all_know(HealthState::Unhealthy).await;
        (last.at - start, last.update)
    }

    /// Waits for everybody's next update, and returns the one that came last.
    async fn all_know(&mut self, state: HealthState) -> Arrival {
        let mut last: Option<Arrival> = None;
        for _ in 0..self.proxies {
            let arrival = timeout(LIMIT, self.arrivals.recv()).await;
            let arrival = arrival
                .expect("updates arrive")
                .expect("the data planes listen");
            assert_eq!(arrival.state, state);
            if last.as_ref().is_none_or(|last| last.at < arrival.at) {
                last = Some(arrival);
            }
        }
        last.expect("a fleet is not empty")
    }
}

/// Opens a watch and takes what it begins with: only then changes come as such.
async fn begin(proxy: &StandIn) -> Streaming<WatchSnapshotsResponse> {
    let mut updates = proxy.watch().await;
    let first = timeout(LIMIT, updates.message()).await;
    let first = first.expect("a watch begins").expect("the server answers");
    assert!(first.is_some());
    updates
}

/// Notes when changes of the endpoint arrive.
async fn listen(mut updates: Streaming<WatchSnapshotsResponse>, arrived: UnboundedSender<Arrival>) {
    while let Ok(Some(update)) = updates.message().await {
        let at = Instant::now();
        let Some(Update::Delta(delta)) = &update.update else {
            continue; // A sign of life.
        };
        let Some(state) = delta.endpoints.first().map(|endpoint| endpoint.state()) else {
            continue;
        };
        if arrived.send(Arrival { at, state, update }).is_err() {
            return;
        }
    }
}

/// Whoever gives the endpoint another chance, so that its key can be rejected again.
struct Operator(EndpointServiceClient<Channel>);

impl Operator {
    async fn connect(server: &Server) -> Self {
        Self(EndpointServiceClient::new(connect(server.address()).await))
    }

    async fn restore(&mut self, fleet: &mut Fleet) {
        let request = RestoreEndpointRequest {
            name: ENDPOINT.into(),
            ..RestoreEndpointRequest::default()
        };
        let response = self.0.restore_endpoint(request).await;
        let restored = response.expect("the control plane answers").into_inner();
        fleet.generation = restored
            .endpoint
            .expect("the answer has the endpoint")
            .generation;
        let last = fleet.all_know(HealthState::Unknown).await;
        fleet.reports.view = last.update.view.expect("an update names its view");
    }
}
