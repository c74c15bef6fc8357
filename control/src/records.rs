//! What the registry's state looks like in the store: one JSON record for each
//! thing, readable in an emergency and open to added fields.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    registry::{
        ApiKey, ClusterName, Dirty, Endpoint, EndpointName, ProxyId, ProxyKey, Registry, Saved,
    },
    seeded::{Bug, seeded},
    store::{Batch, Record, Table},
};

/// Key of the only record in `Table::Meta`.
const META: &str = "registry";

/// A record cannot be read, although the store vouches for its bytes.
#[derive(Debug)]
pub struct Error {
    table: Table,
    key: String,
    reason: String,
}

/// An endpoint with its key, which the registry's own form leaves out.
#[derive(Deserialize)]
struct StoredEndpoint {
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    staged_api_key: Option<String>,
    endpoint: Endpoint,
}

#[derive(Serialize)]
struct EndpointToStore<'a> {
    api_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    staged_api_key: Option<&'a str>,
    endpoint: &'a Endpoint,
}

/// Reads back everything that was stored.
///
/// # Errors
///
/// Names the record that cannot be read.
pub fn load(records: Vec<Record>) -> Result<Saved, Error> {
    let mut saved = Saved::default();
    // One after the other is dropped: with the registry they would take twice the memory.
    for record in records {
        let record = &record;
        let name_error = |reason: String| error(record, reason);
        match record.table {
            Table::Meta => saved.meta = Some(parse(record)?),
            Table::Clusters => {
                let name = ClusterName::try_from(record.key.as_str());
                let name = name.map_err(|reason| name_error(reason.to_string()))?;
                saved.clusters.insert(name, parse(record)?);
            }
            Table::Endpoints => {
                let name = EndpointName::try_from(record.key.as_str());
                name.map_err(|reason| name_error(reason.to_string()))?;
                let StoredEndpoint {
                    api_key,
                    staged_api_key,
                    mut endpoint,
                } = parse(record)?;
                match (&mut endpoint.staged, staged_api_key) {
                    (Some(staged), Some(key)) => staged.key = ApiKey::new(key),
                    _ => endpoint.staged = None,
                }
                Arc::make_mut(&mut endpoint.spec).api_key = api_key.map(ApiKey::new);
                // One name serves as its key as well.
                let name = endpoint.spec.name.clone();
                saved.endpoints.insert(name, Arc::new(endpoint));
            }
            Table::Proxies => {
                let (id, incarnation) = record
                    .key
                    .split_once('/')
                    .ok_or_else(|| name_error("its key is not `proxy/incarnation`".into()))?;
                let key = ProxyKey {
                    id: ProxyId::new(id),
                    incarnation: incarnation.into(),
                };
                saved.proxies.insert(key, parse(record)?);
            }
            Table::Requests => {
                saved
                    .requests
                    .insert(record.key.as_str().into(), parse(record)?);
            }
            Table::Events => {
                let id = record.key.parse();
                let id = id.map_err(|_| name_error("its key is not a number".into()))?;
                saved.events.insert(id, parse(record)?);
            }
        }
    }
    Ok(saved)
}

/// Collects what a turn has changed.
pub fn batch(registry: &Registry, dirty: &Dirty) -> Batch {
    let mut batch = Batch::new();
    put(&mut batch, Table::Meta, META, Some(registry.meta()));
    for name in &dirty.clusters {
        put(
            &mut batch,
            Table::Clusters,
            name.as_str(),
            registry.cluster(name),
        );
    }
    for name in &dirty.endpoints {
        let endpoint = registry.endpoint(name).map(|endpoint| EndpointToStore {
            api_key: endpoint.spec.api_key.as_ref().map(ApiKey::expose),
            staged_api_key: endpoint.staged.as_ref().map(|staged| staged.key.expose()),
            endpoint,
        });
        put(
            &mut batch,
            Table::Endpoints,
            name.as_str(),
            endpoint.as_ref(),
        );
    }
    for key in &dirty.proxies {
        let name = format!("{}/{}", key.id, key.incarnation);
        put(&mut batch, Table::Proxies, &name, registry.proxy(key));
    }
    let left_behind = seeded(Bug::RequestsLeftBehind);
    for id in dirty.requests.iter().filter(|_| !left_behind) {
        put(&mut batch, Table::Requests, id, registry.request(id));
    }
    for id in &dirty.events {
        let event = registry.events().entries.get(id).map(AsRef::as_ref);
        // Ordered as numbers, whatever their length.
        put(&mut batch, Table::Events, &format!("{id:020}"), event);
    }
    batch
}

fn put(batch: &mut Batch, table: Table, key: &str, value: Option<&impl Serialize>) {
    match value {
        Some(value) => {
            let json = serde_json::to_vec(value).expect("registry types have string keys");
            batch.put(table, key, json);
        }
        None => batch.delete(table, key),
    }
}

fn parse<T: DeserializeOwned>(record: &Record) -> Result<T, Error> {
    serde_json::from_slice(&record.value).map_err(|reason| {
        // The reason may quote what it could not read.
        let reason = Zeroizing::new(reason.to_string());
        let place = reason.rfind(" at line").map_or("", |at| &reason[at..]);
        error(record, format!("it is not what this version stores{place}"))
    })
}

fn error(record: &Record, reason: String) -> Error {
    Error {
        table: record.table,
        key: record.key.clone(),
        reason,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "read stored record `{}` of {:?}: {}",
            self.key, self.table, self.reason
        )
    }
}

impl std::error::Error for Error {}
