//! Waiting for a condition.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Longest wait for anything. Generous, because it is met only by a failing test
/// and the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Short enough not to be noticed, long enough not to starve what is waited for.
const PAUSE: Duration = Duration::from_millis(15);

/// Asks `probe` until it answers `Ok`, and returns that.
///
/// # Panics
///
/// After [`LIMIT`], with `what` and the last error.
pub async fn eventually<T, E: Display>(
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        let last = match tokio::time::timeout(LIMIT, probe()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => state.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        assert!(
            start.elapsed() < LIMIT,
            "never saw that {what}; last seen: {last}"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
