//! The clients that people use, in front of a proxy that they must not notice.
//!
//! - [`sdks`]: the official Python SDKs of Anthropic and OpenAI.
//! - [`claude_code`]: the command line that asks for the most.
//! - [`tools`]: curl and h2load, for the protocols below.

mod claude_code;
mod sdks;
mod tools;

use qcc_tests::Request;

/// Fields that belong to one connection, name the other end, or frame the body; those
/// that hold a credential; and what the answer's coding may be, which a proxy that
/// looks into streams has a say in.
const OF_ONE_HOP: [&str; 8] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "transfer-encoding",
    "x-api-key",
];

/// Fails the test unless a request has arrived as it was sent, but for what a proxy is
/// there to change.
#[track_caller]
fn expect_untouched(sent: &Request, arrived: &Request) {
    let line = |request: &Request| format!("{} {}", request.method, request.target);
    assert_eq!(line(sent), line(arrived));
    assert_eq!(fields(sent), fields(arrived));
    assert!(sent.body == arrived.body, "the body was changed");
    let key = arrived.header("x-api-key").unwrap_or_default();
    let bearer = arrived.header("authorization").unwrap_or_default();
    assert!(
        key.starts_with("key-of-") || bearer.starts_with("Bearer key-of-"),
        "{arrived:?}"
    );
}

/// The fields that pass, sorted: between fields of different names order says nothing.
fn fields(request: &Request) -> Vec<&(String, String)> {
    let passes = |(name, _): &&(String, String)| !OF_ONE_HOP.contains(&name.as_str());
    let mut fields: Vec<_> = request.headers.iter().filter(passes).collect();
    fields.sort_by_key(|(name, _)| name);
    fields
}
