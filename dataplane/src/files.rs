//! What is read from files beside the configuration, and may change while it is used.

use qcc_proto::tls::{self, Identity, Pair, Trust, Watched};

use crate::{
    client_keys::ClientKeys,
    config::{Config, Error},
};

/// Certificates, authorities and client keys. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// What clients are shown.
    pub identity: Option<Identity>,
    /// What is shown at the admin address.
    pub admin_identity: Option<Identity>,
    /// Who may send requests; `None`: everybody.
    pub client_keys: Option<ClientKeys>,
    /// Who vouches for control planes.
    pub control_trust: Trust,
    /// Who vouches for endpoints.
    pub upstream_trust: Trust,
}

impl Files {
    /// Reads all of them.
    pub(crate) fn load(config: &Config) -> Result<Self, Error> {
        let identity = |pair: &Option<Pair>| pair.as_ref().map(Identity::load).transpose();
        let client_keys = config.client_keys_file.as_deref().map(ClientKeys::load);
        let client_keys = client_keys.transpose()?;
        let load = || -> Result<Self, tls::Error> {
            let upstream_trust = Trust::load(&config.upstream_roots)?;
            Ok(Self {
                identity: identity(&config.tls)?,
                admin_identity: identity(&config.admin_tls)?,
                client_keys,
                // The platform's list is long: it is kept once.
                control_trust: match config.control_roots == config.upstream_roots {
                    true => upstream_trust.clone(),
                    false => Trust::load(&config.control_roots)?,
                },
                upstream_trust,
            })
        };
        load().map_err(Error::Tls)
    }

    /// Returns what is to be watched.
    pub(crate) fn watched(&self) -> Vec<Watched> {
        let identity = |what, identity: &Option<Identity>| {
            (identity.as_ref()).map(|identity| Watched::identity(what, identity))
        };
        let client_keys = self.client_keys.clone();
        let client_keys =
            client_keys.map(|keys| Watched::new("client_keys_file", move || keys.refresh()));
        [
            client_keys,
            identity("tls_cert", &self.identity),
            identity("admin_tls_cert", &self.admin_identity),
            Some(Watched::trust("ca_file", &self.control_trust)),
            Some(Watched::trust("upstream_ca_file", &self.upstream_trust)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
