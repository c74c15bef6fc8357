//! QCC's `cache.json` as clusters and endpoints.
//!
//! A profile of QCC is either one base URL with a key, or a list of endpoints that it fails over
//! between. The first kind becomes an endpoint of `default`; the second a cluster. QCC identifies an
//! endpoint by the first hex digits of a hash over URL and key; we by name. The id stays as a label.

use std::collections::{BTreeMap, BTreeSet};

use qcc_proto::{resources, v1};
use serde::Deserialize;

/// Label with QCC's endpoint id.
pub(super) const ID_LABEL: &str = "qcc-id";
/// Label with the name of the profile that an endpoint came from.
pub(super) const PROFILE_LABEL: &str = "qcc-profile";

/// Longest name of a cluster or endpoint.
const NAME_LENGTH_MAX: usize = 63;
/// Longest label value.
const LABEL_LENGTH_MAX: usize = 255;

/// QCC's defaults. A value that equals one is left to the cluster, whose defaults are the same.
const MAX_FAILURES: u32 = 3;
const TIMEOUT_SECONDS: f64 = 30.0;

/// What is read of the file; other keys (settings, times, health) mean nothing here.
#[derive(Deserialize)]
struct Cache {
    profiles: BTreeMap<String, Profile>,
}

#[derive(Deserialize)]
struct Profile {
    #[serde(default)]
    base_url: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    /// `primary`, `secondary` or `fallback`.
    #[serde(default)]
    priority: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Endpoint {
    #[serde(default)]
    id: Option<String>,
    base_url: String,
    api_key: String,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default)]
    priority: Option<f64>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    max_failures: Option<f64>,
    #[serde(default)]
    timeout: Option<f64>,
    #[serde(default)]
    source_profile: Option<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) clusters: Vec<v1::Cluster>,
    pub(super) endpoints: Vec<v1::Endpoint>,
    /// What was left out or changed, and why. Without keys.
    pub(super) notes: Vec<String>,
}

/// Reads a cache.json. With `cluster`, everything goes there. The error names no content: keys are
/// all over the file.
pub(super) fn convert(
    text: &str,
    cluster: Option<&str>,
    allow_plaintext: bool,
) -> Result<Found, String> {
    let cache: Cache = serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            format!(
                "line {}, column {}: not what QCC writes there",
                error.line(),
                error.column()
            )
        }
        _ => format!("line {}, column {}: not JSON", error.line(), error.column()),
    })?;
    let mut import = Importer {
        allow_plaintext,
        ..Default::default()
    };
    for (name, profile) in cache.profiles {
        import.profile(&name, profile, cluster);
    }
    Ok(import.found)
}

#[derive(Default)]
struct Importer {
    found: Found,
    allow_plaintext: bool,
    endpoint_names: BTreeSet<String>,
    cluster_names: BTreeSet<String>,
    /// (cluster, URL, key) that were taken: the same account twice in a cluster shares every fate.
    taken: BTreeSet<(String, String, String)>,
}

impl Importer {
    fn profile(&mut self, name: &str, profile: Profile, cluster: Option<&str>) {
        let enabled = profile.enabled.unwrap_or(true);
        match profile.endpoints {
            Some(endpoints) if !endpoints.is_empty() => {
                let cluster = match cluster {
                    Some(cluster) => self.cluster(cluster.to_owned()),
                    None => {
                        let wanted = slug(name).unwrap_or_else(|| "cluster".to_owned());
                        let unique = unique(&wanted, &self.cluster_names);
                        self.cluster(unique)
                    }
                };
                for endpoint in endpoints {
                    let wanted = endpoint
                        .source_profile
                        .clone()
                        .unwrap_or_else(|| name.to_owned());
                    self.endpoint(name, &wanted, &cluster, endpoint, enabled);
                }
            }
            _ => {
                let (Some(base_url), Some(api_key)) = (profile.base_url, profile.api_key) else {
                    self.found
                        .notes
                        .push(format!("profile `{name}` has no endpoints; left out"));
                    return;
                };
                let cluster = self.cluster(cluster.unwrap_or("default").to_owned());
                let priority = match profile.priority.as_deref() {
                    Some("secondary") => 2.0,
                    Some("fallback") => 3.0,
                    _ => 1.0,
                };
                let endpoint = Endpoint {
                    base_url,
                    api_key,
                    priority: Some(priority),
                    ..Default::default()
                };
                self.endpoint(name, name, &cluster, endpoint, enabled);
            }
        }
    }

    /// Notes a cluster; `default` exists already.
    fn cluster(&mut self, name: String) -> String {
        if self.cluster_names.insert(name.clone()) && name != "default" {
            self.found.clusters.push(v1::Cluster {
                name: name.clone(),
                ..Default::default()
            });
        }
        name
    }

    fn endpoint(
        &mut self,
        profile: &str,
        wanted: &str,
        cluster: &str,
        from: Endpoint,
        profile_enabled: bool,
    ) {
        let base_url = from.base_url.trim().to_owned();
        let mut leave_out = |reason: &str| {
            self.found.notes.push(format!(
                "profile `{profile}`, `{}`: {reason}; left out",
                without_user(&base_url)
            ));
        };
        let Ok(uri) = base_url.parse::<http::Uri>() else {
            return leave_out("not a URL");
        };
        let plaintext =
            uri.scheme_str() == Some("http") && !is_this_machine(uri.host().unwrap_or_default());
        if plaintext && !self.allow_plaintext {
            return leave_out(
                "http:// would send the key in the clear (`--allow-plaintext` takes it)",
            );
        }
        let api_key = match resources::check_key(&from.api_key) {
            Ok(key) => key,
            Err(reason) => return leave_out(&reason),
        };
        if !self
            .taken
            .insert((cluster.to_owned(), base_url.clone(), api_key.clone()))
        {
            return leave_out("the same URL and key are in this cluster already");
        }
        let name = self.name(wanted, uri.host());
        let mut labels = BTreeMap::from([(PROFILE_LABEL.to_owned(), cut(profile))]);
        labels.extend(from.id.map(|id| (ID_LABEL.to_owned(), cut(&id))));
        let enabled = from.enabled.unwrap_or(true) && profile_enabled;
        let admin_state = if enabled {
            v1::AdminState::Unspecified
        } else {
            v1::AdminState::Disabled
        };
        self.found.endpoints.push(v1::Endpoint {
            name,
            cluster: cluster.to_owned(),
            base_url,
            credential: Some(v1::Credential {
                api_key,
                ..v1::Credential::default()
            }),
            priority: Some(within(from.priority.unwrap_or(1.0), 0, 1000)),
            weight: Some(within(from.weight.unwrap_or(100.0), 1, 1000)),
            max_failures: from
                .max_failures
                .map(|failures| within(failures, 1, 1000))
                .filter(|n| *n != MAX_FAILURES),
            timeout: from
                .timeout
                .filter(|seconds| *seconds > 0.0 && *seconds != TIMEOUT_SECONDS)
                .map(seconds),
            admin_state: admin_state.into(),
            labels,
            allow_plaintext: plaintext,
            ..Default::default()
        });
    }

    /// A valid and unused name: from the profile's, else from the host's.
    fn name(&mut self, wanted: &str, host: Option<&str>) -> String {
        let wanted = slug(wanted)
            .or_else(|| slug(host.unwrap_or_default()))
            .unwrap_or_else(|| "endpoint".to_owned());
        let name = unique(&wanted, &self.endpoint_names);
        self.endpoint_names.insert(name.clone());
        name
    }
}

/// Lower-case letters, digits and inner hyphens; `None` if nothing is left.
fn slug(text: &str) -> Option<String> {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(NAME_LENGTH_MAX);
    let slug = slug.trim_end_matches('-');
    (!slug.is_empty()).then(|| slug.to_owned())
}

/// `wanted`, or with the first free number behind it.
fn unique(wanted: &str, taken: &BTreeSet<String>) -> String {
    let numbered = (2u32..).map(|number| {
        let suffix = format!("-{number}");
        let kept = wanted.len().min(NAME_LENGTH_MAX - suffix.len());
        format!("{}{suffix}", wanted[..kept].trim_end_matches('-'))
    });
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .unwrap_or_default()
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A URL without a user and password, which could be secret.
fn without_user(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(LABEL_LENGTH_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// QCC accepts any number; ours have ranges.
fn within(number: f64, min: u32, max: u32) -> u32 {
    // `as` saturates, and turns what is no number into 0.
    (number.round() as u32).clamp(min, max)
}

fn seconds(seconds: f64) -> prost_types::Duration {
    let millis = within(seconds * 1000.0, 1, 3_600_000);
    qcc_proto::duration::to_proto(std::time::Duration::from_millis(millis.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{
      "user_id": "local:me",
      "settings": { "auto_sync": true },
      "profiles": {
        "Work (EU)": { "name": "Work (EU)", "description": "", "priority": "secondary", "enabled": true,
          "base_url": "https://eu.example.com", "api_key": "canary-1", "created_at": "2025-11-01", "last_used": null },
        "工作": { "name": "工作", "base_url": "https://api.cn.example.com/v1", "api_key": "canary-2" },
        "pool": { "name": "pool", "base_url": "https://a.example.com", "api_key": "canary-3", "endpoints": [
          { "id": "1a2b3c4d", "base_url": "https://a.example.com", "api_key": "canary-3", "weight": 50, "priority": 1,
            "enabled": true, "max_failures": 5, "timeout": 60, "source_profile": "Work (EU)", "metadata": {} },
          { "id": "99999999", "base_url": "https://a.example.com", "api_key": "canary-3" },
          { "id": "5e6f7a8b", "base_url": "https://b.example.com", "api_key": "canary-4", "weight": 0, "priority": 2,
            "enabled": false, "max_failures": 3, "timeout": 30, "source_profile": null },
          { "id": "00000000", "base_url": "http://c.example.com", "api_key": "canary-5" } ] },
        "empty": { "name": "empty", "base_url": "", "api_key": "" }
      }
    }"#;

    fn by_name(found: &Found) -> BTreeMap<&str, &v1::Endpoint> {
        found
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.name.as_str(), endpoint))
            .collect()
    }

    #[test]
    fn profiles_become_endpoints_and_lists_become_clusters() {
        let found = convert(SAMPLE, None, false).unwrap();
        let endpoints = by_name(&found);
        assert_eq!(
            endpoints.keys().copied().collect::<Vec<_>>(),
            ["api-cn-example-com", "pool", "work-eu", "work-eu-2"]
        );
        assert_eq!(
            found
                .clusters
                .iter()
                .map(|cluster| cluster.name.as_str())
                .collect::<Vec<_>>(),
            ["pool"]
        );

        let single = endpoints["work-eu"];
        assert_eq!(
            (single.cluster.as_str(), single.priority, single.weight),
            ("default", Some(2), Some(100))
        );
        assert_eq!((single.max_failures, single.timeout), (None, None));

        let first = endpoints["work-eu-2"];
        assert_eq!(
            (first.cluster.as_str(), first.weight, first.max_failures),
            ("pool", Some(50), Some(5))
        );
        assert_eq!(first.timeout.unwrap().seconds, 60);
        assert_eq!(first.labels[ID_LABEL], "1a2b3c4d");
        assert_eq!(first.labels[PROFILE_LABEL], "pool");
        assert_eq!(first.credential.as_ref().unwrap().api_key, "canary-3");

        let second = endpoints["pool"];
        assert_eq!(second.admin_state(), v1::AdminState::Disabled);
        assert_eq!(
            (second.weight, second.max_failures, second.timeout),
            (Some(1), None, None)
        );
    }

    #[test]
    fn what_is_left_out_is_told_without_keys() {
        let found = convert(SAMPLE, None, false).unwrap();
        let notes = found.notes.join("\n");
        for part in ["`empty`", "in the clear", "in this cluster already"] {
            assert!(notes.contains(part), "{part} in {notes}");
        }
        assert!(!notes.contains("canary"), "{notes}");
        let found = convert(SAMPLE, Some("team"), true).unwrap();
        assert!(
            found
                .endpoints
                .iter()
                .all(|endpoint| endpoint.cluster == "team")
        );
        assert!(
            found
                .endpoints
                .iter()
                .any(|endpoint| endpoint.allow_plaintext)
        );
        assert_eq!(found.clusters.len(), 1);
    }

    #[test]
    fn damaged_files_are_refused_without_showing_them() {
        for text in [
            "",
            "[]",
            "{\"profiles\": {\"a\": \"canary\"}}",
            "{\"profiles\": {\"canary\": ",
            "{\"canary\": 1}",
        ] {
            let reason = convert(text, None, false).expect_err(text);
            assert!(
                reason.starts_with("line ") && !reason.contains("canary"),
                "{reason}"
            );
        }
    }

    #[test]
    fn names_are_valid_and_unique() {
        assert_eq!(slug("--Ä b__C. "), Some("b-c".to_owned()));
        assert_eq!(slug("工作"), None);
        let long = "a".repeat(80);
        let name = slug(&long).unwrap();
        assert_eq!(name.len(), 63);
        let second = unique(&name, &BTreeSet::from([name.clone()]));
        assert_eq!((second.len(), &second[61..]), (63, "-2"));
    }
}
