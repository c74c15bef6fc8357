//! What a request body says that matters on its way: which model it asks for, and whether
//! it wants a stream.
//!
//! A body is never parsed as a whole, and never refused for what it is. A model is found
//! by walking over the members of the outermost object up to the first that is called
//! `model`; if that is a string, its place is known to the byte, and another name can be
//! put there without touching anything else. Whatever is not understood stays as it is.

use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr2, memmem};

use super::fields::Fields;
use crate::routing::Policy;

/// Bytes of either end of a body in which the wish for a stream is looked for. It stands
/// beside the conversation, which is what makes bodies long.
const WISH_BYTES: usize = 64 << 10;

/// Another text in place of a part of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    /// What is replaced.
    pub(super) place: Range<usize>,
    /// By what.
    pub(super) text: Bytes,
}

/// Whether a policy gives models other names.
pub(super) fn renames(policy: &Policy) -> bool {
    policy.model_override.is_some() || !policy.model_aliases.is_empty()
}

/// Whether a body may name a model, by what its head says of it.
pub(super) fn may_name_a_model(fields: &Fields) -> bool {
    let Some(kind) = fields.get("content-type") else {
        return true;
    };
    let kind = kind.split(|byte| *byte == b';').next();
    let kind = kind.unwrap_or_default().trim_ascii();
    let has_suffix = |suffix: &[u8]| {
        let at = kind.len().checked_sub(suffix.len());
        at.is_some_and(|at| kind[at..].eq_ignore_ascii_case(suffix))
    };
    has_suffix(b"/json") || has_suffix(b"+json")
}

/// Gives the model that a body names the name that the policy has for it. `None`: the body
/// stays as it is.
pub(super) fn rename(body: &[u8], policy: &Policy) -> Option<Edit> {
    let place = model(body)?;
    let name: String = serde_json::from_slice(&body[place.clone()]).ok()?;
    let alias = policy.model_aliases.get(name.as_str());
    let new = alias.or(policy.model_override.as_ref())?;
    if **new == *name {
        return None;
    }
    let text = serde_json::to_vec(new).ok()?.into();
    Some(Edit { place, text })
}

/// Where the outermost object names its model: the place of the string, quotes included.
/// The first member of that name counts.
pub(crate) fn model(body: &[u8]) -> Option<Range<usize>> {
    let mut walk = Walk { body, at: 0 };
    walk.blanks();
    walk.eat(b'{')?;
    loop {
        walk.blanks();
        let key = walk.string()?;
        walk.blanks();
        walk.eat(b':')?;
        walk.blanks();
        if is_model(&body[key]) {
            return walk.string();
        }
        walk.value()?;
        walk.blanks();
        walk.eat(b',')?;
    }
}

fn is_model(key: &[u8]) -> bool {
    let is_escaped = || {
        key.contains(&b'\\')
            && serde_json::from_slice::<String>(key).is_ok_and(|key| key == "model")
    };
    key == br#""model""# || is_escaped()
}

/// Whether a body asks for a stream, or its head does. One that only seems to costs its
/// answer a compression.
pub(super) fn wants_stream(fields: &Fields, body: &[u8]) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    let mut accepted = fields.get_all("accept");
    if accepted.any(|it| memmem::find(it, EVENT_STREAM).is_some()) {
        return true;
    }
    if body.len() <= 2 * WISH_BYTES {
        return has_wish(body);
    }
    has_wish(&body[..WISH_BYTES]) || has_wish(&body[body.len() - WISH_BYTES..])
}

fn has_wish(part: &[u8]) -> bool {
    const KEY: &[u8] = br#""stream""#;
    memmem::find_iter(part, KEY).any(|at| {
        let value = part[at + KEY.len()..].trim_ascii_start();
        let value = value.strip_prefix(b":").map(<[u8]>::trim_ascii_start);
        value.is_some_and(|value| value.starts_with(b"true"))
    })
}

/// Steps over JSON without understanding more of it than where things end. Each step moves
/// on or fails, and none depends on how deep things are nested.
struct Walk<'a> {
    body: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn rest(&self) -> &[u8] {
        &self.body[self.at..]
    }

    fn blanks(&mut self) {
        let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().iter().take_while(|byte| is_blank(byte)).count();
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (*self.rest().first()? == byte).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.eat(b'"')?;
        loop {
            self.at += memchr2(b'"', b'\\', self.rest())?;
            if self.eat(b'"').is_some() {
                return Some(start..self.at);
            }
            self.at += 2; // What is escaped cannot end it.
            if self.at > self.body.len() {
                return None;
            }
        }
    }

    fn value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.rest().first()? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth == 0 => return Some(()),
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' if depth == 0 => return Some(()),
                _ => self.at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::proxy::fields_of;

    fn found(body: &str) -> Option<&str> {
        model(body.as_bytes()).map(|place| &body[place])
    }

    #[test]
    fn the_model_of_the_outermost_object_is_found_where_it_stands() {
        for (body, expected) in [
            (r#"{"model":"a"}"#, Some(r#""a""#)),
            (" {\n \"model\" :\t\"a\" , \"x\":1}", Some(r#""a""#)),
            (
                r#"{"messages":[{"model":"no","content":"\"model\":\"no\""}],"model":"yes"}"#,
                Some(r#""yes""#),
            ),
            (
                r#"{"x":{"model":"no"},"y":[[],{}],"z":-1.5e3,"model":"\"\\"}"#,
                Some(r#""\"\\""#),
            ),
            (r#"{"model":"first","model":"second"}"#, Some(r#""first""#)),
            (r#"{"\u006dodel":"escaped"}"#, Some(r#""escaped""#)),
            (r#"{"model":"cut short","#, Some(r#""cut short""#)),
            (r#"{"x":null,"model":5,"model":"b"}"#, None),
            (r#"{"x":{"model":"no"}}"#, None),
            (r#"[{"model":"no"}]"#, None),
            (r#"{"Model":"no"}"#, None),
            (r#"{"model":"open"#, None),
            (r#"{"model":"open\"#, None),
            (r#"{"x":"\"#, None),
            (r#"{"x":"\u"#, None),
            (r#"{model:"no"}"#, None),
            ("{", None),
            ("", None),
            ("}{", None),
            ("no json, \"model\":\"no\"", None),
        ] {
            assert_eq!(found(body), expected, "{body}");
        }
    }

    fn policy(aliases: &[(&str, &str)], model_override: Option<&str>) -> Policy {
        let aliases = aliases
            .iter()
            .map(|(from, to)| ((*from).into(), (*to).into()));
        Policy {
            model_aliases: aliases.collect(),
            model_override: model_override.map(Into::into),
            ..Policy::default()
        }
    }

    #[test]
    fn an_alias_goes_before_the_override() {
        let policy = policy(&[("fast", "small-1"), ("q\"", "quoted\n")], Some("big-1"));
        for (model, expected) in [
            (r#""fast""#, Some(r#""small-1""#)),
            (r#""f\u0061st""#, Some(r#""small-1""#)),
            (r#""q\"""#, Some(r#""quoted\n""#)),
            (r#""other""#, Some(r#""big-1""#)),
            (r#""big-1""#, None),
            (r#""\ud800""#, None), // No name at all.
        ] {
            let body = format!("{{\"a\":1,\"model\":{model},\"b\":[]}}");
            let edit = rename(body.as_bytes(), &policy);
            let text = edit.as_ref().map(|edit| &*edit.text);
            assert_eq!(text, expected.map(str::as_bytes), "{model}");
        }
        assert!(!renames(&Policy::default()));
    }

    #[test]
    fn only_json_can_name_a_model() {
        for (kind, expected) in [
            (None, true),
            (Some("application/json"), true),
            (Some("Application/JSON; charset=utf-8"), true),
            (Some("application/vnd.x+json"), true),
            (Some("multipart/form-data; boundary=/json"), false),
            (Some("application/jsonl"), false),
            (Some("json"), false),
        ] {
            let fields: Vec<_> = kind
                .map(|kind| ("content-type", kind))
                .into_iter()
                .collect();
            let named = may_name_a_model(&fields_of(&fields));
            assert_eq!(named, expected, "{kind:?}");
        }
    }

    #[test]
    fn the_wish_for_a_stream_is_seen_at_either_end() {
        let long = "x".repeat(1 << 20);
        let none = Fields::default();
        for (body, expected) in [
            (r#"{"stream":true}"#.to_owned(), true),
            ("{\"stream\" :\n true}".to_owned(), true),
            (r#"{"stream":false}"#.to_owned(), false),
            (r#"{"stream":"true"}"#.to_owned(), false),
            (r#"{"text":"\"stream\":true"}"#.to_owned(), false),
            (format!(r#"{{"stream":true,"text":"{long}"}}"#), true),
            (format!(r#"{{"text":"{long}","stream":true}}"#), true),
            (format!(r#"{{"text":"{long}"}}"#), false),
            (r#"{"stream""#.to_owned(), false),
            (String::new(), false),
        ] {
            let wanted = wants_stream(&none, body.as_bytes());
            assert_eq!(wanted, expected, "{}", &body[..body.len().min(40)]);
        }
        let accept = fields_of(&[("accept", "application/json, text/event-stream")]);
        assert!(wants_stream(&accept, b""));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            // Quarters: what this parser reads of others may differ in the last digit.
            any::<i16>().prop_map(|it| json!(f64::from(it) / 4.0)),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((text(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("model".to_owned()),
            "[a-z\\\\\"{}\\[\\],: \n\u{e9}]{0,8}",
        ]
    }

    proptest! {
        #[test]
        fn only_the_model_changes_and_every_other_byte_stays(
            members in proptest::collection::vec((text(), value()), 0..6),
            pretty in any::<bool>(),
        ) {
            let object = Value::Object(members.into_iter().collect());
            let body = match pretty {
                true => serde_json::to_vec_pretty(&object),
                false => serde_json::to_vec(&object),
            };
            let body = body.unwrap();
            let edit = rename(&body, &policy(&[], Some("the \"new\" one")));
            let named = object.get("model").is_some_and(Value::is_string);
            prop_assert_eq!(edit.is_some(), named);
            if let Some(Edit { place, text }) = edit {
                let edited = [&body[..place.start], &text, &body[place.end..]].concat();
                let mut expected = object;
                expected["model"] = json!("the \"new\" one");
                prop_assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), expected);
                prop_assert!(serde_json::from_slice::<String>(&body[place]).is_ok());
            }
        }

        #[test]
        fn any_bytes_are_walked_over(
            body in proptest::collection::vec(
                prop_oneof![
                    any::<u8>(), Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b','), Just(b':'),
                ],
                0..60,
            ),
        ) {
            let _ = model(&body);
            let _ = model(&[br#"{"a":"#, body.as_slice()].concat());
            let _ = wants_stream(&Fields::default(), &body);
        }
    }
}
