//! QCC's `cache.json` as clusters and endpoints.
//!
//! A profile of QCC is either one base URL with a key, or a list of endpoints that it fails over
//! between. The first kind becomes an endpoint of `default`; the second a cluster, as does a group of
//! profiles. QCC identifies an
//! endpoint by the first hex digits of a hash over URL and key; we by name. The id stays as a label.

mod groups;

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

#[derive(Clone, Default, Deserialize)]
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

#[derive(Clone, Default, Deserialize)]
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

/// What to read, and how.
#[derive(Clone, Copy, Default)]
pub(super) struct Source<'a> {
    /// A cache.json.
    pub(super) cache: &'a str,
    /// An endpoint_groups.json.
    pub(super) groups: Option<&'a str>,
    /// Puts everything into this cluster.
    pub(super) cluster: Option<&'a str>,
    /// Takes http:// URLs of other hosts too.
    pub(super) allow_plaintext: bool,
}

/// Reads QCC's files. The error names the file and no content: keys are all over it.
pub(super) fn convert(source: Source<'_>) -> Result<Found, String> {
    let not = |file: &str, reason: String| format!("not a {file} of QCC: {reason}");
    let cache: Cache =
        serde_json::from_str(source.cache).map_err(|error| not("cache.json", reason(&error)))?;
    let mut import = Importer {
        allow_plaintext: source.allow_plaintext,
        ..Default::default()
    };
    if let Some(text) = source.groups {
        let (groups, notes) = groups::read(text, &cache.profiles)
            .map_err(|reason| not("endpoint_groups.json", reason))?;
        import.found.notes.extend(notes);
        for (name, members) in groups
            .into_iter()
            .filter(|(_, members)| !members.is_empty())
        {
            let cluster = import.cluster_of(&name);
            for (profile, endpoint) in members {
                import.endpoint(&profile, &profile, &cluster, endpoint, true);
            }
        }
    }
    for (name, profile) in cache.profiles {
        import.profile(&name, profile, source.cluster);
    }
    Ok(import.found)
}

/// Where a file is not as expected.
fn reason(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "not what QCC writes there",
        _ => "not JSON",
    };
    format!("line {}, column {}: {what}", error.line(), error.column())
}

impl Profile {
    /// Its endpoints: a list, or the one that it is itself.
    fn endpoints(&self) -> Vec<Endpoint> {
        if let Some(endpoints) = self.endpoints.clone().filter(|list| !list.is_empty()) {
            return endpoints;
        }
        let (Some(base_url), Some(api_key)) = (self.base_url.clone(), self.api_key.clone()) else {
            return Vec::new();
        };
        let priority = match self.priority.as_deref() {
            Some("secondary") => 2.0,
            Some("fallback") => 3.0,
            _ => 1.0,
        };
        vec![Endpoint {
            base_url,
            api_key,
            priority: Some(priority),
            ..Default::default()
        }]
    }
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
        let is_list = profile
            .endpoints
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        let endpoints = profile.endpoints();
        if endpoints.is_empty() {
            let note = format!("profile `{name}` has no endpoints; left out");
            self.found.notes.push(note);
            return;
        }
        let cluster = match cluster {
            Some(cluster) => self.cluster(cluster.to_owned()),
            None if is_list => self.cluster_of(name),
            None => self.cluster("default".to_owned()),
        };
        for endpoint in endpoints {
            let source = endpoint.source_profile.clone();
            let wanted = source.unwrap_or_else(|| name.to_owned());
            self.endpoint(name, &wanted, &cluster, endpoint, enabled);
        }
    }

    /// Notes a cluster of its own for a profile or a group.
    fn cluster_of(&mut self, name: &str) -> String {
        let wanted = slug(name).unwrap_or_else(|| "cluster".to_owned());
        let unique = unique(&wanted, &self.cluster_names);
        self.cluster(unique)
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
mod tests;
