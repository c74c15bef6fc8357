//! The control plane's shell, as the simulation has it: connections, the mailbox of
//! the writer, and checks. What is decided is decided by the real one.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use qcc_control::{
    registry::{CheckId, EndpointName, ProxyKey, Seed},
    simulation::{Ask, Control, ReportStream, Said, Turned, Watcher, load, proxy as proxy_key},
};
use qcc_proto::v1;

use crate::{
    checks::Check,
    disk::Opened,
    event::Event,
    invariants::{Asked, Violation, names_of},
    network::{Frame, Way, Wire},
    position::Position,
    time::{MS, S, Time},
    world::World,
};

/// A data plane is told every so often that nothing has changed.
const BOOKMARK: Time = 5 * S;

/// A peer that has vanished is noticed after so long.
const KEEPALIVE: Time = 15 * S;

/// One life of the control plane.
pub(crate) struct Life {
    /// Tells it from all others.
    pub(crate) number: u64,
    pub(crate) control: Control,
    pub(crate) connections: BTreeMap<Wire, Connection>,
    mailbox: Vec<(Ask, Origin)>,
    turn_planned: bool,
    /// Checks in flight, and those whose verdicts may still come although they were
    /// given up.
    pub(crate) checks: BTreeMap<CheckId, Check>,
}

/// One proxy's connection, as the control plane has it.
pub(crate) struct Connection {
    pub(crate) proxy: usize,
    watch: Option<v1::WatchSnapshotsRequest>,
    watcher: Option<Watcher>,
    room_planned: bool,
    reports: Option<ReportStream>,
    /// Messages that wait for the answer to the one before.
    questions: Vec<v1::ReportBatch>,
    busy: bool,
    /// Streams that count as connected.
    leases: Vec<ProxyKey>,
}

/// Whom an answer goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// A stream of views.
    Watch(Wire),
    /// A stream of reports that begins.
    Hello(Wire),
    /// A batch.
    Batch(Wire),
    /// An operator's request, by number.
    Operator(usize),
    /// Nobody.
    Nobody,
}

impl World {
    /// Starts the control plane from its disk.
    pub(crate) fn start_control(&mut self) -> Result<(), Violation> {
        if self.life.is_some() {
            return Ok(());
        }
        let Opened {
            life,
            term,
            records,
        } = self.disk.open();
        // A name for a new registry. One that is there has its own.
        let seed = Seed {
            registry_id: life.to_string().into(),
            salt: vec![1],
        };
        let unreadable = |error| Violation::new("I-6 what is stored can be read", error);
        let saved = load(&records).map_err(unreadable)?;
        let events_max = self.plan.events_max;
        let started = Control::start(self.disk.clone(), &records, term, seed, events_max);
        let (control, found, turned) = started.map_err(unreadable)?;
        self.turn_to(format_args!(
            "control plane starts: view {}",
            Position::of(&control.snapshot())
        ));
        self.judge.started(&found, saved, term)?;
        self.life = Some(Life {
            number: life,
            control,
            connections: BTreeMap::new(),
            mailbox: Vec::new(),
            turn_planned: false,
            checks: BTreeMap::new(),
        });
        self.turned(turned, Vec::new(), Vec::new())
    }

    /// Ends the control plane as a kill does.
    pub(crate) fn kill_control(&mut self) {
        let Some(life) = self.life.take() else { return };
        self.turn_to(format_args!("control plane dies"));
        for (wire, connection) in life.connections {
            let later = self.random.span(MS, 20 * S);
            let proxy = connection.proxy;
            self.after(later, Event::Lost { proxy, wire });
        }
        let later = self.random.span(100 * MS, 40 * S);
        self.after(if self.calm { S } else { later }, Event::StartControl);
    }

    /// Asks the writer for something.
    pub(crate) fn ask(&mut self, ask: Ask, request: Option<usize>) -> bool {
        let origin = request.map_or(Origin::Nobody, Origin::Operator);
        self.put(ask, origin)
    }

    pub(crate) fn put(&mut self, ask: Ask, origin: Origin) -> bool {
        let Some(life) = &mut self.life else {
            return false;
        };
        life.mailbox.push((ask, origin));
        if !life.turn_planned {
            life.turn_planned = true;
            let life = life.number;
            let soon = self.random.span(20, 5 * MS);
            self.after(soon, Event::Turn { life });
        }
        true
    }

    /// Lets the writer take what has come. Reports are taken together; what an operator
    /// asks and what a check brings have mostly a turn each, so that their effects can be told.
    pub(crate) fn turn(&mut self, number: u64) -> Result<(), Violation> {
        let Some(life) = self.life.as_mut().filter(|life| life.number == number) else {
            return Ok(());
        };
        life.turn_planned = false;
        let mut mailbox = std::mem::take(&mut life.mailbox).into_iter().peekable();
        while let Some(first) = mailbox.next() {
            let mut together = vec![first];
            let mut names = names_asked(&together[0].0);
            if !names.is_empty() && self.random.percent(40) {
                // Several operators, each at another endpoint.
                while let Some(next) = mailbox.next_if(|(ask, _)| {
                    let others = names_asked(ask);
                    !others.is_empty() && others.iter().all(|name| !names.contains(name))
                }) {
                    names.extend(names_asked(&next.0));
                    together.push(next);
                }
            }
            if is_of_a_proxy(&together[0].0) {
                while let Some(next) = mailbox.next_if(|(ask, _)| is_of_a_proxy(ask)) {
                    together.push(next);
                }
            }
            let (asks, origins): (Vec<_>, Vec<_>) = together.into_iter().unzip();
            self.take_turn(asks, origins)?;
            if self.life.as_ref().is_none_or(|life| life.number != number) {
                return Ok(()); // It died; so did what waited.
            }
        }
        Ok(())
    }

    /// Tells the registry the time.
    pub(crate) fn due(&mut self, number: u64) -> Result<(), Violation> {
        let is_due = |life: &Life| {
            life.number == number
                && life
                    .control
                    .due()
                    .is_some_and(|due| due <= life.control.clock())
        };
        if self.life.as_ref().is_some_and(is_due) {
            self.take_turn(Vec::new(), Vec::new())?;
        }
        Ok(())
    }

    fn take_turn(&mut self, asks: Vec<Ask>, origins: Vec<Origin>) -> Result<(), Violation> {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let asked: Vec<Asked> = asks
            .iter()
            .map(|ask| Asked::of(ask, &life.checks))
            .collect();
        for asked in &asked {
            self.trace.note(self.now, format_args!("asked {asked}"));
        }
        let turned = life.control.turn(asks);
        self.turned(turned, asked, origins)
    }

    /// Follows up on a turn.
    fn turned(
        &mut self,
        turned: Turned,
        asked: Vec<Asked>,
        origins: Vec<Origin>,
    ) -> Result<(), Violation> {
        let Some(life) = &mut self.life else {
            return Ok(());
        };
        let snapshot = life.control.snapshot();
        let clock = life.control.clock();
        self.judge.turned(
            &snapshot,
            &asked,
            &turned,
            turned.failed.then(|| life.control.state()),
            self.disk.commits(),
            clock,
            &mut self.trace,
            self.now,
        )?;
        if turned.failed {
            self.see_before_death()?;
            self.kill_control();
            return Ok(());
        }
        for job in turned.jobs {
            self.start_job(job)?;
        }
        for (said, origin) in turned.said.into_iter().zip(origins) {
            self.tell(said, origin)?;
        }
        self.plan_due();
        self.plan_rooms();
        Ok(())
    }

    /// Lets some proxies see what was published right before the end.
    fn see_before_death(&mut self) -> Result<(), Violation> {
        let Some(life) = &self.life else {
            return Ok(());
        };
        let wires: Vec<Wire> = life.connections.keys().copied().collect();
        for wire in wires {
            if self.random.percent(50) {
                self.send_updates(wire)?;
            }
        }
        Ok(())
    }

    fn plan_due(&mut self) {
        let Some(life) = &self.life else { return };
        if let Some(due) = life.control.due() {
            let wait = due.since(life.control.clock()).as_micros() as Time;
            let life = life.number;
            // Clocks differ a little: late rather than early.
            self.after(wait + wait / 2000 + MS, Event::Due { life });
        }
    }

    /// Plans for each stream of views when it will have room for more.
    fn plan_rooms(&mut self) {
        let Some(life) = &mut self.life else { return };
        let mut planned = Vec::new();
        for (wire, connection) in &mut life.connections {
            let behind = connection.watcher.as_ref().is_some_and(Watcher::is_behind);
            if behind && !connection.room_planned {
                connection.room_planned = true;
                planned.push((*wire, connection.proxy));
            }
        }
        for (wire, proxy) in planned {
            let longest = if self.nodes[proxy].slow {
                20 * S
            } else {
                10 * MS
            };
            let wait = self.random.span(20, longest);
            self.after(wait, Event::Room { wire });
        }
    }

    /// Sends what a stream of views does not know yet.
    pub(crate) fn room(&mut self, wire: Wire) -> Result<(), Violation> {
        let connection = self.connection(wire);
        if let Some(connection) = connection {
            connection.room_planned = false;
            if connection.watcher.as_ref().is_some_and(Watcher::is_behind) {
                self.send_updates(wire)?;
            }
        }
        Ok(())
    }

    /// Says that nothing has changed, if so.
    pub(crate) fn bookmark(&mut self, wire: Wire) -> Result<(), Violation> {
        if self.connection(wire).is_some() {
            self.send_updates(wire)?;
            self.after(BOOKMARK, Event::Bookmark { wire });
        }
        Ok(())
    }

    fn send_updates(&mut self, wire: Wire) -> Result<(), Violation> {
        let Some(connection) = self.connection(wire) else {
            return Ok(());
        };
        let Some(watcher) = &mut connection.watcher else {
            return Ok(());
        };
        let proxy = connection.proxy;
        for message in watcher.messages() {
            self.send(proxy, wire, Way::Down, Frame::Update(message));
        }
        Ok(())
    }

    /// Takes a frame from a proxy.
    pub(crate) fn hear_proxy(
        &mut self,
        proxy: usize,
        wire: Wire,
        frame: Frame,
    ) -> Result<(), Violation> {
        let Some(life) = &mut self.life else {
            // Nobody listens: the connection is refused.
            let soon = self.random.span(MS, S);
            self.after(soon, Event::Lost { proxy, wire });
            return Ok(());
        };
        if let Frame::Close = frame {
            self.drop_connection(wire);
            return Ok(());
        }
        let is_new = !life.connections.contains_key(&wire);
        if is_new {
            let opens = matches!(frame, Frame::Watch(_))
                || matches!(&frame, Frame::Report(bytes) if decode_report(bytes)?.proxy.is_some());
            if !opens {
                // What is left of a connection that was dropped.
                let soon = self.random.span(MS, S);
                self.after(soon, Event::Lost { proxy, wire });
                return Ok(());
            }
        }
        let connection = life.connections.entry(wire).or_insert_with(|| Connection {
            proxy,
            watch: None,
            watcher: None,
            room_planned: false,
            reports: None,
            questions: Vec::new(),
            busy: false,
            leases: Vec::new(),
        });
        match frame {
            Frame::Watch(bytes) => {
                let request = v1::WatchSnapshotsRequest::decode(bytes).map_err(unreadable)?;
                if connection.watch.is_some() {
                    return Ok(()); // A copy.
                }
                let key = proxy_key(request.proxy.as_ref()).map_err(refused)?;
                connection.watch = Some(request);
                connection.leases.push(key.clone());
                self.put(Ask::Connect(key), Origin::Watch(wire));
            }
            Frame::Report(bytes) => {
                let request = decode_report(&bytes)?;
                match request.proxy {
                    Some(identity) => {
                        if connection.leases.len() > 1 || connection.reports.is_some() {
                            return Ok(()); // A copy.
                        }
                        let key = proxy_key(Some(&identity)).map_err(refused)?;
                        connection.leases.push(key.clone());
                        connection.busy = true;
                        self.put(Ask::Connect(key), Origin::Hello(wire));
                    }
                    None => {
                        connection.questions.push(request.batch.unwrap_or_default());
                        self.next_question(wire)?;
                    }
                }
            }
            Frame::Update(_) | Frame::Answer(_) | Frame::Close => {}
        }
        if is_new {
            self.after(KEEPALIVE, Event::Probe { wire });
        }
        Ok(())
    }

    /// Takes the next batch of a stream, if the one before is answered.
    fn next_question(&mut self, wire: Wire) -> Result<(), Violation> {
        loop {
            let Some(life) = &mut self.life else {
                return Ok(());
            };
            let view = life.control.snapshot().view;
            let Some(connection) = life.connections.get_mut(&wire) else {
                return Ok(());
            };
            if connection.busy || connection.questions.is_empty() {
                return Ok(());
            }
            let Some(reports) = &mut connection.reports else {
                return Ok(());
            };
            let batch = connection.questions.remove(0);
            match reports.take(batch, view).map_err(refused)? {
                Some(ask) => {
                    connection.busy = true;
                    self.put(ask, Origin::Batch(wire));
                    return Ok(());
                }
                None => self.answer(wire)?,
            }
        }
    }

    fn answer(&mut self, wire: Wire) -> Result<(), Violation> {
        let Some(connection) = self.connection(wire) else {
            return Ok(());
        };
        let proxy = connection.proxy;
        let Some(reports) = &mut connection.reports else {
            return Ok(());
        };
        let answer = reports.answer();
        let acknowledged = answer.acknowledged_sequence;
        let key = reports.proxy.clone();
        self.judge.acknowledged(&key, acknowledged)?;
        let bytes = Bytes::from(answer.encode_to_vec());
        self.send(proxy, wire, Way::Down, Frame::Answer(bytes));
        Ok(())
    }

    fn tell(&mut self, said: Said, origin: Origin) -> Result<(), Violation> {
        match (origin, said) {
            (Origin::Operator(request), Said::Mutated(answer)) => self.answered(request, answer),
            (Origin::Watch(wire), Said::Received(Ok(_))) => {
                let Some(life) = &mut self.life else {
                    return Ok(());
                };
                if let Some(connection) = life.connections.get_mut(&wire)
                    && let Some(request) = &connection.watch
                {
                    connection.watcher = Some(life.control.watch(request).map_err(refused)?);
                    self.send_updates(wire)?;
                    self.after(BOOKMARK, Event::Bookmark { wire });
                }
                Ok(())
            }
            (Origin::Hello(wire), Said::Received(Ok((receipt, view)))) => {
                if let Some(connection) = self.connection(wire)
                    && let Some(key) = connection.leases.last().cloned()
                {
                    connection.busy = false;
                    connection.reports = Some(ReportStream::new(key, receipt, view));
                    self.answer(wire)?;
                    self.next_question(wire)?;
                }
                Ok(())
            }
            (Origin::Batch(wire), Said::Received(Ok((receipt, view)))) => {
                if let Some(connection) = self.connection(wire)
                    && let Some(reports) = &mut connection.reports
                {
                    connection.busy = false;
                    reports.applied(receipt, view);
                    self.answer(wire)?;
                    self.next_question(wire)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Looks whether a connection lives.
    pub(crate) fn probe(&mut self, wire: Wire) -> Result<(), Violation> {
        let Some(proxy) = self.connection(wire).map(|connection| connection.proxy) else {
            return Ok(());
        };
        let cut = self.network.is_cut(proxy, Way::Up) || self.network.is_cut(proxy, Way::Down);
        let forgotten = self.nodes[proxy].wire() != Some(wire);
        if cut || forgotten {
            self.drop_connection(wire);
        } else {
            self.after(KEEPALIVE, Event::Probe { wire });
        }
        Ok(())
    }

    /// Forgets a connection.
    pub(crate) fn drop_connection(&mut self, wire: Wire) {
        let Some(life) = &mut self.life else { return };
        if let Some(connection) = life.connections.remove(&wire) {
            for key in connection.leases {
                self.put(Ask::Disconnect(key), Origin::Nobody);
            }
        }
    }

    fn connection(&mut self, wire: Wire) -> Option<&mut Connection> {
        self.life.as_mut()?.connections.get_mut(&wire)
    }
}

fn is_of_a_proxy(ask: &Ask) -> bool {
    matches!(ask, Ask::Report(..) | Ask::Connect(_) | Ask::Disconnect(_))
}

/// Returns whom an operator names, and nobody else.
fn names_asked(ask: &Ask) -> Vec<EndpointName> {
    match ask {
        Ask::Mutate(mutation, _) => names_of(mutation),
        _ => Vec::new(),
    }
}

fn decode_report(bytes: &Bytes) -> Result<v1::StreamReportsRequest, Violation> {
    v1::StreamReportsRequest::decode(bytes.clone()).map_err(unreadable)
}

fn unreadable(error: prost::DecodeError) -> Violation {
    Violation::new("wire: a frame can be read", error.to_string())
}

fn refused(error: String) -> Violation {
    Violation::new("wire: what a proxy sends is valid", error)
}
