//! Keys of those who may send requests through a proxy: how they are made, and the file
//! that lists them.
//!
//! A line each, `NAME:DIGEST`; what follows a `#` is a comment. The digest is the SHA-256
//! of the key, in hexadecimal. A key of ours is 256 random bits, so its digest tells nothing
//! about it.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use sha2::{Digest as _, Sha256};

/// Keys in one file.
pub const KEYS_MAX: usize = 10_000;

/// Longer than as many lines as there may be, with room for comments.
pub const FILE_BYTES_MAX: u64 = 2 << 20;

/// Starts every key that we make, so that people and scanners know what it is.
const PREFIX: &str = "qcc_";

/// The SHA-256 of a key.
pub type Digest = [u8; 32];

/// A line that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error {
    /// The line, from 1.
    pub line: usize,
    /// What it must be.
    pub rule: &'static str,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} must {}", self.line, self.rule)
    }
}

impl std::error::Error for Error {}

/// Returns a key made of random bytes.
pub fn key(random: &Digest) -> String {
    format!("{PREFIX}{}", hex(random))
}

/// Returns what is kept of a key.
pub fn digest(key: &[u8]) -> Digest {
    Sha256::digest(key).into()
}

/// Returns the line that lists a key.
pub fn line(name: &str, digest: &Digest) -> String {
    format!("{name}:{}\n", hex(digest))
}

/// Returns whether a text can name a key.
pub fn is_name(text: &str) -> bool {
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=63).contains(&text.len()) && text.bytes().all(of_name)
}

/// Reads a file: names by digest.
///
/// # Errors
///
/// Names the line and its rule, and nothing that is written there.
pub fn parse(text: &str) -> Result<HashMap<Digest, String>, Error> {
    let mut names = HashSet::new();
    let mut keys = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let refuse = |rule| Error { line: at + 1, rule };
        let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
        if line.is_empty() {
            continue;
        }
        let rule = "be NAME:SHA256, as `qcc-ctl client-keys add` writes it";
        let (name, digest) = line.split_once(':').ok_or(refuse(rule))?;
        let digest = unhex(digest).ok_or(refuse(rule))?;
        if !is_name(name) {
            return Err(refuse(rule));
        }
        if !names.insert(name) || keys.insert(digest, name.to_owned()).is_some() {
            return Err(refuse("have a name and a key of its own"));
        }
        if keys.len() > KEYS_MAX {
            return Err(refuse("not be there: 10000 keys are the most"));
        }
    }
    Ok(keys)
}

fn hex(bytes: &Digest) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Digest> {
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut digest = Digest::default();
    for (at, byte) in digest.iter_mut().enumerate().filter(|_| is_hex) {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    is_hex.then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let (a, b) = (key(&[1; 32]), key(&[2; 32]));
        let text = format!(
            "# ours\n\n{}{}# the end",
            line("a", &digest(a.as_bytes())),
            line("b.2", &digest(b.as_bytes()))
        );
        let keys = parse(&text).unwrap();
        assert_eq!(keys[&digest(a.as_bytes())], "a");
        assert_eq!(keys[&digest(b.as_bytes())], "b.2");
        assert!(!keys.contains_key(&digest(b"")));
    }

    #[test]
    fn a_wrong_line_is_named_and_not_repeated() {
        let good = line("a", &digest(b"a"));
        for (text, line) in [
            ("a".to_owned(), 1),
            ("a:12".to_owned(), 1),
            (format!("{good}b:{}", "g".repeat(64)), 2),
            (format!("{good} :{}", "0".repeat(64)), 2),
            (format!("{good}a:{}", "0".repeat(64)), 2),
            (format!("{good}b{}", &good[1..]), 2),
            (format!("a:{}", "ä".repeat(32)), 1),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(!error.to_string().contains("ggg"));
        }
        let many: String = (0..=KEYS_MAX)
            .map(|at| super::line(&at.to_string(), &digest(at.to_string().as_bytes())))
            .collect();
        assert_eq!(parse(&many).unwrap_err().line, KEYS_MAX + 1);
        assert!(many.len() as u64 <= FILE_BYTES_MAX);
    }
}
