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

fn sample() -> Source<'static> {
    Source {
        cache: SAMPLE,
        ..Default::default()
    }
}

fn by_name(found: &Found) -> BTreeMap<&str, &v1::Endpoint> {
    found
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.name.as_str(), endpoint))
        .collect()
}

#[test]
fn profiles_become_endpoints_and_lists_become_clusters() {
    let found = convert(sample()).unwrap();
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
fn a_group_becomes_a_cluster_of_its_members_endpoints() {
    let groups = r#"{ "version": "1.0", "groups": {
      "Main": { "id": "0f0f0f0f", "name": "Main", "enabled": false,
        "primary_configs": ["Work (EU)", "gone"], "secondary_configs": ["pool"] },
      "idle": { "name": "idle" } } }"#;
    let found = convert(Source {
        groups: Some(groups),
        ..sample()
    });
    let found = found.unwrap();
    let clusters: Vec<_> = found.clusters.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(clusters, ["main", "pool"]);
    let members: Vec<_> = found
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.cluster == "main")
        .map(|endpoint| {
            (
                &*endpoint.name,
                endpoint.priority.unwrap(),
                &*endpoint.labels[PROFILE_LABEL],
            )
        })
        .collect();
    assert_eq!(
        members,
        [
            ("work-eu", 1, "Work (EU)"),
            ("pool", 2, "pool"),
            ("pool-2", 2, "pool")
        ]
    );
    assert!(found.notes.iter().any(|note| note.contains("`gone`")));
    // The profiles are there as without groups, under names that are still free.
    assert_eq!(found.endpoints.len(), 3 + 4);
}

#[test]
fn what_is_left_out_is_told_without_keys() {
    let found = convert(sample()).unwrap();
    let notes = found.notes.join("\n");
    for part in ["`empty`", "in the clear", "in this cluster already"] {
        assert!(notes.contains(part), "{part} in {notes}");
    }
    assert!(!notes.contains("canary"), "{notes}");
    let found = convert(Source {
        cluster: Some("team"),
        allow_plaintext: true,
        ..sample()
    })
    .unwrap();
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
        let cache = Source {
            cache: text,
            ..sample()
        };
        let groups = Source {
            groups: Some(text),
            ..sample()
        };
        for (source, file) in [(cache, "cache"), (groups, "endpoint_groups")] {
            let reason = convert(source).expect_err(text);
            let begin = format!("not a {file}.json of QCC: line ");
            assert!(reason.starts_with(&begin), "{reason}");
            assert!(!reason.contains("canary"), "{reason}");
        }
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
