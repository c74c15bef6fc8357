//! What the fleet's parts cost, each beside the least that its libraries allow.
//!
//! `cargo bench -p qcc-tests` measures everything in about ten minutes, prints tables
//! and writes `target/bench/fleet.json`; `cargo bench -p qcc-tests -- memory restart`
//! measures some parts.
//!
//! | part | asks |
//! | --- | --- |
//! | [`durability`] | how long does it take to make a change durable? |
//! | [`writer`] | how many outcomes a second does the writer apply? |
//! | [`reports`] | how many arrive over gRPC? |
//! | [`propagation`] | how long until the last proxy knows of a rejected key, what does each update cost, and how long does etcd take? |
//! | [`growth`] | does an update cost more where there are more endpoints? |
//! | [`snapshot`](scale::snapshot) | how long until a new proxy has 10,000 endpoints? |
//! | [`reconnect`](scale::reconnect) | how long until 1,000 proxies that come at once have them, and does an operator get through? |
//! | [`restart`](scale::restart) | how long until a control plane with 10,000 endpoints serves again? |
//! | [`memory`] | what does an endpoint take, what a connected proxy? |
//! | [`selection`] | what does it cost to choose among 10 endpoints, and among 10,000? |
//! | [`forwarding`] | what does a proxied request cost, beside what it costs HAProxy, nginx and Envoy? |
//!
//! Absolute figures belong to one machine on one day. So each is measured in turns with
//! a *floor* that does the same with nothing of ours in it, and what counts is the
//! ratio. Whatever is measured has one core ([`machine`]), and whatever asks, listens
//! or answers has another.
//!
//! It is test code: what should not happen is a panic.

mod awake;
mod bare;
mod child;
mod durability;
mod etcd;
mod figure;
mod forwarding;
mod growth;
mod machine;
mod memory;
mod outcomes;
mod propagation;
mod reports;
mod scale;
mod selection;
mod server;
mod stand_in;
mod throughput;
mod writer;

use std::{env, process::ExitCode};

use figure::{Figure, Report};
use machine::{Cores, Machine};

/// One part: its name, and what measures it.
type Part = (&'static str, fn(Cores) -> Vec<Figure>);

const PARTS: [Part; 11] = [
    ("durability", durability::figures),
    ("writer", writer::figures),
    ("reports", reports::figures),
    ("propagation", propagation::figures),
    ("growth", growth::figures),
    ("snapshot", scale::snapshot),
    ("reconnect", scale::reconnect),
    ("restart", scale::restart),
    ("memory", memory::figures),
    ("selection", selection::figures),
    ("forwarding", forwarding::figures),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some(role) = child::role(&arguments) {
        role.run();
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs this too, unoptimised: nothing to be learned.
        eprintln!("nothing is measured without optimisation: run `cargo bench -p qcc-tests`");
        return ExitCode::SUCCESS;
    }
    let is_name = |argument: &&str| !argument.starts_with('-');
    let wanted: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(is_name)
        .collect();
    let is_known = |name: &&&str| PARTS.iter().any(|(part, _)| part == *name);
    if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
        let parts = PARTS.map(|(name, _)| name).join(", ");
        eprintln!("error: there is no part `{unknown}`; the parts are {parts}");
        return ExitCode::from(2);
    }

    let cores = Cores::of_this_process();
    machine::pin(cores.load);
    machine::raise_file_limit();
    let mut report = Report::new(Machine::examine(cores));
    for (name, figures) in PARTS {
        if wanted.is_empty() || wanted.contains(&name) {
            eprintln!("measuring {name} ...");
            report.add(figures(cores));
        }
    }
    report.publish();
    ExitCode::SUCCESS
}
