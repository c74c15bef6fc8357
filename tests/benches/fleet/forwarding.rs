//! What a proxied request costs, beside what it costs others.
//!
//! `qcc-proxy` as it is released and with everything on (marks, selection, replay buffer,
//! key, header rules, reports, metrics), a minimal hyper forwarder, HAProxy, nginx and
//! Envoy each run in processes of their own on the measured core. What counts is the
//! processor time that the kernel has noted for them. Memory, and the latency of requests
//! at a fixed rate, beside. Who is not installed is left out, with a line that says so.
//!
//! - [`contestant`]: who takes part, and how each is configured; [`keeper`] ends them.
//! - [`forwarder`]: the floor. [`proxy`]: ours, for the benches that need it alone.
//! - [`rig`], [`wire`]: clients and endpoint, on the other core.
//! - [`grid`]: the table.

mod contestant;
pub(crate) mod forwarder;
mod grid;
pub(crate) mod keeper;
pub(crate) mod proxy;
mod rig;
mod wire;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    figure::{Figure, ROUNDS, percentile},
    machine::{self, Cores},
};
use contestant::{Contestant, Kind, Running};
use grid::{Cell, Goal, Grid, Pace, Row};
use rig::Rig;

/// Unmeasured time at the start of each turn, and measured time. Turns are short, and many
/// make a measurement, as what others do on the machine comes and goes within seconds.
const WARM_UP: Duration = Duration::from_millis(60);
const WINDOW: Duration = Duration::from_millis(140);
const TURNS: usize = 8;

/// Requests at a fixed rate: as many clients, that often, for so long.
const RATE_WARM_UP: Duration = Duration::from_millis(200);
const RATE_CLIENTS: usize = 64;
const RATE_INTERVAL: Duration = Duration::from_millis(1);
const RATE_WINDOW: Duration = Duration::from_millis(2000);

/// Idle connections of which the memory is measured.
const IDLE_CONNECTIONS: usize = 1000;

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
        /// Time between two events; zero for as fast as they get through.
        pause: Duration,
    },
}

impl Exchange {
    fn pause(self) -> Duration {
        match self {
            Self::Whole { .. } => Duration::ZERO,
            Self::Events { pause, .. } => pause,
        }
    }

    fn is_stream(self) -> bool {
        matches!(self, Self::Events { .. })
    }
}

/// What one turn of a contestant came to, or several.
#[derive(Default)]
struct Spent {
    /// Requests, or events.
    count: u64,
    time: Duration,
    /// Of clients and endpoint.
    own_time: Duration,
    elapsed: Duration,
}

struct Workload {
    name: &'static str,
    unit: &'static str,
    exchange: Exchange,
    clients: usize,
    goal: Goal,
}

const SMALL: Exchange = Exchange::Whole {
    request: 1024,
    answer: 1024,
};

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "1 KB POST, 1 KB answer",
        unit: "us CPU/request",
        exchange: SMALL,
        clients: 32,
        goal: Goal::Times {
            hyper: 1.25,
            nginx: Some(1.1),
        },
    },
    Workload {
        name: "32 KB POST, 4 KB answer",
        unit: "us CPU/request",
        exchange: Exchange::Whole {
            request: 32 * 1024,
            answer: 4 * 1024,
        },
        clients: 32,
        goal: Goal::Times {
            hyper: 1.3,
            nginx: Some(1.0),
        },
    },
    Workload {
        name: "SSE, 200 x 100 B, as they come",
        unit: "us CPU/event",
        exchange: Exchange::Events {
            count: 200,
            bytes: 100,
            pause: Duration::ZERO,
        },
        clients: 32,
        goal: Goal::Times {
            hyper: 1.15,
            nginx: None,
        },
    },
    Workload {
        name: "SSE, 200 x 100 B, every 20 ms",
        unit: "us CPU/event",
        exchange: Exchange::Events {
            count: 200,
            bytes: 100,
            pause: Duration::from_millis(20),
        },
        clients: 100,
        goal: Goal::Times {
            hyper: 1.15,
            nginx: None,
        },
    },
];

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    let contestants = Contestant::installed();
    let columns = contestants.iter().map(|it| (it.kind, it.title())).collect();
    let mut grid = Grid::new(columns);
    for workload in &WORKLOADS {
        eprintln!("  {} ...", workload.name);
        grid.add(cost(cores, &contestants, workload));
    }
    eprintln!("  latency ...");
    for row in latency(cores, &contestants) {
        grid.add(row);
    }
    eprintln!("  memory ...");
    for row in memory(cores, &contestants) {
        grid.add(row);
    }
    grid.publish();
    grid.figures()
}

/// Processor time of each request, or event, at the limit.
fn cost(cores: Cores, contestants: &[Contestant], workload: &Workload) -> Row {
    let mut rig = Rig::new(workload.exchange);
    let proxies = contestants.iter().filter(|it| it.kind != Kind::Direct);
    let running: Vec<_> = proxies
        .map(|it| it.start(cores, &mut rig, workload.exchange.is_stream()))
        .collect();
    let turn = |running: &Running| {
        rig.saturate(running.address, workload.clients);
        rig.run_for(WARM_UP);
        let own = || machine::processor_time("/proc/self/task", |_| true);
        let (start, count) = (Instant::now(), rig.count());
        let (time, own_time) = (running.processor_time(), own());
        rig.run_for(WINDOW);
        let spent = Spent {
            count: rig.count() - count,
            time: running.processor_time() - time,
            own_time: own() - own_time,
            elapsed: start.elapsed(),
        };
        rig.hang_up();
        assert!(spent.count > 0, "nothing came through");
        spent
    };
    let cells = in_turns(&running, TURNS, turn, |turns| [all_of(&turns)]);
    let [cells] = cells;
    Row {
        name: workload.name,
        unit: workload.unit,
        goal: workload.goal,
        cells,
    }
}

/// What several turns came to.
fn all_of(turns: &[Spent]) -> Cell {
    let all = turns.iter().fold(Spent::default(), |all, turn| Spent {
        count: all.count + turn.count,
        time: all.time + turn.time,
        own_time: all.own_time + turn.own_time,
        elapsed: all.elapsed + turn.elapsed,
    });
    let (count, seconds) = (all.count as f64, all.elapsed.as_secs_f64());
    Cell {
        value: all.time.as_secs_f64() * 1e6 / count,
        pace: Some(Pace {
            rate: count / seconds,
            proxy_busy: all.time.as_secs_f64() * 100.0 / seconds,
            load_busy: all.own_time.as_secs_f64() * 100.0 / seconds,
        }),
    }
}

/// Time from when a request should be sent until its answer is there, at a rate that all
/// of them bear easily.
fn latency(cores: Cores, contestants: &[Contestant]) -> [Row; 2] {
    let mut rig = Rig::new(SMALL);
    let running: Vec<_> = contestants
        .iter()
        .map(|it| it.start(cores, &mut rig, false))
        .collect();
    let turn = |running: &Running| {
        rig.at_rate(
            running.address,
            RATE_CLIENTS,
            RATE_INTERVAL,
            RATE_WARM_UP,
            RATE_WINDOW,
        )
    };
    let [median, tail] = in_turns(&running, 1, turn, |turns| {
        let mut latencies = turns.concat();
        [50, 99].map(|percent| Cell {
            value: percentile(&mut latencies, percent),
            pace: None,
        })
    });
    let row = |name, goal, cells| Row {
        name,
        unit: "us",
        goal,
        cells,
    };
    [
        row("p50 at 1,000 requests/s", Goal::Over(15.0), median),
        row("p99 at 1,000 requests/s", Goal::Over(60.0), tail),
    ]
}

/// Resident memory after the first request, and what idle connections add to it. Once:
/// it does not depend on the day.
fn memory(cores: Cores, contestants: &[Contestant]) -> [Row; 2] {
    let (mut idle, mut connected) = (BTreeMap::new(), BTreeMap::new());
    for contestant in contestants.iter().filter(|it| it.kind != Kind::Direct) {
        let mut rig = Rig::new(SMALL);
        let running = contestant.start(cores, &mut rig, false);
        let before = running.resident();
        rig.hold(running.address, IDLE_CONNECTIONS);
        let each = (running.resident() - before) / IDLE_CONNECTIONS as f64;
        let cell = |value| vec![Cell { value, pace: None }];
        idle.insert(contestant.kind, cell(before / 1024.0));
        connected.insert(contestant.kind, cell(each));
        drop(running);
    }
    let row = |name, unit, most, cells| Row {
        name,
        unit,
        goal: Goal::AtMost(most),
        cells,
    };
    [
        row("memory, idle", "MiB", 16.0, idle),
        row("memory of an idle connection", "KiB", 12.0, connected),
    ]
}

/// Measures all of them five times, each time in so many turns. Who begins changes from turn to
/// turn, so that a drift of the machine favours nobody.
fn in_turns<T, const N: usize>(
    running: &[Running],
    turns: usize,
    mut turn: impl FnMut(&Running) -> T,
    sum: impl Fn(Vec<T>) -> [Cell; N],
) -> [BTreeMap<Kind, Vec<Cell>>; N] {
    let mut cells = std::array::from_fn(|_| BTreeMap::<Kind, Vec<Cell>>::new());
    for round in 0..ROUNDS {
        let mut measured = BTreeMap::<Kind, Vec<T>>::new();
        for first in 0..turns {
            for next in 0..running.len() {
                let running = &running[(round + first + next) % running.len()];
                (measured.entry(running.kind).or_default()).push(turn(running));
            }
        }
        for (kind, turns) in measured {
            for (cells, cell) in cells.iter_mut().zip(sum(turns)) {
                cells.entry(kind).or_default().push(cell);
            }
        }
    }
    cells
}
