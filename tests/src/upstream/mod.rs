//! A scripted upstream: an LLM API that answers as the test says.

mod answer;
mod gate;
mod http;
mod server;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{net::TcpListener, task::JoinHandle};

use crate::{process::lock, wait::eventually};

pub use answer::{Answer, Piece};
pub use gate::Gate;
pub use http::Request;

/// How checks are answered: requests that ask for a verification code to be
/// repeated. Tests count them apart from client requests.
#[derive(Clone)]
pub enum Checks {
    /// As the endpoint would: the right code while clients get a 2xx, else what
    /// clients get.
    Natural,
    /// With the right code, whatever clients get.
    Echo,
    /// With another code.
    WrongEcho,
    /// With the right code, but only once the gate is open.
    EchoBehind(Gate),
    /// With this.
    Answer(Answer),
}

type Respond = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Script {
    standing: Respond,
    once: VecDeque<Answer>,
    checks: Checks,
}

struct State {
    script: Mutex<Script>,
    requests: Mutex<Vec<Request>>,
    in_flight: AtomicUsize,
    in_flight_peak: AtomicUsize,
    disconnects: AtomicUsize,
    departures: AtomicUsize,
}

/// A running upstream. It answers every request with 200 until told otherwise.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts an upstream on loopback.
    pub async fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts an upstream at an address of this machine; port 0 is any.
    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is there and free");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State {
            script: Mutex::new(Script {
                standing: Arc::new(|_| Answer::status(200)),
                once: VecDeque::new(),
                checks: Checks::Natural,
            }),
            requests: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            in_flight_peak: AtomicUsize::new(0),
            disconnects: AtomicUsize::new(0),
            departures: AtomicUsize::new(0),
        });
        let task = tokio::spawn(server::serve(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers every client request like this from now on.
    pub fn respond(&self, answer: impl Into<Answer>) {
        let answer = answer.into();
        self.respond_by(move |_| answer.clone());
    }

    /// Lets `respond` choose the answer to each client request from now on.
    pub fn respond_by(&self, respond: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        lock(&self.state.script).standing = Arc::new(respond);
    }

    /// Answers the next client request like this, and the others as before.
    pub fn respond_once(&self, answer: impl Into<Answer>) {
        lock(&self.state.script).once.push_back(answer.into());
    }

    /// Answers checks like this from now on.
    pub fn answer_checks(&self, checks: Checks) {
        lock(&self.state.script).checks = checks;
    }

    /// Number of requests so far that were not checks.
    pub fn client_requests(&self) -> usize {
        lock(&self.state.requests)
            .iter()
            .filter(|request| !request.is_check())
            .count()
    }

    /// Number of checks so far.
    pub fn check_requests(&self) -> usize {
        lock(&self.state.requests)
            .iter()
            .filter(|request| request.is_check())
            .count()
    }

    /// Every request so far, checks included, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// The last request that was not a check.
    ///
    /// # Panics
    ///
    /// If there was none.
    pub fn last_request(&self) -> Request {
        let requests = lock(&self.state.requests);
        let last = requests.iter().rev().find(|request| !request.is_check());
        last.expect("a client request has arrived").clone()
    }

    /// The most client requests that were ever in flight at a time.
    pub fn in_flight_peak(&self) -> usize {
        self.state.in_flight_peak.load(Relaxed)
    }

    /// Number of requests whose sender went away before the answer was complete.
    pub fn disconnects(&self) -> usize {
        self.state.disconnects.load(Relaxed)
    }

    /// Number of connections closed after an answer that [leaves](Answer::then_close).
    pub fn departures(&self) -> usize {
        self.state.departures.load(Relaxed)
    }

    /// Closes the listener and every connection, as if the machine had gone.
    pub fn shut(&self) {
        self.task.abort();
    }

    /// Waits until that many client requests have arrived.
    pub async fn received(&self, requests: usize) {
        eventually(
            &format!("{requests} client requests arrived upstream"),
            async || match self.client_requests() {
                count if count >= requests => Ok(()),
                count => Err(count),
            },
        )
        .await;
    }

    /// Waits until that many checks have arrived.
    pub async fn checked(&self, checks: usize) {
        eventually(
            &format!("{checks} checks arrived upstream"),
            async || match self.check_requests() {
                count if count >= checks => Ok(()),
                count => Err(count),
            },
        )
        .await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// Chooses the answer to a request and records it.
    fn take(&self, request: Request) -> Answer {
        let mut script = lock(&self.script);
        let answer = if request.is_check() {
            let code = request.code().unwrap_or_default();
            match &script.checks {
                Checks::Natural => match (script.standing)(&request) {
                    answer if answer.is_success() => Answer::text(code),
                    answer => answer,
                },
                Checks::Echo => Answer::text(code),
                Checks::WrongEcho => Answer::text("000000"),
                Checks::EchoBehind(gate) => Answer::text(code).behind(gate),
                Checks::Answer(answer) => answer.clone(),
            }
        } else {
            script
                .once
                .pop_front()
                .unwrap_or_else(|| (script.standing)(&request))
        };
        drop(script);
        lock(&self.requests).push(request);
        answer
    }
}
