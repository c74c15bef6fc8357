//! Looks again and again whether files have changed.

use std::{collections::HashMap, fmt};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::WATCH_INTERVAL;

/// A file, or several that belong together, and how to take its new content.
pub struct Watched {
    what: &'static str,
    refresh: Box<dyn FnMut() -> Result<bool, String> + Send>,
}

/// What was said of each, so that it is not said again and again.
#[derive(Debug, Default)]
struct Complaints(HashMap<&'static str, Complaint>);

#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    error: String,
    was_told: bool,
}

impl Watched {
    /// Returns a thing to watch. `refresh` takes new content, and returns whether there was
    /// any.
    pub fn new<E: fmt::Display>(
        what: &'static str,
        mut refresh: impl FnMut() -> Result<bool, E> + Send + 'static,
    ) -> Self {
        Self {
            what,
            refresh: Box::new(move || refresh().map_err(|error| error.to_string())),
        }
    }
}

/// Looks at files every few seconds, for as long as the future is polled.
pub async fn watch(mut files: Vec<Watched>) {
    let mut complaints = Complaints::default();
    loop {
        sleep(WATCH_INTERVAL).await;
        let look = move || {
            let found: Vec<_> = files
                .iter_mut()
                .map(|file| (file.what, (file.refresh)()))
                .collect();
            (files, found)
        };
        // A panic in there is a bug of ours; what was read before goes on being used.
        let Ok((same, found)) = spawn_blocking(look).await else {
            return warn!("files are no longer watched");
        };
        files = same;
        for (what, outcome) in found {
            match outcome {
                Ok(true) => info!(what, "new content is in use"),
                Ok(false) => {}
                Err(error) => {
                    if complaints.is_due(what, &error) {
                        warn!(what, error, "new content cannot be used; the old one stays");
                    }
                    continue;
                }
            }
            complaints.0.remove(what);
        }
    }
}

impl Complaints {
    /// Whether to tell of an error: when it is still there at the second look, as files that
    /// belong together are not written together, and once.
    fn is_due(&mut self, what: &'static str, error: &str) -> bool {
        match self.0.get_mut(what) {
            Some(known) if known.error == error => !std::mem::replace(&mut known.was_told, true),
            _ => {
                let complaint = Complaint {
                    error: error.to_owned(),
                    was_told: false,
                };
                self.0.insert(what, complaint);
                false
            }
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.what).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_not_at_first_sight() {
        let mut complaints = Complaints::default();
        let told: Vec<_> = ["a", "a", "a", "b", "b", "b"]
            .map(|error| complaints.is_due("file", error))
            .into();
        assert_eq!(told, [false, true, false, false, true, false]);
    }
}
