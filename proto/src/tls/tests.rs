use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use super::*;

struct Files {
    dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { dir, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pair(&self) -> Pair {
        Pair {
            cert: self.path("cert.pem"),
            key: self.path("key.pem"),
        }
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let pair = self.pair();
        fs::write(&pair.cert, certificate.pem()).unwrap();
        self.write_key(&key.serialize_pem(), 0o600);
        pair
    }

    fn write_key(&self, text: &str, mode: u32) {
        let key = self.pair().key;
        fs::write(&key, text).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn trust(&self) -> Trust {
        let file = self.path("ca.pem");
        fs::write(&file, self.authority.pem()).unwrap();
        Trust::load(&Roots::Only(file)).unwrap()
    }
}

fn refusal(pair: &Pair) -> String {
    Identity::load(pair).unwrap_err().to_string()
}

/// A listener that echoes what it reads, and how it ended its last connection.
async fn echo(door: Door) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let mut stream = door.accept(listener.accept().await.unwrap().0);
            tokio::spawn(async move {
                let mut bytes = [0; 100];
                if let Ok(length) = stream.read(&mut bytes).await {
                    let _ = stream.write_all(&bytes[..length]).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}

async fn ask(address: SocketAddr, trust: &Trust, name: &'static str) -> Result<Vec<u8>, String> {
    ask_by(address, trust.client_config(HTTP), name).await
}

async fn ask_by(
    address: SocketAddr,
    config: impl Into<Arc<ClientConfig>>,
    name: &'static str,
) -> Result<Vec<u8>, String> {
    let tls = TlsConnector::from(config.into());
    let tcp = TcpStream::connect(address).await.unwrap();
    let connected = tls.connect(ServerName::try_from(name).unwrap(), tcp).await;
    let mut stream = connected.map_err(|error| explain(&error))?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    stream.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    Ok(answer)
}

async fn ask_plainly(address: SocketAddr, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_client() {
    let files = Files::new();
    let pair = files.issue("a.example");
    let identity = Identity::load(&pair).unwrap();
    let door = Door::new("test", Some(identity.clone()), HTTP);
    let address = echo(door.clone()).await;
    let trust = files.trust();
    assert_eq!(ask(address, &trust, "a.example").await.unwrap(), b"hello");
    assert!(identity.stage(&pair).unwrap().is_none());

    files.issue("b.example");
    let staged = identity.stage(&pair).unwrap().unwrap();
    assert_eq!(ask(address, &trust, "a.example").await.unwrap(), b"hello");
    identity.take(staged);
    assert_eq!(ask(address, &trust, "b.example").await.unwrap(), b"hello");
    assert_eq!(door.failures(), 0);
    let error = ask(address, &trust, "a.example").await.unwrap_err();
    assert_eq!(error, "its certificate is not for `a.example`");
    let stranger = Files::new().trust();
    let error = ask(address, &stranger, "b.example").await.unwrap_err();
    assert!(error.starts_with("no authority"), "{error}");
}

#[tokio::test]
async fn an_authority_can_be_replaced() {
    let (old, new) = (Files::new(), Files::new());
    let identity = Identity::load(&new.issue("a.example")).unwrap();
    let address = echo(Door::new("test", Some(identity), HTTP)).await;
    let trust = old.trust();
    assert!(ask(address, &trust, "a.example").await.is_err());
    let roots = trust.roots();
    assert!(trust.stage(&roots).unwrap().is_none());
    fs::write(old.path("ca.pem"), new.authority.pem()).unwrap();
    trust.take(trust.stage(&roots).unwrap().unwrap());
    assert_eq!(ask(address, &trust, "a.example").await.unwrap(), b"hello");
}

#[tokio::test]
async fn whoever_is_believed_no_more_does_not_get_by_on_an_old_session() {
    let (old, new) = (Files::new(), Files::new());
    let identity = Identity::load(&old.issue("a.example")).unwrap();
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    for version in versions {
        let address = echo(Door::new("test", Some(identity.clone()), HTTP)).await;
        let trust = old.trust();
        let with_version = ClientConfig::builder_with_provider(super::provider())
            .with_protocol_versions(&[version])
            .unwrap();
        let mut config = with_version
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(trust.clone()))
            .with_no_client_auth();
        let usual = trust.client_config(HTTP);
        config.alpn_protocols = usual.alpn_protocols;
        config.resumption = usual.resumption;
        let config = Arc::new(config);
        for _ in 0..2 {
            let answer = ask_by(address, Arc::clone(&config), "a.example").await;
            assert_eq!(answer.unwrap(), b"hello");
        }
        fs::write(new.path("ca.pem"), new.authority.pem()).unwrap();
        let roots = Roots::Only(new.path("ca.pem"));
        trust.take(trust.stage(&roots).unwrap().unwrap());
        let refused = ask_by(address, config, "a.example").await;
        assert!(refused.is_err(), "{version:?}: {refused:?}");
    }
}

#[tokio::test]
async fn a_twin_believes_the_same_until_it_is_told_otherwise() {
    let (old, new) = (Files::new(), Files::new());
    let identity = Identity::load(&old.issue("a.example")).unwrap();
    let address = echo(Door::new("test", Some(identity), HTTP)).await;
    let trust = old.trust();
    let twin = trust.twin();
    assert_eq!(twin.roots(), trust.roots());
    fs::write(new.path("ca.pem"), new.authority.pem()).unwrap();
    let roots = Roots::Only(new.path("ca.pem"));
    twin.take(twin.stage(&roots).unwrap().unwrap());
    assert!(ask(address, &twin, "a.example").await.is_err());
    assert_eq!(ask(address, &trust, "a.example").await.unwrap(), b"hello");
}

#[tokio::test]
async fn plaintext_to_a_tls_port_is_told_in_its_own_language() {
    let files = Files::new();
    let identity = Identity::load(&files.issue("a.example")).unwrap();
    let door = Door::new("test", Some(identity), HTTP);
    let address = echo(door.clone()).await;
    let answer = ask_plainly(address, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert!(body.contains("https://"), "{answer}");
    assert!(answer.contains(&format!("content-length: {}\r\n", body.len())));

    // A frame's length, type and stream are nine bytes.
    let answer = ask_plainly(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let (settings, farewell) = answer.split_at(9);
    assert_eq!(settings, b"\0\0\0\x04\0\0\0\0\0");
    assert_eq!(farewell[2] as usize, farewell.len() - 9);
    assert_eq!(farewell[3..9], *b"\x07\0\0\0\0\0");
    assert_eq!(farewell[9..17], *b"\0\0\0\0\0\0\0\x0c");
    assert!(farewell[17..].ends_with(b"https://"));
    assert_eq!(door.failures(), 2);
}

#[tokio::test]
async fn tls_to_a_plaintext_port_is_noticed_on_both_sides() {
    let door = Door::plain("test");
    let address = echo(door.clone()).await;
    let error = ask(address, &Files::new().trust(), "a.example").await;
    // What it sent comes back, which is no server's word.
    assert!(error.is_err());
    assert_eq!(door.failures(), 1);
    assert_eq!(ask_plainly(address, b"hello").await, b"hello");
    assert_eq!(door.failures(), 1);
    let kind = std::io::Error::new(
        ErrorKind::InvalidData,
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
    );
    assert!(explain(&kind).contains("does not speak TLS"));
}

#[tokio::test]
async fn whoever_does_not_get_through_the_handshake_is_let_go() {
    let files = Files::new();
    let identity = Identity::load(&files.issue("a.example")).unwrap();
    let address = echo(Door::new("test", Some(identity), HTTP).impatient()).await;
    for start in [&b""[..], b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(start).await.unwrap();
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0);
    }
}

#[test]
fn files_are_refused_with_name_and_rule() {
    let files = Files::new();
    let pair = files.issue("a.example");
    assert!(Identity::load(&pair).is_ok());
    let key = fs::read_to_string(&pair.key).unwrap();
    let with = |name: &str, error: String, rule: &str| {
        assert!(error.contains(name) && error.contains(rule), "{error}");
    };
    files.write_key(&key, 0o644);
    with("key.pem", refusal(&pair), "(mode 0644): make it 0600");
    files.write_key(&key, 0o640);
    assert!(Identity::load(&pair).is_ok());
    files.write_key("no key", 0o600);
    with("key.pem", refusal(&pair), "must hold a private key in PEM");
    files.write_key(&KeyPair::generate().unwrap().serialize_pem(), 0o600);
    with(
        "key.pem",
        refusal(&pair),
        "must be that of the first certificate",
    );
    fs::write(&pair.cert, "").unwrap();
    with(
        "cert.pem",
        refusal(&pair),
        "must hold a chain of certificates",
    );
    fs::remove_file(&pair.cert).unwrap();
    with("cert.pem", refusal(&pair), "No such file");

    let roots = Roots::Only(pair.key.clone());
    let error = Trust::load(&roots).unwrap_err().to_string();
    with("key.pem", error, "must hold certificates of authorities");
    let roots = Roots::PlatformAnd(Path::new("/dev/zero").into());
    let error = Trust::load(&roots).unwrap_err().to_string();
    with("/dev/zero", error, "not a regular file");
}
