//! A cluster's policy: every range of it.

use std::time::Duration;

use qcc_proto::v1;

use super::{DAY, HOUR, MINUTE, MS, SECOND, TEN_MS, Violations, reader::Reader};
use crate::registry::{
    ApiFlavor, CheckKind, CoolDowns, CredentialScheme, Policy, Timeouts, VerificationSchedule,
};

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
    }
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
}
