//! Client requests on their way through a proxy: whom they try, what comes of it, and
//! where they go then. Who is chosen is decided by the real router.

use std::{collections::BTreeSet, time::Instant};

use qcc_dataplane::simulation::{Attempt, Next, Reply, Request};
use qcc_proto::v1;

use crate::{
    event::Event,
    invariants::{Choice, Ended, Evidence, Left, Violation, symptom},
    position::{Generation, Position},
    proxy::FLUSH,
    time::{MS, S, Time},
    trace::Trace,
    upstream::{Poison, told},
    world::{SETTLING, SILENCE, World},
};

/// How many sessions clients have.
const SESSIONS: u64 = 6;

/// A client request under way.
pub(crate) struct Asking {
    request: Request,
    poison: Option<Poison>,
    session: Option<u64>,
    tried: BTreeSet<String>,
    /// The view that it is routed by, from its first attempt on.
    view: Option<Position>,
    since: Time,
}

/// An attempt under way.
pub(crate) struct Trying {
    attempt: Attempt,
    pub(crate) endpoint: String,
    pub(crate) generation: Generation,
    request: u64,
    /// The view under which it was chosen, and when, on the proxy's clock.
    view: Position,
    chosen_at: Instant,
    /// What will come of it, if that is settled already.
    reply: Option<Reply>,
    key: String,
}

impl World {
    /// Begins a client request, and plans the next one.
    pub(crate) fn client(&mut self, proxy: usize) -> Result<(), Violation> {
        let end = self.plan.calm_at + SETTLING;
        if self.now + SILENCE > end {
            return Ok(());
        }
        let pace = self.plan.pace * if self.calm { 4 } else { 1 };
        let next = self.random.within(pace / 2..pace * 2);
        self.after(next, Event::Client { proxy });
        self.begin(proxy)
    }

    /// Begins a client request.
    pub(crate) fn begin(&mut self, proxy: usize) -> Result<(), Violation> {
        let poison = Poison::draw(&mut self.random);
        let again = self.random.within(0..4);
        let named = self.random.percent(self.plan.sessions);
        let session = named.then(|| self.random.within(0..SESSIONS));
        let now = self.now;
        let Some(run) = self.nodes[proxy].run.as_mut() else {
            return Ok(());
        };
        let number = run.number;
        run.serial += 1;
        let serial = run.serial;
        // Clients repeat what fails.
        let fingerprint = poison.map_or(serial + 10, |_| again + 1);
        let Some(request) = run.proxy.begin(fingerprint, session) else {
            return Ok(());
        };
        self.judge.begins(&run.key, serial, fingerprint);
        let asking = Asking {
            request,
            poison,
            session,
            tried: BTreeSet::new(),
            view: None,
            since: now,
        };
        run.requests.insert(serial, asking);
        self.proceed(proxy, number, serial)
    }

    /// Lets a client request choose its next endpoint.
    pub(crate) fn proceed(
        &mut self,
        proxy: usize,
        run: u64,
        request: u64,
    ) -> Result<(), Violation> {
        let now = self.now;
        let instant = self.nodes[proxy].clock.at(now);
        let alive = self.nodes[proxy].run.as_mut();
        let Some(run) = alive.filter(|alive| alive.number == run) else {
            return Ok(());
        };
        let number = run.number;
        if (run.attempts.values()).any(|trying| trying.request == request) {
            return Ok(()); // Woken twice.
        }
        if !run.requests.contains_key(&request) {
            return Ok(());
        }
        let seen = run.proxy.endpoints(instant);
        let Some(newest) = run.position() else {
            return Ok(());
        };
        let holding = (run.requests.values()).any(|it| it.request.held_until().is_some());
        for seen in &seen {
            let there = (run.attempts.values()).filter(|trying| {
                let generation = newest.generation(seen.generation);
                (&trying.endpoint, trying.generation) == (&seen.name, generation)
            });
            self.judge
                .is_counted(&run.key, seen, there.count(), holding)?;
        }
        let Some(asking) = run.requests.get_mut(&request) else {
            return Ok(());
        };
        let next = asking.request.next(instant);
        if !matches!(next, Next::Attempt(_) | Next::Stands) {
            let left = Left {
                tried: &asking.tried,
                pinned: asking.view.unwrap_or(newest),
                newest,
                waits: matches!(next, Next::Wait(_)),
                at: instant,
            };
            self.judge.left_alone(&run.key, &left, &seen)?;
        }
        match next {
            Next::Attempt(attempt) => {
                let pinned = *asking.view.get_or_insert(newest);
                let others = asking.tried.clone();
                let again = !asking.tried.insert(attempt.endpoint.clone());
                let (poison, session) = (asking.poison, asking.session);
                run.serial += 1;
                let serial = run.serial;
                let generation = pinned.generation(attempt.generation);
                let chosen = (attempt.endpoint.clone(), generation);
                let in_flight = (run.attempts.values())
                    .filter(|other| (&other.endpoint, other.generation) == (&chosen.0, chosen.1))
                    .count();
                let (key, timeout) = (attempt.key.clone(), attempt.timeout);
                let incarnation = run.key.clone();
                self.note(format_args!(
                    "p{proxy} tries {} in generation {} at {newest}",
                    chosen.0, chosen.1
                ));
                let choice = Choice {
                    chosen: &chosen,
                    key: &key,
                    timeout,
                    newest,
                    pinned,
                    tried: &others,
                    again,
                    in_flight,
                    session,
                    at: instant,
                };
                self.judge.chosen(&incarnation, &choice, &seen)?;
                let reply = self.settle(proxy, &chosen.0, &key, poison);
                let lasts = match &reply {
                    Some(Reply::Timeout) => timeout.as_micros() as Time,
                    Some(Reply::Refused) => self.random.span(MS, 5 * S),
                    _ => self.random.span(10 * MS, 4 * S),
                };
                let long = self.random.percent(5);
                let lasts = if long {
                    lasts + self.random.span(S, 40 * S)
                } else {
                    lasts
                };
                let trying = Trying {
                    attempt,
                    endpoint: chosen.0,
                    generation: chosen.1,
                    request,
                    view: pinned,
                    chosen_at: instant,
                    reply: reply.clone(),
                    key,
                };
                if let Some(run) = self.alive(proxy, number) {
                    run.attempts.insert(serial, trying);
                }
                let (run, attempt) = (number, serial);
                if matches!(&reply, Some(Reply::Head(status, _)) if status.is_success())
                    || matches!(reply, Some(Reply::Broken))
                {
                    self.after(
                        lasts / 3,
                        Event::Head {
                            proxy,
                            run,
                            attempt,
                        },
                    );
                }
                self.after(
                    lasts,
                    Event::Finish {
                        proxy,
                        run,
                        attempt,
                    },
                );
            }
            Next::Wait(until) => {
                let patience = asking.request.queue_timeout().as_micros() as Time;
                if now - asking.since > patience {
                    self.judge.stood(&run.key, request, instant);
                    run.requests.remove(&request);
                    return Ok(());
                }
                let until = until.map(|until| self.nodes[proxy].clock.when(until, now) + MS);
                let at = until.unwrap_or(now + 500 * MS).max(now + MS);
                let run = number;
                self.at(
                    at,
                    Event::Proceed {
                        proxy,
                        run,
                        request,
                    },
                );
            }
            Next::Stands => {
                self.judge.stood(&run.key, request, instant);
                return self.proceed(proxy, number, request);
            }
            Next::Exhausted | Next::Unavailable => {
                self.judge.stood(&run.key, request, instant);
                run.requests.remove(&request);
            }
        }
        Ok(())
    }

    /// Settles what comes of an attempt; `None` if that is decided at its end.
    fn settle(
        &mut self,
        proxy: usize,
        name: &str,
        key: &str,
        poison: Option<Poison>,
    ) -> Option<Reply> {
        if !self.nodes[proxy].egress {
            let refused = self.random.percent(70);
            return Some(if refused {
                Reply::Refused
            } else {
                Reply::Timeout
            });
        }
        if let Some(reply) = poison.and_then(|poison| poison.reply(name)) {
            return Some(reply);
        }
        if self.random.percent(40) {
            return None;
        }
        Some(self.upstreams.reply(name, key, &mut self.random))
    }

    /// Lets requests that wait for an endpoint look again.
    pub(crate) fn wake(&mut self, proxy: usize) {
        let Some(run) = &self.nodes[proxy].run else {
            return;
        };
        let number = run.number;
        let busy: BTreeSet<u64> = run.attempts.values().map(|t| t.request).collect();
        let waiting = run
            .requests
            .keys()
            .filter(|request| !busy.contains(request));
        for request in waiting.copied().collect::<Vec<_>>() {
            let run = number;
            self.after(
                0,
                Event::Proceed {
                    proxy,
                    run,
                    request,
                },
            );
        }
    }

    /// Lets what a request has held for long enough stand.
    pub(crate) fn stand(&mut self, proxy: usize, run: u64, request: u64) {
        let instant = self.nodes[proxy].clock.at(self.now);
        let Some(run) = self.alive(proxy, run) else {
            return;
        };
        let Some(asking) = run.requests.get_mut(&request) else {
            return;
        };
        let is_due = (asking.request.held_until()).is_some_and(|until| until <= instant);
        if is_due && asking.request.stand() {
            let key = run.key.clone();
            self.judge.stood(&key, request, instant);
            self.plan_report(proxy, MS);
            self.wake(proxy);
        }
    }

    /// Lets an attempt have its head.
    pub(crate) fn head(&mut self, proxy: usize, run: u64, attempt: u64) {
        let instant = self.nodes[proxy].clock.at(self.now);
        let Some(run) = self.alive(proxy, run) else {
            return;
        };
        let Some(trying) = run.attempts.get(&attempt) else {
            return;
        };
        if let Some(asking) = run.requests.get_mut(&trying.request) {
            asking.request.answered(&trying.attempt);
        }
        let proven = (run.key.clone(), trying.endpoint.clone(), trying.generation);
        let request = trying.request;
        self.judge.served(&proven.0, request, instant);
        self.judge.answered_well(&proven.0, &proven.1, proven.2);
    }

    /// Ends an attempt.
    pub(crate) fn finish(&mut self, proxy: usize, run: u64, attempt: u64) -> Result<(), Violation> {
        let instant = self.nodes[proxy].clock.at(self.now);
        let wall = self.wall();
        let client_gone = self.random.percent(4);
        let Some(alive) = self.alive(proxy, run) else {
            return Ok(());
        };
        let Some(trying) = alive.attempts.remove(&attempt) else {
            return Ok(());
        };
        let key = alive.key.clone();
        if client_gone {
            alive.requests.remove(&trying.request);
            self.judge.stood(&key, trying.request, instant);
            return Ok(()); // Dropped: nobody is blamed for that.
        }
        let reply = match trying.reply {
            Some(reply) => reply,
            None => self
                .upstreams
                .reply(&trying.endpoint, &trying.key, &mut self.random),
        };
        let (endpoint, request) = (trying.endpoint.clone(), trying.request);
        let Some(alive) = self.nodes[proxy].run.as_mut() else {
            return Ok(());
        };
        let Some(asking) = alive.requests.get_mut(&request) else {
            return Ok(());
        };
        let is_good = matches!(&reply, Reply::Head(status, _) if status.is_success());
        if is_good || matches!(reply, Reply::Broken) {
            asking.request.answered(&trying.attempt);
            self.judge.served(&key, request, instant);
            self.judge.answered_well(&key, &endpoint, trying.generation);
        }
        let outcome = (asking.request).finish(trying.attempt, &reply, instant, wall);
        let held_until = asking.request.held_until();
        let bad = outcome != v1::OutcomeClass::Success;
        let note = if bad { Trace::turn } else { Trace::note };
        let now = self.now;
        note(
            &mut self.trace,
            now,
            format_args!(
                "p{proxy} sees {outcome:?} of {} in generation {}",
                trying.endpoint, trying.generation
            ),
        );
        if outcome == v1::OutcomeClass::Success {
            let chosen_at = trying.chosen_at;
            self.judge
                .succeeded(&key, &trying.endpoint, trying.generation, chosen_at);
        }
        let cool_downs = self.judge.rules(trying.view).cool_downs;
        let told = told(&reply, outcome, cool_downs).map(|wait| instant + wait);
        if let Some(until) = told {
            self.judge
                .told_to_wait(&key, &trying.endpoint, trying.generation, instant, until);
        }
        let ended = Ended {
            endpoint: trying.endpoint,
            generation: trying.generation,
            view: trying.view,
            class: outcome,
        };
        let evidence = Evidence {
            ended,
            chosen_at: trying.chosen_at,
            at: instant,
        };
        self.judge.ended(&key, request, evidence, symptom(&reply));
        if outcome == v1::OutcomeClass::Auth {
            self.keep_view(proxy);
        }
        self.served += u64::from(outcome == v1::OutcomeClass::Success);
        let ok = matches!(
            outcome,
            v1::OutcomeClass::Success | v1::OutcomeClass::Request | v1::OutcomeClass::StreamBroken
        );
        if ok && let Some(alive) = self.alive(proxy, run) {
            alive.requests.remove(&request);
            self.judge.stood(&key, request, instant);
        }
        if let Some(until) = held_until {
            let at = self.nodes[proxy].clock.when(until, self.now) + MS;
            self.at(
                at,
                Event::Stand {
                    proxy,
                    run,
                    request,
                },
            );
        }
        let wait = if outcome == v1::OutcomeClass::Success {
            self.random.within(0..FLUSH)
        } else {
            self.random.within(0..2 * MS)
        };
        self.plan_report(proxy, wait);
        if !ok {
            self.proceed(proxy, run, request)?;
        }
        self.wake(proxy);
        Ok(())
    }
}
