//! Where API keys come from: the file itself, the environment, or a file of their own.

use std::path::Path;

use super::read_regular;

/// Largest key, as on the wire (`Credential.api_key`).
const KEY_BYTES_MAX: u64 = 4096;

/// What references to keys are resolved against.
pub(super) struct Sources<'a> {
    pub(super) base_dir: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

impl Sources<'_> {
    pub(super) fn key_from_env(&self, name: &str) -> Result<String, String> {
        let key = (self.env)(name).ok_or("there is no such environment variable")?;
        check_key(&key)
    }

    pub(super) fn key_from_file(&self, path: &Path) -> Result<String, String> {
        read_key_file(&self.base_dir.join(path))
    }
}

/// Reads an API key from a regular file; white space around it does not count. The error says why
/// not, without the file's name or content.
pub fn read_key_file(path: &Path) -> Result<String, String> {
    // White space may come on top of the longest key.
    let bytes = read_regular(path, 2 * KEY_BYTES_MAX)?;
    check_key(&String::from_utf8_lossy(&bytes))
}

/// Returns the key without white space around it, or why it cannot be one. The error does not
/// contain the key.
pub fn check_key(text: &str) -> Result<String, String> {
    let key = text.trim();
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if key.len() as u64 > KEY_BYTES_MAX {
        return Err(format!("the key is longer than {KEY_BYTES_MAX} bytes"));
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the key contains something else than visible ASCII characters".to_owned());
    }
    Ok(key.to_owned())
}
