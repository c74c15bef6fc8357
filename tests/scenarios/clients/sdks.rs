//! The official SDKs of Anthropic and OpenAI: what they are told, and when they give up.

mod sdk;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use qcc_proto::v1::{ClusterPolicy, CoolDowns};
use qcc_tests::{Answer, Builder, Gate, Process, Request, Tap, Testbed, eventually};
use serde_json::{Value, json};

use super::expect_untouched;
pub(super) use sdk::anthropic_events;
use sdk::{Sdk, error, with};

/// Posts of a client that gives up after its two retries.
const ALL: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_gets_answers_streams_and_tool_calls() {
    gets_answers_streams_and_tool_calls(Sdk::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_gets_answers_streams_and_tool_calls() {
    gets_answers_streams_and_tool_calls(Sdk::OpenAi).await;
}

async fn gets_answers_streams_and_tool_calls(sdk: Sdk) {
    let Some(python) = sdk.python() else { return };
    let builder = sdk.testbed().endpoints(["a"]);
    let (testbed, tap) = tapped(builder).await;
    let gate = Gate::new();
    let events = sdk.events(&gate);
    testbed
        .upstream("a")
        .respond_by(move |request| match model(request).as_str() {
            "streams" => Answer::stream(events.clone()),
            "calls-tools" => sdk.tool_call(),
            _ => Answer::text("hello"),
        });
    let calls = [
        sdk.call("talks"),
        with(sdk.call("streams"), "stream", json!(true)),
        sdk.call_with_tools("calls-tools"),
    ];
    let mut run = sdk.run(&python, &testbed, &tap, &calls);

    // The answer, and the events up to the gate: nothing that has arrived is held back.
    let seen = lines(&run, 1 + sdk.events_before_gate()).await;
    assert_eq!(sdk.text(&seen[0]["answer"]), "hello");
    gate.open();
    let lines = ended(&mut run).await;
    let events = lines.iter().filter(|line| line.get("event").is_some());
    let text: String = events.map(|line| sdk.delta(&line["event"])).collect();
    assert_eq!(text, "caf\u{e9} \u{1f980}");
    assert!(lines.iter().any(|line| line["end"] == true), "{lines:?}");
    let call = &lines[lines.len() - 1]["answer"];
    assert_eq!(sdk.tool_input(call), json!({"city": "Z\u{fc}rich"}));

    let sent = tap.requests().await;
    let arrived = testbed.upstream("a").requests();
    let arrived: Vec<_> = arrived.iter().filter(|it| !it.is_check()).collect();
    assert_eq!((sent.len(), arrived.len()), (calls.len(), calls.len()));
    for (sent, arrived) in sent.iter().zip(arrived) {
        expect_untouched(sent, arrived);
        let said = String::from_utf8_lossy(&sent.head);
        assert!(said.contains("key-of-the-client"), "{said}");
        let head = String::from_utf8_lossy(&arrived.head);
        assert!(!head.contains("key-of-the-client"), "{head}");
    }
}

/// Statuses, the error that either SDK makes of them, and how often it posts.
const ERRORS: [(u16, &str, usize); 11] = [
    (400, "BadRequestError", 1),
    (404, "NotFoundError", 1),
    (408, "APIStatusError", ALL),
    (409, "ConflictError", ALL),
    (413, "APIStatusError", 1),
    (422, "UnprocessableEntityError", 1),
    (429, "RateLimitError", ALL),
    (500, "InternalServerError", ALL),
    (502, "InternalServerError", ALL),
    (503, "InternalServerError", ALL),
    (529, "InternalServerError", ALL),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_knows_every_error_and_how_often_to_try() {
    knows_every_error_and_how_often_to_try(Sdk::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_knows_every_error_and_how_often_to_try() {
    knows_every_error_and_how_often_to_try(Sdk::OpenAi).await;
}

async fn knows_every_error_and_how_often_to_try(sdk: Sdk) {
    let Some(python) = sdk.python() else { return };
    let (testbed, tap) = tapped(patient(sdk.testbed()).endpoints(["a"])).await;
    testbed.upstream("a").respond_by(|request| {
        let status = model(request).parse().unwrap_or(200);
        error(status).header("retry-after-ms", "1")
    });
    let calls = ERRORS.map(|(status, _, _)| sdk.call(&status.to_string()));
    let lines = ended(&mut sdk.run(&python, &testbed, &tap, &calls)).await;
    let sent = tap.requests().await;
    for ((status, class, posts), line) in ERRORS.iter().zip(&lines) {
        let error = &line["error"];
        let classes = error["classes"].as_array();
        let knows = classes.is_some_and(|it| it.iter().any(|known| known == class));
        assert!(knows, "{status}: {line}");
        assert_eq!(error["status"], *status, "{line}");
        assert_eq!(error["request_id"], "req_scripted", "{line}");
        let text = error["text"].as_str().unwrap_or_default();
        assert!(text.contains(&format!("scripted {status}")), "{line}");
        let of_status = |it: &&Request| model(it) == status.to_string();
        assert_eq!(sent.iter().filter(of_status).count(), *posts, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_comes_back_if_and_when_it_is_told() {
    comes_back_if_and_when_it_is_told(Sdk::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_comes_back_if_and_when_it_is_told() {
    comes_back_if_and_when_it_is_told(Sdk::OpenAi).await;
}

async fn comes_back_if_and_when_it_is_told(sdk: Sdk) {
    let Some(python) = sdk.python() else { return };
    let (testbed, tap) = tapped(patient(sdk.testbed()).endpoints(["a"])).await;
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&arrivals);
    testbed.upstream("a").respond_by(move |request| {
        let model = model(request);
        let mut noted = noted.lock().expect("nobody panics with it");
        let is_first = !noted.iter().any(|(known, _)| *known == model);
        noted.push((model.clone(), Instant::now()));
        match (model.as_str(), is_first) {
            ("come-back", _) => error(400)
                .header("x-should-retry", "true")
                .header("retry-after-ms", "1"),
            ("stay-away", _) => error(503).header("x-should-retry", "false"),
            ("in-milliseconds", true) => error(429).header("retry-after-ms", "1100"),
            ("in-seconds", true) => error(429).header("retry-after", "1"),
            _ => Answer::text("welcome back"),
        }
    });
    let calls = ["come-back", "stay-away", "in-milliseconds", "in-seconds"].map(|it| sdk.call(it));
    let lines = ended(&mut sdk.run(&python, &testbed, &tap, &calls)).await;
    assert_eq!(lines[0]["error"]["status"], 400, "{lines:?}");
    assert_eq!(lines[1]["error"]["status"], 503, "{lines:?}");
    assert_eq!(sdk.text(&lines[2]["answer"]), "welcome back");
    assert_eq!(sdk.text(&lines[3]["answer"]), "welcome back");

    let arrivals = arrivals.lock().expect("nobody panics with it");
    let times = |model: &str| -> Vec<_> {
        let of_model = arrivals.iter().filter(|(known, _)| known == model);
        of_model.map(|(_, time)| *time).collect()
    };
    assert_eq!(times("come-back").len(), ALL);
    assert_eq!(times("stay-away").len(), 1);
    for (model, wait) in [("in-milliseconds", 1100), ("in-seconds", 1000)] {
        let [first, second] = times(model)[..] else {
            panic!("{model}: {arrivals:?}");
        };
        assert!(second - first >= Duration::from_millis(wait), "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_is_not_told_of_our_keys() {
    is_not_told_of_our_keys(Sdk::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_is_not_told_of_our_keys() {
    is_not_told_of_our_keys(Sdk::OpenAi).await;
}

async fn is_not_told_of_our_keys(sdk: Sdk) {
    let Some(python) = sdk.python() else { return };
    let (testbed, tap) = tapped(sdk.testbed().patient_checks().endpoints(["a", "b"])).await;
    testbed.upstream("a").respond(401);
    let refuses = |request: &Request| match model(request).as_str() {
        "refused" => Answer::status(401),
        _ => Answer::text("from the other one"),
    };
    testbed.upstream("b").respond_by(refuses);
    let calls = ["served", "refused"].map(|model| sdk.call(model));
    let lines = ended(&mut sdk.run(&python, &testbed, &tap, &calls)).await;
    assert_eq!(sdk.text(&lines[0]["answer"]), "from the other one");
    // It would take a 401 for its own, and its user would log in anew.
    let error = &lines[1]["error"];
    assert_eq!(error["status"], 502, "{error}");
    let text = error["text"].as_str().unwrap_or_default();
    assert!(!text.contains("scripted 401"), "{error}");
    // It was told that to come back is of no use: `x-should-retry: false`.
    assert_eq!(tap.requests().await.len(), calls.len());
    assert_eq!(testbed.upstream("a").client_requests(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_anthropic_sdk_notices_a_stream_that_breaks() {
    notices_a_stream_that_breaks(Sdk::Anthropic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openai_sdk_notices_a_stream_that_breaks() {
    notices_a_stream_that_breaks(Sdk::OpenAi).await;
}

async fn notices_a_stream_that_breaks(sdk: Sdk) {
    let Some(python) = sdk.python() else { return };
    let (testbed, tap) = tapped(patient(sdk.testbed()).endpoints(["a"])).await;
    testbed.upstream("a").respond_by(move |request| {
        let open = Gate::new();
        open.open();
        let mut events = sdk.events(&open);
        events.truncate(sdk.events_before_gate());
        match model(request).as_str() {
            "cut" => Answer::stream(events).cut(),
            "reset" => Answer::stream(events).then_reset(),
            _ => {
                events.push(sdk.error_event());
                Answer::stream(events)
            }
        }
    });
    let models = ["cut", "reset", "reports"];
    let calls = models.map(|model| with(sdk.call(model), "stream", json!(true)));
    let lines = ended(&mut sdk.run(&python, &testbed, &tap, &calls)).await;
    let endings: Vec<_> = lines
        .iter()
        .filter(|line| line.get("event").is_none())
        .collect();
    assert_eq!(endings.len(), calls.len(), "{lines:?}");
    // A reset may take events along that it has overtaken; the others lose none.
    let events = lines.len() - endings.len();
    assert!(events >= 2 * sdk.events_before_gate(), "{lines:?}");
    for (model, ending) in models.iter().zip(&endings) {
        let is_known = ending.get("error").is_some() || ending.get("broken").is_some();
        assert!(is_known, "{model}: {ending}");
    }
    let text = endings[2]["error"]["text"].as_str().unwrap_or_default();
    assert!(text.contains("scripted overload"), "{}", endings[2]);
    assert_eq!(tap.requests().await.len(), calls.len()); // What was heard is not asked for again.
}

/// Each request is one attempt, whatever came of those before it.
fn patient(builder: Builder) -> Builder {
    builder.policy(|policy: &mut ClusterPolicy| {
        let none = Some(prost_types::Duration::default());
        policy.attempts_max = Some(1);
        policy.max_failures = Some(1000);
        policy.cool_downs = Some(CoolDowns {
            overloaded: none,
            rate_limited: none,
            max: none,
        });
    })
}

async fn tapped(builder: Builder) -> (Testbed, Tap) {
    let testbed = builder.proxies(1).await;
    let tap = Tap::start(testbed.proxy(0).http_address()).await;
    (testbed, tap)
}

/// Which model a request asks for: here it names the story that it belongs to.
fn model(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    body["model"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the script has printed so many lines.
async fn lines(run: &Process, count: usize) -> Vec<Value> {
    eventually(&format!("{count} lines are printed"), async || {
        let lines = parsed(&run.output());
        match lines {
            Some(lines) if lines.len() >= count => Ok(lines),
            _ => Err(run.output()),
        }
    })
    .await
}

/// Waits until all calls are made.
async fn ended(run: &mut Process) -> Vec<Value> {
    let status = run.ended().await;
    assert!(status.success(), "{}", run.output());
    parsed(&run.output()).unwrap_or_else(|| panic!("not JSON: {}", run.output()))
}

/// The lines so far, but for one that is not yet whole.
fn parsed(output: &str) -> Option<Vec<Value>> {
    let whole = output.split_inclusive('\n').filter(|it| it.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).ok()).collect()
}
