//! HTTP/2 towards endpoints, where a cluster asks for it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http_body_util::Full;
use hyper::{Request, Response, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use qcc_proto::v1::{Cluster, ClusterPolicy, UpdateClusterRequest, UpstreamProtocol};
use qcc_tests::Testbed;
use tokio::net::TcpListener;

/// An endpoint that speaks what is spoken to it, and says what it was.
struct Polyglot {
    url: String,
    /// Of each connection, and each request on it.
    heard: Arc<Mutex<Vec<Vec<Version>>>>,
}

impl Polyglot {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(listen(listener, Arc::clone(&heard)));
        Self { url, heard }
    }

    fn heard(&self) -> Vec<Vec<Version>> {
        self.heard.lock().expect("no panic").clone()
    }
}

async fn listen(listener: TcpListener, heard: Arc<Mutex<Vec<Vec<Version>>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let heard = Arc::clone(&heard);
        let number = {
            let mut heard = heard.lock().expect("no panic");
            heard.push(Vec::new());
            heard.len() - 1
        };
        let serve = service_fn(move |request: Request<Incoming>| {
            heard.lock().expect("no panic")[number].push(request.version());
            async { Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("ok")))) }
        });
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}

async fn speak(testbed: &Testbed, protocol: UpstreamProtocol) {
    let request = UpdateClusterRequest {
        cluster: Some(Cluster {
            name: "default".to_owned(),
            policy: Some(ClusterPolicy {
                upstream_protocol: protocol.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["policy.upstream_protocol".to_owned()],
        }),
        ..Default::default()
    };
    let updated = testbed.control().clusters().update_cluster(request).await;
    let cluster = updated.expect("it can be set").into_inner().cluster;
    let policy = cluster.and_then(|it| it.policy).expect("a policy");
    assert_eq!(policy.upstream_protocol(), protocol);
    let view = testbed.control().view().await;
    testbed.proxy(0).settled(view).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_decides_what_its_endpoints_hear_from_the_next_request_on() {
    let polyglot = Polyglot::start().await;
    let testbed = Testbed::start()
        .endpoint("a", |endpoint| endpoint.base_url.clone_from(&polyglot.url))
        .unchecked()
        .proxies(1)
        .await;
    let proxy = testbed.proxy(0);
    for protocol in [
        UpstreamProtocol::Unspecified,
        UpstreamProtocol::Http2,
        UpstreamProtocol::Auto, // There is no TLS to choose by.
    ] {
        if protocol != UpstreamProtocol::Unspecified {
            speak(&testbed, protocol).await;
        }
        proxy.message().await.expect_status(200);
        proxy.message().await.expect_status(200);
    }
    proxy.messages(20).expect_all(200).await;
    let heard = polyglot.heard();
    assert_eq!(heard[0], [Version::HTTP_11; 2]);
    assert_eq!(heard[1], [Version::HTTP_2; 2]);
    assert_eq!(heard[2][..2], [Version::HTTP_11; 2]);

    speak(&testbed, UpstreamProtocol::Http2).await;
    let before = polyglot.heard().len();
    proxy.messages(20).expect_all(200).await;
    let heard = polyglot.heard();
    assert_eq!(heard[before..], [[Version::HTTP_2; 20]], "{heard:?}");
}
