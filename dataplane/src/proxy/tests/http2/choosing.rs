//! Who chooses between HTTP/1.1 and HTTP/2, and how a connection with TLS ends.

use std::sync::Arc;

use qcc_proto::tls::{Roots, Trust};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;

/// An endpoint with TLS.
struct Secure {
    upstream: Upstream,
    /// Who vouches for it.
    trust: Trust,
    /// Connections over HTTP/2.
    over_http2: Arc<AtomicUsize>,
    /// Connections over HTTP/1.1 that ended as TLS has it.
    goodbyes: Arc<AtomicUsize>,
}

/// An endpoint with TLS that speaks these.
async fn secure(protocols: &'static [&'static str]) -> Secure {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (over_http2, goodbyes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (Arc::clone(&over_http2), Arc::clone(&goodbyes));
    let upstream = peer(move |_, stream| {
        let (acceptor, (over_http2, goodbyes)) = (acceptor.clone(), counts.clone());
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                over_http2.fetch_add(1, SeqCst);
                return serve_all(server::handshake(stream).await.unwrap(), ok).await;
            }
            let mut heard = [0; 1000];
            loop {
                match stream.read(&mut heard).await {
                    Ok(1..) => {}
                    Ok(0) => {
                        goodbyes.fetch_add(1, SeqCst);
                        return;
                    }
                    Err(_) => return, // Its end was not said.
                }
                let answer = b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, certificate.pem()).unwrap();
    Secure {
        upstream,
        trust: Trust::load(&Roots::Only(path)).unwrap(),
        over_http2,
        goodbyes,
    }
}

#[tokio::test]
async fn over_tls_the_endpoint_chooses() {
    for (protocols, wanted, connections, over_http2) in [
        (&["h2", "http/1.1"][..], UpstreamProtocol::Auto, 1, 1),
        (&["http/1.1"], UpstreamProtocol::Auto, 2, 0), // Asked once, then another for HTTP/1.1.
        (&[], UpstreamProtocol::Auto, 2, 0),
        (&["h2"], UpstreamProtocol::Http2, 1, 1),
        (&["h2", "http/1.1"], UpstreamProtocol::Http1, 1, 0),
    ] {
        let Secure {
            upstream,
            trust,
            over_http2: counted,
            ..
        } = secure(protocols).await;
        let proxy = Proxy::with(&[&upstream], |options| {
            options.scheme = "https";
            options.settings.upstream_trust = trust;
            options.policy.upstream_protocol = wanted;
        })
        .await;
        for _ in 0..3 {
            let got = proxy.post().await;
            assert_eq!((got.status(), got.text()), (200, "ok"), "{protocols:?}");
            assert_eq!(got.header("x-qcc-attempts"), Some("1"));
        }
        assert_eq!(upstream.connections(), connections, "{protocols:?}");
        assert_eq!(counted.load(SeqCst), over_http2, "{protocols:?}");
    }
}

#[tokio::test]
async fn a_connection_that_nobody_needs_any_more_ends_with_a_goodbye() {
    let Secure {
        upstream,
        trust,
        goodbyes,
        ..
    } = secure(&["http/1.1"]).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.scheme = "https";
        options.settings.upstream_trust = trust;
    })
    .await;
    assert_eq!(proxy.post().await.text(), "ok");
    assert_eq!(goodbyes.load(SeqCst), 0);
    drop(proxy);
    eventually(|| goodbyes.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn without_tls_there_is_nothing_to_choose_by() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.upstream_protocol = UpstreamProtocol::Auto;
    })
    .await;
    assert_eq!(proxy.post().await.text(), "ok");
    assert_eq!(upstream.connections(), 1);
}
