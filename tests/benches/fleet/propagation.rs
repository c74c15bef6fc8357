//! The time from a 401 at one data plane until the last of all knows, and what it costs
//! the control plane.
//!
//! It begins when the first data plane sends its report, and ends when the last one
//! has decoded the update. The floor is a server that sends the same bytes to all its
//! streams when it gets the report; it makes nothing durable. It does one short thing all
//! the time, so whatever that needs is in the processor's caches; a second floor shows what
//! that comes to: it stores as often as a control plane must, and an operator calls as often.
//!
//! Where etcd is installed it is measured as well: from a put until the last of as many
//! watchers has the event. There the put is durable before anybody hears of it.
//!
//! The server's processor time is that of all its threads over the whole series. Of one
//! change it takes what the report, the registry and the disk take, whoever watches, and
//! in ours an operator's call for every second change; the floor has none of these. What
//! an update costs is what each data plane adds to that: the time of a change with many
//! of them, less that with one, divided by the others.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use qcc_proto::v1::{
    GetEndpointRequest, HealthState, Outcome, OutcomeClass, RestoreEndpointRequest,
    WatchSnapshotsResponse, endpoint_service_client::EndpointServiceClient,
    watch_snapshots_response::Update,
};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::timeout,
};
use tonic::{Streaming, transport::Channel};

use crate::{
    awake::Awake,
    etcd::{Etcd, Watchers},
    figure::{Figure, Goal, Samples, compare, compare_in_turns, percentile},
    machine::{self, Cores},
    server::{Server, endpoints},
    stand_in::{Reports, StandIn, connect},
};

/// Data planes that watch.
const FLEETS: [usize; 4] = [1, 10, 100, 1000];

/// Data planes from which on it is the fan-out that costs, not the report.
const FAN_OUT: usize = 100;

/// Rejected keys in one measurement, and turns in which they are.
const REJECTIONS: usize = 200;
const TURNS: usize = 5;

/// An update that takes longer will not come.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// The endpoint whose key is rejected.
pub(crate) const ENDPOINT: &str = "endpoint-0";

/// The most that updates may take, as a multiple of the floor.
const TIMES_MAX: f64 = 2.0;
const PROCESSOR_TIMES_MAX: f64 = 1.3;

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    let _awake = Awake::on([cores.load, cores.measured]);
    if !Etcd::is_installed() {
        eprintln!("left out: etcd is not installed (on Debian: `etcd-server`)");
    }
    let mut figures = Vec::new();
    let mut alone = None;
    for proxies in FLEETS {
        let (times, processor) = of_fleet(cores, proxies);
        figures.extend(times);
        let alone = alone.get_or_insert_with(|| processor.clone());
        if proxies >= FAN_OUT {
            let others = (proxies - 1) as f64;
            let each = processor.zip(alone, |all, one| (all - one) / others);
            let name = format!("server's processor time for each of {proxies} updates");
            let figure = Figure::cost(name, "us CPU", "tonic", each);
            figures.push(figure.goal(Goal::Times(PROCESSOR_TIMES_MAX)));
        }
        let name = format!("of a change known to {proxies}, with report, commit and call");
        figures.push(Figure::cost(name, "us CPU", "tonic, none", processor));
    }
    figures
}

/// Returns the figures of a fleet, and the processor time of a change.
fn of_fleet(cores: Cores, proxies: usize) -> (Vec<Figure>, Samples) {
    let runtime = machine::runtime();
    let control = Server::control(cores.measured, endpoints(1));
    let mut ours = runtime.block_on(Fleet::connect(&control, proxies));
    let mut operator = runtime.block_on(Operator::connect(control.address()));
    let mut figures = Vec::new();
    let update = runtime.block_on(async {
        let (_, update) = ours.reject().await;
        ours.restore(&mut operator).await;
        update
    });
    let mut operator = Between::Restore(operator);
    let figure = |percent, beside, samples| {
        let name = format!("401 known to the last of {proxies}, {percent}");
        Figure::cost(name, "us", beside, samples)
    };
    let processor = {
        let bare = Server::bare(cores.measured, vec![update.clone()], Some(update.clone()));
        let mut floor = runtime.block_on(Fleet::connect(&bare, proxies));
        let [p50, p99, processor] = compare_in_turns(
            TURNS,
            || measure(&runtime, &mut ours, &mut operator, &control, TURNS),
            || {
                let between = &mut Between::Nothing;
                measure(&runtime, &mut floor, between, &bare, TURNS)
            },
            |turns| Measured::of(turns).values(proxies),
        );
        for (percent, samples) in [("p50", p50), ("p99", p99)] {
            figures.push(figure(percent, "tonic", samples).goal(Goal::Times(TIMES_MAX)));
        }
        floor.disconnect(&runtime);
        processor
    };
    {
        let storing = Server::storing(cores.measured, update);
        let (mut floor, caller) = runtime.block_on(async {
            let floor = Fleet::connect(&storing, proxies).await;
            (floor, StandIn::connect(storing.address(), proxies).await)
        });
        let mut caller = Between::Call(caller);
        let [p50, p99] = compare_in_turns(
            TURNS,
            || measure(&runtime, &mut ours, &mut operator, &control, TURNS),
            || measure(&runtime, &mut floor, &mut caller, &storing, TURNS),
            |turns| Measured::of(turns).times(),
        );
        for (percent, samples) in [("p50", p50), ("p99", p99)] {
            figures.push(figure(percent, "tonic, storing", samples));
        }
        drop(caller);
        floor.disconnect(&runtime);
    }
    if Etcd::is_installed() {
        let etcd = Etcd::start(cores.measured);
        let mut theirs = runtime.block_on(Watchers::connect(etcd.address(), proxies));
        let [p50, p99] = compare(
            || measure(&runtime, &mut ours, &mut operator, &control, 1).times(),
            || theirs.measure(&runtime, puts(proxies)),
        );
        for (percent, samples) in [("p50", p50), ("p99", p99)] {
            let figure = figure(percent, "etcd: put to watch", samples);
            figures.push(figure.goal(Goal::Times(1.0)));
        }
    }
    drop(runtime); // Closes all connections: a server that stops waits for that.
    (figures, processor)
}

/// Returns how many puts are measured: etcd is slower.
fn puts(watchers: usize) -> usize {
    rejections(watchers) / 2
}

fn rejections(proxies: usize) -> usize {
    if proxies > FAN_OUT {
        REJECTIONS / 4
    } else {
        REJECTIONS
    }
}

/// What happens between two rejections.
pub(crate) enum Between {
    Nothing,
    /// The endpoint gets another chance.
    Restore(Operator),
    /// Somebody makes a floor send the update.
    Call(StandIn),
}

/// What one measurement came to, or a turn of it, in microseconds.
#[derive(Default)]
pub(crate) struct Measured {
    /// Each time until the last data plane knew.
    took: Vec<f64>,
    /// Processor time of the server.
    processor: f64,
    /// Updates that arrived.
    updates: u64,
}

impl Measured {
    /// What several turns came to.
    fn of(turns: Vec<Self>) -> Self {
        turns.into_iter().fold(Self::default(), |mut all, turn| {
            all.took.extend(turn.took);
            all.processor += turn.processor;
            all.updates += turn.updates;
            all
        })
    }

    /// The median of the times, and what one of a hundred exceeds.
    pub(crate) fn times(mut self) -> [f64; 2] {
        [50, 99].map(|percent| percentile(&mut self.took, percent))
    }

    /// Processor time of the server for each update.
    pub(crate) fn processor(&self) -> f64 {
        self.processor / self.updates as f64
    }

    /// The times, and the processor time of a change that so many have heard of.
    fn values(self, proxies: usize) -> [f64; 3] {
        let processor = self.processor() * proxies as f64;
        let [p50, p99] = self.times();
        [p50, p99, processor]
    }
}

/// Makes one of so many turns.
pub(crate) fn measure(
    runtime: &Runtime,
    fleet: &mut Fleet,
    between: &mut Between,
    server: &Server,
    turns: usize,
) -> Measured {
    runtime.block_on(async {
        let (arrived, processor) = (fleet.arrived, server.processor_time());
        let mut took = Vec::new();
        for _ in 0..rejections(fleet.proxies) / turns {
            let (elapsed, _) = fleet.reject().await;
            took.push(elapsed.as_secs_f64() * 1e6);
            match between {
                Between::Nothing => {}
                Between::Restore(operator) => fleet.restore(operator).await,
                Between::Call(caller) => {
                    caller.snapshot().await;
                    fleet.all_know(HealthState::Unhealthy).await;
                }
            }
        }
        let processor = server.processor_time() - processor;
        Measured {
            took,
            processor: processor.as_secs_f64() * 1e6,
            updates: fleet.arrived - arrived,
        }
    })
}

/// Data planes that all watch, of which the first reports.
pub(crate) struct Fleet {
    proxies: usize,
    /// Updates that have come to any of them.
    arrived: u64,
    listeners: JoinSet<()>,
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
    pub(crate) async fn connect(server: &Server, proxies: usize) -> Self {
        let first = StandIn::connect(server.address(), 0).await;
        let snapshot = first.snapshot().await;
        let (arrived, arrivals) = unbounded_channel();
        let mut listeners = JoinSet::new();
        for number in 1..proxies {
            let proxy = StandIn::connect(server.address(), number).await;
            listeners.spawn(listen(begin(&proxy).await, arrived.clone()));
        }
        listeners.spawn(listen(begin(&first).await, arrived));
        Self {
            proxies,
            arrived: 0,
            listeners,
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
            self.arrived += 1;
            if last.as_ref().is_none_or(|last| last.at < arrival.at) {
                last = Some(arrival);
            }
        }
        last.expect("a fleet is not empty")
    }

    /// Gives the endpoint another chance, so that its key can be rejected again.
    pub(crate) async fn restore(&mut self, operator: &mut Operator) {
        self.generation = operator.restore(ENDPOINT).await;
        let last = self.all_know(HealthState::Unknown).await;
        self.reports.view = last.update.view.expect("an update names its view");
    }

    /// Closes all connections: a server that stops waits for that.
    fn disconnect(mut self, runtime: &Runtime) {
        runtime.block_on(async {
            self.listeners.shutdown().await;
            drop(self);
            // Connections end in tasks of their own.
            tokio::task::yield_now().await;
        });
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

/// Somebody with an operator's rights.
pub(crate) struct Operator(EndpointServiceClient<Channel>);

impl Operator {
    pub(crate) async fn connect(control: SocketAddr) -> Self {
        Self(EndpointServiceClient::new(connect(control).await))
    }

    /// Restores an endpoint and returns its new generation.
    pub(crate) async fn restore(&mut self, name: &str) -> u64 {
        let request = RestoreEndpointRequest {
            name: name.into(),
            ..RestoreEndpointRequest::default()
        };
        let response = self.0.restore_endpoint(request).await;
        let restored = response.expect("the control plane answers").into_inner();
        let endpoint = restored.endpoint.expect("the answer has the endpoint");
        endpoint.generation
    }

    /// Reads an endpoint.
    pub(crate) async fn get(&mut self, name: &str) {
        let request = GetEndpointRequest { name: name.into() };
        let response = self.0.get_endpoint(request).await;
        response.expect("the control plane answers");
    }
}
