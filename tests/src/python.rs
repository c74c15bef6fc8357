//! Somebody else's implementation of a standard, in Python.

use std::{
    io::{Write, stderr},
    process::Command,
};

/// Finds a Python in which these imports work: `QCC_PYTHON`, or `python3`. If there is
/// none, says loudly which packages it lacks; where `QCC_REQUIRE_FOREIGN` is 1, the test
/// fails.
pub fn with(imports: &str, packages: &str) -> Option<String> {
    let python = std::env::var("QCC_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python)
        .args(["-c", &format!("import {imports}")])
        .output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let required = std::env::var_os("QCC_REQUIRE_FOREIGN").is_some_and(|value| value == "1");
    assert!(
        !required,
        "no Python with {packages} (set QCC_PYTHON to one)"
    );
    // Not by `eprintln`, which is kept from whoever runs tests that pass.
    let _ = writeln!(stderr(), "SKIPPED: this test needs Python with {packages}");
    None
}
