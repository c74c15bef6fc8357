//! What must hold for any bytes that a data plane or an operator sends: the door through
//! which fuzz targets and the tests that replay their corpus come in (feature `fuzzing`).
//!
//! Each function takes the bytes of one case and panics if a promise is broken.

use std::path::Path;

use prost::Message;
use qcc_proto::{resources, upstream, v1};

use super::{base_url, convert, reports, updates};
use crate::registry::{
    Clock, Endpoint, Moment, Mutation, ProxyKey, Receipt, Registry, ReportBatch, Saved, Seed,
    Snapshot,
};

/// The endpoints that reports are about, in generations 1 to 4.
const RESOURCES: &str = r#"
[[endpoints]]
name = "a"
base_url = "https://a.example"

[[endpoints]]
name = "b"
base_url = "https://b.example"
api_key = "sk-b"
max_failures = 1

[[endpoints]]
name = "c"
base_url = "https://c.example"
check = "none"

[[endpoints]]
name = "d"
base_url = "https://d.example"
enabled = false
"#;

const NOW: Moment = Moment {
    clock: Clock(3_600_000),
    wall_ms: 1_795_219_200_000,
};

/// An encoded `StreamReportsRequest`: refused with a reason, or applied exactly once, however
/// often and in however many pieces it comes; what it leaves behind can be stored, read back and
/// shown.
///
/// # Panics
///
/// If that does not hold.
pub fn reports(data: &[u8]) {
    let Ok(request) = v1::StreamReportsRequest::decode(data) else {
        return;
    };
    let Ok(proxy) = reports::proxy(request.proxy.as_ref()) else {
        return;
    };
    let Some(Ok(batch)) = request.batch.map(reports::batch) else {
        return;
    };
    let before = registry();
    let mut whole = before.clone();
    let receipt = whole.report(&proxy, batch.clone(), NOW);
    assert!(
        !receipt.gap,
        "nothing is missing to one that was never heard of"
    );
    assert_counted(&before, &whole, &batch);

    assert_void(&mut whole, &proxy, &batch, receipt);
    for from in 1..batch.outcomes.len() {
        assert_void(
            &mut whole,
            &proxy,
            &piece(&batch, from..batch.outcomes.len()),
            receipt,
        );
    }

    let mut pieces = before.clone();
    for at in 0..batch.outcomes.len() {
        pieces.report(&proxy, piece(&batch, at..at + 1), NOW);
    }
    if !batch.outcomes.is_empty() {
        assert_eq!(
            effects(&pieces),
            effects(&whole),
            "it matters how a batch is cut"
        );
    }

    assert_shown(&whole.snapshot());
    assert_stored(&whole.snapshot());
}

/// A base URL: refused with a rule, or made canonical; then it leads to the host that it names,
/// whoever reads it.
///
/// # Panics
///
/// If that does not hold.
pub fn base_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let strict = base_url::canonical(text, false);
    let canonical = match base_url::canonical(text, true) {
        Ok(canonical) => canonical,
        Err(rule) => {
            assert!(
                !rule.is_empty() && rule.len() < 200,
                "a refusal names its rule"
            );
            assert!(strict.is_err(), "what is refused is refused in any case");
            return;
        }
    };
    let again = base_url::canonical(&canonical, true);
    assert_eq!(again.as_deref(), Ok(&*canonical), "canonical is final");
    assert!(!canonical.ends_with('/') && !canonical.contains(['?', '#', '\\']));

    let uri: http::Uri = canonical.parse().expect("it was read as a URI");
    let authority = uri.authority().expect("it has a host").as_str();
    assert!(!authority.contains('@'), "{authority}");
    let checked = reqwest::Url::parse(&canonical)
        .unwrap_or_else(|error| panic!("proxies could connect, checks could not: {error}"));
    let host = uri.host().unwrap_or_default();
    let address = |host: &str| {
        let inner = host.trim_start_matches('[').trim_end_matches(']');
        inner.parse::<std::net::IpAddr>()
    };
    let elsewhere = checked.host_str().unwrap_or_default();
    let alike = host == elsewhere || address(host).is_ok() && address(host) == address(elsewhere);
    assert!(alike, "proxies connect to {host}, checks to {elsewhere}");
    let default = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    let port = uri.port_u16().unwrap_or(default);
    assert_eq!(Some(port), checked.port_or_known_default());
    let address = address(host);
    if let Ok(address) = address {
        assert!(upstream::may_connect(address), "{address}");
    }
    let local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let expected = uri.scheme_str() == Some("https") || local;
    assert_eq!(
        strict.is_ok(),
        expected,
        "keys go over plaintext only on purpose"
    );

    let target = upstream::target(&uri, "/v1/messages").expect("a base URL takes a path");
    assert_eq!(target.to_string(), format!("{canonical}/v1/messages"));
}

/// A registry with the endpoints of [`RESOURCES`], as it is in the middle of its life.
fn registry() -> Registry {
    let seed = Seed {
        registry_id: "r".into(),
        salt: vec![1],
    };
    let mut registry = Registry::new(1, Saved::default(), seed, NOW);
    let declared = resources::parse(RESOURCES, Path::new(""), &|_| None);
    let declared = declared.expect("the resources are valid");
    let declaration = super::declaration(&declared).expect("the resources are allowed");
    registry
        .mutate(Mutation::Apply(declaration), None, NOW)
        .expect("nothing stands in the way");
    for _ in 0..3 {
        registry.settle();
        registry.advance(NOW);
    }
    registry
}

/// The outcomes of a part of a batch, under the numbers that they have in it.
fn piece(batch: &ReportBatch, part: std::ops::Range<usize>) -> ReportBatch {
    ReportBatch {
        first_sequence: batch.first_sequence + part.start as u64,
        dropped: if part.start == 0 { batch.dropped } else { 0 },
        registry_id: batch.registry_id.clone(),
        outcomes: batch.outcomes[part].to_vec(),
    }
}

/// Everything that a repeated report must not change.
fn effects(registry: &Registry) -> String {
    let snapshot = registry.snapshot();
    let counts = snapshot.report_counts;
    format!(
        "{:?} {:?} {:?} {:?}",
        snapshot.endpoints,
        snapshot.totals,
        registry.meta(),
        (
            counts.applied,
            counts.stale,
            counts.unknown_endpoint,
            counts.dropped
        ),
    )
}

/// Each outcome was counted once, under one heading.
fn assert_counted(before: &Registry, after: &Registry, batch: &ReportBatch) {
    let (was, is) = (
        before.snapshot().report_counts,
        after.snapshot().report_counts,
    );
    let counted = (is.applied - was.applied)
        + (is.duplicate - was.duplicate)
        + (is.stale - was.stale)
        + (is.unknown_endpoint - was.unknown_endpoint);
    assert_eq!(counted, batch.outcomes.len() as u64);
}

/// A batch that was applied before changes nothing and is acknowledged like the first time.
fn assert_void(registry: &mut Registry, proxy: &ProxyKey, batch: &ReportBatch, first: Receipt) {
    let state = effects(registry);
    let receipt = registry.report(proxy, batch.clone(), NOW);
    let expected = Receipt {
        dropped: 0,
        ..first
    };
    assert_eq!(receipt, expected, "a repeated report is acknowledged alike");
    assert_eq!(
        effects(registry),
        state,
        "a repeated report changes nothing"
    );
}

/// People and data planes can be told of every endpoint, with texts that fit a terminal.
fn assert_shown(snapshot: &Snapshot) {
    let wall = convert::Wall::at(NOW);
    for endpoint in snapshot.endpoints.values() {
        let message = convert::endpoint(endpoint, snapshot, wall);
        let bytes = message.encode_to_vec();
        assert_eq!(v1::Endpoint::decode(&*bytes).as_ref(), Ok(&message));
        let evidence = message.health.and_then(|health| health.evidence);
        for text in evidence.iter().flat_map(|evidence| {
            [
                &evidence.detail,
                &evidence.error_type,
                &evidence.upstream_request_id,
            ]
        }) {
            assert!(
                text.len() <= 200 && !text.contains(char::is_control),
                "{text:?}"
            );
        }
        let queued = convert::queue_entry(endpoint, wall);
        assert_eq!(queued.is_some(), endpoint.health.incident().is_some());
        let routed = updates::routed(endpoint, snapshot);
        assert_eq!(routed.generation, endpoint.generation.0);
    }
}

/// A new process that reads what was stored goes on from the same state.
fn assert_stored(snapshot: &Snapshot) {
    for endpoint in snapshot.endpoints.values() {
        let stored = serde_json::to_string(&**endpoint).expect("it can be stored");
        let read: Endpoint = serde_json::from_str(&stored).expect("what is stored can be read");
        assert_eq!(serde_json::to_string(&read).ok(), Some(stored));
    }
}
