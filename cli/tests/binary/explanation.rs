//! Events and explanations, as people and scripts meet them.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use super::{expect, fake::FakeControl, qcc_ctl, stderr, stdout};

/// `qcc-ctl events --follow …`, still running.
fn follow(control: &FakeControl, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_qcc-ctl"))
        .args(["events", "--follow"])
        .args(arguments)
        .env("QCC_CONTROL", &control.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

/// The next `lines` lines; then interrupts it as Ctrl-C does. Returns what it wrote to stderr too.
fn interrupted_after(mut child: Child, lines: usize) -> (Vec<String>, String) {
    let reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let lines: Vec<String> = reader
        .lines()
        .take(lines)
        .map(|line| line.expect("text"))
        .collect();
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let mut errors = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    stderr.read_to_string(&mut errors).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{errors}");
    (lines, errors)
}

#[test]
fn events_are_listed_from_the_oldest() {
    let control = FakeControl::start();
    let output = qcc_ctl(&control.url, &["events"], "");
    expect(&output, 0);
    let text = stdout(&output);
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "TIME                       EVENT                 ABOUT   DETAILS",
            "2026-01-31T13:00:01.000Z   created               e-2     by eva@desk, in view 1.41, generation 3",
            "2026-01-31T13:00:02.000Z   ejected               e-2     auth: 401 authentication_error, seen by p-1, in view 1.42, generation 3",
            "2026-01-31T13:00:03.000Z   failures_suppressed   e-2     in view 1.43, generation 3",
        ]
    );
    let json = qcc_ctl(&control.url, &["events", "-o", "json"], "");
    let document: Value = serde_json::from_str(&stdout(&json)).expect("one document");
    assert_eq!(document["events"][0]["id"], "3", "as the contract says");
    assert_eq!(document["events"].as_array().map(Vec::len), Some(3));
    let names = qcc_ctl(&control.url, &["events", "-o", "name"], "");
    assert_eq!(stdout(&names), "event/1\nevent/2\nevent/3\n");
}

#[test]
fn only_what_is_asked_for_is_shown() {
    let control = FakeControl::start();
    for (arguments, shown) in [
        (&["--limit", "1"][..], "event/3\n"),
        (&["--limit", "3"], "event/1\nevent/2\nevent/3\n"),
        (&["--kind", "ejected,created"], "event/1\nevent/2\n"),
        (
            &["--kind", "ejected", "--kind", "created"],
            "event/1\nevent/2\n",
        ),
        (
            &["--endpoint", "e-2", "--since", "1h"],
            "event/1\nevent/2\nevent/3\n",
        ),
        (&["--endpoint", "e-1"], ""),
    ] {
        let output = qcc_ctl(
            &control.url,
            &[&["events", "-o", "name"], arguments].concat(),
            "",
        );
        expect(&output, 0);
        assert_eq!(stdout(&output), shown, "{arguments:?}");
    }
    let none = qcc_ctl(&control.url, &["events", "--endpoint", "e-1"], "");
    assert_eq!(
        (stdout(&none), stderr(&none)),
        (String::new(), "no event matches\n".to_owned())
    );
    for wrong in [
        &["--kind", "explosion"][..],
        &["--since", "yesterday"],
        &["--limit", "-1"],
    ] {
        expect(
            &qcc_ctl(&control.url, &[&["events"], wrong].concat(), ""),
            2,
        );
    }
}

#[test]
fn following_goes_on_after_a_break_where_it_stood() {
    let control = FakeControl::start();
    let (lines, errors) = interrupted_after(follow(&control, &["--no-headers"]), 4);
    assert_eq!(
        lines[3],
        "2026-01-31T13:00:04.000Z   ... failures_suppressed   e-2     in view 1.44, generation 3 \
         (+57 more since 2026-01-31T13:00:03.000Z)"
    );
    assert_eq!(
        errors,
        "lost the control plane; trying again\n\
         connected again\n\
         some events are missing here: they were dropped before they could be shown\n"
    );
    let positions: Vec<_> = control
        .watches()
        .iter()
        .map(|watch| watch.after_id)
        .collect();
    assert_eq!(positions, [Some(3), Some(3)]);
}

#[test]
fn following_writes_a_line_of_json_for_each_event() {
    let control = FakeControl::start();
    let (lines, _) = interrupted_after(follow(&control, &["-o", "json", "--limit", "1"]), 2);
    let ids: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("one document")["id"].clone())
        .collect();
    assert_eq!(ids, ["3", "4"]);
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_following_quietly() {
    let control = FakeControl::start();
    let mut child = follow(&control, &[]);
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    expect(&output, 0);
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}

#[test]
fn an_explanation_is_a_page_for_people_and_a_message_for_programs() {
    let control = FakeControl::start();
    let output = qcc_ctl(&control.url, &["endpoints", "explain", "e-2"], "");
    expect(&output, 0);
    let text = stdout(&output);
    for part in [
        "endpoint         e-2\n",
        "state            unhealthy: auth\n",
        "why              its key was rejected, says p-1[2J\n",
        "evidence         http 401, authentication_error\n",
        "next             a check\n",
        "to do            give it a new key\n",
        "proxies behind   1 proxy may still act on an older view\n",
        "\nPROXY BEHIND   VIEW   LAG\np-2            1.1    1250ms\n",
        "\n2026-01-31T13:00:02.000Z   ejected ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(
        !text.contains('\u{1b}') && !text.contains("canary"),
        "{text}"
    );
    let json = qcc_ctl(
        &control.url,
        &["endpoints", "explain", "e-2", "-o", "json"],
        "",
    );
    let document: Value = serde_json::from_str(&stdout(&json)).expect("one document");
    assert_eq!(document["advice"], "give it a new key");
    assert_eq!(document["endpoint"]["name"], "e-2");
    assert!(!stdout(&json).contains("canary"));
}

#[test]
fn every_act_can_be_given_a_reason() {
    let control = FakeControl::start();
    for act in ["enable", "disable", "drain", "eject", "restore"] {
        let reason = format!("why {act}");
        let output = qcc_ctl(
            &control.url,
            &["endpoints", act, "e-1", "--reason", &reason],
            "",
        );
        expect(&output, 0);
    }
    let more: [&[&str]; 2] = [
        &["update", "e-1", "--weight", "5", "--reason", "why update"],
        &["remove", "e-1", "--yes", "--reason", "why remove"],
    ];
    for act in more {
        expect(
            &qcc_ctl(&control.url, &[&["endpoints"], act].concat(), ""),
            0,
        );
    }
    assert_eq!(
        control.reasons(),
        [
            "why enable",
            "why disable",
            "why drain",
            "why eject",
            "why restore",
            "why update",
            "why remove"
        ]
    );
}

#[test]
fn every_call_says_who_asks() {
    let control = FakeControl::start();
    let given = ["--operator", "eva@desk", "endpoints", "enable", "e-1"];
    expect(&qcc_ctl(&control.url, &given, ""), 0);
    expect(
        &qcc_ctl(
            &control.url,
            &["endpoints", "list", "--operator", "bob"],
            "",
        ),
        0,
    );
    expect(&qcc_ctl(&control.url, &["events"], ""), 0);
    let operators = control.operators();
    assert_eq!(
        operators[..3],
        ["eva@desk", "bob", "bob"],
        "a list of two pages"
    );
    assert!(operators[3].contains('@'), "{operators:?}");
    let too_long = "x".repeat(65);
    for wrong in ["", "two\nlines", "\u{e9}va", &too_long] {
        expect(
            &qcc_ctl(&control.url, &["events", "--operator", wrong], ""),
            2,
        );
    }
}

#[test]
fn a_new_key_may_have_to_prove_itself_first() {
    let control = FakeControl::start();
    let update = ["endpoints", "update", "e-1", "--overlap", "10m"];
    let with_key = [&update[..], &["--key-stdin"]].concat();
    expect(&qcc_ctl(&control.url, &with_key, "a-key"), 0);
    let overlap = control.last_update().credential_overlap;
    assert_eq!(overlap.map(|overlap| overlap.seconds), Some(600));
    let without = qcc_ctl(
        &control.url,
        &[&update[..], &["--weight", "5"]].concat(),
        "",
    );
    expect(&without, 2);
    assert!(
        stderr(&without).contains("--key-stdin"),
        "{}",
        stderr(&without)
    );
}

#[test]
fn a_precheck_belongs_to_a_conversation() {
    let control = FakeControl::start();
    let update = [
        "endpoints",
        "update",
        "e-1",
        "--precheck-path",
        "/v1/models",
        "--check",
    ];
    expect(
        &qcc_ctl(&control.url, &[&update[..], &["conversation"]].concat(), ""),
        0,
    );
    let check = control.last_update().endpoint.expect("an endpoint").check;
    let precheck = check.expect("a check").precheck.expect("a precheck");
    assert_eq!(precheck.path, "/v1/models");
    expect(
        &qcc_ctl(&control.url, &[&update[..], &["http"]].concat(), ""),
        2,
    );
}
