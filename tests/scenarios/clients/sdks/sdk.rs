//! One of the SDKs: how it is called, and what its API says.

use std::{path::Path, process::Command};

use qcc_proto::v1::ApiFlavor;
use qcc_tests::{Answer, Builder, Gate, Piece, Process, Tap, Testbed, foreign};
use serde_json::{Value, json};

/// One of the SDKs.
#[derive(Clone, Copy)]
pub(super) enum Sdk {
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

    pub(super) fn python(self) -> Option<String> {
        foreign::python(self.name(), self.name())
    }

    pub(super) fn testbed(self) -> Builder {
        Testbed::start().policy(|policy| {
            policy.set_api(match self {
                Self::Anthropic => ApiFlavor::Anthropic,
                Self::OpenAi => ApiFlavor::Openai,
            });
        })
    }

    /// Lets the SDK make calls.
    pub(super) fn run(
        self,
        python: &str,
        testbed: &Testbed,
        tap: &Tap,
        calls: &[Value],
    ) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/sdks.py");
        let mut command = Command::new(python);
        let calls = json!(calls).to_string();
        command
            .arg(script)
            .args([self.name(), &tap.url(), &calls])
            .env("NO_PROXY", "*");
        testbed.spawn(self.name(), &mut command)
    }

    pub(super) fn call(self, model: &str) -> Value {
        let say_hello = [json!({"role": "user", "content": "say hello"})];
        json!({"arguments": {"model": model, "max_tokens": 64, "messages": say_hello}})
    }

    /// A call late in a conversation: a tool was described, called, and has answered.
    pub(super) fn call_with_tools(self, model: &str) -> Value {
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
    pub(super) fn events(self, gate: &Gate) -> Vec<Piece> {
        let (first, last) = ("caf\u{e9} ", "\u{1f980}");
        let mut pieces = match self {
            Self::Anthropic => anthropic_events(first, last),
            Self::OpenAi => openai_events(first, last),
        };
        pieces.insert(self.events_before_gate(), Piece::Wait(gate.clone()));
        pieces
    }

    pub(super) fn events_before_gate(self) -> usize {
        match self {
            Self::Anthropic => 3,
            Self::OpenAi => 2,
        }
    }

    pub(super) fn error_event(self) -> Piece {
        let error = json!({"type": "overloaded_error", "message": "scripted overload"});
        match self {
            Self::Anthropic => event("error", &json!({"type": "error", "error": error})),
            Self::OpenAi => data(&json!({"error": error})),
        }
    }

    /// An answer that calls a tool.
    pub(super) fn tool_call(self) -> Answer {
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
    pub(super) fn text(self, answer: &Value) -> &str {
        let text = match self {
            Self::Anthropic => &answer["content"][0]["text"],
            Self::OpenAi => &answer["choices"][0]["message"]["content"],
        };
        text.as_str().unwrap_or_else(|| panic!("no text: {answer}"))
    }

    /// What an event adds to that.
    pub(super) fn delta(self, event: &Value) -> &str {
        let text = match self {
            Self::Anthropic => &event["delta"]["text"],
            Self::OpenAi => &event["choices"][0]["delta"]["content"],
        };
        text.as_str().unwrap_or_default()
    }

    /// What an answer calls a tool with.
    pub(super) fn tool_input(self, answer: &Value) -> Value {
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
pub(in crate::clients) fn anthropic_events(first: &str, last: &str) -> Vec<Piece> {
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
pub(super) fn error(status: u16) -> Answer {
    let message = format!("scripted {status}");
    let error = json!({"type": "scripted_error", "message": message, "param": null, "code": null});
    let body = json!({"type": "error", "error": error}).to_string();
    Answer::bytes(status, "application/json", body)
        .header("request-id", "req_scripted")
        .header("x-request-id", "req_scripted")
}

/// A call with one more argument.
pub(super) fn with(mut call: Value, argument: &str, value: Value) -> Value {
    call["arguments"][argument] = value;
    call
}
