//! Endpoints as they are in truth, which nobody in the system can see but by asking.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode};
use qcc_control::registry::{CheckKind, CoolDowns, Facts, OutcomeClass, Verdict};
use qcc_dataplane::simulation::Reply;
use qcc_proto::{upstream::classify, v1};

use crate::{random::Random, time};

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
    /// Connections break once a request has been sent.
    Killing,
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
        match random.within(0..14) {
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
            11 => Self::Breaking,
            _ => Self::Killing,
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

    /// Answers what a check asks with `key`. What costs nothing is often answered well by
    /// an endpoint that serves nobody.
    pub(crate) fn answer(
        &mut self,
        name: &str,
        key: &str,
        question: &CheckKind,
        random: &mut Random,
    ) -> Reply {
        let is_billed = matches!(question, CheckKind::Conversation { .. });
        let mood = self.get(name).mood;
        let serves_nobody = match mood {
            Mood::Good | Mood::Revoked | Mood::Hanging | Mood::Refusing => false,
            Mood::Forbidden
            | Mood::Limited(_)
            | Mood::Overloaded
            | Mood::Unavailable(_)
            | Mood::Failing
            | Mood::Flapping(_)
            | Mood::Breaking
            | Mood::Killing => true,
        };
        if !is_billed && serves_nobody && random.percent(50) {
            self.get(name).mood = Mood::Good;
            let reply = self.reply(name, key, random);
            self.get(name).mood = mood;
            return reply;
        }
        self.reply(name, key, random)
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
            Mood::Forbidden => Reply::Denied("permission_error"),
            Mood::Limited(wait) => head(429, wait),
            Mood::Overloaded => head(529, None),
            Mood::Unavailable(wait) => head(503, Some(wait)),
            Mood::Failing => head(500, None),
            Mood::Hanging => Reply::Timeout,
            Mood::Refusing => Reply::Refused,
            Mood::Flapping(percent) if random.percent(percent) => head(500, None),
            Mood::Flapping(_) => head(200, None),
            Mood::Breaking => Reply::Broken,
            Mood::Killing => Reply::Killed,
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

/// What is wrong with a request, wherever it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poison {
    /// It makes no sense: a 400.
    Nonsense,
    /// It is not allowed: a 403.
    Forbidden(&'static str),
    /// It kills its connection.
    Kills,
    /// It does so everywhere but at this endpoint.
    KillsElsewhere,
}

/// Who does not mind [`Poison::KillsElsewhere`].
const IMMUNE: &str = "e0";

impl Poison {
    /// Draws what is wrong with a request, which mostly is nothing.
    pub(crate) fn draw(random: &mut Random) -> Option<Self> {
        match random.within(0..100) {
            0..3 => Some(Self::Nonsense),
            3..5 => Some(Self::Forbidden("billing_error")),
            5 => Some(Self::Forbidden("request_error")),
            6..9 => Some(Self::Kills),
            9..11 => Some(Self::KillsElsewhere),
            _ => None,
        }
    }

    /// Returns what an endpoint answers to it, if the endpoint's own mood does not matter.
    pub(crate) fn reply(self, name: &str) -> Option<Reply> {
        match self {
            Self::Nonsense => Some(head(400, None)),
            Self::Forbidden(error_type) => Some(Reply::Denied(error_type)),
            Self::KillsElsewhere if name == IMMUNE => None,
            Self::Kills | Self::KillsElsewhere => Some(Reply::Killed),
        }
    }
}

/// Returns how long whoever got this reply has to stay away, as the cluster's policy has
/// it.
pub(crate) fn told(
    reply: &Reply,
    class: v1::OutcomeClass,
    cool_downs: CoolDowns,
) -> Option<Duration> {
    let default = match class {
        v1::OutcomeClass::RateLimited => cool_downs.rate_limited,
        v1::OutcomeClass::Overloaded => cool_downs.overloaded,
        _ => return None,
    };
    let Reply::Head(_, headers) = reply else {
        return None;
    };
    let asked = headers.get("retry-after-ms").map(|wait| wait.to_str());
    let asked = asked.and_then(|wait| wait.ok()?.parse().ok());
    let asked = asked.map(|wait| Duration::from_millis(wait).min(cool_downs.max));
    Some(asked.unwrap_or(default))
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
        Reply::Refused | Reply::Killed => (OutcomeClass::Connect, 0, None),
        Reply::Denied(_) => (OutcomeClass::Forbidden, 403, None),
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
