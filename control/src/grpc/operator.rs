//! Who asks for a change, and why.

use tonic::{Request, Status};

use super::error::invalid;
use crate::registry::Operator;

/// Request metadata in which a caller names itself. It is shown, not trusted.
const METADATA: &str = "qcc-operator";

const NAME_BYTES_MAX: usize = 64;
const REASON_BYTES_MAX: usize = 200;

/// Returns who sent `request`, with the `reason` that it gives.
///
/// # Errors
///
/// INVALID_ARGUMENT for a reason that is too long. A name that is too long or cannot be
/// shown is cut: nobody is refused for it.
pub(super) fn of<T>(request: &Request<T>, reason: &str) -> Result<Operator, Status> {
    if reason.len() > REASON_BYTES_MAX {
        return Err(invalid("reason", "must be at most 200 bytes"));
    }
    let name = request.metadata().get(METADATA);
    let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
    Ok(Operator {
        name: name[..name.len().min(NAME_BYTES_MAX)].into(),
        reason: reason.chars().filter(|c| !c.is_control()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_taken_at_its_word_but_not_at_any_length() {
        let mut request = Request::new(());
        request
            .metadata_mut()
            .insert(METADATA, "x".repeat(100).parse().expect("ASCII"));
        let operator = of(&request, "key\u{1b}rotated").expect("short enough");
        assert_eq!(operator.name.len(), NAME_BYTES_MAX);
        assert_eq!(operator.reason, "keyrotated");
        assert!(of(&request, &"x".repeat(201)).is_err());
        let anonymous = of(&Request::new(()), "").expect("nothing is said");
        assert_eq!(anonymous, Operator::default());
    }
}
