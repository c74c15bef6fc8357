//! What does not cross a proxy.
//!
//! Hop-by-hop fields are removed first and our own are set afterwards, so that a
//! client's `connection: x-api-key` cannot take the endpoint's credential away.
//! Everything else passes as it came, duplicates and their order included.

use http::HeaderName;

use super::{
    fields::Fields,
    names::{Names, is},
};
use crate::routing::{Affinity, Session};

/// Which endpoint answered.
pub(super) const X_QCC_ENDPOINT: HeaderName = HeaderName::from_static("x-qcc-endpoint");
/// How many tries it took.
pub(super) const X_QCC_ATTEMPTS: HeaderName = HeaderName::from_static("x-qcc-attempts");
/// The view that the choice was made by: `3.17`. While that may be out of date, with
/// parameters in the syntax of structured fields (RFC 9651): `3.17; age=12; stale`, the
/// seconds since a control plane last confirmed it.
pub(super) const X_QCC_REVISION: HeaderName = HeaderName::from_static("x-qcc-revision");

/// What names a session, whatever is configured: that of Claude Code, and that of others.
const SESSIONS: [&str; 2] = ["x-claude-code-session-id", "x-conversation-id"];

/// RFC 9110, section 7.6.1, and `trailer`, as trailers are not forwarded.
const HOP_BY_HOP: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a request says about its way here. Who our clients are is not for an endpoint to
/// know, and what they say of themselves is not for it to trust.
const OF_THE_WAY_HERE: [&str; 3] = ["forwarded", "via", "x-real-ip"];
const OF_THE_WAY_HERE_PREFIX: &[u8] = b"x-forwarded-";

/// What is said of a request's length and its sending: what an endpoint gets brings its own.
const OF_THIS_REQUEST: [&str; 3] = ["host", "content-length", "expect"];

/// Many clients share an endpoint's credential; its sessions are not theirs. And where it was
/// answered is for the last of several proxies to say.
const OF_THE_ENDPOINT: [&str; 5] = [
    "proxy-authenticate",
    "set-cookie",
    "x-qcc-endpoint",
    "x-qcc-attempts",
    "x-qcc-revision",
];

/// First those that most requests have.
const NOT_FOR_ENDPOINTS: Names = Names::of(&[&OF_THIS_REQUEST, &HOP_BY_HOP, &OF_THE_WAY_HERE]);
const NOT_FOR_CLIENTS: Names = Names::of(&[&HOP_BY_HOP, &OF_THE_ENDPOINT]);

/// Returns the session that a request belongs to, if it names one.
pub(super) fn session(fields: &Fields, affinity: &Affinity) -> Option<Session> {
    let configured = affinity.headers.iter().map(HeaderName::as_str);
    let mut names = SESSIONS.into_iter().chain(configured);
    let session = names.find_map(|name| fields.get(name).filter(|value| !value.is_empty()))?;
    Some(Session::of(session))
}

/// Removes from a request's fields what is not for the endpoint. Credentials are left to
/// [`Call`](super::outgoing::Call).
pub(super) fn strip_request(fields: &mut Fields) {
    strip(fields, |name| {
        let prefix = name.get(..OF_THE_WAY_HERE_PREFIX.len());
        NOT_FOR_ENDPOINTS.have(name)
            || prefix.is_some_and(|it| it.eq_ignore_ascii_case(OF_THE_WAY_HERE_PREFIX))
    });
}

/// Removes from a response's fields what is not for the client.
pub(super) fn strip_response(fields: &mut Fields) {
    strip(fields, |name| NOT_FOR_CLIENTS.have(name));
}

/// Removes what is `unwanted`, and what else is said to be for the next hop only.
fn strip(fields: &mut Fields, unwanted: impl Fn(&[u8]) -> bool) {
    // Mostly there are none, but for these two, which are no fields, or go anyway.
    let named: Vec<Box<[u8]>> = (fields.get_all("connection"))
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !is(name, "close") && !is(name, "keep-alive"))
        .map(Box::from)
        .collect();
    fields.retain(|name| !(unwanted(name) || named.iter().any(|it| name.eq_ignore_ascii_case(it))));
}

/// Whether a message is framed by `chunked` alone, if it names a coding at all. Any
/// other coding, or `chunked` twice, is read differently by different parsers.
pub(super) fn transfer_coding_is_plain(fields: &Fields) -> bool {
    let mut codings = fields.get_all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => is(coding.trim_ascii(), "chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether the body is not compressed.
pub(super) fn is_identity(fields: &Fields) -> bool {
    let mut codings = fields.get_all("content-encoding");
    codings.all(|coding| is(coding, "identity"))
}

/// Whether the body is a stream of server-sent events.
pub(super) fn is_event_stream(fields: &Fields) -> bool {
    fields.get("content-type").is_some_and(|value| {
        let media_type = value.split(|byte| *byte == b';').next();
        media_type.is_some_and(|it| is(it.trim_ascii(), "text/event-stream"))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::{super::fields::read, *};

    fn names(fields: &Fields) -> Vec<&str> {
        let names = fields.iter().map(|(name, _)| str::from_utf8(name).unwrap());
        names.collect()
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_stay_behind() {
        let fields = read(&[
            ("Connection", "close, X-Secret"),
            ("connection", " x-other ,, te"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "a"),
        ]);
        let mut request = fields.clone();
        strip_request(&mut request);
        assert_eq!(names(&request), ["accept"]);
        let mut response = fields;
        strip_response(&mut response);
        assert_eq!(names(&response), ["accept"]);
    }

    #[test]
    fn everything_else_passes_in_order() {
        let mut request = read(&[
            ("anthropic-version", "2026-10-21"),
            ("anthropic-beta", "a"),
            ("anthropic-beta", "b"),
            ("x-forwarding", "10.0.0.1"),
            ("host", "proxy"),
            ("content-length", "3"),
            ("expect", "100-continue"),
        ]);
        strip_request(&mut request);
        assert_eq!(
            names(&request),
            [
                "anthropic-version",
                "anthropic-beta",
                "anthropic-beta",
                "x-forwarding"
            ]
        );
        assert!(request.get_all("anthropic-beta").eq([b"a", b"b"]));
    }

    #[test]
    fn what_a_request_says_of_its_way_here_stays_here() {
        let mut request = read(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("X-Forwarded-Proto", "https"),
            ("forwarded", "for=10.0.0.1"),
            ("via", "1.1 a"),
            ("x-real-ip", "10.0.0.1"),
            ("accept", "a"),
        ]);
        strip_request(&mut request);
        assert_eq!(names(&request), ["accept"]);
    }

    #[test]
    fn the_sessions_of_an_endpoint_are_not_for_its_clients() {
        let mut response = read(&[("Set-Cookie", "a=b"), ("accept", "a")]);
        let said_before = HeaderValue::from_static("a"); // By a proxy behind this one.
        for name in [X_QCC_ENDPOINT, X_QCC_ATTEMPTS, X_QCC_REVISION] {
            response.append(name, said_before.clone());
        }
        strip_response(&mut response);
        assert_eq!(names(&response), ["accept"]);
    }

    #[test]
    fn only_one_plain_chunked_is_a_plain_transfer_coding() {
        for (codings, plain) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity"], false),
        ] {
            let fields: Vec<_> = codings.iter().map(|c| ("transfer-encoding", *c)).collect();
            assert_eq!(
                transfer_coding_is_plain(&read(&fields)),
                plain,
                "{codings:?}"
            );
        }
    }

    #[test]
    fn event_streams_are_known_by_their_media_type() {
        for (value, expected) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            ("text/event-streams", false),
            ("application/json", false),
        ] {
            assert_eq!(is_event_stream(&read(&[("content-type", value)])), expected);
        }
    }
}
