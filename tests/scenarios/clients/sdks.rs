//! The official SDKs of Anthropic and OpenAI: what they are told, and when they give up.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use qcc_proto::v1::{ApiFlavor, ClusterPolicy, CoolDowns};
use qcc_tests::{
    Answer, Builder, Gate, Piece, Process, Request, Tap, Testbed, eventually, foreign,
};
use serde_json::{Value, json};

use super::expect_untouched;

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

/// One of the SDKs.
#[derive(Clone, Copy)]
enum Sdk {
    Anthropic,
    OpenAi,
}

impl Sdk {
    fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
        }
    }

    fn python(self) -> Option<String> {
        foreign::python(self.name(), self.name())
    }

    fn testbed(self) -> Builder {
        Testbed::start().policy(|policy| {
            policy.set_api(match self {
                Self::Anthropic => ApiFlavor::Anthropic,
                Self::OpenAi => ApiFlavor::Openai,
            });
        })
    }

    /// Lets the SDK make calls.
    fn run(self, python: &str, testbed: &Testbed, tap: &Tap, calls: &[Value]) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/sdks.py");
        let mut command = Command::new(python);
        let calls = json!(calls).to_string();
        command
            .arg(script)
            .args([self.name(), &tap.url(), &calls])
            .env("NO_PROXY", "*");
        testbed.spawn(self.name(), &mut command)
    }

    fn call(self, model: &str) -> Value {
        let say_hello = [json!({"role": "user", "content": "say hello"})];
        json!({"arguments": {"model": model, "max_tokens": 64, "messages": say_hello}})
    }

    /// A call late in a conversation: a tool was described, called, and has answered.
    fn call_with_tools(self, model: &str) -> Value {
        let schema = json!({
            "type": "object",
            "properties": {"city": {"type": "string", "description": "caf\u{e9} \u{1f980} \"\\\n"}},
            "required": ["city"],
        });
        let (tools, turns) = match self {
            Self::Anthropic => (
                json!([{"name": "weather", "description": "1e2", "input_schema": schema}]),
                json!([
                    {"role": "user", "content": [{"type": "text", "text": "?", "cache_control": {"type": "ephemeral"}}]},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern", "x": 1.0}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "\u{2603}"}]},
                ]),
            ),
            Self::OpenAi => (
                json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}]),
                json!([
                    {"role": "user", "content": "?"},
                    {"role": "assistant", "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Bern\", \"x\": 1.0}"}}]},
                    {"role": "tool", "tool_call_id": "t1", "content": "\u{2603}"},
                ]),
            ),
        };
        let call = with(self.call(model), "tools", tools);
        with(call, "messages", turns)
    }

    /// A stream that says "caf\u{e9} \u{1f980}", with a gate before its last word.
    fn events(self, gate: &Gate) -> Vec<Piece> {
        let (first, last) = ("caf\u{e9} ", "\u{1f980}");
        let mut pieces = match self {
            Self::Anthropic => anthropic_events(first, last),
            Self::OpenAi => openai_events(first, last),
        };
        pieces.insert(self.events_before_gate(), Piece::Wait(gate.clone()));
        pieces
    }

    fn events_before_gate(self) -> usize {
        match self {
            Self::Anthropic => 3,
            Self::OpenAi => 2,
        }
    }

    fn error_event(self) -> Piece {
        let error = json!({"type": "overloaded_error", "message": "scripted overload"});
        match self {
            Self::Anthropic => event("error", &json!({"type": "error", "error": error})),
            Self::OpenAi => data(&json!({"error": error})),
        }
    }

    /// An answer that calls a tool.
    fn tool_call(self) -> Answer {
        let message = match self {
            Self::Anthropic => json!({
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "scripted",
                "content": [{"type": "tool_use", "id": "t2", "name": "weather", "input": {"city": "Z\u{fc}rich"}}],
                "stop_reason": "tool_use",
                "stop_sequence": null,
                "usage": {"input_tokens": 9, "output_tokens": 3},
            }),
            Self::OpenAi => json!({
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "scripted",
                "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
                    "role": "assistant",
                    "content": null,
                    "tool_calls": [{"id": "t2", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Z\u{fc}rich\"}"}}],
                }}],
            }),
        };
        Answer::bytes(200, "application/json", message.to_string())
    }

    /// What an answer says.
    fn text(self, answer: &Value) -> &str {
        let text = match self {
            Self::Anthropic => &answer["content"][0]["text"],
            Self::OpenAi => &answer["choices"][0]["message"]["content"],
        };
        text.as_str().unwrap_or_else(|| panic!("no text: {answer}"))
    }

    /// What an event adds to that.
    fn delta(self, event: &Value) -> &str {
        let text = match self {
            Self::Anthropic => &event["delta"]["text"],
            Self::OpenAi => &event["choices"][0]["delta"]["content"],
        };
        text.as_str().unwrap_or_default()
    }

    /// What an answer calls a tool with.
    fn tool_input(self, answer: &Value) -> Value {
        match self {
            Self::Anthropic => answer["content"][0]["input"].clone(),
            Self::OpenAi => {
                let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
                let arguments = call["arguments"].as_str().unwrap_or_default();
                serde_json::from_str(arguments).unwrap_or_default()
            }
        }
    }
}

/// The events of a whole answer in two words, as Anthropic's API sends them.
pub(super) fn anthropic_events(first: &str, last: &str) -> Vec<Piece> {
    let message = json!({
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    });
    let delta = |text: &str| json!({"type": "text_delta", "text": text});
    let of_block = |kind: &str, name: &str, content: Value| {
        event(kind, &json!({"type": kind, "index": 0, name: content}))
    };
    vec![
        event(
            "message_start",
            &json!({"type": "message_start", "message": message}),
        ),
        of_block(
            "content_block_start",
            "content_block",
            json!({"type": "text", "text": ""}),
        ),
        of_block("content_block_delta", "delta", delta(first)),
        of_block("content_block_delta", "delta", delta(last)),
        event(
            "content_block_stop",
            &json!({"type": "content_block_stop", "index": 0}),
        ),
        event(
            "message_delta",
            &json!({
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                "usage": {"output_tokens": 3},
            }),
        ),
        event("message_stop", &json!({"type": "message_stop"})),
    ]
}

fn openai_events(first: &str, last: &str) -> Vec<Piece> {
    let chunk = |delta: Value, finish: Option<&str>| {
        data(&json!({
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "scripted",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }))
    };
    vec![
        chunk(json!({"role": "assistant", "content": ""}), None),
        chunk(json!({"content": first}), None),
        chunk(json!({"content": last}), None),
        chunk(json!({}), Some("stop")),
        Piece::from("data: [DONE]\n\n"),
    ]
}

fn event(name: &str, content: &Value) -> Piece {
    Piece::from(&*format!("event: {name}\ndata: {content}\n\n"))
}

fn data(content: &Value) -> Piece {
    Piece::from(&*format!("data: {content}\n\n"))
}

/// An error in the shape of both APIs.
fn error(status: u16) -> Answer {
    let message = format!("scripted {status}");
    let error = json!({"type": "scripted_error", "message": message, "param": null, "code": null});
    let body = json!({"type": "error", "error": error}).to_string();
    Answer::bytes(status, "application/json", body)
        .header("request-id", "req_scripted")
        .header("x-request-id", "req_scripted")
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

fn with(mut call: Value, argument: &str, value: Value) -> Value {
    call["arguments"][argument] = value;
    call
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
