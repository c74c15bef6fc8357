//! The question that only a working model answers, in the words of each API.

use qcc_proto::v1::ApiFlavor;
use serde_json::{Value, json};

/// What a model is asked that the endpoint's owner did not name.
const ANTHROPIC_MODEL: &str = "claude-haiku-4-5";
const OPENAI_MODEL: &str = "gpt-5-nano";

const CODE_CHARACTERS: &[u8; 36] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const CODE_LENGTH: usize = 6;

/// The code to be repeated: fresh for every check, so that no cache knows it.
#[derive(Debug)]
pub(super) struct Code(String);

impl Code {
    pub(super) fn fresh() -> Result<Self, getrandom::Error> {
        let mut code = String::with_capacity(CODE_LENGTH);
        while code.len() < CODE_LENGTH {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes)?;
            // 252 is a multiple of 36: every character is equally likely.
            let fair = bytes.into_iter().filter(|&byte| byte < 252);
            let characters = fair.map(|byte| char::from(CODE_CHARACTERS[usize::from(byte % 36)]));
            code.extend(characters.take(CODE_LENGTH - code.len()));
        }
        Ok(Self(code))
    }

    /// Whether a text repeats the code; models are free with capitals.
    pub(super) fn is_in(&self, text: &str) -> bool {
        text.to_ascii_uppercase().contains(&self.0)
    }
}

/// A question, as it is sent.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) path: &'static str,
    pub(super) body: String,
}

/// Phrases the question for an API; `None` if it has no conversations.
pub(super) fn question(
    api: ApiFlavor,
    model: Option<&str>,
    max_tokens: u32,
    code: &Code,
) -> Option<Question> {
    let prompt = format!("Reply with only this code and nothing else: {}", code.0);
    let messages = json!([{ "role": "user", "content": prompt }]);
    let (path, body) = match api {
        ApiFlavor::Unspecified | ApiFlavor::Anthropic => (
            "/v1/messages",
            json!({
                "model": model.unwrap_or(ANTHROPIC_MODEL),
                "max_tokens": max_tokens,
                "messages": messages,
            }),
        ),
        ApiFlavor::Openai => (
            "/v1/chat/completions",
            json!({
                "model": model.unwrap_or(OPENAI_MODEL),
                "max_completion_tokens": max_tokens,
                "messages": messages,
            }),
        ),
        ApiFlavor::Http => return None,
    };
    let body = body.to_string();
    Some(Question { path, body })
}

/// Returns what the model said: all text blocks of an Anthropic answer, or the
/// messages of all choices of an OpenAI one. Nothing else of the body counts; an
/// endpoint that echoes the question has not answered it.
pub(super) fn text(body: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let blocks = |content: &Value| match content {
        Value::String(text) => text.clone(),
        blocks => list(blocks)
            .iter()
            .filter_map(|block| block["text"].as_str())
            .collect(),
    };
    if body["content"].is_array() {
        return blocks(&body["content"]);
    }
    list(&body["choices"])
        .iter()
        .map(|choice| blocks(&choice["message"]["content"]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_six_fresh_characters() {
        let codes: Vec<_> = (0..100).map(|_| Code::fresh().unwrap().0).collect();
        for code in &codes {
            assert_eq!(code.len(), CODE_LENGTH);
            assert!(code.bytes().all(|byte| CODE_CHARACTERS.contains(&byte)));
        }
        let distinct: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(distinct.len(), codes.len());
    }

    #[test]
    fn only_what_the_model_said_is_text() {
        for (body, expected) in [
            (
                json!({ "type": "message", "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "x" },
                    { "type": "text", "text": "AB" },
                    { "type": "text", "text": "12CD" },
                ] }),
                "AB12CD",
            ),
            (
                json!({ "choices": [
                    { "message": { "role": "assistant", "content": "AB12CD" } },
                ] }),
                "AB12CD",
            ),
            (
                json!({ "choices": [{ "message": { "content": [{ "text": "A" }] } }] }),
                "A",
            ),
            (
                json!({ "choices": [{ "message": { "content": null } }] }),
                "",
            ),
            // The question itself.
            (
                json!({ "messages": [{ "role": "user", "content": "AB12CD" }] }),
                "",
            ),
            (json!("AB12CD"), ""),
            (json!(null), ""),
        ] {
            assert_eq!(text(&body), expected);
        }
    }
}
