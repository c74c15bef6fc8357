//! A proxy's shell, as the simulation has it: its runs, connections and timers. What is
//! decided is decided by the real one.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use qcc_control::registry::{ProxyId, ProxyKey};
use qcc_dataplane::simulation::Proxy;
use qcc_proto::v1;

use crate::{
    event::Event,
    invariants::Violation,
    network::{Frame, Way, Wire},
    position::Position,
    requests::{Asking, Trying},
    time::{MS, Monotonic, S, Time},
    world::World,
};

/// A stream that is silent for so long is given up.
const SILENCE_MAX: Time = 15 * S;

/// A success waits so long for company.
pub(crate) const FLUSH: Time = 100 * MS;

/// Without anything to report, a sign of life goes out this often.
const HEARTBEAT: Time = 5 * S;

/// How long a proxy that starts waits for a view before it takes the one it has kept.
const START_PATIENCE: Time = 2 * S;

/// A machine with a proxy on it.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) clock: Monotonic,
    /// The proxy while it lives.
    pub(crate) run: Option<Run>,
    runs: u64,
    /// Whether it reaches endpoints.
    pub(crate) egress: bool,
    /// Whether it reads its views slowly.
    pub(crate) slow: bool,
    /// What is on its disk of its last view, which may be older than the last one.
    kept: Option<Vec<u8>>,
}

/// One run of a proxy.
pub(crate) struct Run {
    pub(crate) number: u64,
    pub(crate) key: ProxyKey,
    pub(crate) proxy: Proxy,
    session: Option<Session>,
    /// When the session began, of one that is being opened too.
    pub(crate) serial: u64,
    pub(crate) requests: BTreeMap<u64, Asking>,
    pub(crate) attempts: BTreeMap<u64, Trying>,
}

/// One connection, as the proxy has it.
#[derive(Debug)]
struct Session {
    wire: Wire,
    opened: Time,
    heard: Time,
    heard_at_all: bool,
    /// When the question was asked that has no answer yet.
    asked: Option<Time>,
    report_at: Option<Time>,
    told: Option<v1::View>,
}

impl Node {
    pub(crate) fn new(index: usize, clock: Monotonic) -> Self {
        Self {
            id: format!("p{index}"),
            clock,
            run: None,
            runs: 0,
            egress: true,
            slow: false,
            kept: None,
        }
    }

    /// Returns the connection that the proxy has.
    pub(crate) fn wire(&self) -> Option<Wire> {
        Some(self.run.as_ref()?.session.as_ref()?.wire)
    }
}

impl Run {
    /// Returns the view that new requests are routed by.
    pub(crate) fn position(&self) -> Option<Position> {
        let view = self.proxy.view()?;
        Some(Position::of_wire(&self.proxy.registry_id(), Some(view)))
    }
}

impl World {
    /// Starts a proxy.
    pub(crate) fn start_proxy(&mut self, proxy: usize) {
        let seed = self.random.next();
        let node = &mut self.nodes[proxy];
        if node.run.is_some() {
            return;
        }
        node.runs += 1;
        let number = node.runs;
        let incarnation = number.to_string();
        let key = ProxyKey {
            id: ProxyId::new(&node.id),
            incarnation: incarnation.as_str().into(),
        };
        node.run = Some(Run {
            number,
            key,
            proxy: Proxy::new(&node.id, &incarnation, self.plan.reports_max, seed),
            session: None,
            serial: 0,
            requests: BTreeMap::new(),
            attempts: BTreeMap::new(),
        });
        self.turn_to(format_args!("p{proxy} starts, run {number}"));
        self.after(MS, Event::Connect { proxy, run: number });
        self.after(START_PATIENCE, Event::Restore { proxy, run: number });
    }

    /// Ends a proxy as a kill does.
    pub(crate) fn kill_proxy(&mut self, proxy: usize) {
        let node = &mut self.nodes[proxy];
        let Some(run) = node.run.take() else { return };
        self.judge.died(&run.key);
        self.turn_to(format_args!("p{proxy} dies"));
        if let Some(session) = run.session {
            let later = self.random.span(MS, 20 * S);
            let wire = session.wire;
            self.after(later, Event::Gone { wire });
        }
        let later = self.random.span(100 * MS, 20 * S);
        self.after(
            if self.calm { S } else { later },
            Event::StartProxy { proxy },
        );
    }

    /// Lets a proxy that has heard nothing start from what it has kept.
    pub(crate) fn restore(&mut self, proxy: usize, run: u64) -> Result<(), Violation> {
        let instant = self.nodes[proxy].clock.at(self.now);
        let Some(kept) = self.nodes[proxy].kept.clone() else {
            return Ok(());
        };
        let Some(run) = self.alive(proxy, run) else {
            return Ok(());
        };
        if run.proxy.view().is_some() {
            return Ok(());
        }
        if let Err(error) = run.proxy.restore(&kept, instant) {
            return Err(Violation::new("D-10 what was kept can be used", error));
        }
        let Some(position) = run.position() else {
            return Ok(());
        };
        let key = run.key.clone();
        let (seen, rules) = (run.proxy.endpoints(instant), run.proxy.rules());
        self.turn_to(format_args!("p{proxy} starts from {position}"));
        self.judge.applied(&key, None, position, &seen, rules)?;
        self.judge.remembers(&key, position, &seen)?;
        // As if the session had failed: the next one resumes from there.
        if let Some(wire) = self.nodes[proxy].wire() {
            self.lose(proxy, wire);
        }
        Ok(())
    }

    /// Opens a connection and both streams.
    pub(crate) fn connect(&mut self, proxy: usize, run: u64) {
        let wire = self.network.open();
        let now = self.now;
        let Some(run) = self.alive(proxy, run) else {
            return;
        };
        if run.session.is_some() {
            return;
        }
        run.session = Some(Session {
            wire,
            opened: now,
            heard: now,
            heard_at_all: false,
            asked: Some(now),
            report_at: None,
            told: run.proxy.view(),
        });
        let watch = run.proxy.watch();
        let hello = run.proxy.hello();
        let resumes = watch.resume_from.is_some();
        let position = shown(run.position());
        self.turn_to(format_args!(
            "p{proxy} connects by {wire} at {position}, resumes: {resumes}"
        ));
        self.send(proxy, wire, Way::Up, Frame::Watch(encode(&watch)));
        self.send(proxy, wire, Way::Up, Frame::Report(encode(&hello)));
        self.after(SILENCE_MAX, Event::Listen { proxy, wire });
    }

    /// Gives a connection up.
    pub(crate) fn lose(&mut self, proxy: usize, wire: Wire) {
        let Some(run) = self.nodes[proxy].run.as_mut() else {
            return;
        };
        let Some(session) = run.session.take_if(|session| session.wire == wire) else {
            return;
        };
        run.proxy.lost();
        if session.heard_at_all && self.now - session.opened >= 5 * S {
            run.proxy.steady();
        }
        let number = run.number;
        let wait = run.proxy.wait(self.random.fraction()).as_micros() as Time;
        self.turn_to(format_args!("p{proxy} has lost {wire}"));
        if self.plan.ghosts && self.random.percent(70) {
            let later = self.random.span(MS, 20 * S);
            self.after(later, Event::Gone { wire });
        } else {
            self.send(proxy, wire, Way::Up, Frame::Close);
        }
        self.after(wait, Event::Connect { proxy, run: number });
    }

    /// Gives a connection up that has been silent for too long.
    pub(crate) fn listen(&mut self, proxy: usize, wire: Wire) {
        let now = self.now;
        let Some(session) = self.session(proxy, wire) else {
            return;
        };
        let quiet_since = session
            .asked
            .map_or(session.heard, |at| at.min(session.heard));
        if now - quiet_since >= SILENCE_MAX {
            self.turn_to(format_args!("p{proxy} hears nothing"));
            self.lose(proxy, wire);
        } else {
            self.at(quiet_since + SILENCE_MAX, Event::Listen { proxy, wire });
        }
    }

    /// Takes a frame from the control plane.
    pub(crate) fn hear_control(
        &mut self,
        proxy: usize,
        wire: Wire,
        frame: Frame,
    ) -> Result<(), Violation> {
        let now = self.now;
        let instant = self.nodes[proxy].clock.at(now);
        let Some(session) = self.session(proxy, wire) else {
            return Ok(());
        };
        match frame {
            Frame::Update(bytes) => {
                session.heard = now;
                session.heard_at_all = true;
                let message = v1::WatchSnapshotsResponse::decode(bytes).map_err(|error| {
                    Violation::new("wire: a frame can be read", error.to_string())
                })?;
                let Some(run) = self.nodes[proxy].run.as_mut() else {
                    return Ok(());
                };
                let before = run.position();
                match run.proxy.apply(message, instant) {
                    Ok(()) => self.applied(proxy, wire, before),
                    Err(error) => {
                        self.turn_to(format_args!("p{proxy} is out of step: {error}"));
                        self.lose(proxy, wire);
                        Ok(())
                    }
                }
            }
            Frame::Answer(bytes) => {
                session.asked = None;
                let answer = v1::StreamReportsResponse::decode(bytes).map_err(|error| {
                    Violation::new("wire: a frame can be read", error.to_string())
                })?;
                self.note(format_args!(
                    "p{proxy} is answered {}",
                    answer.acknowledged_sequence
                ));
                let Some(run) = self.nodes[proxy].run.as_mut() else {
                    return Ok(());
                };
                (self.judge).is_told(&run.key, answer.acknowledged_sequence);
                if let Err(error) = run.proxy.answered(&answer) {
                    self.turn_to(format_args!("p{proxy} gives up: {error}"));
                    self.lose(proxy, wire);
                    return Ok(());
                }
                let backlog = run.proxy.has_backlog();
                let waiting = run.proxy.unacknowledged() > 0;
                let wait = match (backlog, waiting) {
                    (true, _) => 0,
                    (false, true) => self.random.within(0..FLUSH),
                    (false, false) => HEARTBEAT,
                };
                self.plan_report(proxy, wait);
                Ok(())
            }
            Frame::Close => {
                self.lose(proxy, wire);
                Ok(())
            }
            Frame::Watch(_) | Frame::Report(_) => Ok(()),
        }
    }

    /// Notes that a proxy has taken an update.
    fn applied(
        &mut self,
        proxy: usize,
        wire: Wire,
        before: Option<Position>,
    ) -> Result<(), Violation> {
        let node = &self.nodes[proxy];
        let Some(run) = &node.run else { return Ok(()) };
        let position = run.position();
        if let Some(position) = position {
            self.judge.is_spoken_to(&run.key, position);
        }
        if let Some(position) = position.filter(|_| position != before) {
            let instant = node.clock.at(self.now);
            let seen = run.proxy.endpoints(instant);
            let rules = run.proxy.rules();
            self.judge
                .applied(&run.key, before, position, &seen, rules)?;
            if before.is_some_and(|before| before.registry != position.registry) {
                let dropped = run.proxy.dropped();
                self.judge.begins_anew(&run.key, &seen, dropped)?;
            }
            self.keep_view(proxy);
            self.turn_to(format_args!("p{proxy} applies {position}"));
            let asked = self.session(proxy, wire).is_some_and(|s| s.asked.is_some());
            if !asked {
                self.plan_report(proxy, MS);
            }
            self.wake(proxy);
        }
        Ok(())
    }

    /// Lets a proxy write its view to disk, which may come too late.
    pub(crate) fn keep_view(&mut self, proxy: usize) {
        let node = &mut self.nodes[proxy];
        let Some(run) = &node.run else { return };
        if self.plan.keeps_views && self.random.percent(70) {
            node.kept = run.proxy.keep(node.clock.at(self.now));
        }
    }

    /// Lets the reporter wake after a span, unless it wakes before.
    pub(crate) fn plan_report(&mut self, proxy: usize, wait: Time) {
        let at = self.now + wait;
        let Some(run) = self.nodes[proxy].run.as_mut() else {
            return;
        };
        let Some(session) = run.session.as_mut() else {
            return;
        };
        if session.asked.is_some() || session.report_at.is_some_and(|planned| planned <= at) {
            return;
        }
        session.report_at = Some(at);
        let wire = session.wire;
        self.at(at, Event::Report { proxy, wire });
    }

    /// Sends the next batch.
    pub(crate) fn report(&mut self, proxy: usize, wire: Wire) -> Result<(), Violation> {
        let now = self.now;
        let instant = self.nodes[proxy].clock.at(now);
        let Some(session) = self.session(proxy, wire) else {
            return Ok(());
        };
        if session.report_at.is_none_or(|at| at > now) || session.asked.is_some() {
            return Ok(());
        }
        session.report_at = None;
        session.asked = Some(now);
        let Some(run) = self.nodes[proxy].run.as_mut() else {
            return Ok(());
        };
        if let Some(session) = run.session.as_mut() {
            session.told = run.proxy.view();
        }
        let question = run.proxy.question(instant);
        if let Some(batch) = &question.batch {
            let key = run.key.clone();
            self.judge.sent(&key, batch)?;
            if !batch.outcomes.is_empty() {
                self.trace.note(
                    now,
                    format_args!(
                        "p{proxy} reports {} from {}",
                        batch.outcomes.len(),
                        batch.first_sequence
                    ),
                );
            }
        }
        self.send(proxy, wire, Way::Up, Frame::Report(encode(&question)));
        Ok(())
    }

    pub(crate) fn alive(&mut self, proxy: usize, number: u64) -> Option<&mut Run> {
        let run = self.nodes[proxy].run.as_mut();
        run.filter(|run| run.number == number)
    }

    fn session(&mut self, proxy: usize, wire: Wire) -> Option<&mut Session> {
        let run = self.nodes[proxy].run.as_mut()?;
        run.session.as_mut().filter(|session| session.wire == wire)
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, proxy: usize, wire: Wire, way: Way, frame: Frame) {
        let on = (wire, way, frame.stream());
        let random = &mut self.random;
        let arrivals = (self.network).arrivals(on, self.now, &self.plan, self.calm, random);
        for at in arrivals {
            let frame = frame.clone();
            self.at(
                at,
                Event::Arrive {
                    proxy,
                    wire,
                    way,
                    frame,
                },
            );
        }
    }

    /// Lets a frame arrive, or holds it up while its way is cut.
    pub(crate) fn arrive(
        &mut self,
        proxy: usize,
        wire: Wire,
        way: Way,
        frame: Frame,
    ) -> Result<(), Violation> {
        if self.network.is_cut(proxy, way) {
            // The sender's kernel tries again.
            let later = self.now + self.random.within(200 * MS..S);
            let on = (wire, way, frame.stream());
            let at = self.network.no_overtaking(on, later);
            self.at(
                at,
                Event::Arrive {
                    proxy,
                    wire,
                    way,
                    frame,
                },
            );
            return Ok(());
        }
        match way {
            Way::Up => self.hear_proxy(proxy, wire, frame),
            Way::Down => self.hear_control(proxy, wire, frame),
        }
    }
}

fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

pub(crate) fn shown(position: Option<Position>) -> String {
    position.map_or_else(|| "nothing".to_owned(), |position| position.to_string())
}
