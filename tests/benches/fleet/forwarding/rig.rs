//! The clients and the endpoint: everything that a proxy is between, in one thread.
//!
//! A proxy can only be measured at its limit if what surrounds it has not reached its
//! own. So there is no HTTP library here, no task and no lock: one loop over one epoll,
//! which reads what has come and writes bytes that were made beforehand. What it leaves
//! of its core is reported beside each figure.
//!
//! - Saturated, every client sends its next request as soon as it has its answer.
//! - Events that come as fast as they can: the next one is written once the one before
//!   has come through. However fast or slow a proxy is, none is merged with another.
//! - Events with a pause, and requests at a fixed rate: the loop spins, so that no sleep
//!   of ours is part of what is measured. A request that finds all clients busy waits, and
//!   its latency counts from when it *should* have been sent.

mod answered;
mod asked;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use super::{Exchange, wire};
use answered::Client;
use asked::Asked;

/// Events taken at a time.
const BATCH: usize = 256;

/// Bytes read at a time: a whole request of the largest workload.
const CHUNK: usize = 64 * 1024;

/// Longest sleep of the loop.
const NAP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// Longest wait for what should take no time.
const LIMIT: Duration = Duration::from_secs(10);

/// What an epoll event is about: the kind, and which one.
const LISTENER: u64 = 0;
const OF_PROXY: u64 = 1 << 32;
const OF_CLIENT: u64 = 2 << 32;

/// Clients and an endpoint.
pub(super) struct Rig {
    epoll: OwnedFd,
    listener: TcpListener,
    exchange: Exchange,
    answer: Vec<u8>,
    event: Vec<u8>,
    /// Events in one answer.
    events_in_answer: usize,
    /// Connections of proxies; gaps are reused.
    of_proxies: Vec<Option<Asked>>,
    clients: Vec<Client>,
    /// Which connection of a proxy streams to which client.
    streams: Vec<Option<usize>>,
    due: BinaryHeap<Reverse<(Instant, Due)>>,
    /// Requests at a fixed rate, if that is what is asked for.
    rate: Option<Rate>,
    /// Answers, or events, that have arrived.
    count: u64,
    events: Vec<epoll::Event>,
    buffer: Box<[u8]>,
}

/// What is to be done at a certain time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A client sends its first request.
    Start(usize),
    /// A client gets its next event.
    Event(usize),
}

/// Requests that are sent at certain times, whatever became of those before them.
struct Rate {
    interval: Duration,
    /// When the next one is to be sent.
    next: Instant,
    idle: Vec<usize>,
    /// When those that found nobody idle should have been sent.
    late: VecDeque<Instant>,
    /// When what is measured begins.
    from: Instant,
    latencies: Vec<f64>,
}

/// A connection's bytes on their way out.
struct Pipe {
    stream: TcpStream,
    token: u64,
    /// What the kernel would not take yet.
    pending: Vec<u8>,
}

impl Rig {
    pub(super) fn new(exchange: Exchange) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("the system has epoll");
        let token = epoll::EventData::new_u64(LISTENER);
        epoll::add(&epoll, &listener, token, epoll::EventFlags::IN).expect("a new descriptor");
        let (events_in_answer, event) = match exchange {
            Exchange::Whole { .. } => (0, Vec::new()),
            Exchange::Events { count, bytes, .. } => (count, wire::event(bytes)),
        };
        Self {
            epoll,
            listener,
            exchange,
            answer: wire::answer(exchange),
            event,
            events_in_answer,
            of_proxies: Vec::new(),
            clients: Vec::new(),
            streams: Vec::new(),
            due: BinaryHeap::new(),
            rate: None,
            count: 0,
            events: Vec::with_capacity(BATCH),
            buffer: vec![0; CHUNK].into(),
        }
    }

    /// Returns where the endpoint listens.
    pub(super) fn endpoint(&self) -> SocketAddr {
        let address = self.listener.local_addr();
        address.expect("a bound listener has an address")
    }

    /// Returns how many answers, or events, have arrived so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Sends one request, with a short answer.
    pub(super) fn once(&mut self, target: SocketAddr) {
        let events = self.events_in_answer;
        self.events_in_answer = events.min(1);
        self.connect(target, 1);
        self.send(0, Instant::now());
        self.await_answers(1);
        self.events_in_answer = events;
        self.hang_up();
    }

    /// Lets so many clients begin, each of them going on for ever.
    pub(super) fn saturate(&mut self, target: SocketAddr, clients: usize) {
        self.connect(target, clients);
        let now = Instant::now();
        let pause = self.exchange.pause();
        for client in 0..clients {
            // Not all events at one time.
            let start = now + pause * client as u32 / clients as u32;
            self.due.push(Reverse((start, Due::Start(client))));
            self.clients[client].goes_on = true;
        }
    }

    /// Sends requests at a fixed rate, and returns how long each took from when it should
    /// have been sent, in microseconds. Those of the warm-up are left out.
    pub(super) fn at_rate(
        &mut self,
        target: SocketAddr,
        clients: usize,
        interval: Duration,
        warm_up: Duration,
        window: Duration,
    ) -> Vec<f64> {
        self.connect(target, clients);
        let now = Instant::now();
        self.rate = Some(Rate {
            interval,
            next: now,
            idle: (0..clients).collect(),
            late: VecDeque::new(),
            from: now + warm_up,
            latencies: Vec::new(),
        });
        self.run_for(warm_up + window);
        let rate = self.rate.take();
        self.hang_up();
        rate.expect("it was set above").latencies
    }

    /// Opens so many connections, each of which makes one request and then stays.
    pub(super) fn hold(&mut self, target: SocketAddr, clients: usize) {
        self.connect(target, clients);
        for client in 0..clients {
            self.send(client, Instant::now());
            self.await_answers(1);
        }
    }

    /// Runs for so long.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let now = Instant::now();
            if now >= end {
                return;
            }
            self.turn(now);
        }
    }

    /// Closes all clients' connections. Proxies get time to cancel what they were asked
    /// for: an endpoint that breaks off first would be to blame.
    pub(super) fn hang_up(&mut self) {
        self.clients.clear();
        self.due.clear();
        // The next measurement begins in peace.
        self.run_for(Duration::from_millis(50));
        for streaming in self.streams.drain(..).flatten() {
            self.of_proxies[streaming] = None;
        }
    }

    fn connect(&mut self, target: SocketAddr, clients: usize) {
        assert!(self.clients.is_empty(), "the clients before have hung up");
        for number in 0..clients {
            let stream = TcpStream::connect(target).expect("the proxy listens");
            let pipe = Pipe::new(&self.epoll, stream, OF_CLIENT | number as u64);
            let request = wire::request(target, number, self.exchange);
            self.clients.push(Client::new(pipe, request));
            self.turn(Instant::now()); // The listener's backlog is short.
        }
        self.streams = vec![None; clients];
    }

    /// Waits until so many more answers, or events, have arrived, and no answer is open.
    fn await_answers(&mut self, answers: u64) {
        let (start, wanted) = (Instant::now(), self.count + answers);
        // Called with the requests under way: what has not come yet is still to come.
        while self.count < wanted || self.clients.iter().any(|it| it.is_waiting()) {
            assert!(start.elapsed() < LIMIT, "a request gets no answer");
            self.turn(Instant::now());
        }
    }

    /// Does what is due and what has become possible.
    fn turn(&mut self, now: Instant) {
        while let Some(Reverse((time, due))) = self.due.peek().copied() {
            if time > now {
                break;
            }
            self.due.pop();
            match due {
                Due::Start(client) => self.send(client, time),
                Due::Event(client) => self.send_event(client, time),
            }
        }
        self.send_by_rate(now);
        let is_timed = self.rate.is_some() || !self.due.is_empty();
        let nap = if is_timed { Timespec::default() } else { NAP };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            let (token, flags) = (event.data.u64(), event.flags);
            let number = (token & u64::from(u32::MAX)) as usize;
            match token - number as u64 {
                LISTENER => self.accept(),
                OF_PROXY => self.of_proxy(number, flags),
                _ => self.of_client(number, flags),
            }
        }
        self.events = events;
    }

    fn send_by_rate(&mut self, now: Instant) {
        let Some(rate) = &mut self.rate else { return };
        while rate.next <= now {
            rate.late.push_back(rate.next);
            rate.next += rate.interval;
        }
        let mut starts = Vec::new();
        while !rate.late.is_empty()
            && let Some(client) = rate.idle.pop()
        {
            starts.extend(rate.late.pop_front().map(|start| (client, start)));
        }
        for (client, start) in starts {
            self.send(client, start);
        }
    }

    /// Sends a client's next request, which should have been sent at `start`.
    fn send(&mut self, client: usize, start: Instant) {
        self.clients[client].send(&self.epoll, start);
    }

    fn accept(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the endpoint cannot accept: {error}"),
            };
            let gap = self.of_proxies.iter().position(Option::is_none);
            let number = gap.unwrap_or_else(|| {
                self.of_proxies.push(None);
                self.of_proxies.len() - 1
            });
            let pipe = Pipe::new(&self.epoll, stream, OF_PROXY | number as u64);
            self.of_proxies[number] = Some(Asked::new(pipe));
        }
    }

    fn of_proxy(&mut self, number: usize, flags: epoll::EventFlags) {
        let Some(asked) = &mut self.of_proxies[number] else {
            return; // Closed within the same batch.
        };
        if flags.contains(epoll::EventFlags::OUT) {
            asked.pipe.flush(&self.epoll);
        }
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP) {
            return;
        }
        let length = match asked.pipe.read(&mut self.buffer) {
            None => return,
            Some(0) => {
                self.of_proxies[number] = None;
                return;
            }
            Some(length) => length,
        };
        let Some(client) = asked.take(&self.buffer[..length]) else {
            return;
        };
        asked.pipe.send(&self.epoll, &self.answer);
        if self.events_in_answer > 0 {
            asked.events_left = self.events_in_answer;
            // One of a client that has gone asks for nothing.
            if let Some(stream) = self.streams.get_mut(client) {
                *stream = Some(number);
                self.send_event(client, Instant::now());
            }
        }
    }

    /// Sends the next event to a client, or the end of the stream.
    fn send_event(&mut self, client: usize, now: Instant) {
        let Some(number) = self.streams[client] else {
            return;
        };
        let Some(asked) = &mut self.of_proxies[number] else {
            return; // The proxy has gone; its client gets to know.
        };
        if asked.events_left == 0 {
            asked.pipe.send(&self.epoll, wire::LAST_CHUNK);
            self.streams[client] = None;
            return;
        }
        asked.events_left -= 1;
        asked.pipe.send(&self.epoll, &self.event);
        let pause = self.exchange.pause();
        if !pause.is_zero() {
            self.due.push(Reverse((now + pause, Due::Event(client))));
        }
    }

    fn of_client(&mut self, number: usize, flags: epoll::EventFlags) {
        let Some(client) = self.clients.get_mut(number) else {
            return;
        };
        if flags.contains(epoll::EventFlags::OUT) {
            client.pipe.flush(&self.epoll);
        }
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP) {
            return;
        }
        let Some(length) = client.pipe.read(&mut self.buffer) else {
            return;
        };
        assert_ne!(length, 0, "the proxy hung up");
        let got = match self.exchange {
            Exchange::Whole { .. } => client.take_whole(&self.buffer[..length]),
            Exchange::Events { .. } => client.take_events(&self.buffer[..length]),
        };
        let start = client.start;
        self.count += got.count;
        if got.is_end {
            self.finished(number, start);
        } else if self.exchange.pause().is_zero() {
            for _ in 0..got.count {
                self.send_event(number, start);
            }
        }
    }

    /// Decides what a client does next, which has its whole answer.
    fn finished(&mut self, client: usize, start: Instant) {
        let now = Instant::now();
        match &mut self.rate {
            Some(rate) => {
                if start >= rate.from {
                    rate.latencies.push((now - start).as_secs_f64() * 1e6);
                }
                rate.idle.push(client);
                self.send_by_rate(now);
            }
            // Those that hold their connections, or ask once, were not started for ever.
            None if self.clients[client].goes_on => self.send(client, now),
            None => {}
        }
    }
}

impl Pipe {
    fn new(epoll: &OwnedFd, stream: TcpStream, token: u64) -> Self {
        stream.set_nonblocking(true).expect("a socket option");
        stream.set_nodelay(true).expect("a socket option");
        let data = epoll::EventData::new_u64(token);
        epoll::add(epoll, &stream, data, epoll::EventFlags::IN).expect("a new descriptor");
        Self {
            stream,
            token,
            pending: Vec::new(),
        }
    }

    /// Reads once. `None`: there was nothing; zero: the end.
    fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        match self.stream.read(buffer) {
            Ok(length) => Some(length),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(0), // Reset: as good as closed.
        }
    }

    fn send(&mut self, epoll: &OwnedFd, bytes: &[u8]) {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            return;
        }
        let written = self.write(bytes);
        if written < bytes.len() {
            self.pending.extend_from_slice(&bytes[written..]);
            self.watch(epoll, epoll::EventFlags::IN | epoll::EventFlags::OUT);
        }
    }

    fn flush(&mut self, epoll: &OwnedFd) {
        let pending = std::mem::take(&mut self.pending);
        let written = self.write(&pending);
        if written < pending.len() {
            self.pending.extend_from_slice(&pending[written..]);
        } else {
            self.watch(epoll, epoll::EventFlags::IN);
        }
    }

    /// Writes once, and returns how much was taken: all, if nobody is there any more.
    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => bytes.len(), // The next read tells.
        }
    }

    fn watch(&self, epoll: &OwnedFd, flags: epoll::EventFlags) {
        let data = epoll::EventData::new_u64(self.token);
        epoll::modify(epoll, &self.stream, data, flags).expect("a descriptor that was added");
    }
}
