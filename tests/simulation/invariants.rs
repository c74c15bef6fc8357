//! What must hold, and who sees to it.
//!
//! The judge knows what everybody has done, asked and been told, and nothing of how
//! the system decides. Numbers are those of the design's rules (`R-`) and of the
//! reference's invariants (`I-`).
//!
//! | module | judges |
//! | --- | --- |
//! | `turns` | what a turn of the writer has changed, by what it was asked |
//! | `views` | what readers see, and what proxies are told |
//! | `choices` | whom proxies choose |
//! | `equals` | who of equals is chosen, and who is under way |
//! | `checks` | what is asked of endpoints, and how often |
//! | `counts` | that each attempt counts once |
//! | `suspects` | whose fault it is that a request fails wherever it goes |
//! | `events` | what people are told of it |
//! | `falls` | what has to take an endpoint out, and what must not yet |
//! | `end` | that everything becomes good when faults stop |

mod checks;
mod choices;
mod counts;
mod end;
mod equals;
mod events;
mod falls;
mod suspects;
mod turns;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use qcc_control::{
    actor,
    registry::{
        Answer, CheckId, Clock, ClusterName, EndpointName, Events, Mutation, OutcomeClass, Policy,
        ProxyKey, ReportBatch, Saved, Snapshot, Verdict,
    },
    simulation::{Ask, Said, Turned},
};

use crate::{checks::Check, position::Position, time::Time, trace::Trace};
use checks::Budgets;
pub(crate) use checks::asked_in_order;
use choices::Chosen;
pub(crate) use choices::{Choice, Left};
pub(crate) use counts::Ended;
use counts::Ledger;
use equals::Equals;
use events::Told;
use falls::Rows;
use suspects::Suspects;
pub(crate) use suspects::{Evidence, symptom};
use turns::doubts::Doubts;

/// A broken invariant.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    /// Its number and its words.
    pub(crate) invariant: &'static str,
    /// How it was broken.
    pub(crate) how: String,
}

impl Violation {
    pub(crate) fn new(invariant: &'static str, how: impl Into<String>) -> Self {
        Self {
            invariant,
            how: how.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.how)
    }
}

/// Something that the writer was asked in a turn.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// By an operator: of these endpoints; of all if there are none.
    Operator {
        names: Vec<EndpointName>,
        request: Option<Arc<str>>,
        etag: Option<String>,
        /// To check them.
        demands: bool,
    },
    /// To check an endpoint.
    Verify(EndpointName),
    /// To apply a batch.
    Report(ProxyKey, ReportBatch),
    /// That a stream begins or ends.
    Connect(ProxyKey),
    /// That a stream has ended.
    Disconnect(ProxyKey),
    /// To apply a verdict.
    Verdict {
        id: CheckId,
        check: Option<Box<Check>>,
        endpoint: EndpointName,
        verdict: Verdict,
    },
}

impl Asked {
    pub(crate) fn of(ask: &Ask, checks: &BTreeMap<CheckId, Check>) -> Self {
        match ask {
            Ask::Mutate(mutation, request) => Self::Operator {
                names: names_of(mutation),
                request: request.as_ref().map(|request| request.id.clone()),
                etag: match &**mutation {
                    Mutation::UpdateEndpoint { etag, .. } => etag.clone(),
                    _ => None,
                },
                demands: matches!(
                    &**mutation,
                    Mutation::Verify { .. } | Mutation::VerifyFailures { .. }
                ),
            },
            Ask::Verify(name) => Self::Verify(name.clone()),
            Ask::Report(proxy, batch) => Self::Report(proxy.clone(), batch.clone()),
            Ask::Connect(proxy) => Self::Connect(proxy.clone()),
            Ask::Disconnect(proxy) => Self::Disconnect(proxy.clone()),
            Ask::Verdict(endpoint, id, verdict) => Self::Verdict {
                id: *id,
                check: checks.get(id).cloned().map(Box::new),
                endpoint: endpoint.clone(),
                verdict: verdict.clone(),
            },
        }
    }
}

impl Asked {
    /// Returns what an operator calls the request.
    fn request(&self) -> Option<&Arc<str>> {
        match self {
            Self::Operator { request, .. } => request.as_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |proxy: &ProxyKey| format!("{}/{}", proxy.id, proxy.incarnation);
        match self {
            Self::Operator { names, request, .. } => {
                write!(f, "by an operator {names:?} {request:?}")
            }
            Self::Verify(name) => write!(f, "to verify {name}"),
            Self::Report(proxy, batch) => {
                write!(f, "to apply {} of {}:", batch.first_sequence, of(proxy))?;
                for outcome in &batch.outcomes {
                    let facts = &outcome.facts;
                    write!(
                        f,
                        " {}/{} {:?} x{} at {};",
                        outcome.endpoint,
                        outcome.generation.0,
                        facts.outcome,
                        outcome.count,
                        outcome.view
                    )?;
                }
                Ok(())
            }
            Self::Connect(proxy) => write!(f, "to connect {}", of(proxy)),
            Self::Disconnect(proxy) => write!(f, "to disconnect {}", of(proxy)),
            Self::Verdict {
                id,
                endpoint,
                verdict,
                ..
            } => {
                let class = verdict.facts.outcome;
                write!(f, "to conclude check {id} of {endpoint}: {class:?}")
            }
        }
    }
}

/// Whoever sees to it that invariants hold.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// The state after the last turn of this life.
    now: Option<Arc<Snapshot>>,
    /// The state after the last turn that is on disk, if that is known.
    durable: Option<Arc<Snapshot>>,
    /// Everything that was ever published.
    history: BTreeMap<Position, Arc<Snapshot>>,
    /// Names and credentials of all generations that this registry has ever published.
    generations: BTreeMap<u64, (EndpointName, String)>,
    /// What was counted.
    ledger: Ledger,
    /// Local-origin evidence, and failures, by endpoint and generation.
    doubts: Doubts,
    /// What was reported in a row.
    rows: Rows,
    /// Requests that may be to blame themselves.
    suspects: Suspects,
    /// There is one proxy only.
    alone: bool,
    /// Whom proxies chose, and what they know of them.
    chosen: Chosen,
    equals: Equals,
    /// Open streams of each data plane, by its name.
    streams: BTreeMap<String, u32>,
    /// When those have gone that have none any more.
    gone: BTreeMap<String, Clock>,
    /// Operators' requests that were answered well, and how.
    answers: BTreeMap<usize, Answer>,
    /// Of requests that name an etag: where it was read.
    read_at: BTreeMap<Arc<str>, Position>,
    /// Checks that were made.
    budgets: Budgets,
    /// Requests that were carried out, and whose effect is on disk.
    done: BTreeSet<Arc<str>>,
    /// Requests of a turn that is on disk, to which nobody knows the answers.
    done_perhaps: BTreeSet<Arc<str>>,
    /// The log of events that is on disk.
    told: Told,
    commits: u64,
    calm_at: Option<Time>,
}

impl Judge {
    /// Notes that the control plane has started; its first turn is still to come.
    pub(crate) fn started(
        &mut self,
        found: &Arc<Snapshot>,
        saved: Saved,
        term: u64,
    ) -> Result<(), Violation> {
        self.finds(&saved)?;
        self.told.is_found(saved.events)?;
        self.streams.clear();
        self.gone.clear();
        self.rows.restarted();
        self.recovered(found, term)
    }

    /// Notes that the control plane has lost its disk. What it was asked and has promised
    /// is gone; what proxies have and owe is not, and is of a registry that is gone.
    pub(crate) fn loses_disk(&mut self) {
        *self = Self {
            history: std::mem::take(&mut self.history),
            read_at: std::mem::take(&mut self.read_at),
            ledger: std::mem::take(&mut self.ledger).of_proxies(),
            suspects: std::mem::take(&mut self.suspects),
            chosen: std::mem::take(&mut self.chosen),
            equals: std::mem::take(&mut self.equals),
            told: std::mem::take(&mut self.told).nothing(),
            alone: self.alone,
            commits: self.commits,
            calm_at: self.calm_at,
            ..Self::default()
        };
    }

    /// Judges a turn.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn turned(
        &mut self,
        after: &Arc<Snapshot>,
        asked: &[Asked],
        turned: &Turned,
        died: Option<(Snapshot, Events)>,
        commits: u64,
        clock: Clock,
        trace: &mut Trace,
        now: Time,
    ) -> Result<(), Violation> {
        if let Some(died) = died {
            return self.died_in_turn(after, asked, turned, died, commits, clock);
        }
        self.count(asked);
        self.doubts
            .note(asked, self.now.as_deref(), clock, &self.ledger);
        let before = self.now.clone();
        if let Some(before) = &before {
            self.moved(before, after, asked, clock, trace, now)?;
        }
        self.counted(after)?;
        self.demanded(asked, after);
        self.ledger.keep();
        self.publish(after)?;
        self.connect(asked, clock);
        for (asked, said) in asked.iter().zip(&turned.said) {
            let carried_out = matches!(said, Said::Mutated(Ok(_)));
            if let Some(request) = asked.request().filter(|_| carried_out) {
                self.done.insert(request.clone());
            }
        }
        self.told
            .tells(before.as_deref(), after, asked, &turned.events, clock)?;
        self.commits = commits;
        self.durable = Some(after.clone());
        self.now = Some(after.clone());
        Ok(())
    }

    /// Judges a turn in which the disk failed. What was published before may have been
    /// seen.
    fn died_in_turn(
        &mut self,
        seen: &Arc<Snapshot>,
        asked: &[Asked],
        turned: &Turned,
        (state, events): (Snapshot, Events),
        commits: u64,
        clock: Clock,
    ) -> Result<(), Violation> {
        self.told.is_shown(&turned.events)?;
        for said in &turned.said {
            let answered = match said {
                Said::Mutated(answer) => answer.is_ok(),
                Said::Received(answer) => answer.is_ok(),
                Said::Nothing => false,
            };
            if answered {
                return Err(Violation::new(
                    "I-5 an answer means that the change is durable",
                    format!("answered {said:?}, but the commit has failed"),
                ));
            }
        }
        self.count(asked);
        let before = self.now.as_deref();
        self.rows.may_have_seen(&self.ledger.news, asked, before);
        if commits > self.commits {
            self.doubts.note(asked, before, clock, &self.ledger);
            self.ledger.keep();
            self.durable = Some(Arc::new(state));
            self.told.keep(&events);
            self.budgets.forget();
            self.done_perhaps = asked.iter().filter_map(Asked::request).cloned().collect();
        } else {
            self.ledger.take_back();
        }
        self.commits = commits;
        self.publish(seen)
    }

    /// Judges whether a start finds what operators have asked for: all that was answered,
    /// and of the last turn all or nothing.
    fn finds(&mut self, saved: &Saved) -> Result<(), Violation> {
        let found: BTreeSet<Arc<str>> = saved.requests.keys().cloned().collect();
        let broken = |what: &str, request: &Arc<str>| {
            let how = format!("{what} {request}");
            Err(Violation::new(
                "I-6 a start finds a prefix of what was asked",
                how,
            ))
        };
        if let Some(lost) = self.done.difference(&found).next() {
            return broken("nothing is known of", lost);
        }
        let possible: BTreeSet<_> = self.done.union(&self.done_perhaps).cloned().collect();
        if let Some(other) = found.difference(&possible).next() {
            return broken("what was lost is there:", other);
        }
        self.done = found;
        self.done_perhaps.clear();
        Ok(())
    }

    /// Judges an answer to an operator.
    pub(crate) fn operator_answered(
        &mut self,
        number: usize,
        answer: &Result<Answer, actor::Error>,
    ) -> Result<(), Violation> {
        let Ok(answer) = answer else { return Ok(()) };
        let before = self.answers.entry(number).or_insert_with(|| answer.clone());
        if before != answer {
            return Err(Violation::new(
                "I-9 a request that is repeated is answered alike",
                format!("request {number}: {before:?}, then {answer:?}"),
            ));
        }
        Ok(())
    }

    /// Returns the etag of an endpoint as an operator may have read it, some time ago, and
    /// where.
    pub(crate) fn etag_read(&self, name: &str) -> Option<(String, Position)> {
        let (position, read) = self.history.iter().rev().nth(3)?;
        let etag = read.endpoints.get(name)?.etag(&read.registry_id);
        Some((etag, *position))
    }

    /// Notes where the etag was read that a request names.
    pub(crate) fn goes_by(&mut self, request: Arc<str>, read_at: Position) {
        self.read_at.insert(request, read_at);
    }

    /// Notes how many events are kept.
    pub(crate) fn keeps_events(&mut self, max: usize) {
        self.told.max = max;
    }

    /// Notes that there is one proxy only.
    pub(crate) fn has_one_proxy(&mut self) {
        self.alone = true;
    }

    /// Notes that faults have stopped.
    pub(crate) fn calm(&mut self, now: Time) {
        self.calm_at = Some(now);
    }

    fn connect(&mut self, asked: &[Asked], clock: Clock) {
        for asked in asked {
            match asked {
                Asked::Connect(proxy) => {
                    *self.streams.entry(proxy.id.to_string()).or_default() += 1;
                }
                Asked::Disconnect(proxy) => {
                    if let Some(count) = self.streams.get_mut(proxy.id.as_str()) {
                        *count -= 1;
                        if *count == 0 {
                            self.streams.remove(proxy.id.as_str());
                            self.gone.insert(proxy.id.to_string(), clock);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Returns the rules of the cluster that there is.
fn rules(snapshot: &Snapshot) -> &Policy {
    let cluster = snapshot.clusters.get(&ClusterName::default_cluster());
    &cluster.expect("it cannot be deleted").policy
}

/// Returns whether an outcome of this class counts as a failure.
fn is_failure(class: OutcomeClass) -> bool {
    use OutcomeClass as C;
    match class {
        C::Auth | C::Forbidden | C::ServerError | C::StreamBroken | C::Timeout | C::Connect => true,
        C::Success | C::RateLimited | C::Overloaded | C::Request | C::Cancelled => false,
    }
}

fn is_local(class: OutcomeClass) -> bool {
    matches!(class, OutcomeClass::Timeout | OutcomeClass::Connect)
}

fn is_pause(class: OutcomeClass) -> bool {
    matches!(class, OutcomeClass::RateLimited | OutcomeClass::Overloaded)
}

pub(crate) fn names_of(mutation: &Mutation) -> Vec<EndpointName> {
    match mutation {
        Mutation::CreateEndpoint(spec) | Mutation::UpdateEndpoint { spec, .. } => {
            vec![spec.name.clone()]
        }
        Mutation::DeleteEndpoint { name, .. }
        | Mutation::SetAdminState { name, .. }
        | Mutation::Eject { name, .. }
        | Mutation::Restore { name }
        | Mutation::Verify { name }
        | Mutation::RemoveFailure { name } => vec![name.clone()],
        Mutation::CreateCluster { .. }
        | Mutation::UpdateCluster { .. }
        | Mutation::DeleteCluster { .. }
        | Mutation::VerifyFailures { .. }
        | Mutation::ClearFailures { .. }
        | Mutation::Apply(_) => Vec::new(),
    }
}
