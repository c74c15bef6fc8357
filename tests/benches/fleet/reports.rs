//! Outcomes that arrive over gRPC from four data planes, one core for the server.
//!
//! The floor decodes the same messages and acknowledges them at once.

use std::sync::Arc;

use crate::{
    figure::{Figure, Goal, compare},
    machine::{self, Cores},
    outcomes::{ENDPOINTS, Mix, turn},
    server::{Server, endpoint},
    stand_in::{Reports, StandIn},
    throughput::{self, Reporter},
};

/// Data planes.
const REPORTERS: usize = 4;

/// Outcomes that one of them sends at a time.
const BATCHES: [u64; 2] = [100, 1000];

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    let mut figures = Vec::new();
    for mix in Mix::ALL {
        let endpoints = ENDPOINTS.map(|name| endpoint(name, "https://api.example".into()));
        let control = Server::control(cores.measured, endpoints.into());
        let bare = Server::bare(cores.measured, Vec::new(), None);
        let runtime = machine::runtime();
        let mut ours = runtime.block_on(reporters(&control, mix));
        let mut floor = runtime.block_on(reporters(&bare, mix));
        for batch in BATCHES {
            let [samples] = compare(
                || [throughput::measure(&runtime, &mut ours, batch)],
                || [throughput::measure(&runtime, &mut floor, batch)],
            );
            let name = format!("gRPC reports: batches of {batch}, {}", mix.describe());
            let figure = Figure::rate(name, "outcomes/s", "tonic", samples);
            figures.push(figure.goal(Goal::AtLeast(100_000.0)));
        }
        drop(runtime); // Closes all connections: a server that stops waits for that.
    }
    figures
}

struct Proxy {
    reports: Reports,
    mix: Mix,
    /// In the order of names. The floor has none, and does not look.
    generations: Arc<[u64]>,
}

async fn reporters(server: &Server, mix: Mix) -> Vec<Proxy> {
    let mut reporters = Vec::new();
    for number in 0..REPORTERS {
        let proxy = StandIn::connect(server.address(), number).await;
        let endpoints = proxy.snapshot().await.endpoints;
        let generations = endpoints.iter().map(|endpoint| endpoint.generation);
        reporters.push(Proxy {
            reports: proxy.reports().await,
            mix,
            generations: generations.collect(),
        });
    }
    reporters
}

impl Reporter for Proxy {
    async fn report(&mut self, outcomes: u64) {
        let Self {
            reports,
            mix,
            generations,
        } = self;
        let generation = |sequence: u64| {
            let known = generations.get(turn(sequence));
            known.copied().unwrap_or(1)
        };
        reports
            .send(outcomes, |sequence, view| {
                mix.message(sequence, view, generation(sequence))
            })
            .await;
    }
}
