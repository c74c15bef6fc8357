//! The registry's types as messages.

use qcc_proto::{duration::to_proto, v1};

use super::explain;
use crate::registry::{
    AdminState, Affinity, ApiFlavor, Cause, Check, CheckKind, Clock, Cluster, ClusterName,
    CredentialScheme, Endpoint, Evidence, Facts, Health, HttpCheck, Moment, OutcomeClass, Policy,
    ReturnPolicy, Snapshot, Spec, State, Strategy, UpstreamProtocol, View, Witness,
};

/// Relates the registry's clock to the wall, for people: deadlines are shown as times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wall(Moment);

impl Wall {
    /// Takes the present moment.
    pub(super) fn at(now: Moment) -> Self {
        Self(now)
    }

    pub(super) fn time(self, clock: Clock) -> prost_types::Timestamp {
        let ahead = i128::from(clock.0) - i128::from(self.0.clock.0);
        let wall = i128::from(self.0.wall_ms) + ahead;
        timestamp(u64::try_from(wall.max(0)).unwrap_or(u64::MAX))
    }
}

/// Converts milliseconds since the epoch.
pub(super) fn timestamp(ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

/// Converts a moment, as it was read off the wall.
pub(super) fn moment(moment: Moment) -> prost_types::Timestamp {
    timestamp(moment.wall_ms)
}

/// Converts a view.
pub(super) fn view(view: View) -> v1::View {
    v1::View {
        term: view.term,
        revision: view.revision,
    }
}

/// Converts an endpoint for people: without its key.
pub(super) fn endpoint(endpoint: &Endpoint, snapshot: &Snapshot, wall: Wall) -> v1::Endpoint {
    let Spec {
        name,
        cluster,
        base_url,
        api_key,
        priority,
        weight,
        max_failures,
        timeout,
        admin_state: _,
        check: own_check,
        labels,
        allow_plaintext,
    } = &*endpoint.spec;
    let stats = endpoint.stats;
    v1::Endpoint {
        name: name.to_string(),
        cluster: cluster.to_string(),
        base_url: base_url.clone(),
        credential: api_key.as_ref().map(|key| v1::Credential {
            api_key: String::new(),
            fingerprint: key.fingerprint(&snapshot.salt),
            pending_fingerprint: endpoint
                .staged
                .as_ref()
                .map_or_else(String::new, |staged| staged.key.fingerprint(&snapshot.salt)),
            pending_until_time: endpoint
                .staged
                .as_ref()
                .map(|staged| wall.time(staged.until)),
        }),
        priority: Some(*priority),
        weight: Some(*weight),
        max_failures: *max_failures,
        timeout: timeout.map(to_proto),
        admin_state: admin_state(endpoint.spec.admin_state).into(),
        check: own_check.as_deref().map(check),
        labels: labels.clone(),
        allow_plaintext: *allow_plaintext,
        generation: endpoint.generation.0,
        health: Some(health(endpoint, wall)),
        stats: Some(v1::EndpointStats {
            attempts: stats.attempts,
            successes: stats.successes,
            failures: stats.failures,
            throttled: stats.throttled,
            stale: stats.stale,
            checks: stats.checks,
            checks_refused: stats.checks_refused,
        }),
        etag: endpoint.etag(&snapshot.registry_id),
        create_time: Some(moment(endpoint.created)),
        update_time: Some(moment(endpoint.updated)),
    }
}

fn health(endpoint: &Endpoint, wall: Wall) -> v1::Health {
    let until = match &endpoint.health {
        Health::Degraded { until, .. } => Some(wall.time(*until)),
        Health::Unknown { .. } | Health::Healthy { .. } | Health::Unhealthy(_) => None,
    };
    v1::Health {
        state: state(endpoint.health.state()).into(),
        cause: endpoint
            .health
            .cause()
            .map_or(v1::Cause::Unspecified, cause)
            .into(),
        since_time: Some(moment(endpoint.mark.since)),
        until_time: until,
        consecutive_failures: endpoint.health.failures(),
        evidence: endpoint.mark.evidence.as_deref().map(evidence),
        view: Some(view(endpoint.mark.view)),
        proven: endpoint.proven,
        suspecting_proxies: endpoint
            .doubts
            .iter()
            .filter(|doubt| matches!(doubt.witness, Witness::Proxy(_)))
            .map(|doubt| witness(&doubt.witness))
            .collect(),
        next_check_time: endpoint.checks.due.map(|due| wall.time(due)),
        checking: endpoint.checks.running.is_some(),
    }
}

/// Converts an unhealthy endpoint into its entry in the failure queue.
pub(super) fn queue_entry(endpoint: &Endpoint, wall: Wall) -> Option<v1::FailureQueueEntry> {
    let incident = endpoint.health.incident()?;
    Some(v1::FailureQueueEntry {
        endpoint: endpoint.spec.name.to_string(),
        cluster: endpoint.spec.cluster.to_string(),
        generation: endpoint.generation.0,
        cause: cause(incident.cause).into(),
        evidence: endpoint.mark.evidence.as_deref().map(evidence),
        first_failure_time: Some(moment(incident.first_failure)),
        last_failure_time: Some(moment(incident.last_failure)),
        observations: incident.observations,
        verification_attempts: endpoint.checks.failed,
        due_time: endpoint.checks.due.map(|due| wall.time(due)),
        checking: endpoint.checks.running.is_some(),
    })
}

/// Converts an endpoint for data planes: with its key, and with its cluster's values
/// where it has none of its own.
pub(super) fn routed_endpoint(endpoint: &Endpoint, policy: &Policy) -> v1::RoutedEndpoint {
    let spec = &endpoint.spec;
    let until_clock_ms = match endpoint.health {
        Health::Degraded { until, .. } => until.0,
        Health::Unknown { .. } | Health::Healthy { .. } | Health::Unhealthy(_) => 0,
    };
    v1::RoutedEndpoint {
        name: spec.name.to_string(),
        base_url: spec.base_url.clone(),
        api_key: spec
            .api_key
            .as_ref()
            .map_or_else(String::new, |key| key.expose().into()),
        credential_scheme: credential_scheme(policy.credential_scheme).into(),
        generation: endpoint.generation.0,
        admin_state: admin_state(spec.admin_state).into(),
        state: state(endpoint.health.state()).into(),
        cause: endpoint
            .health
            .cause()
            .map_or(v1::Cause::Unspecified, cause)
            .into(),
        until_clock_ms,
        consecutive_failures: endpoint.health.failures(),
        max_failures: endpoint.failures_max(policy),
        proven: endpoint.proven,
        priority: spec.priority,
        weight: spec.weight,
        first_byte_timeout: Some(to_proto(spec.timeout.unwrap_or(policy.timeouts.first_byte))),
        mark_summary: explain::mark_summary(endpoint),
        since_clock_ms: endpoint
            .health
            .cause()
            .map_or(0, |_| endpoint.mark.since.clock.0),
    }
}

/// Tells when an endpoint that is out for failing is checked next. Nothing if it is not,
/// or if no check can bring it back to requests.
pub(super) fn planned_check(endpoint: &Endpoint) -> Option<v1::PlannedCheck> {
    endpoint.health.incident()?;
    if endpoint.spec.admin_state != AdminState::Enabled {
        return None;
    }
    let running = endpoint.checks.running.map(|running| running.started);
    let due = running.or(endpoint.checks.due)?;
    Some(v1::PlannedCheck {
        endpoint: endpoint.spec.name.to_string(),
        due_clock_ms: due.0,
    })
}

/// Converts a cluster.
pub(super) fn cluster(name: &ClusterName, cluster: &Cluster, snapshot: &Snapshot) -> v1::Cluster {
    let members = snapshot
        .endpoints
        .values()
        .filter(|e| e.spec.cluster == *name)
        .count();
    v1::Cluster {
        name: name.to_string(),
        policy: Some(policy(&cluster.policy)),
        endpoint_count: u32::try_from(members).unwrap_or(u32::MAX),
        etag: cluster.configured.etag(&snapshot.registry_id),
        create_time: Some(moment(cluster.created)),
        update_time: Some(moment(cluster.updated)),
    }
}

/// Converts a policy, every value in force.
pub(super) fn policy(policy: &Policy) -> v1::ClusterPolicy {
    let timeouts = policy.timeouts;
    let cool_downs = policy.cool_downs;
    let verification = policy.verification;
    v1::ClusterPolicy {
        api: match policy.api {
            ApiFlavor::Anthropic => v1::ApiFlavor::Anthropic,
            ApiFlavor::OpenAi => v1::ApiFlavor::Openai,
            ApiFlavor::Http => v1::ApiFlavor::Http,
        }
        .into(),
        credential_scheme: credential_scheme(policy.credential_scheme).into(),
        attempts_max: Some(policy.attempts_max),
        max_failures: Some(policy.max_failures),
        unproven_concurrency: Some(policy.unproven_concurrency),
        timeouts: Some(v1::Timeouts {
            connect: Some(to_proto(timeouts.connect)),
            first_byte: Some(to_proto(timeouts.first_byte)),
            idle: Some(to_proto(timeouts.idle)),
            total: Some(to_proto(timeouts.total)),
        }),
        cool_downs: Some(v1::CoolDowns {
            overloaded: Some(to_proto(cool_downs.overloaded)),
            rate_limited: Some(to_proto(cool_downs.rate_limited)),
            max: Some(to_proto(cool_downs.max)),
        }),
        check: Some(check(&policy.check)),
        verification: Some(v1::VerificationSchedule {
            first: Some(to_proto(verification.first)),
            max: Some(to_proto(verification.max)),
            auth_max: Some(to_proto(verification.auth_max)),
            per_hour_max: Some(verification.per_hour_max),
        }),
        corroboration_window: Some(to_proto(policy.corroboration_window)),
        queue_timeout: Some(to_proto(policy.queue_timeout)),
        strategy: strategy(policy.strategy).into(),
        affinity: Some(affinity(&policy.affinity)),
        slow_start: Some(to_proto(policy.slow_start)),
        retry_budget: Some(v1::RetryBudget {
            percent: Some(policy.retry_budget.percent),
            min_per_second: Some(policy.retry_budget.min_per_second),
        }),
        hold_timeout: Some(to_proto(policy.hold_timeout)),
        max_ejected_percent: Some(policy.max_ejected_percent),
        last_resort: Some(policy.last_resort),
        model_override: policy.model_override.clone().unwrap_or_default(),
        model_aliases: policy.model_aliases.clone(),
        expose_headers: Some(policy.expose_headers),
        upstream_protocol: match policy.upstream_protocol {
            UpstreamProtocol::Http1 => v1::UpstreamProtocol::Http1,
            UpstreamProtocol::Auto => v1::UpstreamProtocol::Auto,
            UpstreamProtocol::Http2 => v1::UpstreamProtocol::Http2,
        }
        .into(),
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
        headers: affinity.headers.clone(),
        return_policy: match affinity.return_policy {
            ReturnPolicy::Return => v1::ReturnPolicy::Return,
            ReturnPolicy::Stay => v1::ReturnPolicy::Stay,
        }
        .into(),
    }
}

fn check(check: &Check) -> v1::Check {
    use v1::check::Kind;
    let kind = match &check.kind {
        CheckKind::Conversation { model, max_tokens } => {
            Kind::Conversation(v1::ConversationCheck {
                model: model.clone().unwrap_or_default(),
                max_tokens: Some(*max_tokens),
            })
        }
        CheckKind::Http(http) => Kind::Http(http_check(http)),
        CheckKind::Tcp => Kind::Tcp(v1::TcpCheck {}),
        CheckKind::None => Kind::None(v1::NoCheck {}),
    };
    v1::Check {
        kind: Some(kind),
        timeout: Some(to_proto(check.timeout)),
        precheck: check.precheck.as_ref().map(http_check),
    }
}

fn http_check(check: &HttpCheck) -> v1::HttpCheck {
    v1::HttpCheck {
        method: check.method.clone(),
        path: check.path.clone(),
        expected_statuses: check
            .expected_statuses
            .iter()
            .copied()
            .map(u32::from)
            .collect(),
        body: check.body.clone(),
    }
}

/// Converts evidence.
pub(super) fn evidence(evidence: &Evidence) -> v1::Evidence {
    let Facts {
        outcome,
        http_status,
        error_type,
        retry_after,
        detail,
        upstream_request_id,
    } = &evidence.facts;
    v1::Evidence {
        // An operator's word is not an outcome.
        outcome: match evidence.witness {
            Witness::Operator => v1::OutcomeClass::Unspecified,
            Witness::Proxy(_) | Witness::Check => outcome_class(*outcome),
        }
        .into(),
        http_status: u32::from(*http_status),
        error_type: error_type.clone(),
        retry_after: retry_after.map(to_proto),
        detail: detail.clone(),
        upstream_request_id: upstream_request_id.clone(),
        proxy: witness(&evidence.witness),
        view: Some(view(evidence.view)),
        generation: evidence.generation.0,
        observe_time: Some(moment(evidence.observed)),
    }
}

fn witness(witness: &Witness) -> String {
    match witness {
        Witness::Proxy(id) => id.to_string(),
        Witness::Check | Witness::Operator => String::new(),
    }
}

/// Converts a state.
pub(super) fn state(state: State) -> v1::HealthState {
    match state {
        State::Unknown => v1::HealthState::Unknown,
        State::Healthy => v1::HealthState::Healthy,
        State::Degraded => v1::HealthState::Degraded,
        State::Unhealthy => v1::HealthState::Unhealthy,
    }
}

/// Whether an endpoint is in a state; unspecified means any.
pub(super) fn in_state(endpoint: &Endpoint, wanted: v1::HealthState) -> bool {
    wanted == v1::HealthState::Unspecified || wanted == state(endpoint.health.state())
}

/// Converts a cause.
pub(super) fn cause(cause: Cause) -> v1::Cause {
    match cause {
        Cause::Auth => v1::Cause::Auth,
        Cause::Forbidden => v1::Cause::Forbidden,
        Cause::RateLimited => v1::Cause::RateLimited,
        Cause::Overloaded => v1::Cause::Overloaded,
        Cause::ServerError => v1::Cause::ServerError,
        Cause::Timeout => v1::Cause::Timeout,
        Cause::Connect => v1::Cause::Connect,
        Cause::StreamBroken => v1::Cause::StreamBroken,
        Cause::CheckFailed => v1::Cause::CheckFailed,
        Cause::Operator => v1::Cause::Operator,
    }
}

fn outcome_class(class: OutcomeClass) -> v1::OutcomeClass {
    match class {
        OutcomeClass::Success => v1::OutcomeClass::Success,
        OutcomeClass::Auth => v1::OutcomeClass::Auth,
        OutcomeClass::Forbidden => v1::OutcomeClass::Forbidden,
        OutcomeClass::RateLimited => v1::OutcomeClass::RateLimited,
        OutcomeClass::Overloaded => v1::OutcomeClass::Overloaded,
        OutcomeClass::ServerError => v1::OutcomeClass::ServerError,
        OutcomeClass::Timeout => v1::OutcomeClass::Timeout,
        OutcomeClass::Connect => v1::OutcomeClass::Connect,
        OutcomeClass::StreamBroken => v1::OutcomeClass::StreamBroken,
        OutcomeClass::Request => v1::OutcomeClass::Request,
        OutcomeClass::Cancelled => v1::OutcomeClass::Cancelled,
    }
}

/// Reads an outcome class. One that this version does not know blames nobody.
pub(crate) fn read_outcome_class(class: v1::OutcomeClass) -> OutcomeClass {
    match class {
        v1::OutcomeClass::Success => OutcomeClass::Success,
        v1::OutcomeClass::Auth => OutcomeClass::Auth,
        v1::OutcomeClass::Forbidden => OutcomeClass::Forbidden,
        v1::OutcomeClass::RateLimited => OutcomeClass::RateLimited,
        v1::OutcomeClass::Overloaded => OutcomeClass::Overloaded,
        v1::OutcomeClass::ServerError => OutcomeClass::ServerError,
        v1::OutcomeClass::Timeout => OutcomeClass::Timeout,
        v1::OutcomeClass::Connect => OutcomeClass::Connect,
        v1::OutcomeClass::StreamBroken => OutcomeClass::StreamBroken,
        v1::OutcomeClass::Request => OutcomeClass::Request,
        v1::OutcomeClass::Cancelled | v1::OutcomeClass::Unspecified => OutcomeClass::Cancelled,
    }
}

/// Converts the operator's wish.
pub(super) fn admin_state(state: AdminState) -> v1::AdminState {
    match state {
        AdminState::Enabled => v1::AdminState::Enabled,
        AdminState::Draining => v1::AdminState::Draining,
        AdminState::Disabled => v1::AdminState::Disabled,
    }
}

/// Converts where a credential goes.
pub(super) fn credential_scheme(scheme: CredentialScheme) -> v1::CredentialScheme {
    match scheme {
        CredentialScheme::XApiKey => v1::CredentialScheme::XApiKey,
        CredentialScheme::Bearer => v1::CredentialScheme::Bearer,
    }
}
