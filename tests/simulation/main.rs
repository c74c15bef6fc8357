//! The simulation: the real cores of both sides in a made-up world, one thread and one
//! seed for each run, faults of every kind, and invariants after each step.
//!
//! - [`world`], [`event`]: what there is, and what can happen. [`plan`]: the mixture of a
//!   run. [`random`], [`time`]: chance and clocks. [`position`]: what views and generations
//!   are of.
//! - [`control`], [`checks`], [`proxy`], [`requests`]: the shells, in place of gRPC, HTTP
//!   and tasks.
//! - [`network`], [`disk`], [`upstream`]: what they stand on. [`operator`], [`rules`],
//!   [`faults`]: what happens to them.
//! - [`invariants`]: what must hold. [`trace`]: what happened. [`bugs`]: mistakes made on
//!   purpose, which have to be found.
//!
//! `QCC_SIM_SEEDS=100000` runs so many seeds, `QCC_SIM_SEED=7` replays one and tells all
//! of it.

mod bugs;
mod checks;
mod control;
mod disk;
mod event;
mod faults;
mod invariants;
mod network;
mod operator;
mod plan;
mod position;
mod proxy;
mod random;
mod requests;
mod rules;
mod time;
mod trace;
mod upstream;
mod world;

use std::{
    env,
    fmt::Write,
    panic,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use invariants::Violation;
use world::{End, World};

/// Seeds that are run if nobody says how many.
const SEEDS: u64 = 1_000;

/// Requests that are served in a run, on average and at the very least.
const SERVED_MIN: u64 = 150;

#[test]
fn whatever_happens_the_rules_hold() {
    if let Some(seed) = number("QCC_SIM_SEED") {
        let mut world = World::new(seed);
        world.trace.keep_all();
        let end = world.run();
        if let Some(report) = report(seed, &end) {
            panic!("{report}");
        }
        return;
    }
    let first = number("QCC_SIM_FIRST").unwrap_or_default();
    let seeds = number("QCC_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let served = AtomicU64::new(0);
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads())
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + seeds {
                            return None;
                        }
                        let end = run(seed);
                        served.fetch_add(end.served, Ordering::Relaxed);
                        if let Some(report) = report(seed, &end) {
                            next.store(u64::MAX / 2, Ordering::Relaxed);
                            return Some(report);
                        }
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().expect("a run does not panic"))
            .collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    // Shown by `--nocapture`.
    let served = served.into_inner();
    eprintln!("{served} requests were served in {seeds} runs");
    assert!(
        seeds < SEEDS || served >= seeds * SERVED_MIN,
        "only {served} requests were served in {seeds} runs"
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..5 {
        let (one, two) = (World::new(seed).run(), World::new(seed).run());
        assert_eq!(one.digest, two.digest, "seed {seed}");
        assert_eq!(one.events, two.events, "seed {seed}");
    }
}

#[test]
fn the_clock_on_the_wall_decides_nothing() {
    let mut jumps = 0;
    for seed in 0..60 {
        let jumping = World::new(seed);
        if !jumping.plan.faults.contains(&plan::Fault::WallJumps) {
            continue;
        }
        let mut steady = World::new(seed);
        steady.wall_jumps = false;
        let (jumping, steady) = (jumping.run(), steady.run());
        assert_eq!(jumping.digest, steady.digest, "seed {seed}");
        jumps += jumping.wall_jumps;
    }
    assert!(jumps > 0, "in none of them it has jumped");
}

/// Runs a seed. A panic of what runs in it is a broken invariant too.
fn run(seed: u64) -> End {
    let ran = panic::catch_unwind(|| World::new(seed).run());
    ran.unwrap_or_else(|panicked| {
        let words = panicked.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panicked.downcast_ref::<&str>().copied());
        End {
            digest: 0,
            events: 0,
            served: 0,
            wall_jumps: 0,
            violation: Some(Violation::new(
                "S-8 nothing makes the product panic",
                words.unwrap_or("it says nothing"),
            )),
            trace: String::new(),
        }
    })
}

/// Returns how many runs there may be at a time.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Returns what to tell of a run that has broken an invariant.
fn report(seed: u64, end: &End) -> Option<String> {
    let violation = end.violation.as_ref()?;
    let mut text = String::new();
    let _ = write!(
        text,
        "seed {seed} breaks {violation}\n\nthe last of {} events:\n{}\n\nreplay it with\n    \
         QCC_SIM_SEED={seed} cargo test -p qcc-tests --test simulation whatever",
        end.events, end.trace
    );
    Some(text)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().expect("it is a number"))
}
