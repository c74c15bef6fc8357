//! QCC's `endpoint_groups.json`: named sets of profiles, those that are used first and those that
//! stand by.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Endpoint, Profile, reason};

/// QCC starts a group with these priorities, whatever its members' own are.
const PRIMARY: f64 = 1.0;
const SECONDARY: f64 = 2.0;

/// What is read of the file. Whether a group is enabled means nothing to QCC when it starts one.
#[derive(Deserialize)]
struct File {
    groups: BTreeMap<String, Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    primary_configs: Vec<String>,
    #[serde(default)]
    secondary_configs: Vec<String>,
}

/// Endpoints of a group, each with the profile that it comes from.
type Members = Vec<(String, Endpoint)>;

/// Reads an endpoint_groups.json beside the profiles that it names: each group's members, and notes
/// of those that do not exist.
pub(super) fn read(
    text: &str,
    profiles: &BTreeMap<String, Profile>,
) -> Result<(BTreeMap<String, Members>, Vec<String>), String> {
    let file: File = serde_json::from_str(text).map_err(|error| reason(&error))?;
    let mut notes = Vec::new();
    let mut groups = BTreeMap::new();
    for (name, group) in file.groups {
        let primary = group
            .primary_configs
            .into_iter()
            .map(|name| (name, PRIMARY));
        let secondary = group.secondary_configs.into_iter();
        let secondary = secondary.map(|name| (name, SECONDARY));
        let mut members = Members::new();
        for (member, priority) in primary.chain(secondary) {
            let endpoints = profiles.get(&member).map(Profile::endpoints);
            match endpoints.filter(|endpoints| !endpoints.is_empty()) {
                Some(endpoints) => members.extend(endpoints.into_iter().map(|mut endpoint| {
                    endpoint.priority = Some(priority);
                    (member.clone(), endpoint)
                })),
                None => notes.push(format!(
                    "group `{name}`: profile `{member}` has no endpoints; left out"
                )),
            }
        }
        groups.insert(name, members);
    }
    Ok((groups, notes))
}
