//! TLS sessions that a client may take up again, which it does without looking at the
//! server's certificate anew.
//!
//! So once a client is told to believe others it takes up none: not those that it has, and
//! not those that connections which stand bring later. A full handshake costs a millisecond;
//! connections are kept anyway.

use rustls::{
    NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    pki_types::ServerName,
};

use super::Trust;

/// As many as rustls keeps where nothing else is said.
const SESSIONS_MAX: usize = 256;

/// The sessions of clients that believe the same.
#[derive(Debug)]
pub(super) struct Sessions {
    trust: Trust,
    kept: ClientSessionMemoryCache,
}

impl Sessions {
    pub(super) fn new(trust: Trust) -> Self {
        Self {
            trust,
            kept: ClientSessionMemoryCache::new(SESSIONS_MAX),
        }
    }

    /// Those kept, while they may be taken up.
    fn kept(&self) -> Option<&ClientSessionMemoryCache> {
        (!self.trust.has_changed()).then_some(&self.kept)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        if let Some(kept) = self.kept() {
            kept.set_tls12_session(server_name, value);
        }
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept()?.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.kept.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        if let Some(kept) = self.kept() {
            kept.insert_tls13_ticket(server_name, value);
        }
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.kept()?.take_tls13_ticket(server_name)
    }
}
