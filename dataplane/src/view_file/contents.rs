//! A view as bytes, and back, in the contract's own messages: the contract is what stays
//! readable from version to version.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::header::AUTHORIZATION;
use prost::Message;
use qcc_proto::{
    duration,
    v1::{
        self, Cause, ClusterPolicy, CoolDowns, CredentialScheme, GetSnapshotRequest,
        GetSnapshotResponse, HealthState, RoutedEndpoint, Timeouts,
    },
};
use zeroize::Zeroizing;

use super::{Error, Kept};
use crate::{
    routing::{
        Affinity, Generation, Health, Policy, ReturnPolicy, Routed, Strategy, Table,
        UpstreamProtocol,
    },
    seeded::{Bug, seeded},
    sync::{Clocks, convert},
};

/// The reading of the file's own clock as it is written. Large, so that what began long
/// ago has a place on it.
const CLOCK_MS: u64 = 1 << 52;

/// What the file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) cluster: String,
    /// When a control plane last confirmed the view, in milliseconds of Unix time.
    confirmed_ms: u64,
    snapshot: GetSnapshotResponse,
    marks: Marks,
}

/// What the process knew beyond the view. It is written behind the snapshot as if it were
/// more of its fields, with a number that the contract does not use: versions that do not
/// know it read the view without it.
#[derive(Clone, PartialEq, Message)]
struct Marks {
    #[prost(message, repeated, tag = "15001")]
    rejected: Vec<Rejected>,
    #[prost(bool, tag = "15002")]
    has_left_out: bool,
}

/// A generation whose credential was rejected.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
struct Rejected {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    generation: u64,
}

impl From<Generation> for Rejected {
    fn from((name, generation): Generation) -> Self {
        Self {
            name: name.to_string(),
            generation,
        }
    }
}

impl Contents {
    pub(super) fn of(cluster: &str, table: &Table, confirmed: SystemTime, now: Instant) -> Self {
        let since_epoch = confirmed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let endpoints = table.by_name().map(|entry| endpoint(&entry.routed, now));
        Self {
            cluster: cluster.to_owned(),
            confirmed_ms: millis(since_epoch),
            snapshot: GetSnapshotResponse {
                view: Some(table.view()),
                clock_ms: CLOCK_MS,
                policy: Some(policy(table.policy())),
                endpoints: endpoints.collect(),
                registry_id: match seeded(Bug::KeptViewUnnamed) {
                    true => String::new(),
                    false => table.registry_id().to_string(),
                },
                planned_checks: Vec::new(),
            },
            marks: Marks {
                rejected: table.rejected().map(Rejected::from).collect(),
                has_left_out: table.has_left_out(),
            },
        }
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let cluster = GetSnapshotRequest {
            cluster: self.cluster.clone(),
        };
        let mut bytes = Zeroizing::new(cluster.encode_length_delimited_to_vec());
        // Made in one piece, so that it leaves no copies behind.
        bytes.reserve_exact(8 + self.snapshot.encoded_len() + self.marks.encoded_len());
        bytes.extend_from_slice(&self.confirmed_ms.to_be_bytes());
        bytes.extend_from_slice(&Zeroizing::new(self.snapshot.encode_to_vec()));
        bytes.extend_from_slice(&self.marks.encode_to_vec());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut rest = bytes;
        let named = GetSnapshotRequest::decode_length_delimited(&mut rest);
        let cluster = named.map_err(|_| Error::Damaged)?.cluster;
        let (confirmed_ms, rest) = rest.split_first_chunk().ok_or(Error::Damaged)?;
        Ok(Self {
            cluster,
            confirmed_ms: u64::from_be_bytes(*confirmed_ms),
            snapshot: GetSnapshotResponse::decode(rest).map_err(|_| Error::Damaged)?,
            marks: Marks::decode(rest).map_err(|_| Error::Damaged)?,
        })
    }

    /// Returns the view, whole or not at all.
    pub(super) fn into_kept(self, now: Instant) -> Result<Kept, Error> {
        let clocks = Clocks {
            clock_ms: self.snapshot.clock_ms,
            received: now,
        };
        let endpoints = (self.snapshot.endpoints.into_iter())
            .map(|endpoint| convert::routed(endpoint, clocks).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(|_| Error::Damaged)?;
        let confirmed = UNIX_EPOCH.checked_add(Duration::from_millis(self.confirmed_ms));
        let age = confirmed.and_then(|at| SystemTime::now().duration_since(at).ok());
        Ok(Kept {
            registry_id: self.snapshot.registry_id,
            view: self.snapshot.view.ok_or(Error::Damaged)?,
            policy: convert::policy(&self.snapshot.policy.ok_or(Error::Damaged)?),
            endpoints,
            rejected: (self.marks.rejected.into_iter())
                .map(|rejected| (rejected.name.into(), rejected.generation))
                .collect(),
            has_left_out: self.marks.has_left_out,
            age: age.unwrap_or_default(),
        })
    }
}

fn endpoint(routed: &Routed, now: Instant) -> RoutedEndpoint {
    let (state, cause, until) = match routed.health {
        Health::Unknown => (HealthState::Unknown, Cause::Unspecified, None),
        Health::Healthy => (HealthState::Healthy, Cause::Unspecified, None),
        Health::Degraded { cause, until } => (HealthState::Degraded, cause, Some(until)),
        Health::Unhealthy { cause } => (HealthState::Unhealthy, cause, None),
    };
    // A pause goes on where it stood: for how long the process is gone only the wall
    // clock knows, and that decides nothing.
    let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
    let ago = |since| CLOCK_MS.saturating_sub(millis(now.saturating_duration_since(since)));
    let (credential_scheme, api_key) = credential(routed);
    RoutedEndpoint {
        name: routed.endpoint.name.to_string(),
        base_url: routed.endpoint.base_url.to_string(),
        api_key,
        credential_scheme: credential_scheme.into(),
        generation: routed.endpoint.generation,
        admin_state: routed.admin.into(),
        state: state.into(),
        cause: cause.into(),
        until_clock_ms: CLOCK_MS + millis(left),
        consecutive_failures: routed.failures,
        max_failures: routed.failures_max,
        proven: routed.proven,
        priority: routed.priority,
        weight: routed.weight,
        first_byte_timeout: Some(duration::to_proto(routed.endpoint.first_byte_timeout)),
        mark_summary: routed.summary.as_deref().unwrap_or_default().to_owned(),
        since_clock_ms: routed.since.map_or(0, ago),
    }
}

/// Finds the key in the header that it was put into.
fn credential(routed: &Routed) -> (CredentialScheme, String) {
    let Some(credential) = &routed.endpoint.credential else {
        return (CredentialScheme::Unspecified, String::new());
    };
    let value = String::from_utf8_lossy(credential.value.as_bytes());
    match value.strip_prefix("Bearer ") {
        Some(key) if credential.name == AUTHORIZATION => (CredentialScheme::Bearer, key.to_owned()),
        _ => (CredentialScheme::XApiKey, value.into_owned()),
    }
}

fn policy(policy: &Policy) -> ClusterPolicy {
    let wait = |wait| Some(duration::to_proto(wait));
    ClusterPolicy {
        api: policy.api.into(),
        attempts_max: Some(policy.attempts_max),
        unproven_concurrency: Some(policy.unproven_concurrency),
        timeouts: Some(Timeouts {
            connect: wait(policy.timeouts.connect),
            first_byte: None, // Each endpoint has its own.
            idle: wait(policy.timeouts.idle),
            total: wait(policy.timeouts.total),
        }),
        cool_downs: Some(CoolDowns {
            overloaded: wait(policy.cool_downs.overloaded),
            rate_limited: wait(policy.cool_downs.rate_limited),
            max: wait(policy.cool_downs.max),
        }),
        verification: Some(v1::VerificationSchedule {
            max: wait(policy.verification.max),
            auth_max: wait(policy.verification.auth_max),
            ..Default::default()
        }),
        queue_timeout: wait(policy.queue_timeout),
        strategy: strategy(policy.strategy).into(),
        affinity: Some(affinity(&policy.affinity)),
        slow_start: wait(policy.slow_start),
        retry_budget: Some(v1::RetryBudget {
            percent: Some(policy.retry_budget.percent),
            min_per_second: Some(policy.retry_budget.min_per_second),
        }),
        hold_timeout: wait(policy.hold_timeout),
        max_ejected_percent: Some(policy.max_ejected_percent),
        last_resort: Some(policy.last_resort),
        model_override: policy.model_override.as_deref().unwrap_or_default().into(),
        model_aliases: (policy.model_aliases.iter())
            .map(|(from, to)| (from.to_string(), to.to_string()))
            .collect(),
        expose_headers: Some(policy.expose_headers),
        upstream_protocol: match policy.upstream_protocol {
            UpstreamProtocol::Http1 => v1::UpstreamProtocol::Http1,
            UpstreamProtocol::Auto => v1::UpstreamProtocol::Auto,
            UpstreamProtocol::Http2 => v1::UpstreamProtocol::Http2,
        }
        .into(),
        // The rest is the control plane's business.
        ..Default::default()
    }
}

fn strategy(strategy: Strategy) -> v1::Strategy {
    match strategy {
        Strategy::Priority => v1::Strategy::Priority,
        Strategy::Weighted => v1::Strategy::Weighted,
        Strategy::RoundRobin => v1::Strategy::RoundRobin,
        Strategy::Random => v1::Strategy::Random,
        Strategy::LeastInflight => v1::Strategy::LeastInflight,
        Strategy::PeakEwma => v1::Strategy::PeakEwma,
    }
}

fn affinity(affinity: &Affinity) -> v1::Affinity {
    v1::Affinity {
        enabled: Some(affinity.enabled),
        headers: affinity.headers.iter().map(ToString::to_string).collect(),
        return_policy: match affinity.return_policy {
            ReturnPolicy::Return => v1::ReturnPolicy::Return,
            ReturnPolicy::Stay => v1::ReturnPolicy::Stay,
        }
        .into(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
