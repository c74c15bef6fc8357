//! What is read from files beside the configuration, and may change while it is used.

use qcc_proto::tls::{self, Identity, Pair, StagedIdentity, StagedTrust, Trust};

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
    /// Who may send requests at first; `None`: everybody. Later the data path's settings say.
    pub client_keys: Option<ClientKeys>,
    /// Who vouches for control planes.
    pub control_trust: Trust,
    /// Who vouches for endpoints.
    pub upstream_trust: Trust,
}

/// Content that can be used, and is not yet; each `None` where it is what is used.
#[derive(Debug)]
pub(crate) struct Staged {
    identity: Option<StagedIdentity>,
    admin_identity: Option<StagedIdentity>,
    control_trust: Option<StagedTrust>,
    upstream_trust: Option<StagedTrust>,
}

impl Files {
    /// Reads all of them.
    pub(crate) fn load(config: &Config) -> Result<Self, Error> {
        let client_keys = config.client_keys_file.as_deref().map(ClientKeys::load);
        let client_keys = client_keys.transpose()?;
        let identity = |pair: &Option<Pair>, keys| {
            let load = |pair| Identity::load(pair).map_err(of_pair(pair, keys));
            pair.as_ref().map(load).transpose()
        };
        let load = |roots, key| Trust::load(roots).map_err(of(key));
        let upstream_trust = load(&config.upstream_roots, "upstream_ca_file")?;
        Ok(Self {
            identity: identity(&config.tls, TLS)?,
            admin_identity: identity(&config.admin_tls, ADMIN_TLS)?,
            client_keys,
            // The platform's list is long: it is kept once.
            control_trust: match config.control_roots == config.upstream_roots {
                true => upstream_trust.twin(),
                false => load(&config.control_roots, "ca_file")?,
            },
            upstream_trust,
        })
    }

    /// Reads all but client keys again. `config` has TLS where there was TLS.
    pub(crate) fn stage(&self, config: &Config) -> Result<Staged, Error> {
        let identity = |identity: &Option<Identity>, pair: &Option<Pair>, keys| {
            let (Some(identity), Some(pair)) = (identity, pair) else {
                return Ok(None);
            };
            identity.stage(pair).map_err(of_pair(pair, keys))
        };
        let trust = |trust: &Trust, roots, key| trust.stage(roots).map_err(of(key));
        Ok(Staged {
            identity: identity(&self.identity, &config.tls, TLS)?,
            admin_identity: identity(&self.admin_identity, &config.admin_tls, ADMIN_TLS)?,
            control_trust: trust(&self.control_trust, &config.control_roots, "ca_file")?,
            upstream_trust: trust(
                &self.upstream_trust,
                &config.upstream_roots,
                "upstream_ca_file",
            )?,
        })
    }

    /// Uses what was staged, from the next handshakes on.
    pub(crate) fn take(&self, staged: Staged) {
        let show = |identity: &Option<Identity>, staged| {
            if let (Some(identity), Some(staged)) = (identity, staged) {
                identity.take(staged);
            }
        };
        show(&self.identity, staged.identity);
        show(&self.admin_identity, staged.admin_identity);
        let believe = |trust: &Trust, staged: Option<_>| staged.map(|staged| trust.take(staged));
        believe(&self.control_trust, staged.control_trust);
        believe(&self.upstream_trust, staged.upstream_trust);
    }
}

impl Staged {
    /// The settings whose files have something new.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        [
            (TLS[0], self.identity.is_some()),
            (ADMIN_TLS[0], self.admin_identity.is_some()),
            ("ca_file", self.control_trust.is_some()),
            ("upstream_ca_file", self.upstream_trust.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, is_new)| is_new.then_some(key))
    }
}

/// The keys that name a certificate and its key.
const TLS: [&str; 2] = ["tls_cert", "tls_key"];
const ADMIN_TLS: [&str; 2] = ["admin_tls_cert", "admin_tls_key"];

fn of(key: &'static str) -> impl Fn(tls::Error) -> Error {
    move |source| Error::Tls { key, source }
}

fn of_pair(pair: &Pair, [cert, key]: [&'static str; 2]) -> impl Fn(tls::Error) -> Error {
    move |source| {
        let key = if source.path() == pair.cert {
            cert
        } else {
            key
        };
        Error::Tls { key, source }
    }
}
