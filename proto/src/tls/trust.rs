//! The authorities that a client believes.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::{Error, files, owned, provider, sessions::Sessions};

/// Where authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// None at all: for those who speak to nobody over TLS.
    Nobody,
    /// The platform's own.
    Platform,
    /// The platform's own, and those in a file of PEM.
    PlatformAnd(PathBuf),
    /// Those in a file of PEM and no other.
    Only(PathBuf),
}

/// Whom a client believes. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Trust(Arc<Shared>);

struct Shared {
    /// `None`: there is no authority, so nobody is believed.
    verifier: ArcSwap<Option<Arc<WebPkiServerVerifier>>>,
    source: Mutex<Source>,
    /// Others were believed before: sessions of that time are not taken up again.
    has_changed: AtomicBool,
}

struct Source {
    roots: Roots,
    /// Content of the file, if there is one.
    file: Vec<CertificateDer<'static>>,
}

/// Authorities that can be used, and are not yet.
pub struct StagedTrust {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    source: Source,
}

impl Roots {
    fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Nobody | Self::Platform => None,
            Self::PlatformAnd(file) | Self::Only(file) => Some(file),
        }
    }
}

impl Trust {
    /// Reads authorities. A platform without any is no error: then nobody is believed.
    ///
    /// # Errors
    ///
    /// Names the file and the rule that it breaks.
    pub fn load(roots: &Roots) -> Result<Self, Error> {
        let source = read(roots)?;
        let verifier = verifier(&source);
        Ok(Self(Arc::new(Shared {
            verifier: ArcSwap::from_pointee(verifier),
            source: Mutex::new(source),
            has_changed: AtomicBool::new(false),
        })))
    }

    /// Believes the same, and may be told to believe others by itself. What both believe is
    /// in memory once.
    pub fn twin(&self) -> Self {
        let source = self.source();
        Self(Arc::new(Shared {
            verifier: ArcSwap::new(self.0.verifier.load_full()),
            source: Mutex::new(Source {
                roots: source.roots.clone(),
                file: source.file.clone(),
            }),
            has_changed: AtomicBool::new(false),
        }))
    }

    /// The platform's authorities, such as they are.
    pub fn platform() -> Self {
        Self::load(&Roots::Platform).expect("there is no file that could be wrong")
    }

    /// Believes nobody.
    pub fn nobody() -> Self {
        Self::load(&Roots::Nobody).expect("there is no file that could be wrong")
    }

    /// Where they came from.
    pub fn roots(&self) -> Roots {
        self.source().roots.clone()
    }

    /// Whether there is any authority.
    pub fn believes_anybody(&self) -> bool {
        self.0.verifier.load().is_some()
    }

    /// Reads authorities, and returns them if they are others than those in use. The
    /// platform's are looked at again only together with a file.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn stage(&self, roots: &Roots) -> Result<Option<StagedTrust>, Error> {
        let source = read(roots)?;
        let is_same = {
            let known = self.source();
            known.roots == source.roots && known.file == source.file
        };
        Ok((!is_same).then(|| StagedTrust {
            verifier: verifier(&source),
            source,
        }))
    }

    /// Reads its file again. Returns whether it had something new, which counts then.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn refresh(&self) -> Result<bool, Error> {
        let staged = self.stage(&self.roots())?;
        Ok(staged.map(|staged| self.take(staged)).is_some())
    }

    /// Believes others from the next handshake on. Connections that stand stay.
    pub fn take(&self, staged: StagedTrust) {
        *self.source() = staged.source;
        self.0.has_changed.store(true, Ordering::Release);
        self.0.verifier.store(Arc::new(staged.verifier));
    }

    /// Returns how a client that believes them speaks.
    pub fn client_config(&self, protocols: &[&[u8]]) -> ClientConfig {
        let versions = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring supports the default protocol versions");
        let mut config = versions
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.clone()))
            .with_no_client_auth();
        config.alpn_protocols = owned(protocols);
        config.resumption = Resumption::store(Arc::new(Sessions::new(self.clone())));
        config
    }

    /// Whether it has ever been told to believe others.
    pub(super) fn has_changed(&self) -> bool {
        self.0.has_changed.load(Ordering::Acquire)
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        // Whole after any panic: it is replaced in one go.
        (self.0.source.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(roots: &Roots) -> Result<Source, Error> {
    let mut file = Vec::new();
    if let Some(path) = roots.file() {
        let error = || Error::Content {
            path: path.clone(),
            rule: "certificates of authorities in PEM",
        };
        let bytes = files::read(path)?;
        let found: Result<_, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        file = found.map_err(|_| error())?;
        let mut store = RootCertStore::empty();
        for authority in &file {
            store.add(authority.clone()).map_err(|_| error())?;
        }
        if store.is_empty() {
            return Err(error());
        }
    }
    Ok(Source {
        roots: roots.clone(),
        file,
    })
}

fn verifier(source: &Source) -> Option<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(source.file.iter().cloned());
    if matches!(source.roots, Roots::Platform | Roots::PlatformAnd(_)) {
        // What cannot be read of the platform's is left out, as all programs do.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
    builder.build().ok() // It fails only without any authority.
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.0.verifier.load().as_ref() {
            Some(verifier) => verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.roots()).finish()
    }
}

impl fmt::Debug for StagedTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = &self.source.roots;
        f.debug_tuple("StagedTrust").field(roots).finish()
    }
}
