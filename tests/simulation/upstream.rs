//! Endpoints as they are in truth, which nobody in the system can see but by asking.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode};
use qcc_control::registry::{Facts, OutcomeClass, Verdict};
use qcc_dataplane::simulation::Reply;
use qcc_proto::{upstream::classify, v1};

use crate::{random::Random, time};

/// The longest wait that a provider may ask for, and that of a 429 which names none.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// The wait of an overload that names none.
const OVERLOADED: Duration = Duration::from_secs(10);

/// How an endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Well.
    Good,
    /// 401, whatever the key.
    Revoked,
    /// 403.
    Forbidden,
    /// 429, with `retry-after` in milliseconds or without.
    Limited(Option<u64>),
    /// 529.
    Overloaded,
    /// 503 with `retry-after` in milliseconds.
    Unavailable(u64),
    /// 500.
    Failing,
    /// Not at all.
    Hanging,
    /// No connection.
    Refusing,
    /// So many in a hundred are 500s.
    Flapping(u64),
    /// Bodies break off.
    Breaking,
}

/// All endpoints.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    by_name: BTreeMap<String, Upstream>,
}

#[derive(Debug)]
struct Upstream {
    mood: Mood,
    /// The key that is accepted; `None` for any.
    key: Option<String>,
}

impl Mood {
    /// Draws a mood other than good.
    pub(crate) fn bad(random: &mut Random) -> Self {
        match random.within(0..12) {
            0 | 1 => Self::Revoked,
            2 => Self::Forbidden,
            3 => Self::Limited(Some(random.span(100, 2_000_000))),
            4 => Self::Limited(None),
            5 => Self::Overloaded,
            6 => Self::Unavailable(random.span(100, 60_000)),
            7 => Self::Failing,
            8 => Self::Hanging,
            9 => Self::Refusing,
            10 => Self::Flapping(random.within(10..90)),
            _ => Self::Breaking,
        }
    }
}

impl Upstreams {
    /// Lets an endpoint be so from now on.
    pub(crate) fn turn(&mut self, name: &str, mood: Mood) {
        self.get(name).mood = mood;
    }

    /// Lets an endpoint accept this key from now on, and no other.
    pub(crate) fn accept(&mut self, name: &str, key: &str) {
        self.get(name).key = Some(key.to_owned());
    }

    /// Lets all endpoints answer well, whatever the key.
    pub(crate) fn heal(&mut self) {
        for upstream in self.by_name.values_mut() {
            upstream.mood = Mood::Good;
            upstream.key = None;
        }
    }

    /// Answers a request that carries `key`.
    pub(crate) fn reply(&mut self, name: &str, key: &str, random: &mut Random) -> Reply {
        let upstream = self.get(name);
        if upstream
            .key
            .as_ref()
            .is_some_and(|accepted| accepted != key)
        {
            return head(401, None);
        }
        match upstream.mood {
            Mood::Good => head(200, None),
            Mood::Revoked => head(401, None),
            Mood::Forbidden => head(403, None),
            Mood::Limited(wait) => head(429, wait),
            Mood::Overloaded => head(529, None),
            Mood::Unavailable(wait) => head(503, Some(wait)),
            Mood::Failing => head(500, None),
            Mood::Hanging => Reply::Timeout,
            Mood::Refusing => Reply::Refused,
            Mood::Flapping(percent) if random.percent(percent) => head(500, None),
            Mood::Flapping(_) => head(200, None),
            Mood::Breaking => Reply::Broken,
        }
    }

    fn get(&mut self, name: &str) -> &mut Upstream {
        self.by_name
            .entry(name.to_owned())
            .or_insert_with(|| Upstream {
                mood: Mood::Good,
                key: None,
            })
    }
}

/// The answer to a request that no endpoint likes.
pub(crate) fn poisoned() -> Reply {
    head(400, None)
}

/// Returns how long whoever got this reply has to stay away, as the cluster's policy has
/// it: ten minutes at most.
pub(crate) fn told(reply: &Reply, class: v1::OutcomeClass) -> Option<Duration> {
    let default = match class {
        v1::OutcomeClass::RateLimited => WAIT_MAX,
        v1::OutcomeClass::Overloaded => OVERLOADED,
        _ => return None,
    };
    let Reply::Head(_, headers) = reply else {
        return None;
    };
    let asked = headers.get("retry-after-ms").map(|wait| wait.to_str());
    let asked = asked.and_then(|wait| wait.ok()?.parse().ok());
    Some(asked.map_or(default, Duration::from_millis).min(WAIT_MAX))
}

/// Returns what a check makes of a reply.
pub(crate) fn verdict(reply: &Reply) -> Verdict {
    let (class, http_status, retry_after) = match reply {
        Reply::Head(status, headers) => {
            let verdict = classify(*status, headers, time::WALL_START);
            (class(verdict.class), status.as_u16(), verdict.retry_after)
        }
        Reply::Broken => (OutcomeClass::StreamBroken, 200, None),
        Reply::Timeout => (OutcomeClass::Timeout, 0, None),
        Reply::Refused => (OutcomeClass::Connect, 0, None),
    };
    Verdict {
        passed: class == OutcomeClass::Success,
        facts: Facts {
            http_status,
            retry_after,
            ..Facts::of(class)
        },
    }
}

fn head(status: u16, retry_after_ms: Option<u64>) -> Reply {
    let mut headers = HeaderMap::new();
    if let Some(wait) = retry_after_ms {
        headers.insert("retry-after-ms", HeaderValue::from(wait));
    }
    let status = StatusCode::from_u16(status).expect("all are in range");
    Reply::Head(status, headers)
}

/// Returns the registry's word for an outcome class.
pub(crate) fn class(class: v1::OutcomeClass) -> OutcomeClass {
    use v1::OutcomeClass as Wire;
    match class {
        Wire::Success => OutcomeClass::Success,
        Wire::Auth => OutcomeClass::Auth,
        Wire::Forbidden => OutcomeClass::Forbidden,
        Wire::RateLimited => OutcomeClass::RateLimited,
        Wire::Overloaded => OutcomeClass::Overloaded,
        Wire::ServerError => OutcomeClass::ServerError,
        Wire::Timeout => OutcomeClass::Timeout,
        Wire::Connect => OutcomeClass::Connect,
        Wire::StreamBroken => OutcomeClass::StreamBroken,
        Wire::Request => OutcomeClass::Request,
        Wire::Cancelled | Wire::Unspecified => OutcomeClass::Cancelled,
    }
}
