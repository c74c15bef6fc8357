use std::collections::BTreeMap;

use super::*;

fn no_env(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Result<v1::ApplyResourcesRequest, Error> {
    parse(text, Path::new("."), &no_env)
}

/// The error of an endpoint with one line more.
fn endpoint_error(line: &str) -> String {
    let text = format!("[[endpoints]]\nname = \"eu-1\"\nbase_url = \"https://a\"\n{line}\n");
    read(&text).expect_err(line).to_string()
}

const FULL: &str = r#"
[[clusters]]
name = "default"
api = "openai"
credential_scheme = "x-api-key"
attempts_max = 2
max_failures = 5
unproven_concurrency = 8
corroboration_window = "10s"
queue_timeout = "0s"
strategy = "peak_ewma"
slow_start = "0s"
hold_timeout = "1s"
max_ejected_percent = 50
last_resort = true
expose_headers = false
upstream_protocol = "auto"
model_override = "m-2"
model_aliases = { "m 1" = "m-3", small = "m-4" }
affinity = { enabled = true, headers = ["x-session", "x-thread"], return_policy = "stay" }
retry_budget = { percent = 10, min_per_second = 0 }
timeouts = { connect = "1s", first_byte = "2m", idle = "3m", total = "1h" }
cool_downs = { overloaded = "5s", rate_limited = "1m", max = "1d" }
verification = { first = "250ms", max = "30s", auth_max = "1m30s", per_hour_max = 10 }
check = { kind = "conversation", model = "m-1", max_tokens = 32, timeout = "9s", precheck = { method = "POST", path = "/count", expected_statuses = [200], body = "{}" } }

[[clusters]]
name = "plain"
check = "none"

[[clusters]]
name = "thrifty"

[clusters.check]
kind = "conversation"
precheck = "/v1/models"

[[endpoints]]
name = "eu-1"
cluster = "plain"
base_url = "https://eu.example.com/api"
priority = 0
weight = 7
max_failures = 1
timeout = "45s"
enabled = false
allow_plaintext = true
labels = { provider = "a\tb \"c\" \\", "x y" = "ü" }

[endpoints.check]
kind = "http"
method = "POST"
path = "/ping?x=1"
expected_statuses = [200, 204]
body = '{"a": 1}'

[[endpoints]]
name = "us-1"
base_url = "https://us.example.com"
check = "tcp"
"#;

#[test]
fn every_key_reaches_its_field() {
    let request = read(FULL).unwrap();
    let policy = request.clusters[0].policy.clone().unwrap();
    assert_eq!(policy.api(), v1::ApiFlavor::Openai);
    assert_eq!(policy.credential_scheme(), v1::CredentialScheme::XApiKey);
    assert_eq!(policy.queue_timeout, Some(prost_types::Duration::default()));
    assert_eq!(
        policy.verification.unwrap().first.unwrap().nanos,
        250_000_000
    );
    assert_eq!(policy.strategy(), v1::Strategy::PeakEwma);
    assert_eq!(policy.upstream_protocol(), v1::UpstreamProtocol::Auto);
    assert_eq!(policy.model_aliases["m 1"], "m-3");
    let affinity = policy.affinity.unwrap();
    assert_eq!(affinity.return_policy(), v1::ReturnPolicy::Stay);
    assert_eq!(affinity.headers, ["x-session", "x-thread"]);
    let precheck = |cluster: usize| {
        let policy = request.clusters[cluster].policy.clone().unwrap();
        policy.check.unwrap().precheck
    };
    let asked = precheck(0).unwrap();
    assert_eq!((&*asked.method, &*asked.path), ("POST", "/count"));
    assert_eq!(
        (&*asked.body, &asked.expected_statuses[..]),
        ("{}", &[200][..])
    );
    assert_eq!(precheck(1), None);
    assert_eq!(precheck(2).unwrap().path, "/v1/models");
    let eu = &request.endpoints[0];
    assert_eq!(
        (eu.priority, eu.weight, eu.max_failures),
        (Some(0), Some(7), Some(1))
    );
    assert_eq!(eu.admin_state(), v1::AdminState::Disabled);
    assert_eq!(eu.labels["x y"], "ü");
    let Some(v1::check::Kind::Http(http)) = eu.check.clone().and_then(|check| check.kind) else {
        panic!("{:?}", eu.check);
    };
    assert_eq!(http.expected_statuses, [200, 204]);
    let us = &request.endpoints[1];
    assert_eq!(
        (us.priority, us.admin_state(), us.credential.as_ref()),
        (None, v1::AdminState::Unspecified, None)
    );
    assert!(!request.prune && !request.validate_only);
}

#[test]
fn what_is_rendered_reads_back_the_same() {
    let request = read(FULL).unwrap();
    let text = render(&request.clusters, &request.endpoints);
    assert_eq!(read(&text).unwrap(), request, "{text}");
    assert_eq!(
        read(&render(&[], &[])).unwrap(),
        v1::ApplyResourcesRequest::default()
    );
}

#[test]
fn rendering_leaves_out_keys_health_and_the_operators_wish() {
    let endpoint = v1::Endpoint {
        name: "a".to_owned(),
        base_url: "https://a".to_owned(),
        credential: Some(v1::Credential {
            api_key: "canary".to_owned(),
            fingerprint: "12ab".to_owned(),
            ..v1::Credential::default()
        }),
        admin_state: v1::AdminState::Enabled.into(),
        labels: BTreeMap::from([("line\nbreak".to_owned(), "\u{1b}[31m\u{7f}".to_owned())]),
        generation: 7,
        ..Default::default()
    };
    let text = render(&[], std::slice::from_ref(&endpoint));
    assert!(
        !text.contains("canary") && !text.contains("enabled =") && !text.contains('\u{1b}'),
        "{text}"
    );
    let read = read(&text).unwrap();
    let expected = v1::Endpoint {
        credential: None,
        admin_state: 0,
        generation: 0,
        ..endpoint
    };
    assert_eq!(read.endpoints, [expected]);
}

#[test]
fn errors_name_line_key_value_and_rule() {
    for (line, expected) in [
        (
            "weight = -1",
            "line 4: endpoint `eu-1`: `weight` is -1: it must be a whole number from 0 to 4294967295",
        ),
        (
            "weight = 5000000000",
            "line 4: endpoint `eu-1`: `weight` is 5000000000: it must be a whole number from 0 to 4294967295",
        ),
        (
            "weight = \"5\"",
            "line 4: endpoint `eu-1`: `weight` is `5`: it must be a whole number from 0 to 4294967295",
        ),
        (
            "timeout = 30",
            "line 4: endpoint `eu-1`: `timeout`: 30 must be a text such as \"30s\"",
        ),
        (
            "timeout = \"30\"",
            "line 4: endpoint `eu-1`: `timeout`: `30` is not a duration: whole numbers with units, such as `250ms`, `30s`, `5m` or `1h30m`",
        ),
        (
            "enabled = \"yes\"",
            "line 4: endpoint `eu-1`: `enabled` is `yes`: it must be true or false",
        ),
        (
            "cluster = 1",
            "line 4: endpoint `eu-1`: `cluster` is 1: it must be a text in quotes",
        ),
        (
            "labels = { a = 1 }",
            "line 4: endpoint `eu-1`: `labels.a` is 1: it must be a text in quotes",
        ),
        (
            "check = 5",
            "line 4: endpoint `eu-1`: `check` must be a table, not a number",
        ),
        (
            "check = \"ping\"",
            "line 4: endpoint `eu-1`: `check`: `kind` is `ping`: it must be one of `conversation`, `http`, `tcp`, `none`",
        ),
        (
            "check = { path = \"/\" }",
            "line 4: endpoint `eu-1`: `check`: `kind` is missing; it is required",
        ),
        (
            "check = { kind = \"conversation\", precheck = 5 }",
            "line 4: endpoint `eu-1`: `check`: `precheck` must be a table, not a number",
        ),
        (
            "check = { kind = \"conversation\", precheck = { path = 5 } }",
            "line 4: endpoint `eu-1`: `check`: `precheck`: `path` is 5: it must be a text in quotes",
        ),
        (
            "check = { kind = \"http\", precheck = \"/\" }",
            "line 4: endpoint `eu-1`: `check`: unknown key `precheck`; known keys are `kind`, `method`, `path`, `expected_statuses`, `body`, `timeout`",
        ),
        (
            "check = { kind = \"http\", expected_statuses = 200 }",
            "line 4: endpoint `eu-1`: `check`: `expected_statuses` is 200: it must be a list of whole numbers, such as [200, 204]",
        ),
    ] {
        assert_eq!(endpoint_error(line), expected);
    }
    for (text, expected) in [
        (
            "[[endpoints]]\nname = \"a\"\n",
            "line 1: endpoint `a`: `base_url` is missing; it is required",
        ),
        (
            "\n[[clusters]]\n",
            "line 2: cluster 1: `name` is missing; it is required",
        ),
        (
            "[[clusters]]\nname = \"a\"\n[[clusters]]\nname = \"a\"\n",
            "line 3: cluster `a`: there are two of this name; names are unique",
        ),
        (
            "[[clusters]]\nname = \"a\"\naffinity = { headers = \"x\" }\n",
            "line 3: cluster `a`: `affinity`: `headers` is `x`: it must be a list of texts in quotes, such as [\"a\", \"b\"]",
        ),
        (
            "[[clusters]]\nname = \"a\"\napi = \"claude\"\n",
            "line 3: cluster `a`: `api` is `claude`: it must be one of `anthropic`, `openai`, `http`",
        ),
        (
            "endpoints = \"a\"",
            "line 1: `endpoints` must be a list of tables: write `[[endpoints]]`",
        ),
        (
            "[endpoints]",
            "line 1: `endpoints` must be a list of tables: write `[[endpoints]]`",
        ),
    ] {
        assert_eq!(read(text).expect_err(text).to_string(), expected);
    }
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    assert_eq!(
        endpoint_error("wieght = 5"),
        "line 4: endpoint `eu-1`: unknown key `wieght`; did you mean `weight`?"
    );
    assert_eq!(
        endpoint_error("check = { kind = \"tcp\", time_out = \"1s\" }"),
        "line 4: endpoint `eu-1`: `check`: unknown key `time_out`; did you mean `timeout`?"
    );
    assert_eq!(
        endpoint_error("check = { kind = \"tcp\", model = \"m\" }"),
        "line 4: endpoint `eu-1`: `check`: unknown key `model`; known keys are `kind`, `timeout`"
    );
    assert_eq!(
        read("[[endpoint]]\n").expect_err("a typo").to_string(),
        "line 1: unknown key `endpoint`; did you mean `endpoints`?"
    );
}

#[test]
fn keys_come_from_the_file_the_environment_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), "key-of-file\n").unwrap();
    let env = |name: &str| (name == "KEY").then(|| "key-of-env".to_owned());
    for (line, expected) in [
        ("api_key = \"key-inline\"", "key-inline"),
        ("api_key_env = \"KEY\"", "key-of-env"),
        ("api_key_file = \"key\"", "key-of-file"),
    ] {
        let text = format!("[[endpoints]]\nname = \"a\"\nbase_url = \"https://a\"\n{line}\n");
        let request = parse(&text, dir.path(), &env).unwrap();
        assert_eq!(
            request.endpoints[0].credential.as_ref().unwrap().api_key,
            expected
        );
    }
}

#[test]
fn a_key_that_cannot_be_had_is_an_error_and_never_shown() {
    for (line, expected) in [
        (
            "api_key = \"canary\"\napi_key_env = \"KEY\"",
            "line 1: endpoint `eu-1`: more than one of `api_key`, `api_key_env` and `api_key_file` is given; an endpoint has one key",
        ),
        (
            "api_key = \"canary ü\"",
            "line 4: endpoint `eu-1`: `api_key` is not a key: it cannot be used: the key contains something else than visible ASCII characters",
        ),
        (
            "api_key = [\"canary\"]",
            "line 4: endpoint `eu-1`: `api_key` is a list: it must be a text in quotes",
        ),
        (
            "api_key = \"\"",
            "line 4: endpoint `eu-1`: `api_key` is not a key: it cannot be used: the key is empty",
        ),
        (
            "api_key_env = \"KEY\"",
            "line 4: endpoint `eu-1`: `api_key_env` is `KEY`: it must name a variable that holds the key: there is no such environment variable",
        ),
        (
            "api_key_file = \"/nowhere/key\"",
            "line 4: endpoint `eu-1`: `api_key_file` is `/nowhere/key`: it must name a file that holds the key: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(endpoint_error(line), expected);
    }
    for line in [
        "api_key = \"canary",
        "api_key = canary",
        "api_key = \"canary\" x",
        "api-key = \"canary\"",
    ] {
        let error = endpoint_error(line);
        assert!(
            !error.contains("canary") && error.contains("line 4"),
            "{error}"
        );
    }
}

#[test]
fn only_regular_files_of_a_sensible_size_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let huge = dir.path().join("huge");
    fs::File::create(&huge)
        .unwrap()
        .set_len(100 * 1024 * 1024)
        .unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let binary = dir.path().join("binary");
    fs::write(&binary, [0xff, 0xfe]).unwrap();
    for (path, reason) in [
        (dir.path(), "not a regular file"),
        (&fifo, "not a regular file"),
        (&huge, "larger than 8388608 bytes"),
        (&binary, "not UTF-8"),
        (&dir.path().join("none"), "No such file"),
    ] {
        let error = load(path).expect_err(reason).to_string();
        assert!(
            error.contains(reason) && error.contains(&path.display().to_string()),
            "{error}"
        );
    }
    for path in [dir.path(), &fifo, &huge] {
        assert!(read_key_file(path).is_err());
    }
}

#[test]
fn a_file_finds_its_key_files_beside_itself() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), "secret").unwrap();
    let path = dir.path().join("resources.toml");
    fs::write(
        &path,
        "[[endpoints]]\nname = \"a\"\nbase_url = \"https://a\"\napi_key_file = \"key\"\n",
    )
    .unwrap();
    let request = load(&path).unwrap();
    assert_eq!(
        request.endpoints[0].credential.as_ref().unwrap().api_key,
        "secret"
    );
}
