//! Pages of a list (AIP-158).
//!
//! A token is the last key of its page. Lists are ordered by key, so a page goes on
//! where the one before ended, whatever was added or removed meanwhile, and no token
//! ever expires.

use tonic::Status;

use super::error::invalid;

/// Entries of a page if nothing is asked for.
const DEFAULT: usize = 100;

/// Entries of a page at most.
const MAX: usize = 1000;

/// Cuts one page out of `entries`, which are ordered by their keys.
///
/// # Errors
///
/// INVALID_ARGUMENT for a negative size or a token that this server never gave.
pub(super) fn page<T>(
    entries: impl IntoIterator<Item = (String, T)>,
    size: i32,
    token: &str,
) -> Result<(Vec<T>, String), Status> {
    let size = match usize::try_from(size) {
        Ok(0) => DEFAULT,
        Ok(size) => size.min(MAX),
        Err(_) => return Err(invalid("page_size", "must not be negative")),
    };
    let after = if token.is_empty() {
        None
    } else {
        Some(decode(token)?)
    };
    let mut rest = entries
        .into_iter()
        .skip_while(|(key, _)| after.as_ref().is_some_and(|after| key <= after));
    let mut last = String::new();
    let page = rest
        .by_ref()
        .take(size)
        .map(|(key, entry)| {
            last = key;
            entry
        })
        .collect();
    let next = if rest.next().is_some() {
        encode(&last)
    } else {
        String::new()
    };
    Ok((page, next))
}

/// Hex: opaque enough to say "do not build one", and safe in a URL and a shell.
fn encode(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(token: &str) -> Result<String, Status> {
    let wrong = || invalid("page_token", "must be a `next_page_token` of this method");
    if !token.bytes().all(|byte| byte.is_ascii_hexdigit()) || !token.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let bytes: Result<Vec<u8>, _> = (0..token.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&token[at..at + 2], 16))
        .collect();
    String::from_utf8(bytes.map_err(|_| wrong())?).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<(String, u32)> {
        (0..5).map(|n| (format!("k{n}"), n)).collect()
    }

    #[test]
    fn pages_follow_each_other() {
        let (first, token) = page(entries(), 2, "").expect("a page");
        assert_eq!(first, [0, 1]);
        let (second, token) = page(entries(), 2, &token).expect("a page");
        assert_eq!(second, [2, 3]);
        let (third, token) = page(entries(), 2, &token).expect("a page");
        assert_eq!((third, token.as_str()), (vec![4], ""));
    }

    #[test]
    fn forged_tokens_and_negative_sizes_are_refused() {
        for token in ["x", "zz", "ff", "+1", "é"] {
            assert!(page(entries(), 1, token).is_err(), "{token}");
        }
        assert!(page(entries(), -1, "").is_err());
    }
}
