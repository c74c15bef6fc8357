//! Messages of the contract as JSON: proto field names, enum names, RFC 3339 times, 64-bit numbers as
//! texts (the protobuf JSON mapping), fields in the contract's order.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::error::Error;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(qcc_proto::FILE_DESCRIPTOR_SET)
        .expect("the build made this set from the contract")
});

/// Zero values are written, so that a program finds every field that cannot be absent.
const OPTIONS: SerializeOptions = SerializeOptions::new()
    .use_proto_field_name(true)
    .skip_default_fields(false);

/// `message` as JSON; `name` is its type in package `qcc.v1`. API keys are left out, even if a server
/// should have sent one.
pub(crate) fn to_json(name: &str, message: &impl Message) -> Result<Value, Error> {
    let impossible =
        |reason: String| Error::failed(format!("cannot write `{name}` as JSON: {reason}"));
    let descriptor = POOL
        .get_message_by_name(&format!("qcc.v1.{name}"))
        .ok_or_else(|| impossible("the contract does not have it".to_owned()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| impossible(error.to_string()))?;
    let mut value = dynamic
        .serialize_with_options(serde_json::value::Serializer, &OPTIONS)
        .map_err(|error| impossible(error.to_string()))?;
    redact(&mut value);
    Ok(value)
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.shift_remove("api_key");
            fields.values_mut().for_each(redact);
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use qcc_proto::v1;

    use super::*;

    #[test]
    fn json_has_the_contracts_names_in_the_contracts_order() {
        let response = v1::ListEndpointsResponse {
            endpoints: vec![v1::Endpoint {
                name: "eu-1".to_owned(),
                base_url: "https://eu".to_owned(),
                credential: Some(v1::Credential {
                    api_key: "canary".to_owned(),
                    fingerprint: "12ab".to_owned(),
                    ..v1::Credential::default()
                }),
                timeout: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 500_000_000,
                }),
                generation: 7,
                health: Some(v1::Health {
                    state: v1::HealthState::Healthy.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            next_page_token: String::new(),
            view: Some(v1::View {
                term: 1,
                revision: 42,
            }),
        };
        let text = to_json("ListEndpointsResponse", &response)
            .unwrap()
            .to_string();
        assert!(!text.contains("canary"), "{text}");
        assert!(text.starts_with(r#"{"endpoints":[{"name":"eu-1","cluster":"","base_url":"https://eu","credential":{"fingerprint":"12ab","pending_fingerprint":""}"#), "{text}");
        for part in [
            r#""timeout":"1.500s""#,
            r#""generation":"7""#,
            r#""state":"HEALTH_STATE_HEALTHY""#,
            r#""view":{"term":"1","revision":"42"}"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
