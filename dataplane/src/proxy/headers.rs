//! What does not cross a proxy.
//!
//! Hop-by-hop fields are removed first and our own are set afterwards, so that a
//! client's `connection: x-api-key` cannot take the endpoint's credential away.
//! Everything else passes as it came, duplicates and their order included.

use http::{
    HeaderMap, HeaderName,
    header::{
        CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST,
        PROXY_AUTHENTICATE, SET_COOKIE, TRANSFER_ENCODING,
    },
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
static SESSIONS: [HeaderName; 2] = [
    HeaderName::from_static("x-claude-code-session-id"),
    HeaderName::from_static("x-conversation-id"),
];

/// RFC 9110, section 7.6.1, and `trailer`, as trailers are not forwarded.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What a request says about its way here. Who our clients are is not for an endpoint to
/// know, and what they say of themselves is not for it to trust.
fn is_of_the_way_here(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// Returns the session that a request belongs to, if it names one.
pub(super) fn session(headers: &HeaderMap, affinity: &Affinity) -> Option<Session> {
    let mut names = SESSIONS.iter().chain(&affinity.headers);
    let name = names.find_map(|name| headers.get(name).filter(|value| !value.is_empty()))?;
    Some(Session::of(name.as_bytes()))
}

/// Removes from a request's fields what is not for the endpoint. Its length is removed
/// too: the body that is sent upstream brings its own. Credentials are left to
/// [`Call`](super::outgoing::Call).
pub(super) fn strip_request(headers: &mut HeaderMap) {
    let is_of_this_hop =
        |name: &HeaderName| *name == HOST || *name == CONTENT_LENGTH || *name == EXPECT;
    strip(headers, |name| {
        is_of_this_hop(name) || is_of_the_way_here(name)
    });
}

/// Removes from a response's fields what is not for the client. Its length stays,
/// unless it contradicts a transfer coding: copied, the two would make hyper's server
/// drop the client's connection without a word.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    // Many clients share an endpoint's credential; its sessions are not theirs.
    strip(headers, |name| {
        *name == PROXY_AUTHENTICATE || *name == SET_COOKIE
    });
}

/// Removes what is for the next hop only, and what else is `unwanted`. Most messages have
/// none or two of all these, so names are looked at rather than looked up.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let named = headers.get_all(CONNECTION).iter();
    let mut gone: Vec<HeaderName> = named
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // These two are no fields, or go anyway.
        .filter(|name| !matches!(*name, b"close" | b"keep-alive"))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    let is_gone = |name: &&HeaderName| is_hop_by_hop(name) || unwanted(name);
    gone.extend(headers.keys().filter(is_gone).cloned());
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a message is framed by `chunked` alone, if it names a coding at all. Any
/// other coding, or `chunked` twice, is read differently by different parsers.
pub(super) fn transfer_coding_is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Whether the body is not compressed.
pub(super) fn is_identity(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Whether the body is a stream of server-sent events.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let media_type = value.as_bytes().split(|byte| *byte == b';').next();
        media_type.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(EVENT_STREAM))
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_stay_behind() {
        let fields = headers(&[
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
        let mut request = headers(&[
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
            ["anthropic-version", "anthropic-beta", "x-forwarding"]
        );
        let beta: Vec<_> = request.get_all("anthropic-beta").iter().collect();
        assert_eq!(beta, ["a", "b"]);
    }

    #[test]
    fn what_a_request_says_of_its_way_here_stays_here() {
        let mut request = headers(&[
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
    fn a_length_beside_a_transfer_coding_is_dropped() {
        let mut both = headers(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        strip_response(&mut both);
        assert!(both.is_empty());
        let mut length = headers(&[("content-length", "3"), ("set-cookie", "a=b")]);
        strip_response(&mut length);
        assert_eq!(names(&length), ["content-length"]);
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
                transfer_coding_is_plain(&headers(&fields)),
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
            assert_eq!(
                is_event_stream(&headers(&[("content-type", value)])),
                expected
            );
        }
    }
}
