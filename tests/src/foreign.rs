//! Somebody else's programs: Python, curl, Claude Code.

use std::{
    io::{Write, stderr},
    path::Path,
    process::{Command, Stdio},
};

/// Finds a Python in which these imports work: `QCC_PYTHON`, or `python3`. If there is
/// none, says loudly which packages it lacks; where `QCC_REQUIRE_FOREIGN` is 1, the test
/// fails.
pub fn python(imports: &str, packages: &str) -> Option<String> {
    let python = variable_or("QCC_PYTHON", "python3");
    let found = runs(Command::new(&python).args(["-c", &format!("import {imports}")]));
    let needed = format!("Python with {packages} (`QCC_PYTHON`)");
    found.then_some(python).or_else(|| missing(&needed))
}

/// Finds a program by its name in the `PATH`. If it is not there, says loudly which
/// package has it, or fails, like [`python`].
pub fn program(name: &str, package: &str) -> Option<String> {
    let found = runs(Command::new(name).arg("--version"));
    found
        .then(|| name.to_owned())
        .or_else(|| missing(&format!("`{name}` of {package}")))
}

/// Finds Claude Code: `QCC_CLAUDE`, or `claude`. If it is not there, says so loudly, or
/// fails, like [`python`].
pub fn claude_code() -> Option<String> {
    let claude = variable_or("QCC_CLAUDE", "claude");
    // Not asked for its version: whatever it does may leave traces in somebody's home.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = match claude.contains('/') {
        true => Path::new(&claude).exists(),
        false => std::env::split_paths(&path).any(|folder| folder.join(&claude).exists()),
    };
    let needed = "npm's @anthropic-ai/claude-code (`QCC_CLAUDE`)";
    found.then_some(claude).or_else(|| missing(needed))
}

fn variable_or(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn runs(command: &mut Command) -> bool {
    let output = command.stdin(Stdio::null()).output();
    output.is_ok_and(|output| output.status.success())
}

fn missing(needed: &str) -> Option<String> {
    let required = std::env::var_os("QCC_REQUIRE_FOREIGN").is_some_and(|value| value == "1");
    assert!(!required, "this test needs {needed}");
    // Not by `eprintln`, which is kept from whoever runs tests that pass.
    let _ = writeln!(stderr(), "SKIPPED: this test needs {needed}");
    None
}
