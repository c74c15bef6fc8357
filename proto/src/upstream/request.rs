//! Where a request goes, and with which credential.

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::AUTHORIZATION,
    uri::{self, PathAndQuery},
};

use super::Error;
use crate::v1::{ApiFlavor, CredentialScheme};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Whether a header may carry a client's credential. None of them reaches an endpoint: it
/// would show one party's key to another. `api-key` is Azure's name, `x-goog-api-key`
/// Google's. A cookie is the session of one client, and an endpoint's are not passed on
/// either.
pub fn is_client_credential(name: &[u8]) -> bool {
    const NAMES: [&[u8]; 6] = [
        b"authorization",
        b"x-api-key",
        b"api-key",
        b"x-goog-api-key",
        b"proxy-authorization",
        b"cookie",
    ];
    NAMES.iter().any(|it| name.eq_ignore_ascii_case(it))
}

/// Longest URL that `http` can hold.
const URI_BYTES_MAX: usize = 65_534;

/// An endpoint's credential, ready to be put into requests. The value is marked
/// sensitive: it prints as `Sensitive` and is never indexed by HPACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `x-api-key` or `authorization`.
    pub name: HeaderName,
    /// The key, with `Bearer ` before it in `authorization`.
    pub value: HeaderValue,
}

/// Returns the URL of a request: the base URL without its trailing `/`, then path
/// and query exactly as they are. Nothing is decoded, encoded or normalised, since
/// a signature or a cache key may depend on any byte.
///
/// `base_url` has neither query nor fragment; one that is there is not used.
pub fn target(base_url: &Uri, path_and_query: &str) -> Result<Uri, Error> {
    // `http` would drop a fragment silently, and make a path of what is none.
    if !path_and_query.starts_with('/') || path_and_query.contains('#') {
        return Err(Error::Path);
    }
    if path_and_query.len() > URI_BYTES_MAX {
        return Err(Error::TooLong);
    }
    let path_and_query = path_and_query.parse().map_err(|_| Error::Path)?;
    let mut parts = uri::Parts::default();
    parts.path_and_query = Some(path_of(base_url, &path_and_query)?);
    parts.scheme = base_url.scheme().cloned();
    parts.authority = base_url.authority().cloned();
    Uri::from_parts(parts).map_err(|_| Error::Path)
}

/// Returns path and query of such a URL, for a path that has been read: it is not copied
/// where there is nothing before it.
pub fn path_of(base_url: &Uri, path_and_query: &PathAndQuery) -> Result<PathAndQuery, Error> {
    let scheme = base_url.scheme_str().ok_or(Error::RelativeBase)?;
    let authority = base_url.authority().ok_or(Error::RelativeBase)?;
    let path = path_and_query.as_str();
    if !path.starts_with('/') {
        return Err(Error::Path);
    }
    let base_path = base_url.path().trim_end_matches('/');
    let origin = scheme.len() + "://".len() + authority.as_str().len();
    if origin + base_path.len() + path.len() > URI_BYTES_MAX {
        return Err(Error::TooLong);
    }
    if base_path.is_empty() {
        return Ok(path_and_query.clone());
    }
    PathAndQuery::try_from([base_path, path].concat()).map_err(|_| Error::Path)
}

/// Returns where the credential goes if the policy does not say.
pub fn default_scheme(api: ApiFlavor) -> CredentialScheme {
    match api {
        ApiFlavor::Unspecified | ApiFlavor::Anthropic => CredentialScheme::XApiKey,
        ApiFlavor::Openai | ApiFlavor::Http => CredentialScheme::Bearer,
    }
}

/// Makes the header that carries `api_key`. Do it once per key, not per request.
///
/// `UNSPECIFIED` counts as `X_API_KEY`, the scheme of the default API; whoever
/// knows the API asks [`default_scheme`] first.
pub fn credential_header(scheme: CredentialScheme, api_key: &str) -> Result<Credential, Error> {
    if api_key.is_empty() {
        return Err(Error::Credential);
    }
    let (name, value) = match scheme {
        CredentialScheme::Unspecified | CredentialScheme::XApiKey => {
            (X_API_KEY, HeaderValue::from_str(api_key))
        }
        CredentialScheme::Bearer => (
            AUTHORIZATION,
            HeaderValue::from_maybe_shared(["Bearer ", api_key].concat()),
        ),
    };
    let mut value = value.map_err(|_| Error::Credential)?;
    value.set_sensitive(true);
    Ok(Credential { name, value })
}

/// Removes every client credential, then puts the endpoint's own in, if it has one.
pub fn set_credential(headers: &mut HeaderMap, credential: Option<&Credential>) {
    let names = (headers.keys()).filter(|name| is_client_credential(name.as_ref()));
    for name in names.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    if let Some(credential) = credential {
        headers.insert(credential.name.clone(), credential.value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(base_url: &'static str, path_and_query: &str) -> Result<String, Error> {
        target(&Uri::from_static(base_url), path_and_query).map(|uri| uri.to_string())
    }

    #[test]
    fn a_target_is_base_and_path_as_sent() {
        for (base_url, path, expected) in [
            (
                "https://a.example",
                "/v1/messages?beta=true",
                "https://a.example/v1/messages?beta=true",
            ),
            (
                "https://a.example/",
                "/v1/models",
                "https://a.example/v1/models",
            ),
            (
                "https://a.example/proxy/x/",
                "/v1/models",
                "https://a.example/proxy/x/v1/models",
            ),
            ("http://127.0.0.1:8080/b", "/", "http://127.0.0.1:8080/b/"),
            (
                "http://[::1]:1",
                "//a/./b/../c%2F%2f%7e?q=%20+&&=#",
                "error",
            ),
            (
                "http://[::1]:1",
                "//a/./b/../c%2F%2f%7e;p?q=%20+&&=?/",
                "http://[::1]:1//a/./b/../c%2F%2f%7e;p?q=%20+&&=?/",
            ),
            ("https://a.example", "/v1?", "https://a.example/v1?"),
        ] {
            let actual = joined(base_url, path).unwrap_or_else(|_| "error".into());
            assert_eq!(actual, expected);
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        assert_eq!(joined("/only/a/path", "/v1"), Err(Error::RelativeBase));
        assert_eq!(joined("a.example", "/v1"), Err(Error::RelativeBase));
        for path in ["", "*", "v1", "?a=b", "/a b", "/a\r\nx: y", "/\u{7f}"] {
            assert_eq!(
                joined("https://a.example", path),
                Err(Error::Path),
                "{path:?}"
            );
        }
        let long = format!("/{}", "a".repeat(65_534));
        assert_eq!(joined("https://a.example", &long), Err(Error::TooLong));
        let long = format!("/{}", "a".repeat(65_534 - "https://a.example".len() - 1));
        assert!(joined("https://a.example", &long).is_ok());
    }

    #[test]
    fn client_credentials_are_removed_whatever_their_letter_case() {
        let mut headers = HeaderMap::new();
        for name in [
            "Authorization",
            "X-API-Key",
            "x-ApI-kEy",
            "API-KEY",
            "X-Goog-Api-Key",
            "Proxy-Authorization",
            "Cookie",
            "Accept",
        ] {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("client"),
            );
        }
        let ours = credential_header(CredentialScheme::XApiKey, "sk-ours").unwrap();
        set_credential(&mut headers, Some(&ours));
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["x-api-key"], "sk-ours");
        assert_eq!(headers["accept"], "client");

        set_credential(&mut headers, None);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn a_credential_goes_where_the_scheme_says_and_never_prints() {
        for (scheme, name, value) in [
            (CredentialScheme::XApiKey, "x-api-key", "sk-1"),
            (CredentialScheme::Unspecified, "x-api-key", "sk-1"),
            (CredentialScheme::Bearer, "authorization", "Bearer sk-1"),
        ] {
            let credential = credential_header(scheme, "sk-1").unwrap();
            assert_eq!(credential.name, name);
            assert_eq!(credential.value, value);
            assert!(!format!("{credential:?}").contains("sk-1"));
        }
        for key in ["", "a\nb", "a\0b"] {
            for scheme in [CredentialScheme::XApiKey, CredentialScheme::Bearer] {
                assert_eq!(credential_header(scheme, key), Err(Error::Credential));
            }
        }
    }
}
