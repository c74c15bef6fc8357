//! Requests that were answered before, so that sending one twice does no harm
//! (AIP-155).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Answer, Clock};

/// How long a request may be repeated.
const WINDOW: Duration = Duration::from_secs(600);

/// Requests that are remembered; the oldest goes first.
const REQUESTS_MAX: usize = 10_000;

/// A caller's name for one request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The name, 1-64 printable ASCII characters.
    pub id: Arc<str>,
    /// A digest of what was asked: another question must have another name.
    pub digest: u64,
}

/// What is remembered of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestRecord {
    digest: u64,
    at: Clock,
    answer: Answer,
}

/// The requests of the last ten minutes.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    by_id: BTreeMap<Arc<str>, RequestRecord>,
    by_age: BTreeSet<(Clock, Arc<str>)>,
}

/// What is known about a request that arrives.
pub(super) enum Known {
    /// Nothing.
    New,
    /// It was answered with this.
    Answered(Answer),
    /// Its name was used for another question.
    Reused,
}

impl Requests {
    pub(super) fn new(saved: BTreeMap<Arc<str>, RequestRecord>) -> Self {
        let by_age = saved
            .iter()
            .map(|(id, record)| (record.at, id.clone()))
            .collect();
        Self {
            by_id: saved,
            by_age,
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<&RequestRecord> {
        self.by_id.get(id)
    }

    pub(super) fn look_up(&self, request: &Request, now: Clock) -> Known {
        match self.by_id.get(&request.id) {
            Some(record) if now.since(record.at) > WINDOW => Known::New,
            Some(record) if record.digest == request.digest => {
                Known::Answered(record.answer.clone())
            }
            Some(_) => Known::Reused,
            None => Known::New,
        }
    }

    /// Remembers an answer. Returns the names whose records changed.
    pub(super) fn remember(
        &mut self,
        request: Request,
        answer: Answer,
        now: Clock,
    ) -> Vec<Arc<str>> {
        let mut changed = vec![request.id.clone()];
        if let Some(old) = self.by_id.get(&request.id) {
            self.by_age.remove(&(old.at, request.id.clone()));
        }
        self.by_age.insert((now, request.id.clone()));
        self.by_id.insert(
            request.id,
            RequestRecord {
                digest: request.digest,
                at: now,
                answer,
            },
        );
        while let Some((at, id)) = self.by_age.first().cloned() {
            if now.since(at) <= WINDOW && self.by_id.len() <= REQUESTS_MAX {
                break;
            }
            self.by_age.remove(&(at, id.clone()));
            self.by_id.remove(&id);
            changed.push(id);
        }
        changed
    }
}
