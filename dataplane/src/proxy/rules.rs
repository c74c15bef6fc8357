//! Which requests are taken at all, and which we answer ourselves.
//!
//! A head may be well-formed and still not be one that a proxy may pass on. What two
//! parsers could read in two ways, and what would leave an endpoint's base path, is refused
//! here. A body whose length is told in two ways is refused where heads are read.

use http::{Method, Version};

use super::{
    Settings,
    fields::Fields,
    headers::transfer_coding_is_plain,
    message::RequestHead,
    reply::{Kind, Refusal},
};

/// Longest request target: four times what common servers take.
const TARGET_BYTES_MAX: usize = 32 << 10;

/// What HTTP/2 counts for a field beside its name and value (RFC 9113, section 6.5.2).
const FIELD_BYTES: usize = 32;

/// Under which we answer ourselves.
const OWN_PREFIX: &str = "/__qcc__/";

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Send it to an endpoint.
    Forward,
    /// A client asks whether somebody is there: Claude Code does so at its start.
    Hello,
    /// Someone asks whether the process lives.
    Health,
    /// Someone asks whether requests can be served.
    Ready,
    /// Someone asks how the proxy fares.
    Stats,
}

/// Decides by the head alone.
pub(super) fn route(request: &RequestHead) -> Result<Route, Refusal> {
    well_formed(request)?;
    if is_ping(request) {
        return Ok(Route::Hello);
    }
    let path = request.target.path();
    let is_head = request.method == Method::HEAD;
    let is_get = request.method == Method::GET;
    match path {
        "/" if is_head || is_get => Ok(Route::Hello),
        "/api/hello" if is_head => Ok(Route::Hello),
        "/__qcc__/health" if is_head || is_get => Ok(Route::Health),
        "/__qcc__/ready" if is_head || is_get => Ok(Route::Ready),
        "/__qcc__/stats" if is_get => Ok(Route::Stats),
        _ if path.starts_with(OWN_PREFIX) => {
            Err(Refusal::new(Kind::NotFound, "no such path of the proxy"))
        }
        _ => Ok(Route::Forward),
    }
}

/// Decides whether a head is within our limits. How long one of HTTP/1 was is looked at as it
/// comes in.
pub(super) fn fits(request: &RequestHead, settings: &Settings) -> Result<(), Refusal> {
    let fields = &request.fields;
    let target = request.target.path_and_query();
    if target.is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        let message = "the request target is too long";
        return Err(Refusal::new(Kind::TargetTooLong, message));
    }
    if fields.len() > settings.headers_max {
        let message = "the request head has too many fields";
        return Err(Refusal::new(Kind::HeadTooLarge, message));
    }
    if request.version == Version::HTTP_2 {
        let bytes = |(name, value): (&[u8], &[u8])| name.len() + value.len() + FIELD_BYTES;
        if fields.iter().map(bytes).sum::<usize>() > settings.head_max_bytes {
            let message = "the request head is too long";
            return Err(Refusal::new(Kind::HeadTooLarge, message));
        }
    }
    Ok(())
}

fn well_formed(request: &RequestHead) -> Result<(), Refusal> {
    let malformed = |message: &'static str| Err(Refusal::new(Kind::Malformed, message));
    if request.method == Method::CONNECT || request.method == Method::TRACE {
        let message = "CONNECT and TRACE are not supported";
        return Err(Refusal::new(Kind::Method, message));
    }
    // What a client puts before the path (absolute-form) never decides where a request goes.
    let path = request.target.path();
    if !path.starts_with('/') && !is_ping(request) {
        return malformed("the request target is not a path");
    }
    if has_dot_segment(path) {
        return malformed("the path has a dot segment");
    }
    if !host_is_clear(request.version, &request.fields) {
        return malformed("the request needs exactly one `host`");
    }
    if !transfer_coding_is_plain(&request.fields) {
        return malformed("the only transfer coding is `chunked`, once");
    }
    let mut expectations = request.fields.get_all("expect");
    if !expectations.all(|it| it.eq_ignore_ascii_case(b"100-continue")) {
        let message = "the only expectation is `100-continue`";
        return Err(Refusal::new(Kind::Expectation, message));
    }
    Ok(())
}

/// `OPTIONS *` asks the server itself whether it is there (RFC 9110, section 9.3.7).
fn is_ping(request: &RequestHead) -> bool {
    request.method == Method::OPTIONS && request.target.path() == "*"
}

/// HTTP/1.1 asks for one `host` (RFC 9112, section 3.2); HTTP/2 has `:authority`.
fn host_is_clear(version: Version, fields: &Fields) -> bool {
    let hosts = fields.get_all("host").count();
    match version {
        Version::HTTP_11 => hosts == 1,
        _ => hosts <= 1,
    }
}

/// Whether a segment, as sent or as any server might decode it, is `.` or `..`: such a
/// path could leave the endpoint's base path. Parameters (`..;a=b`) are not part of the
/// name, and some servers take `\`, `%2f` and `%5c` for a separator.
fn has_dot_segment(path: &str) -> bool {
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let mut name = Name::Empty;
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = decode_first(rest) {
        rest = after;
        name = match (name, byte) {
            (Name::Dots | Name::DotsEnded, b'/' | b'\\') => return true,
            (Name::Empty | Name::Other, b'/' | b'\\') => Name::Empty,
            (Name::Empty | Name::Dots, b'.') => Name::Dots,
            (Name::Dots, b';') => Name::DotsEnded,
            (Name::DotsEnded, _) => Name::DotsEnded,
            (Name::Empty | Name::Dots | Name::Other, _) => Name::Other,
        };
    }
    matches!(name, Name::Dots | Name::DotsEnded)
}

/// Splits off the first byte, decoded if it is escaped.
fn decode_first(path: &[u8]) -> Option<(u8, &[u8])> {
    match path {
        [b'%', high, low, rest @ ..] => {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            match (digit(high), digit(low)) {
                (Some(high), Some(low)) => Some(((high * 16 + low) as u8, rest)),
                _ => Some((b'%', &path[1..])),
            }
        }
        [first, rest @ ..] => Some((*first, rest)),
        [] => None,
    }
}

/// What a path segment's name is so far. Three dots and more are refused like two:
/// nobody needs them, and some servers fold them.
#[derive(Clone, Copy)]
enum Name {
    Empty,
    Dots,
    DotsEnded,
    Other,
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn route_of(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<Route, Kind> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        route(&Box::from(parts)).map_err(|refusal| refusal.kind)
    }

    const HOST: &[(&str, &str)] = &[("host", "proxy")];

    #[test]
    fn a_client_that_asks_whether_we_are_there_is_answered_by_us() {
        for (method, target, expected) in [
            ("HEAD", "/", Route::Hello),
            ("GET", "/?x=1", Route::Hello),
            ("HEAD", "/api/hello", Route::Hello),
            ("GET", "/__qcc__/health", Route::Health),
            ("GET", "/__qcc__/ready", Route::Ready),
            ("OPTIONS", "*", Route::Hello),
            ("OPTIONS", "/v1/models", Route::Forward),
            ("GET", "/__qcc__/stats", Route::Stats),
            ("GET", "/api/hello", Route::Forward),
            ("POST", "/", Route::Forward),
            ("POST", "/v1/messages?beta=true", Route::Forward),
            ("GET", "http://evil.example/v1/models", Route::Forward),
            ("GET", "/v1/a..b/.well-known/...x/%2e%2ex", Route::Forward),
            ("GET", "//%7e;p=..;?a=/../b", Route::Forward),
        ] {
            assert_eq!(route_of(method, target, HOST), Ok(expected), "{target}");
        }
        let own = route_of("GET", "/__qcc__/other", HOST);
        assert_eq!(own, Err(Kind::NotFound));
    }

    #[test]
    fn a_path_that_could_leave_the_base_path_is_refused() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/./b",
            "/%2e%2E/x",
            "/a/.%2e",
            "/a/..;x=1/b",
            "/a%2f..%2fb",
            "/a%5C..%5Cb",
            "/a\\..\\b",
            "/a/..%3bx/b",
            "/.../a",
        ] {
            assert_eq!(route_of("GET", path, HOST), Err(Kind::Malformed), "{path}");
        }
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused() {
        let te = |value| [("host", "a"), ("transfer-encoding", value)];
        for (fields, expected) in [
            (&[][..], Kind::Malformed),
            (&[("host", "a"), ("host", "a")], Kind::Malformed),
            (&te("gzip, chunked"), Kind::Malformed),
            (&[("host", "a"), ("expect", "200-ok")], Kind::Expectation),
        ] {
            assert_eq!(route_of("POST", "/v1/messages", fields), Err(expected));
        }
        let fields = [("host", "a"), ("expect", "100-Continue")];
        assert_eq!(route_of("POST", "/v1", &fields), Ok(Route::Forward));
        assert_eq!(route_of("POST", "*", HOST), Err(Kind::Malformed));
        assert_eq!(route_of("TRACE", "/", HOST), Err(Kind::Method));
        assert_eq!(route_of("CONNECT", "a:443", HOST), Err(Kind::Method));
    }
}
