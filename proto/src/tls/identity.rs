//! The certificate that a listener shows, and its key.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    Error as TlsError, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use super::{Error, files, owned, provider};

/// Where a certificate and its key are, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The chain: the server's own certificate first, then those that lead to its authority.
    pub cert: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
}

/// What a listener proves itself by. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Identity(Arc<Shared>);

struct Shared {
    shown: ArcSwap<CertifiedKey>,
    source: Mutex<Source>,
}

/// Where what is shown came from.
struct Source {
    pair: Pair,
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate that can be used, and is not yet.
pub struct StagedIdentity {
    certified: Arc<CertifiedKey>,
    source: Source,
}

impl Identity {
    /// Reads a pair.
    ///
    /// # Errors
    ///
    /// Names the file and the rule that it breaks.
    pub fn load(pair: &Pair) -> Result<Self, Error> {
        let staged = read(pair)?;
        Ok(Self(Arc::new(Shared {
            shown: ArcSwap::new(staged.certified),
            source: Mutex::new(staged.source),
        })))
    }

    /// Where it came from.
    pub fn pair(&self) -> Pair {
        self.source().pair.clone()
    }

    /// Reads a pair, and returns it if it is another than the one that is shown.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn stage(&self, pair: &Pair) -> Result<Option<StagedIdentity>, Error> {
        let staged = read(pair)?;
        let source = self.source();
        let is_same = source.pair == *pair && source.chain == staged.source.chain;
        Ok((!is_same).then_some(staged))
    }

    /// Reads its files again. Returns whether they had something new, which is shown then.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn refresh(&self) -> Result<bool, Error> {
        let staged = self.stage(&self.pair())?;
        Ok(staged.map(|staged| self.take(staged)).is_some())
    }

    /// Shows another certificate from the next handshake on. Connections that stand stay.
    pub fn take(&self, staged: StagedIdentity) {
        *self.source() = staged.source;
        self.0.shown.store(staged.certified);
    }

    /// Returns how a server that shows it speaks.
    pub fn server_config(&self, protocols: &[&[u8]]) -> Arc<ServerConfig> {
        let versions = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions");
        let mut config = versions
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = owned(protocols);
        Arc::new(config)
    }

    fn source(&self) -> std::sync::MutexGuard<'_, Source> {
        // Whole after any panic: it is replaced in one go.
        (self.0.source.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(pair: &Pair) -> Result<StagedIdentity, Error> {
    let content = |path: &Path, rule| Error::Content {
        path: path.to_owned(),
        rule,
    };
    let rule = "a chain of certificates in PEM";
    let chain = files::read(&pair.cert)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|_| content(&pair.cert, rule))?;
    if chain.is_empty() {
        return Err(content(&pair.cert, rule));
    }
    let key = Zeroizing::new(files::read_secret(&pair.key)?);
    let rule = "a private key in PEM: PKCS #8, SEC 1 or PKCS #1, not encrypted";
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| content(&pair.key, rule))?;
    let certified = CertifiedKey::from_der(chain.clone(), key, &provider());
    let certified = certified.map_err(|error| match error {
        TlsError::InconsistentKeys(_) => Error::Mismatch(pair.clone()),
        TlsError::InvalidCertificate(_) => content(&pair.cert, "valid certificates"),
        _ => content(&pair.key, "a key of RSA, ECDSA (P-256, P-384) or Ed25519"),
    })?;
    Ok(StagedIdentity {
        certified: Arc::new(certified),
        source: Source {
            pair: pair.clone(),
            chain,
        },
    })
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.shown.load_full())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.pair()).finish()
    }
}

impl fmt::Debug for StagedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = &self.source.pair;
        f.debug_tuple("StagedIdentity").field(pair).finish()
    }
}
