//! What a run is made of, drawn from its seed.
//!
//! Every run has its own mixture: a run with all faults at once hides as much as it
//! shows, since whatever one of them has spoilt the next one covers up.

use qcc_control::registry::{ReturnPolicy, Strategy};

use crate::{
    random::Random,
    time::{S, Time},
};

/// One run's mixture.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Data planes.
    pub proxies: usize,
    /// Endpoints at the beginning.
    pub endpoints: usize,
    /// When faults and operators stop.
    pub calm_at: Time,
    /// Longest way of a message.
    pub delay_max: Time,
    /// In a hundred messages, so many are lost, and as many doubled or overtaken.
    pub hostile: u64,
    /// Messages of a connection that has broken may still arrive.
    pub ghosts: bool,
    /// Reports that a proxy keeps.
    pub reports_max: usize,
    /// Events that the control plane keeps.
    pub events_max: usize,
    /// Time between client requests of one proxy.
    pub pace: Time,
    /// Faults that may happen.
    pub faults: Vec<Fault>,
    /// Time between faults.
    pub fault_pace: Time,
    /// Whether operators act, and the time between two acts.
    pub operator_pace: Option<Time>,
    /// Whether operators change the cluster's rules and how endpoints are checked.
    pub rules_change: bool,
    /// Time between changes of an endpoint's mood.
    pub mood_pace: Time,
    /// Whether checks reach the endpoints.
    pub checks_reach: bool,
    /// Whether proxies keep their views on disk.
    pub keeps_views: bool,
    /// How endpoints are chosen, as long as nobody changes it.
    pub strategy: Strategy,
    /// In a hundred requests, so many name their session.
    pub sessions: u64,
    /// What becomes of sessions that went elsewhere.
    pub return_policy: ReturnPolicy,
    /// Whether endpoints that come back get their share little by little.
    pub slow_start: bool,
}

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A proxy and the control plane cannot reach each other.
    Partition,
    /// Only one of them reaches the other.
    HalfPartition,
    /// A proxy's connection breaks.
    Break,
    /// All connections break at once.
    Flood,
    /// The control plane dies between two turns.
    ControlDies,
    /// The control plane dies while it commits.
    ControlDiesCommitting,
    /// The control plane dies and loses its disk: what comes back is another registry.
    ControlLosesDisk,
    /// A proxy dies.
    ProxyDies,
    /// A proxy reaches no endpoint for a time.
    NoEgress,
    /// The clock on the wall jumps.
    WallJumps,
    /// A proxy's view stream is read slowly for a time.
    SlowReader,
    /// Many client requests come at once.
    Burst,
}

/// All strategies.
pub(crate) const STRATEGIES: [Strategy; 6] = [
    Strategy::Priority,
    Strategy::Weighted,
    Strategy::RoundRobin,
    Strategy::Random,
    Strategy::LeastInflight,
    Strategy::PeakEwma,
];

/// What about half of the runs have.
const FAULTS: [Fault; 11] = [
    Fault::Partition,
    Fault::HalfPartition,
    Fault::Break,
    Fault::Flood,
    Fault::ControlDies,
    Fault::ControlDiesCommitting,
    Fault::ProxyDies,
    Fault::NoEgress,
    Fault::WallJumps,
    Fault::SlowReader,
    Fault::Burst,
];

impl Plan {
    /// Draws a mixture.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut faults: Vec<Fault> = (FAULTS.into_iter())
            .filter(|_| random.percent(45))
            .collect();
        // In few: until all is applied again there is little to be wrong about.
        if random.percent(20) {
            faults.push(Fault::ControlLosesDisk);
        }
        Self {
            proxies: random.within(1..5) as usize,
            endpoints: random.within(1..5) as usize,
            calm_at: random.within(40..180) * S,
            delay_max: random.span(1_000, 2 * S),
            hostile: if random.percent(30) {
                random.within(1..10)
            } else {
                0
            },
            ghosts: random.percent(50),
            reports_max: if random.percent(20) {
                random.within(4..40) as usize
            } else {
                10_000
            },
            events_max: random.span(10, 2_000) as usize,
            pace: random.span(S / 5, 4 * S),
            faults,
            fault_pace: random.span(2 * S, 30 * S),
            operator_pace: random.percent(70).then(|| random.span(S, 20 * S)),
            rules_change: random.percent(40),
            mood_pace: random.span(2 * S, 40 * S),
            checks_reach: random.percent(90),
            keeps_views: random.percent(60),
            strategy: STRATEGIES[random.index(STRATEGIES.len())],
            sessions: if random.percent(50) { 60 } else { 0 },
            return_policy: match random.percent(40) {
                true => ReturnPolicy::Stay,
                false => ReturnPolicy::Return,
            },
            slow_start: random.percent(50),
        }
    }
}
