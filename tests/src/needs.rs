//! What a test needs of the machine, and what is said where that is missing.

use std::io::{Write, stderr};

/// Where this variable is `1`, whatever a fault test needs must be there.
const REQUIRED: &str = "QCC_REQUIRE_FAULTS";

/// Returns whether a test can run here: whether `met` holds. If not, says on
/// standard error what is missing and what was therefore not tested.
///
/// # Panics
///
/// If it does not hold, and `QCC_REQUIRE_FAULTS` is `1`.
pub fn possible(needed: &str, met: bool, untested: &str) -> bool {
    if met {
        return true;
    }
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
    assert!(!required, "{untested}: this needs {needed}");
    // Not by `eprintln`, which is kept from whoever runs tests that pass.
    let _ = writeln!(stderr(), "SKIPPED: {untested}: this needs {needed}");
    false
}
