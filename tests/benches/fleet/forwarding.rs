//! Processor time of a proxied request.
//!
//! `qcc-proxy` and the floor, a minimal hyper forwarder, each run in a process of their
//! own on the measured core, saturated by connections that always have a request under
//! way. What counts is the processor time that the kernel has noted for the process.
//!
//! - [`proxy`]: `qcc-proxy`, from the same library that its binary runs.
//! - [`forwarder`]: the floor.
//! - [`load`]: the clients. [`upstream`]: the endpoint. They handle bytes, not HTTP:
//!   they share the other core, and have to keep the measured one busy.

pub(crate) mod forwarder;
mod load;
pub(crate) mod proxy;
mod upstream;

use std::time::{Duration, Instant};

use tokio::{runtime::Runtime, time::sleep};

use crate::{
    child::{Process, Role},
    figure::{Figure, compare},
    machine::{self, Cores},
    server::{Server, endpoint},
    stand_in::StandIn,
};
use load::Load;
use upstream::Upstream;

/// Unmeasured time at the start of each measurement.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measured time.
const WINDOW: Duration = Duration::from_millis(1000);

/// Longest wait for the first success to be known everywhere.
const LIMIT: Duration = Duration::from_secs(10);

/// What is sent and answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exchange {
    /// A request body of so many bytes, and an answer of so many.
    Whole {
        /// Bytes of the request's body.
        request: usize,
        /// Bytes of the answer's body.
        answer: usize,
    },
    /// A small request, and a stream of so many events.
    Events {
        /// Events in one answer.
        count: usize,
        /// Bytes of one event.
        bytes: usize,
        /// Time between two events; zero for as fast as they can be written.
        pause: Duration,
    },
}

struct Workload {
    name: &'static str,
    unit: &'static str,
    exchange: Exchange,
    connections: u32,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "proxied request: 1 KB POST, 1 KB answer",
        unit: "us CPU/request",
        exchange: Exchange::Whole {
            request: 1024,
            answer: 1024,
        },
        connections: 32,
    },
    Workload {
        name: "proxied event: SSE, 200 x 100 B, at once",
        unit: "us CPU/event",
        exchange: Exchange::Events {
            count: 200,
            bytes: 100,
            pause: Duration::ZERO,
        },
        connections: 32,
    },
    Workload {
        name: "proxied event: SSE, 200 x 100 B, every 20 ms",
        unit: "us CPU/event",
        exchange: Exchange::Events {
            count: 200,
            bytes: 100,
            pause: Duration::from_millis(20),
        },
        connections: 100,
    },
];

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    WORKLOADS
        .iter()
        .map(|workload| of_workload(cores, workload))
        .collect()
}

fn of_workload(cores: Cores, workload: &Workload) -> Figure {
    let runtime = machine::runtime();
    let upstream = runtime.block_on(Upstream::start(workload.exchange));
    let base_url = format!("http://{upstream}");
    // It has nothing to do while requests are forwarded but to take reports.
    let control = Server::control(cores.load, vec![endpoint("endpoint-0", base_url)]);
    let qcc = Process::spawn(cores.measured, Role::Proxy(control.address()));
    let bare = Process::spawn(cores.measured, Role::Forwarder(upstream));
    runtime.block_on(prove(&qcc, &control, workload.exchange));

    let (mut busy_qcc, mut busy_bare) = (0.0, 0.0);
    let [samples] = compare(
        || {
            let measured = measure(&runtime, &qcc, workload);
            busy_qcc = measured.busy;
            [measured.microseconds]
        },
        || {
            let measured = measure(&runtime, &bare, workload);
            busy_bare = measured.busy;
            [measured.microseconds]
        },
    );
    drop((qcc, bare)); // Before their upstream goes.
    drop(runtime); // Closes all connections: a server that stops waits for that.
    Figure::cost(workload.name, workload.unit, "hyper", samples)
        .note(format!("busy {busy_qcc:.0} %, floor {busy_bare:.0} %"))
}

/// Sends one request and waits until its success is known to the control plane: before
/// that an endpoint gets a few requests at a time only.
async fn prove(qcc: &Process, control: &Server, exchange: Exchange) {
    let load = Load::start(qcc.address(), exchange, 1);
    let observer = StandIn::connect(control.address(), 0).await;
    let start = Instant::now();
    while !observer
        .snapshot()
        .await
        .endpoints
        .iter()
        .all(|it| it.proven)
    {
        assert!(start.elapsed() < LIMIT, "the proxy does not report");
        sleep(Duration::from_millis(20)).await;
    }
    drop(load);
    sleep(Duration::from_millis(100)).await; // The view is on its way back.
}

/// What one measurement came to.
struct Measured {
    /// Processor time for each request or event.
    microseconds: f64,
    /// Share of the core that the process had, in percent.
    busy: f64,
}

fn measure(runtime: &Runtime, process: &Process, workload: &Workload) -> Measured {
    runtime.block_on(async {
        let mut load = Load::start(process.address(), workload.exchange, workload.connections);
        sleep(WARM_UP).await;
        let (start, count, time) = (Instant::now(), load.count(), process.processor_time());
        sleep(WINDOW).await;
        let count = load.count() - count;
        let time = (process.processor_time() - time).as_secs_f64();
        assert!(count > 0, "nothing was answered");
        Measured {
            microseconds: time * 1e6 / count as f64,
            busy: time * 100.0 / start.elapsed().as_secs_f64(),
        }
    })
}
