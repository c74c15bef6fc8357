//! Messages as a resources file.

use std::collections::BTreeMap;

use super::file::{APIS, PROTOCOLS, RETURN_POLICIES, SCHEMES, STRATEGIES};
use crate::{duration, v1};

const HEADER: &str = "\
# Clusters and endpoints, as `qcc-ctl apply -f FILE` reads them.
# API keys are not exported. Applied where the endpoints exist, their keys stay as they are;
# elsewhere add `api_key_env = \"NAME\"` or `api_key_file = \"PATH\"` to each endpoint that needs one.
";

/// Writes what [`parse`](super::parse) reads back as the same clusters and endpoints, as far as
/// people configure them: no credentials, no health. An enabled endpoint is written without
/// `enabled`, because that wish belongs to the operator and a file that names it would overrule him
/// each time that it is applied.
pub fn render(clusters: &[v1::Cluster], endpoints: &[v1::Endpoint]) -> String {
    let mut text = HEADER.to_owned();
    for cluster in clusters {
        text.push_str("\n[[clusters]]\n");
        for entry in self::cluster(cluster).0 {
            text.push_str(&format!("{entry}\n"));
        }
    }
    for endpoint in endpoints {
        text.push_str("\n[[endpoints]]\n");
        for entry in self::endpoint(endpoint).0 {
            text.push_str(&format!("{entry}\n"));
        }
    }
    text
}

/// Entries `key = value`, in the order in which people expect them.
#[derive(Default)]
struct Entries(Vec<String>);

impl Entries {
    fn raw(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.0.push(format!("{key} = {value}"));
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.raw(key, (!value.is_empty()).then(|| quoted(value)));
    }

    /// A text that a file must have, be it empty.
    fn required(&mut self, key: &str, value: &str) {
        self.raw(key, Some(quoted(value)));
    }

    fn duration(&mut self, key: &str, value: Option<&prost_types::Duration>) {
        let text = value.and_then(duration::from_proto).map(duration::format);
        self.text(key, text.as_deref().unwrap_or_default());
    }

    fn texts(&mut self, key: &str, texts: &BTreeMap<String, String>) {
        let pairs = texts
            .iter()
            .map(|(name, text)| format!("{} = {}", quoted(name), quoted(text)));
        self.table(key, (!texts.is_empty()).then(|| Entries(pairs.collect())));
    }

    fn table(&mut self, key: &str, entries: Option<Entries>) {
        self.raw(
            key,
            entries.map(|Entries(entries)| format!("{{ {} }}", entries.join(", "))),
        );
    }
}

/// A TOML basic string: one line, whatever is in it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words
        .iter()
        .find(|(_, candidate)| *candidate == meaning)
        .map_or("", |(word, _)| word)
}

fn cluster(cluster: &v1::Cluster) -> Entries {
    let mut entries = Entries::default();
    entries.required("name", &cluster.name);
    let Some(policy) = &cluster.policy else {
        return entries;
    };
    entries.text("api", word(&APIS, policy.api()));
    entries.text(
        "credential_scheme",
        word(&SCHEMES, policy.credential_scheme()),
    );
    entries.raw("attempts_max", policy.attempts_max);
    entries.raw("max_failures", policy.max_failures);
    entries.raw("unproven_concurrency", policy.unproven_concurrency);
    entries.duration("corroboration_window", policy.corroboration_window.as_ref());
    entries.duration("queue_timeout", policy.queue_timeout.as_ref());
    entries.text("strategy", word(&STRATEGIES, policy.strategy()));
    entries.duration("slow_start", policy.slow_start.as_ref());
    entries.duration("hold_timeout", policy.hold_timeout.as_ref());
    entries.raw("max_ejected_percent", policy.max_ejected_percent);
    entries.raw("last_resort", policy.last_resort);
    entries.raw("expose_headers", policy.expose_headers);
    entries.text(
        "upstream_protocol",
        word(&PROTOCOLS, policy.upstream_protocol()),
    );
    entries.text("model_override", &policy.model_override);
    entries.texts("model_aliases", &policy.model_aliases);
    entries.table("affinity", policy.affinity.as_ref().map(affinity));
    entries.table(
        "retry_budget",
        policy.retry_budget.as_ref().map(retry_budget),
    );
    entries.table("timeouts", policy.timeouts.as_ref().map(timeouts));
    entries.table("cool_downs", policy.cool_downs.as_ref().map(cool_downs));
    entries.table(
        "verification",
        policy.verification.as_ref().map(verification),
    );
    entries.table("check", policy.check.as_ref().and_then(check));
    entries
}

fn affinity(affinity: &v1::Affinity) -> Entries {
    let mut entries = Entries::default();
    entries.raw("enabled", affinity.enabled);
    let headers: Vec<_> = affinity.headers.iter().map(|name| quoted(name)).collect();
    entries.raw(
        "headers",
        (!headers.is_empty()).then(|| format!("[{}]", headers.join(", "))),
    );
    entries.text(
        "return_policy",
        word(&RETURN_POLICIES, affinity.return_policy()),
    );
    entries
}

fn retry_budget(budget: &v1::RetryBudget) -> Entries {
    let mut entries = Entries::default();
    entries.raw("percent", budget.percent);
    entries.raw("min_per_second", budget.min_per_second);
    entries
}

fn timeouts(timeouts: &v1::Timeouts) -> Entries {
    let mut entries = Entries::default();
    entries.duration("connect", timeouts.connect.as_ref());
    entries.duration("first_byte", timeouts.first_byte.as_ref());
    entries.duration("idle", timeouts.idle.as_ref());
    entries.duration("total", timeouts.total.as_ref());
    entries
}

fn cool_downs(cool_downs: &v1::CoolDowns) -> Entries {
    let mut entries = Entries::default();
    entries.duration("overloaded", cool_downs.overloaded.as_ref());
    entries.duration("rate_limited", cool_downs.rate_limited.as_ref());
    entries.duration("max", cool_downs.max.as_ref());
    entries
}

fn verification(schedule: &v1::VerificationSchedule) -> Entries {
    let mut entries = Entries::default();
    entries.duration("first", schedule.first.as_ref());
    entries.duration("max", schedule.max.as_ref());
    entries.duration("auth_max", schedule.auth_max.as_ref());
    entries.raw("per_hour_max", schedule.per_hour_max);
    entries
}

fn check(check: &v1::Check) -> Option<Entries> {
    let mut entries = Entries::default();
    match check.kind.as_ref()? {
        v1::check::Kind::Conversation(conversation) => {
            entries.text("kind", "conversation");
            entries.text("model", &conversation.model);
            entries.raw("max_tokens", conversation.max_tokens);
        }
        v1::check::Kind::Http(http) => {
            entries.text("kind", "http");
            entries.0.extend(http_check(http).0);
        }
        v1::check::Kind::Tcp(v1::TcpCheck {}) => entries.text("kind", "tcp"),
        v1::check::Kind::None(v1::NoCheck {}) => entries.text("kind", "none"),
    }
    entries.duration("timeout", check.timeout.as_ref());
    entries.table("precheck", check.precheck.as_ref().map(http_check));
    Some(entries)
}

fn http_check(http: &v1::HttpCheck) -> Entries {
    let mut entries = Entries::default();
    entries.text("method", &http.method);
    entries.text("path", &http.path);
    let statuses = &http.expected_statuses;
    entries.raw(
        "expected_statuses",
        (!statuses.is_empty()).then(|| format!("{statuses:?}")),
    );
    entries.text("body", &http.body);
    entries
}

fn endpoint(endpoint: &v1::Endpoint) -> Entries {
    let mut entries = Entries::default();
    entries.required("name", &endpoint.name);
    entries.text("cluster", &endpoint.cluster);
    entries.required("base_url", &endpoint.base_url);
    entries.raw("priority", endpoint.priority);
    entries.raw("weight", endpoint.weight);
    entries.raw("max_failures", endpoint.max_failures);
    entries.duration("timeout", endpoint.timeout.as_ref());
    match endpoint.admin_state() {
        v1::AdminState::Disabled => entries.raw("enabled", Some(false)),
        v1::AdminState::Draining => entries.0.push("# draining when exported".to_owned()),
        v1::AdminState::Enabled | v1::AdminState::Unspecified => {}
    }
    entries.raw("allow_plaintext", endpoint.allow_plaintext.then_some(true));
    entries.table("check", endpoint.check.as_ref().and_then(check));
    entries.texts("labels", &endpoint.labels);
    entries
}
