//! What an update costs with many endpoints, beside what it costs with a hundred.
//!
//! Here the floor is qcc itself: 1 means that it does not matter how many endpoints
//! there are. An update concerns one endpoint.
//!
//! - The control plane: the time from a 401 until one data plane knows, and the processor
//!   time of the server for each update, as in [`propagation`](crate::propagation).
//! - A proxy: the processor time of `qcc-proxy` for each view that it applies and
//!   confirms.

use std::time::Instant;

use qcc_proto::v1::{ListProxiesRequest, View, proxy_service_client::ProxyServiceClient};
use tokio::{
    runtime::Runtime,
    time::{Duration, sleep},
};
use tonic::transport::Channel;

use crate::{
    child::{Process, Role},
    figure::{Figure, Goal, Samples, compare},
    machine::{self, Cores},
    propagation::{self, Between, ENDPOINT, Fleet, LIMIT, Operator},
    server::{Server, endpoints},
    stand_in::connect,
};

/// Endpoints of the floor.
const FEW: usize = 100;

/// Endpoints of what is compared with it.
const MANY: [usize; 2] = [1000, 10_000];

/// Views in one measurement of a proxy.
const VIEWS: usize = 100;

/// The most that an update may take, as a multiple of the floor.
const GROWTH_MAX: f64 = 1.5;

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    MANY.into_iter()
        .flat_map(|many| {
            let control = of_control_plane(cores, many).into_iter();
            control.chain([of_proxy(cores, many)])
        })
        .collect()
}

fn of_control_plane(cores: Cores, many: usize) -> [Figure; 2] {
    let runtime = machine::runtime();
    let mut sides = [many, FEW].map(|count| {
        let control = Server::control(cores.measured, endpoints(count));
        runtime.block_on(async {
            let fleet = Fleet::connect(&control, 1).await;
            let operator = Operator::connect(control.address()).await;
            let operator = Between::Restore(operator);
            (control, fleet, operator)
        })
    });
    let [ours, floor] = &mut sides;
    let measure = |(control, fleet, operator): &mut (Server, Fleet, Between)| {
        let measured = propagation::measure(&runtime, fleet, operator, control, 1);
        let processor = measured.processor();
        let [p50, _] = measured.times();
        [p50, processor]
    };
    let [time, processor] = compare(|| measure(ours), || measure(floor));
    drop(runtime); // Closes all connections: a server that stops waits for that.
    [
        figure("401 known to one proxy, p50", many, "us", time),
        figure(
            "server's processor time for an update",
            many,
            "us CPU",
            processor,
        ),
    ]
}

fn of_proxy(cores: Cores, many: usize) -> Figure {
    let runtime = machine::runtime();
    let mut sides = [many, FEW].map(|count| {
        let control = Server::control(cores.load, endpoints(count));
        let proxy = Process::spawn(cores.measured, Role::Proxy(control.address()));
        let follower = runtime.block_on(Follower::connect(&control));
        (follower, proxy, control)
    });
    let [ours, floor] = &mut sides;
    let measure = |(follower, proxy, _): &mut (Follower, Process, Server)| {
        [follower.measure(&runtime, proxy)]
    };
    let [samples] = compare(|| measure(ours), || measure(floor));
    drop(runtime); // Closes all connections: a server that stops waits for that.
    figure(
        "proxy's processor time for an update",
        many,
        "us CPU",
        samples,
    )
}

fn figure(what: &str, many: usize, unit: &'static str, samples: Samples) -> Figure {
    let name = format!("{what}, {many} endpoints");
    let figure = Figure::cost(name, unit, "the same with 100", samples);
    figure.goal(Goal::Times(GROWTH_MAX))
}

/// Makes views, and sees the proxy follow.
struct Follower {
    operator: Operator,
    proxies: ProxyServiceClient<Channel>,
}

impl Follower {
    async fn connect(control: &Server) -> Self {
        Self {
            operator: Operator::connect(control.address()).await,
            proxies: ProxyServiceClient::new(connect(control.address()).await),
        }
    }

    /// Measures the proxy's processor time for each view, in microseconds.
    fn measure(&mut self, runtime: &Runtime, proxy: &Process) -> f64 {
        runtime.block_on(async {
            let mut applied = self.applied().await;
            let before = proxy.processor_time();
            for _ in 0..VIEWS {
                self.operator.restore(ENDPOINT).await;
                applied = self.next_after(applied).await;
            }
            let took = proxy.processor_time() - before;
            took.as_secs_f64() * 1e6 / VIEWS as f64
        })
    }

    /// Waits until the proxy has confirmed a newer view.
    async fn next_after(&mut self, before: Option<View>) -> Option<View> {
        let start = Instant::now();
        loop {
            let applied = self.applied().await;
            if applied > before {
                return applied;
            }
            assert!(start.elapsed() < LIMIT, "the proxy does not follow");
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn applied(&mut self) -> Option<View> {
        let listed = self
            .proxies
            .list_proxies(ListProxiesRequest::default())
            .await;
        let listed = listed.expect("the control plane answers").into_inner();
        listed.proxies.first().and_then(|proxy| proxy.applied_view)
    }
}
