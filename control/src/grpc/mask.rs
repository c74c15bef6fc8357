//! Partial updates (AIP-134): which fields of a request replace those of the present
//! resource.
//!
//! A mask's path names a field or everything below it; `*` is everything. Without a
//! mask every field counts that is set. A named field that is unset returns to its
//! default.

use prost_types::FieldMask;
use qcc_proto::v1;
use tonic::Status;

use super::{convert, error::Violations, validate};

/// One field that can be updated on its own.
struct Field<T> {
    path: &'static str,
    is_set: fn(&T) -> bool,
    copy: fn(&mut T, &T),
}

fn differs_from_default<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

/// Declares fields: `path => place`, where `a.b` means field `b` of the optional
/// message `a`.
macro_rules! fields {
    ($type:ty; $($path:literal => $outer:ident $(. $inner:ident)?),* $(,)?) => {
        &[$(fields!(@one $type, $path, $outer $(. $inner)?)),*]
    };
    (@one $type:ty, $path:literal, $field:ident) => {
        Field::<$type> {
            path: $path,
            is_set: |from| differs_from_default(&from.$field),
            copy: |to, from| to.$field = from.$field.clone(),
        }
    };
    (@one $type:ty, $path:literal, $outer:ident . $inner:ident) => {
        Field::<$type> {
            path: $path,
            is_set: |from| {
                let outer = from.$outer.as_ref();
                outer.is_some_and(|outer| differs_from_default(&outer.$inner))
            },
            copy: |to, from| {
                let value = from.$outer.as_ref().map(|outer| outer.$inner.clone());
                to.$outer.get_or_insert_default().$inner = value.unwrap_or_default();
            },
        }
    };
}

const ENDPOINT: &[Field<v1::Endpoint>] = fields! {
    v1::Endpoint;
    "base_url" => base_url,
    "credential" => credential,
    "priority" => priority,
    "weight" => weight,
    "max_failures" => max_failures,
    "timeout" => timeout,
    "admin_state" => admin_state,
    "check" => check,
    "labels" => labels,
    "allow_plaintext" => allow_plaintext,
};

const POLICY: &[Field<v1::ClusterPolicy>] = fields! {
    v1::ClusterPolicy;
    "policy.api" => api,
    "policy.credential_scheme" => credential_scheme,
    "policy.attempts_max" => attempts_max,
    "policy.max_failures" => max_failures,
    "policy.unproven_concurrency" => unproven_concurrency,
    "policy.timeouts.connect" => timeouts.connect,
    "policy.timeouts.first_byte" => timeouts.first_byte,
    "policy.timeouts.idle" => timeouts.idle,
    "policy.timeouts.total" => timeouts.total,
    "policy.cool_downs.overloaded" => cool_downs.overloaded,
    "policy.cool_downs.rate_limited" => cool_downs.rate_limited,
    "policy.cool_downs.max" => cool_downs.max,
    "policy.check" => check,
    "policy.verification.first" => verification.first,
    "policy.verification.max" => verification.max,
    "policy.verification.auth_max" => verification.auth_max,
    "policy.verification.per_hour_max" => verification.per_hour_max,
    "policy.corroboration_window" => corroboration_window,
    "policy.queue_timeout" => queue_timeout,
    "policy.strategy" => strategy,
    "policy.affinity.enabled" => affinity.enabled,
    "policy.affinity.headers" => affinity.headers,
    "policy.affinity.return_policy" => affinity.return_policy,
    "policy.slow_start" => slow_start,
    "policy.retry_budget.percent" => retry_budget.percent,
    "policy.retry_budget.min_per_second" => retry_budget.min_per_second,
    "policy.hold_timeout" => hold_timeout,
    "policy.max_ejected_percent" => max_ejected_percent,
    "policy.last_resort" => last_resort,
    "policy.model_override" => model_override,
    "policy.model_aliases" => model_aliases,
    "policy.expose_headers" => expose_headers,
    "policy.upstream_protocol" => upstream_protocol,
};

/// Returns `present` with the masked fields of `wanted`, and whether the credential is
/// one of them.
///
/// # Errors
///
/// INVALID_ARGUMENT for a path that names nothing that can be updated.
pub(super) fn merge_endpoint(
    present: v1::Endpoint,
    wanted: &v1::Endpoint,
    mask: Option<&FieldMask>,
) -> Result<(v1::Endpoint, bool), Status> {
    let mut merged = present;
    let mut copied = merge(&mut merged, wanted, mask, ENDPOINT)?;
    // A resource that is sent back as it was read carries a fingerprint and no key:
    // that asks for no change.
    let masked = mask.is_some_and(|mask| !mask.paths.is_empty());
    let key = wanted
        .credential
        .as_ref()
        .map_or("", |credential| &credential.api_key);
    if !masked && key.is_empty() {
        copied.retain(|path| *path != "credential");
    }
    Ok((merged, copied.contains(&"credential")))
}

/// Returns `present` with the masked fields of `wanted`.
///
/// # Errors
///
/// As [`merge_endpoint`].
pub(super) fn merge_policy(
    present: v1::ClusterPolicy,
    wanted: &v1::ClusterPolicy,
    mask: Option<&FieldMask>,
) -> Result<v1::ClusterPolicy, Status> {
    let before = present.clone();
    let mut merged = present;
    let copied = merge(&mut merged, wanted, mask, POLICY)?;
    // What followed from the API goes with it, unless somebody had chosen it.
    if merged.api != before.api {
        let derived = defaults_of(before.api);
        if !copied.contains(&"policy.credential_scheme")
            && before.credential_scheme == derived.credential_scheme
        {
            merged.credential_scheme = v1::CredentialScheme::Unspecified.into();
        }
        if !copied.contains(&"policy.check") && before.check == derived.check {
            merged.check = None;
        }
    }
    Ok(merged)
}

/// Returns the policy that an API has if nothing else is said.
fn defaults_of(api: i32) -> v1::ClusterPolicy {
    let policy = v1::ClusterPolicy {
        api,
        ..v1::ClusterPolicy::default()
    };
    convert::policy(&validate::policy(&policy, "", &mut Violations::default()))
}

fn merge<T>(
    merged: &mut T,
    wanted: &T,
    mask: Option<&FieldMask>,
    fields: &[Field<T>],
) -> Result<Vec<&'static str>, Status> {
    let paths = mask.map_or(&[][..], |mask| &mask.paths);
    let mut violations = Violations::default();
    for path in paths {
        if !fields.iter().any(|field| covers(path, field.path)) {
            let known: Vec<_> = fields.iter().map(|field| field.path).collect();
            violations.add(
                "update_mask",
                format!("`{path}` cannot be updated; known are {}", known.join(", ")),
            );
        }
    }
    violations.none(())?;
    let chosen = |field: &&Field<T>| {
        if paths.is_empty() {
            (field.is_set)(wanted)
        } else {
            paths.iter().any(|path| covers(path, field.path))
        }
    };
    let mut copied = Vec::new();
    for field in fields.iter().filter(chosen) {
        (field.copy)(merged, wanted);
        copied.push(field.path);
    }
    Ok(copied)
}

fn covers(path: &str, field: &str) -> bool {
    path == "*"
        || field
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(paths: &[&str]) -> FieldMask {
        FieldMask {
            paths: paths.iter().map(|path| (*path).into()).collect(),
        }
    }

    fn endpoint(weight: Option<u32>, priority: Option<u32>) -> v1::Endpoint {
        v1::Endpoint {
            weight,
            priority,
            ..v1::Endpoint::default()
        }
    }

    #[test]
    fn without_a_mask_set_fields_count() {
        let wanted = endpoint(Some(5), None);
        let (merged, key) = merge_endpoint(endpoint(Some(1), Some(2)), &wanted, None).expect("ok");
        assert_eq!(
            (merged.weight, merged.priority, key),
            (Some(5), Some(2), false)
        );
    }

    #[test]
    fn a_named_unset_field_returns_to_its_default() {
        let mask = mask(&["priority"]);
        let wanted = endpoint(Some(5), None);
        let (merged, _) =
            merge_endpoint(endpoint(Some(1), Some(2)), &wanted, Some(&mask)).expect("ok");
        assert_eq!((merged.weight, merged.priority), (Some(1), None));
    }

    #[test]
    fn sending_back_what_was_read_changes_no_key() {
        let read = v1::Endpoint {
            credential: Some(v1::Credential {
                fingerprint: "12345678".into(),
                ..v1::Credential::default()
            }),
            ..v1::Endpoint::default()
        };
        let (_, key) = merge_endpoint(read.clone(), &read, None).expect("ok");
        assert!(!key);
        let (_, key) =
            merge_endpoint(read.clone(), &read, Some(&mask(&["credential"]))).expect("ok");
        assert!(key, "but naming it does");
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let timeouts = |connect, idle| {
            Some(v1::Timeouts {
                connect,
                idle,
                ..v1::Timeouts::default()
            })
        };
        let present = v1::ClusterPolicy {
            timeouts: timeouts(span(1), span(2)),
            max_failures: Some(7),
            ..Default::default()
        };
        let wanted = v1::ClusterPolicy {
            timeouts: timeouts(span(3), None),
            ..Default::default()
        };
        let one = mask(&["policy.timeouts.connect"]);
        let merged = merge_policy(present.clone(), &wanted, Some(&one)).expect("ok");
        assert_eq!(merged.timeouts, timeouts(span(3), span(2)));
        let all = mask(&["policy.timeouts"]);
        let merged = merge_policy(present, &wanted, Some(&all)).expect("ok");
        assert_eq!(merged.timeouts, timeouts(span(3), None));
        assert_eq!(merged.max_failures, Some(7));
    }

    #[test]
    fn unknown_and_output_only_paths_are_refused() {
        for path in [
            "health",
            "generation",
            "name",
            "cluster",
            "weigh",
            "Weight",
            "",
        ] {
            let mask = mask(&[path]);
            let result = merge_endpoint(
                v1::Endpoint::default(),
                &v1::Endpoint::default(),
                Some(&mask),
            );
            assert!(result.is_err(), "{path}");
        }
    }

    #[test]
    fn what_follows_from_the_api_changes_with_it() {
        let present = defaults_of(v1::ApiFlavor::Anthropic.into());
        let wanted = v1::ClusterPolicy {
            api: v1::ApiFlavor::Http.into(),
            ..v1::ClusterPolicy::default()
        };
        let merged = merge_policy(present.clone(), &wanted, None).expect("ok");
        let read = validate::policy(&merged, "", &mut Violations::default());
        assert_eq!(convert::policy(&read), defaults_of(wanted.api));
        // A scheme that somebody chose stays.
        let chosen = v1::ClusterPolicy {
            credential_scheme: v1::CredentialScheme::Bearer.into(),
            ..present
        };
        let merged = merge_policy(chosen.clone(), &wanted, None).expect("ok");
        assert_eq!(merged.credential_scheme, chosen.credential_scheme);
    }
}
