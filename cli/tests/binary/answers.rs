//! What control planes answer, and what reaches them.

use serde_json::Value;

use super::{NOWHERE, expect, fake::FakeControl, qcc_ctl, stderr, stdout};

#[test]
fn lists_come_whole_and_in_every_format() {
    let control = FakeControl::start();
    let table = qcc_ctl(&control.url, &["endpoints", "list"], "");
    expect(&table, 0);
    let text = stdout(&table);
    assert_eq!(
        text.lines().count(),
        4,
        "a header and three endpoints of two pages: {text}"
    );
    assert_eq!(
        text.lines().next(),
        Some("NAME   CLUSTER   STATE       CAUSE   SINCE   NEXT")
    );
    assert!(text.contains("e-2    default   unhealthy   auth"), "{text}");
    assert!(
        !text.contains('\u{1b}') && !text.contains("canary"),
        "{text}"
    );

    let json = qcc_ctl(&control.url, &["endpoints", "list", "-o", "json"], "");
    let document: Value = serde_json::from_str(&stdout(&json)).expect("one document");
    let names: Vec<_> = document["endpoints"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|endpoint| &endpoint["name"])
        .collect();
    assert_eq!(names, ["e-1", "e-2", "e-3"]);
    assert_eq!(document["next_page_token"], "");
    assert!(!stdout(&json).contains("canary"));

    let yaml = qcc_ctl(&control.url, &["endpoints", "list", "-o", "yaml"], "");
    assert!(
        stdout(&yaml).starts_with("endpoints:\n- name: e-1\n"),
        "{}",
        stdout(&yaml)
    );
    let names = qcc_ctl(&control.url, &["endpoints", "list", "-o", "name"], "");
    assert_eq!(stdout(&names), "endpoint/e-1\nendpoint/e-2\nendpoint/e-3\n");
    let bare = qcc_ctl(&control.url, &["endpoints", "list", "--no-headers"], "");
    assert_eq!(stdout(&bare).lines().count(), 3);
    let wide = stdout(&qcc_ctl(
        &control.url,
        &["endpoints", "list", "-o", "wide", "--color", "always"],
        "",
    ));
    assert!(
        wide.contains("http 401, authentication_error")
            && wide.contains("\u{1b}[31munhealthy\u{1b}[0m"),
        "{wide}"
    );
}

#[test]
fn an_empty_list_is_a_message_and_no_error() {
    let control = FakeControl::start();
    let output = qcc_ctl(
        &control.url,
        &["endpoints", "list", "--cluster", "empty"],
        "",
    );
    expect(&output, 0);
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str()),
        ("", "no endpoint matches\n")
    );
}

#[test]
fn the_first_control_plane_that_answers_is_used() {
    let control = FakeControl::start();
    let output = qcc_ctl(
        &format!("{NOWHERE},{}", control.url),
        &["endpoints", "get", "e-1", "-o", "json"],
        "",
    );
    expect(&output, 0);
    let endpoint: Value = serde_json::from_str(&stdout(&output)).expect("one document");
    assert_eq!(
        (&endpoint["name"], &endpoint["health"]["state"]),
        (&"e-1".into(), &"HEALTH_STATE_HEALTHY".into())
    );
}

#[test]
fn exit_codes_follow_the_servers_answer() {
    let control = FakeControl::start();
    for (name, code) in [
        ("nobody", 3),
        ("invalid", 2),
        ("exists", 4),
        ("denied", 5),
        ("broken", 1),
        ("away", 6),
    ] {
        let output = qcc_ctl(&control.url, &["endpoints", "get", name], "");
        expect(&output, code);
        assert!(
            stderr(&output).starts_with("error: "),
            "{}",
            stderr(&output)
        );
    }
    let output = qcc_ctl(&control.url, &["endpoints", "get", "invalid"], "");
    assert!(
        stderr(&output).contains("name: must be a name"),
        "{}",
        stderr(&output)
    );
    let output = qcc_ctl(
        &control.url,
        &["endpoints", "get", "slow", "--timeout", "100ms"],
        "",
    );
    expect(&output, 6);
    assert!(
        stderr(&output).contains("within 100ms"),
        "{}",
        stderr(&output)
    );
    let output = qcc_ctl(&control.url, &["endpoints", "verify", "e-2"], "");
    expect(&output, 1);
    assert!(
        stdout(&output).contains("endpoint/e-2 check failed: http 401"),
        "{}",
        stdout(&output)
    );
    assert_eq!(stderr(&output), "", "the answer is no, which is no error");
}

#[test]
fn keys_reach_the_server_from_input_environment_and_file() {
    let control = FakeControl::start();
    let file = std::env::temp_dir().join(format!("qcc-ctl-key-{}", std::process::id()));
    std::fs::write(&file, "canary-of-a-file\n").expect("a file");
    let path = file.to_str().expect("a plain path");
    for (flags, key) in [
        (&["--key-stdin"][..], "canary-of-the-input"),
        (&["--key-env", "THE_KEY"], "canary-of-the-environment"),
        (&["--key-file", path], "canary-of-a-file"),
    ] {
        let output = qcc_ctl(
            &control.url,
            &[&["endpoints", "update", "e-1"], flags].concat(),
            "canary-of-the-input\n",
        );
        expect(&output, 0);
        let request = control.last_update();
        assert_eq!(
            request
                .endpoint
                .expect("an endpoint")
                .credential
                .expect("a credential")
                .api_key,
            key
        );
        assert_eq!(request.update_mask.expect("a mask").paths, ["credential"]);
        assert!(!request.request_id.is_empty());
        assert!(!stdout(&output).contains("canary"), "{}", stdout(&output));
    }
    std::fs::remove_file(&file).expect("the file was there");
}

#[test]
fn a_mutation_is_repeated_once_with_the_same_request_id() {
    let control = FakeControl::start();
    let output = qcc_ctl(
        &control.url,
        &[
            "endpoints",
            "update",
            "flaky",
            "--weight",
            "5",
            "--label",
            "a=b",
        ],
        "",
    );
    expect(&output, 0);
    let requests = control.updates();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
    assert_eq!(
        requests[0].update_mask.clone().expect("a mask").paths,
        ["weight", "labels"]
    );
}
