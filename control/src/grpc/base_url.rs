//! Base URLs. Whoever may set one can make every proxy connect there, with a key, so
//! the rules are strict and what is stored is canonical.

use std::net::IpAddr;

use http::Uri;
use qcc_proto::upstream;

/// Longest base URL, and longest path of a check.
pub(super) const URL_BYTES_MAX: usize = 2048;

/// Reads a base URL into its canonical form: lower-case scheme and host, no trailing
/// slash. Whoever may set one can make every proxy connect there, so it is strict.
pub(super) fn canonical(text: &str, allow_plaintext: bool) -> Result<String, String> {
    const RULE: &str = "must be `https://host[:port][/path]`, without user, query or fragment";
    if text.is_empty() {
        return Err(format!("is required: it {RULE}"));
    }
    if text.len() > URL_BYTES_MAX {
        return Err(format!("must be at most {URL_BYTES_MAX} bytes"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['#', '?', '\\']) {
        return Err(RULE.into());
    }
    let uri: Uri = text.parse().map_err(|_| RULE)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(RULE.into());
    };
    let host = authority.host().to_ascii_lowercase();
    if authority.as_str().contains('@') || host.is_empty() {
        return Err(RULE.into());
    }
    let port = authority
        .as_str()
        .rsplit_once(':')
        .map_or("", |(_, port)| port);
    let has_port = authority.as_str().len() > host.len();
    let number = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if has_port && (!number(port) || port.starts_with('0') || port.parse::<u16>().is_err()) {
        return Err("must have a port of 1-65535, or none".into());
    }
    let address = literal_address(&host)?;
    if address.is_some_and(|address| !upstream::may_connect(address)) {
        return Err("must not be a link-local, unspecified, multicast or broadcast address".into());
    }
    if has_dot_segments(uri.path()) {
        return Err("must not have dot segments in its path".into());
    }
    let local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    match scheme {
        "https" => {}
        "http" if local || allow_plaintext => {}
        "http" => {
            return Err(
                "must be https, unless it is this machine or `allow_plaintext` is set".into(),
            );
        }
        _ => return Err(RULE.into()),
    }
    let port = if has_port {
        format!(":{port}")
    } else {
        String::new()
    };
    let canonical = format!(
        "{scheme}://{host}{port}{}",
        uri.path().trim_end_matches('/')
    );
    // Checks are sent by another library than requests. Where it reads another host, or
    // none, a check would prove something about somebody else.
    let read_by_checks = reqwest::Url::parse(&canonical).ok();
    let checked = read_by_checks.as_ref().and_then(|url| url.host_str());
    let alike = checked.is_some_and(|checked| match address {
        Some(_) => literal_address(checked) == Ok(address),
        None => checked == host,
    });
    if alike {
        Ok(canonical)
    } else {
        Err("must have a host name that every program reads alike".into())
    }
}

/// Returns the address that a host is, if it is one. A host that looks like a number
/// but is no plain address (`127.1`, `0x7f000001`) is refused: resolvers differ on it.
fn literal_address(host: &str) -> Result<Option<IpAddr>, String> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return match inner.parse() {
            Ok(address) => Ok(Some(IpAddr::V6(address))),
            Err(_) => Err("must have a valid IPv6 address in brackets, without a zone".into()),
        };
    }
    if let Ok(address) = host.parse() {
        return Ok(Some(IpAddr::V4(address)));
    }
    let last = host
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .unwrap_or_default();
    if last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("must have a host name or a plain IP address".into());
    }
    Ok(None)
}

/// Whether a path, written plainly or encoded, could leave the one it is appended to.
pub(super) fn has_dot_segments(path: &str) -> bool {
    let path = path
        .split('?')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    path.replace("%2f", "/")
        .split('/')
        .any(|segment| matches!(segment.replace("%2e", ".").as_str(), "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_canonical() {
        for (given, stored) in [
            ("https://API.example", "https://api.example"),
            ("https://api.example/", "https://api.example"),
            (
                "https://api.example:8443/v1/",
                "https://api.example:8443/v1",
            ),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost:11434/api", "http://localhost:11434/api"),
            ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
            ("https://[2001:DB8:0::1]", "https://[2001:db8:0::1]"),
        ] {
            assert_eq!(canonical(given, false).as_deref(), Ok(stored), "{given}");
        }
        assert!(canonical("http://10.0.0.7:8000", true).is_ok());
    }

    #[test]
    fn base_urls_that_could_lead_elsewhere_are_refused() {
        for bad in [
            "",
            "api.example",
            "/v1",
            "ftp://api.example",
            "file:///etc/passwd",
            "https://",
            "https://user:pass@api.example",
            "https://api.example/?a=b",
            "https://api.example/#a",
            "https://api.example:0",
            "https://api.example:65536",
            "https://api.example:",
            "https://api.example:+443",
            "https://api.example:0443",
            "https://127.1",
            "https://2130706433",
            "https://0x7f000001",
            "https://[fe80::1%25eth0]",
            "https://169.254.169.254/latest",
            "https://0.0.0.0",
            "https://224.0.0.1",
            "https://[fe80::1]",
            "https://[::ffff:169.254.169.254]",
            "http://api.example",
            "https://api.example/a/../b",
            "https://api.example/%2e%2E/b",
            "https://api.example/a%2f..%2fb",
            "https://api.example/a\nb",
            "https://api.example\\@evil.example",
            "https://xn--bcher-a.example", // No name in any script.
        ] {
            assert!(canonical(bad, false).is_err(), "{bad:?}");
        }
        assert!(canonical(&format!("https://a.example/{}", "x".repeat(3000)), false).is_err());
    }
}
