//! A cluster's policy: every range of it.

use std::{collections::BTreeMap, time::Duration};

use qcc_proto::v1;

use super::{DAY, HOUR, MINUTE, MS, SECOND, TEN_MS, Violations, reader::Reader};
use crate::registry::{
    Affinity, ApiFlavor, CheckKind, CoolDowns, CredentialScheme, Policy, RetryBudget, ReturnPolicy,
    Strategy, Timeouts, UpstreamProtocol, VerificationSchedule,
};

const AFFINITY_HEADERS_MAX: usize = 8;
const HEADER_CHARS_MAX: usize = 64;
const MODEL_ALIASES_MAX: usize = 64;

/// Reads a policy; unset fields take their defaults.
pub(in crate::grpc) fn policy(
    policy: &v1::ClusterPolicy,
    prefix: &str,
    violations: &mut Violations,
) -> Policy {
    let api = match v1::ApiFlavor::try_from(policy.api) {
        Ok(v1::ApiFlavor::Unspecified | v1::ApiFlavor::Anthropic) => ApiFlavor::Anthropic,
        Ok(v1::ApiFlavor::Openai) => ApiFlavor::OpenAi,
        Ok(v1::ApiFlavor::Http) => ApiFlavor::Http,
        Err(_) => {
            violations.add(format!("{prefix}api"), "must be a known API");
            ApiFlavor::Anthropic
        }
    };
    let credential_scheme = match v1::CredentialScheme::try_from(policy.credential_scheme) {
        Ok(v1::CredentialScheme::Unspecified) => api.credential_scheme(),
        Ok(v1::CredentialScheme::XApiKey) => CredentialScheme::XApiKey,
        Ok(v1::CredentialScheme::Bearer) => CredentialScheme::Bearer,
        Err(_) => {
            violations.add(
                format!("{prefix}credential_scheme"),
                "must be a known scheme",
            );
            api.credential_scheme()
        }
    };
    let of = Policy::of(api);
    let mut read = Reader { prefix, violations };
    let timeouts = policy.timeouts.unwrap_or_default();
    let cool_downs = policy.cool_downs.unwrap_or_default();
    let schedule = policy.verification.unwrap_or_default();
    let budget = policy.retry_budget.unwrap_or_default();
    let check = match &policy.check {
        Some(check) => read.check("check", check),
        None => of.check,
    };
    if api == ApiFlavor::Http && matches!(check.kind, CheckKind::Conversation { .. }) {
        read.refuse(
            "check",
            "`conversation` needs the API `anthropic` or `openai`",
        );
    }
    Policy {
        api,
        credential_scheme,
        attempts_max: read.number("attempts_max", policy.attempts_max, of.attempts_max, 1..=10),
        max_failures: read.number(
            "max_failures",
            policy.max_failures,
            of.max_failures,
            1..=1000,
        ),
        unproven_concurrency: read.number(
            "unproven_concurrency",
            policy.unproven_concurrency,
            of.unproven_concurrency,
            1..=1000,
        ),
        timeouts: Timeouts {
            connect: read.span(
                "timeouts.connect",
                timeouts.connect,
                of.timeouts.connect,
                MS..=10 * MINUTE,
            ),
            first_byte: read.span(
                "timeouts.first_byte",
                timeouts.first_byte,
                of.timeouts.first_byte,
                MS..=HOUR,
            ),
            idle: read.span("timeouts.idle", timeouts.idle, of.timeouts.idle, MS..=HOUR),
            total: read.span(
                "timeouts.total",
                timeouts.total,
                of.timeouts.total,
                MS..=DAY,
            ),
        },
        cool_downs: CoolDowns {
            overloaded: read.span(
                "cool_downs.overloaded",
                cool_downs.overloaded,
                of.cool_downs.overloaded,
                Duration::ZERO..=DAY,
            ),
            rate_limited: read.span(
                "cool_downs.rate_limited",
                cool_downs.rate_limited,
                of.cool_downs.rate_limited,
                Duration::ZERO..=DAY,
            ),
            max: read.span(
                "cool_downs.max",
                cool_downs.max,
                of.cool_downs.max,
                Duration::ZERO..=DAY,
            ),
        },
        check,
        verification: VerificationSchedule {
            first: read.span(
                "verification.first",
                schedule.first,
                of.verification.first,
                TEN_MS..=HOUR,
            ),
            max: read.span(
                "verification.max",
                schedule.max,
                of.verification.max,
                TEN_MS..=DAY,
            ),
            auth_max: read.span(
                "verification.auth_max",
                schedule.auth_max,
                of.verification.auth_max,
                TEN_MS..=DAY,
            ),
            per_hour_max: read.number(
                "verification.per_hour_max",
                schedule.per_hour_max,
                of.verification.per_hour_max,
                1..=100_000,
            ),
        },
        corroboration_window: read.span(
            "corroboration_window",
            policy.corroboration_window,
            of.corroboration_window,
            SECOND..=HOUR,
        ),
        queue_timeout: read.span(
            "queue_timeout",
            policy.queue_timeout,
            of.queue_timeout,
            Duration::ZERO..=MINUTE,
        ),
        strategy: strategy(policy.strategy, &mut read),
        affinity: affinity(policy.affinity.as_ref(), of.affinity, &mut read),
        slow_start: read.span(
            "slow_start",
            policy.slow_start,
            of.slow_start,
            Duration::ZERO..=HOUR,
        ),
        retry_budget: RetryBudget {
            percent: read.number(
                "retry_budget.percent",
                budget.percent,
                of.retry_budget.percent,
                0..=100,
            ),
            min_per_second: read.number(
                "retry_budget.min_per_second",
                budget.min_per_second,
                of.retry_budget.min_per_second,
                0..=1000,
            ),
        },
        hold_timeout: read.span(
            "hold_timeout",
            policy.hold_timeout,
            of.hold_timeout,
            Duration::ZERO..=MINUTE,
        ),
        max_ejected_percent: read.number(
            "max_ejected_percent",
            policy.max_ejected_percent,
            of.max_ejected_percent,
            0..=100,
        ),
        last_resort: policy.last_resort.unwrap_or(of.last_resort),
        model_override: model_override(&policy.model_override, &mut read),
        model_aliases: model_aliases(&policy.model_aliases, &mut read),
        expose_headers: policy.expose_headers.unwrap_or(of.expose_headers),
        upstream_protocol: upstream_protocol(policy.upstream_protocol, &mut read),
    }
}

fn strategy(value: i32, read: &mut Reader<'_>) -> Strategy {
    match v1::Strategy::try_from(value) {
        Ok(v1::Strategy::Unspecified | v1::Strategy::Priority) => Strategy::Priority,
        Ok(v1::Strategy::Weighted) => Strategy::Weighted,
        Ok(v1::Strategy::RoundRobin) => Strategy::RoundRobin,
        Ok(v1::Strategy::Random) => Strategy::Random,
        Ok(v1::Strategy::LeastInflight) => Strategy::LeastInflight,
        Ok(v1::Strategy::PeakEwma) => Strategy::PeakEwma,
        Err(_) => {
            read.refuse("strategy", "must be a known strategy");
            Strategy::Priority
        }
    }
}

fn upstream_protocol(value: i32, read: &mut Reader<'_>) -> UpstreamProtocol {
    match v1::UpstreamProtocol::try_from(value) {
        Ok(v1::UpstreamProtocol::Unspecified | v1::UpstreamProtocol::Http1) => {
            UpstreamProtocol::Http1
        }
        Ok(v1::UpstreamProtocol::Auto) => UpstreamProtocol::Auto,
        Ok(v1::UpstreamProtocol::Http2) => UpstreamProtocol::Http2,
        Err(_) => {
            read.refuse("upstream_protocol", "must be a known protocol");
            UpstreamProtocol::Http1
        }
    }
}

fn affinity(value: Option<&v1::Affinity>, of: Affinity, read: &mut Reader<'_>) -> Affinity {
    let Some(value) = value else { return of };
    let name = |text: &String| {
        let name: http::HeaderName = text.parse().ok()?;
        (text.len() <= HEADER_CHARS_MAX).then(|| name.as_str().to_owned())
    };
    let headers: Vec<String> = value.headers.iter().filter_map(name).collect();
    if headers.len() != value.headers.len() || headers.len() > AFFINITY_HEADERS_MAX {
        read.refuse(
            "affinity.headers",
            format!(
                "must be at most {AFFINITY_HEADERS_MAX} names of headers, of at most {HEADER_CHARS_MAX} characters"
            ),
        );
    }
    Affinity {
        enabled: value.enabled.unwrap_or(of.enabled),
        headers,
        return_policy: match v1::ReturnPolicy::try_from(value.return_policy) {
            Ok(v1::ReturnPolicy::Unspecified | v1::ReturnPolicy::Return) => ReturnPolicy::Return,
            Ok(v1::ReturnPolicy::Stay) => ReturnPolicy::Stay,
            Err(_) => {
                read.refuse("affinity.return_policy", "must be a known policy");
                ReturnPolicy::Return
            }
        },
    }
}

fn model_override(model: &str, read: &mut Reader<'_>) -> Option<String> {
    if model.is_empty() {
        return None;
    }
    if !is_model(model) {
        read.refuse("model_override", "must be at most 256 characters");
    }
    Some(model.to_owned())
}

fn model_aliases(
    aliases: &BTreeMap<String, String>,
    read: &mut Reader<'_>,
) -> BTreeMap<String, String> {
    if aliases.len() > MODEL_ALIASES_MAX
        || !(aliases.iter()).all(|(from, to)| is_model(from) && is_model(to))
    {
        read.refuse(
            "model_aliases",
            format!("must be at most {MODEL_ALIASES_MAX} pairs of names of 1-256 characters"),
        );
    }
    aliases.clone()
}

fn is_model(name: &str) -> bool {
    (1..=256).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_nothing_is_the_default_policy() {
        let mut violations = Violations::default();
        let read = policy(&v1::ClusterPolicy::default(), "", &mut violations);
        assert!(violations.none(()).is_ok());
        assert_eq!(read, Policy::default());
        let mut violations = Violations::default();
        let written = crate::grpc::convert::policy(&read);
        assert_eq!(
            policy(&written, "", &mut violations),
            read,
            "it reads back as it was written"
        );
    }

    fn refused(wrong: v1::ClusterPolicy) -> bool {
        let mut violations = Violations::default();
        policy(&wrong, "", &mut violations);
        violations.none(()).is_err()
    }

    #[test]
    fn how_endpoints_are_chosen_is_read_whole() {
        let chosen = v1::ClusterPolicy {
            strategy: v1::Strategy::PeakEwma.into(),
            affinity: Some(v1::Affinity {
                enabled: Some(false),
                headers: vec!["X-Session".into()],
                return_policy: v1::ReturnPolicy::Stay.into(),
            }),
            slow_start: Some(prost_types::Duration::default()),
            retry_budget: Some(v1::RetryBudget {
                percent: Some(0),
                min_per_second: None,
            }),
            max_ejected_percent: Some(50),
            last_resort: Some(true),
            model_override: "m".into(),
            model_aliases: [("a".into(), "b".into())].into(),
            expose_headers: Some(false),
            upstream_protocol: v1::UpstreamProtocol::Auto.into(),
            ..v1::ClusterPolicy::default()
        };
        let mut violations = Violations::default();
        let read = policy(&chosen, "", &mut violations);
        assert!(violations.none(()).is_ok());
        assert_eq!(read.strategy, Strategy::PeakEwma);
        assert_eq!(read.affinity.headers, ["x-session"]);
        assert_eq!(read.slow_start, Duration::ZERO);
        let budget = read.retry_budget;
        assert_eq!((budget.percent, budget.min_per_second), (0, 3));
        let written = crate::grpc::convert::policy(&read);
        assert_eq!(policy(&written, "", &mut Violations::default()), read);
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused() {
        let headers = |headers: &[&str]| v1::ClusterPolicy {
            affinity: Some(v1::Affinity {
                headers: headers.iter().map(ToString::to_string).collect(),
                ..v1::Affinity::default()
            }),
            ..v1::ClusterPolicy::default()
        };
        assert!(!refused(headers(&["a"; 8])));
        assert!(refused(headers(&["a"; 9])));
        assert!(refused(headers(&["a b"])));
        assert!(refused(headers(&[&"a".repeat(65)])));
        let aliases = |count: usize, to: &str| v1::ClusterPolicy {
            model_aliases: (0..count).map(|i| (i.to_string(), to.into())).collect(),
            ..v1::ClusterPolicy::default()
        };
        assert!(!refused(aliases(64, "m")));
        assert!(refused(aliases(65, "m")));
        assert!(refused(aliases(1, "")));
        assert!(refused(aliases(1, "a\nb")));
        assert!(refused(v1::ClusterPolicy {
            strategy: 99,
            ..v1::ClusterPolicy::default()
        }));
        assert!(refused(v1::ClusterPolicy {
            upstream_protocol: 99,
            ..v1::ClusterPolicy::default()
        }));
        assert!(refused(v1::ClusterPolicy {
            max_ejected_percent: Some(101),
            ..v1::ClusterPolicy::default()
        }));
    }
}
