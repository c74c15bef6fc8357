//! Certificates, good and bad, and upstreams that show them.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use crate::process::lock;

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// When a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub enum Validity {
    /// Not any more.
    Past,
    /// At present.
    Now,
    /// Not yet.
    Future,
}

impl Authority {
    /// Returns a new one, which nobody knows yet.
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // One that is named like what it signs passes for self-signed with OpenSSL.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// What a server needs to show a certificate for this name or address.
    pub fn issue(&self, name: &str, validity: Validity) -> ServerConfig {
        let (certificate, key) = self.sign(name, validity);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("its own key");
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key belongs to the certificate")
    }

    /// Writes a certificate for this name or address into a directory, and its key: as
    /// `NAME.cert` and `NAME.key`, whose paths it returns.
    pub fn write(&self, dir: &Path, file: &str, name: &str) -> (String, String) {
        let (certificate, key) = self.sign(name, Validity::Now);
        let path = |kind| dir.join(format!("{file}.{kind}")).display().to_string();
        let (cert_path, key_path) = (path("cert"), path("key"));
        let private = || std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::write(&key_path, key.serialize_pem()).expect("the file can be written");
        fs::set_permissions(&key_path, private()).expect("it is our own file");
        fs::write(&cert_path, certificate.pem()).expect("the file can be written");
        (cert_path, key_path)
    }

    /// Writes its own certificate into a directory and returns the path.
    pub fn write_own(&self, dir: &Path) -> String {
        let path = dir.join("authority.cert");
        fs::write(&path, self.pem()).expect("the file can be written");
        path.display().to_string()
    }

    /// What a client needs to believe nobody else.
    pub fn trusted(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let own = self.0.der().clone();
        roots.add(own).expect("it is an authority");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        config
    }

    fn sign(&self, name: &str, validity: Validity) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a valid name");
        let (first, last) = match validity {
            Validity::Past => (2001, 2002),
            Validity::Now => (2001, 2999),
            Validity::Future => (2998, 2999),
        };
        params.not_before = date_time_ymd(first, 1, 1);
        params.not_after = date_time_ymd(last, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate, key)
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// Speaks TLS on behalf of somebody who does not.
pub struct TlsFront {
    address: SocketAddr,
    shown: Arc<Mutex<Shown>>,
    task: JoinHandle<()>,
}

/// How a front speaks, and to whom it does at present.
struct Shown {
    acceptor: Option<TlsAcceptor>,
    connections: JoinSet<()>,
}

impl TlsFront {
    /// Starts one on loopback.
    pub async fn start(config: ServerConfig, target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let shown = Arc::new(Mutex::new(Shown {
            acceptor: Some(TlsAcceptor::from(Arc::new(config))),
            connections: JoinSet::new(),
        }));
        let now = Arc::clone(&shown);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut shown = lock(&now);
                let acceptor = shown.acceptor.clone();
                shown.connections.spawn(relay(acceptor, client, target));
                while shown.connections.try_join_next().is_some() {}
            }
        });
        Self {
            address,
            shown,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and shows another certificate from now on; with none it passes
    /// on what comes, in the clear.
    pub fn show(&self, config: Option<ServerConfig>) {
        let mut shown = lock(&self.shown);
        shown.acceptor = config.map(|config| TlsAcceptor::from(Arc::new(config)));
        shown.connections.abort_all();
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(acceptor: Option<TlsAcceptor>, mut client: TcpStream, target: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let Some(acceptor) = acceptor else {
        let _ = copy_bidirectional(&mut client, &mut server).await;
        return;
    };
    // Whoever does not like the certificate goes away.
    if let Ok(mut client) = acceptor.accept(client).await {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
