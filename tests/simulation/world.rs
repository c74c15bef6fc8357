//! The world: everything there is in one run, and what happens next in it.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant, SystemTime},
};

use qcc_control::simulation::set_time;

use crate::{
    control::Life,
    disk::Disk,
    event::Event,
    invariants::{Judge, Violation},
    network::Network,
    operator::Operator,
    plan::Plan,
    proxy::Node,
    random::Random,
    time::{Monotonic, S, Time, WALL_START},
    trace::Trace,
    upstream::Upstreams,
};

/// How long it may take, once faults have stopped, until everything is as it should
/// be: a check interval (two minutes for a rejected key), what was under way when they
/// stopped, and the way of the news.
pub(crate) const SETTLING: Time = 180 * S;

/// Clients stop this long before the end, so that what they began has ended by then.
pub(crate) const SILENCE: Time = 60 * S;

/// One run.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) trace: Trace,
    pub(crate) network: Network,
    pub(crate) disk: Disk,
    /// The control plane while it lives.
    pub(crate) life: Option<Life>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) upstreams: Upstreams,
    pub(crate) operator: Operator,
    pub(crate) judge: Judge,
    /// Faults have stopped.
    pub(crate) calm: bool,
    pub(crate) events: u64,
    /// Requests that an endpoint has served.
    pub(crate) served: u64,
    queue: BTreeMap<(Time, u64), Event>,
    serial: u64,
    control_clock: Monotonic,
    /// By how much the wall has jumped, in seconds.
    wall_jump: i64,
    jumped: u64,
    /// Whether jumps of the wall are carried out.
    pub(crate) wall_jumps: bool,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) digest: u64,
    pub(crate) events: u64,
    /// Requests that an endpoint has served.
    pub(crate) served: u64,
    /// How often the wall has jumped.
    pub(crate) wall_jumps: u64,
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: String,
}

impl World {
    /// Makes the world of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let origin = Instant::now();
        let nodes = (0..plan.proxies)
            .map(|index| Node::new(index, Monotonic::draw(origin, &mut random)))
            .collect();
        let control_clock = Monotonic::draw(origin, &mut random);
        Self {
            trace: Trace::new(),
            network: Network::default(),
            disk: Disk::default(),
            life: None,
            nodes,
            upstreams: Upstreams::default(),
            operator: Operator::default(),
            judge: Judge::default(),
            calm: false,
            events: 0,
            served: 0,
            queue: BTreeMap::new(),
            serial: 0,
            control_clock,
            wall_jump: 0,
            jumped: 0,
            wall_jumps: true,
            now: 0,
            plan,
            random,
        }
    }

    /// Runs to the end, or to the first broken invariant.
    pub(crate) fn run(mut self) -> End {
        let violation = self.live().err();
        End {
            digest: self.trace.digest(),
            events: self.events,
            served: self.served,
            wall_jumps: self.jumped,
            violation,
            trace: self.trace.tail(),
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        if self.plan.proxies == 1 {
            self.judge.has_one_proxy();
        }
        self.judge.keeps_events(self.plan.events_max);
        let plan = format!("{:?}", self.plan);
        self.turn_to(format_args!("{plan}"));
        self.tell_time();
        self.start_control()?;
        self.set_up()?;
        for proxy in 0..self.nodes.len() {
            self.start_proxy(proxy);
            let first = self.random.within(0..2 * S);
            self.after(first, Event::Client { proxy });
        }
        let calm_at = self.plan.calm_at;
        self.at(calm_at, Event::Calm);
        self.at(calm_at + SETTLING, Event::End);
        self.plan_fault();
        self.plan_mood();
        self.plan_operator();
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.tell_time();
            self.events += 1;
            if matches!(event, Event::End) {
                return self.judge_end();
            }
            self.happen(event)?;
        }
        Ok(())
    }

    /// Lets an event happen at a time.
    pub(crate) fn at(&mut self, at: Time, event: Event) {
        self.serial += 1;
        self.queue.insert((at.max(self.now), self.serial), event);
    }

    /// Lets an event happen after a span.
    pub(crate) fn after(&mut self, span: Time, event: Event) {
        self.at(self.now + span, event);
    }

    /// Notes what happens.
    pub(crate) fn note(&mut self, event: fmt::Arguments<'_>) {
        self.trace.note(self.now, event);
    }

    /// Notes what changes what comes after it.
    pub(crate) fn turn_to(&mut self, event: fmt::Arguments<'_>) {
        self.trace.turn(self.now, event);
    }

    /// Returns what the wall shows.
    pub(crate) fn wall(&self) -> SystemTime {
        let years_later = Duration::from_secs(50 * 365 * 86_400);
        let shown = WALL_START + years_later + Duration::from_micros(self.now);
        if self.wall_jump < 0 {
            shown - Duration::from_secs(self.wall_jump.unsigned_abs())
        } else {
            shown + Duration::from_secs(self.wall_jump.unsigned_abs())
        }
    }

    /// Lets the wall jump by up to ten years, either way.
    pub(crate) fn jump_wall(&mut self) {
        let jump = self.random.within(0..20 * 365 * 86_400) as i64 - 10 * 365 * 86_400;
        if self.wall_jumps {
            self.wall_jump = jump;
            self.jumped += 1;
        }
    }

    fn tell_time(&self) {
        set_time(self.control_clock.at(self.now), self.wall());
    }
}
