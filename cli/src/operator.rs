//! Who asks: a name that the control plane writes down beside what was changed.
//!
//! Nobody verifies it. It is there to find each other, not to prove anything.

use std::{env, fs, os::unix::fs::MetadataExt};

use tonic::{Request, metadata::AsciiMetadataValue};

/// Metadata with which every request says so.
const METADATA: &str = "qcc-operator";
/// Longest name that the control plane keeps.
const LENGTH_MAX: usize = 64;

/// A name in printable ASCII, at most 64 bytes.
#[derive(Debug, Clone)]
pub(crate) struct Operator(AsciiMetadataValue);

impl Operator {
    /// A name as somebody has written it, or the rule that it breaks.
    pub(crate) fn new(name: &str) -> Result<Self, String> {
        let printable = name.chars().all(|c| matches!(c, ' '..='~'));
        let fits = (1..=LENGTH_MAX).contains(&name.len()) && name.trim() == name;
        match AsciiMetadataValue::try_from(name) {
            Ok(value) if printable && fits => Ok(Self(value)),
            _ => Err(format!(
                "must be 1-{LENGTH_MAX} printable ASCII characters, with no space at either end"
            )),
        }
    }

    /// The user of this process on this machine, as well as they can be written.
    pub(crate) fn of_this_process() -> Option<Self> {
        let host = gethostname::gethostname();
        let name = format!("{}@{}", user(), host.to_string_lossy());
        Self::new(&written(&name)).ok()
    }

    /// Says so in a request.
    pub(crate) fn sign<T>(&self, request: &mut Request<T>) {
        request.metadata_mut().insert(METADATA, self.0.clone());
    }
}

/// The user's name, or the number if nothing tells the name.
fn user() -> String {
    let named = ["USER", "LOGNAME"]
        .into_iter()
        .filter_map(|variable| env::var(variable).ok())
        .find(|name| !name.is_empty());
    named.unwrap_or_else(|| match fs::metadata("/proc/self") {
        Ok(process) => name_of(process.uid()),
        Err(_) => "somebody".to_owned(),
    })
}

/// A user's name by number, where the machine itself has a list.
fn name_of(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid-{uid}"))
}

/// `name` with question marks for what cannot be sent, and without what is too long.
fn written(name: &str) -> String {
    name.chars()
        .map(|c| if matches!(c, '!'..='~') { c } else { '?' })
        .take(LENGTH_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_printable_and_short() {
        for name in ["eva", "Eva M. (on call)", &"x".repeat(64)] {
            assert!(Operator::new(name).is_ok(), "{name}");
        }
        for name in [
            "",
            " ",
            "eva ",
            "a\nb",
            "a\tb",
            "\u{1b}[2J",
            "\u{e9}va",
            &"x".repeat(65),
        ] {
            assert!(Operator::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn this_process_has_a_user_and_a_machine_whatever_they_are_called() {
        let mut request = Request::new(());
        Operator::of_this_process().unwrap().sign(&mut request);
        let name = request.metadata().get(METADATA).unwrap().to_str().unwrap();
        assert!(name.contains('@'), "{name}");
        assert_eq!(name_of(0), "root");
        assert_eq!(name_of(u32::MAX - 7), "uid-4294967288");
        let odd = written(&format!("\u{e9}va m@{}", "h".repeat(100)));
        assert!(odd.starts_with("?va?m@h"), "{odd}");
        assert!(Operator::new(&odd).is_ok());
    }
}
