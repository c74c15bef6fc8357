//! What data planes have said about themselves: for people, not for decisions, and
//! so neither stored nor the writer's business.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    propagation::Propagation,
    registry::{ProxyKey, View},
};

/// A data plane that was not heard of for this long is gone, even if its streams
/// still seem open. Data planes speak every 5 s.
pub const LEASE: Duration = Duration::from_secs(15);

/// A data plane that is gone is still shown for this long.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// Data planes that are shown at most.
const SESSIONS_MAX: usize = 10_000;

/// One data plane, as it described itself.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Session {
    pub version: String,
    pub cluster: String,
    pub http_address: String,
    pub admin_address: String,
    pub applied: Option<View>,
    pub acknowledged: u64,
    pub dropped: u64,
    pub connected: SystemTime,
    pub heard: Instant,
    pub streams: u32,
    /// It has been current since it connected: from then on its lag says how long views
    /// take.
    pub settled: bool,
}

/// All data planes of the last hour.
#[derive(Debug, Default)]
pub struct Sessions {
    sessions: Mutex<BTreeMap<ProxyKey, Session>>,
    propagation: Mutex<Propagation>,
}

impl Default for Session {
    /// A session that begins now.
    fn default() -> Self {
        Self {
            version: String::new(),
            cluster: String::new(),
            http_address: String::new(),
            admin_address: String::new(),
            applied: None,
            acknowledged: 0,
            dropped: 0,
            connected: SystemTime::now(),
            heard: Instant::now(),
            streams: 0,
            settled: false,
        }
    }
}

impl Session {
    /// Whether its lease has run out.
    pub fn gone(&self) -> bool {
        self.streams == 0 || self.heard.elapsed() > LEASE
    }
}

impl Sessions {
    /// Notes something about a data plane, which was just heard of.
    pub fn update(&self, key: &ProxyKey, change: impl FnOnce(&mut Session)) {
        let mut sessions = self.lock();
        if !sessions.contains_key(key) && sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.heard);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                sessions.remove(&oldest);
            }
        }
        let session = sessions.entry(key.clone()).or_default();
        session.heard = Instant::now();
        change(session);
    }

    /// Notes the end of a data plane's stream, which is no word of it.
    pub fn stream_ended(&self, key: &ProxyKey) {
        if let Some(session) = self.lock().get_mut(key) {
            session.streams = session.streams.saturating_sub(1);
        }
    }

    /// Returns all data planes by id and incarnation.
    pub fn list(&self) -> Vec<(ProxyKey, Session)> {
        let mut sessions = self.lock();
        sessions.retain(|_, session| !session.gone() || session.heard.elapsed() < FORGET_AFTER);
        sessions
            .iter()
            .map(|(key, session)| (key.clone(), session.clone()))
            .collect()
    }

    /// Counts how long a view took to reach a data plane.
    pub fn observe(&self, lag: Duration) {
        self.propagation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(lag);
    }

    /// Returns how long views took to reach data planes.
    pub fn propagation(&self) -> Propagation {
        *self
            .propagation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProxyKey, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ProxyId;

    #[test]
    fn the_end_of_a_stream_is_no_sign_of_life() {
        let sessions = Sessions::default();
        let key = ProxyKey {
            id: ProxyId::new("p"),
            incarnation: "1".into(),
        };
        sessions.stream_ended(&key);
        assert!(sessions.list().is_empty(), "it is not known");
        sessions.update(&key, |session| session.streams = 2);
        let heard = sessions.list()[0].1.heard;
        sessions.stream_ended(&key);
        let session = &sessions.list()[0].1;
        assert_eq!((session.streams, session.heard), (1, heard));
    }
}
