//! Endpoints that speak HTTP/2: requests share connections, and share no blame.

use std::{
    future::{pending, poll_fn},
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, Connection, SendResponse},
};
use http::{Request, Response};
use qcc_proto::{
    tls::{Roots, Trust},
    v1::OutcomeClass as Class,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{bodies::post, harness::*};
use crate::routing::UpstreamProtocol;

/// A request, and the way back.
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// What an endpoint does with each of its connections, the nth of them.
async fn peer<F>(talk: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let number = AtomicUsize::new(0);
    Upstream::raw(move |stream| talk(number.fetch_add(1, SeqCst), stream)).await
}

/// An endpoint that does this with each request, each in a task of its own.
async fn each<F>(serve: impl Fn(Asked) -> F + Clone + Send + Sync + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    peer(move |_, stream| go_on(stream, serve.clone())).await
}

async fn go_on<F>(stream: TcpStream, serve: impl Fn(Asked) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let connection = server::handshake(stream).await;
    serve_all(connection.unwrap(), serve).await;
}

async fn serve_all<S, F>(mut connection: Connection<S, Bytes>, serve: impl Fn(Asked) -> F)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    F: Future<Output = ()> + Send + 'static,
{
    while let Some(Ok(asked)) = connection.accept().await {
        tokio::spawn(serve(asked));
    }
}

async fn ok((_, mut respond): Asked) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("ok".into(), true).unwrap();
}

/// Begins a stream of events.
fn events(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let head = Response::builder().header("content-type", "text/event-stream");
    respond
        .send_response(head.body(()).unwrap(), false)
        .unwrap()
}

fn http2(options: &mut Options) {
    options.policy.upstream_protocol = UpstreamProtocol::Http2;
}

/// What was reported of the first endpoint.
fn of_first(reports: Vec<(String, Class)>) -> Vec<Class> {
    let reports = reports.into_iter().filter(|(name, _)| name == "e0");
    reports.map(|(_, class)| class).collect()
}

/// Sends so many requests at once, and waits for all answers.
async fn volley(proxy: &Proxy, count: usize) -> Vec<Answer> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let mut client = proxy.connect().await;
        client.write(POST).await;
        clients.spawn(async move { client.answer().await });
    }
    clients.join_all().await
}

#[tokio::test]
async fn a_request_goes_out_as_in_http_1() {
    let upstream = each(|(request, mut respond): Asked| async move {
        let (head, mut body) = request.into_parts();
        let key = head.headers.get("x-api-key").unwrap().to_str().unwrap();
        let text = format!(
            "{} {} {key}",
            head.method,
            head.uri.path_and_query().unwrap()
        );
        for gone in ["host", "authorization", "connection"] {
            assert!(!head.headers.contains_key(gone), "{gone}");
        }
        assert_eq!(head.headers["content-length"], "4");
        assert_eq!(body.data().await.unwrap().unwrap(), "{ok}");
        let mut sink = respond.send_response(Response::new(()), false).unwrap();
        sink.send_data(text.into(), false).unwrap();
        let trailers = [("x-last".parse().unwrap(), "1".parse().unwrap())];
        sink.send_trailers(trailers.into_iter().collect()).unwrap();
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    for _ in 0..3 {
        let got = proxy
            .send(POST.replace("messages", "messages?a=%20b"))
            .await;
        assert_eq!((got.status(), got.whole), (200, true));
        assert_eq!(got.text(), "POST /v1/messages?a=%20b sk-e0");
    }
    assert_eq!(upstream.connections(), 1);
    assert_eq!(of_first(proxy.reported(1).await)[0], Class::Success);
}

#[tokio::test]
async fn a_connection_that_breaks_under_ten_requests_is_one_failure() {
    let bad = peer(|_, stream| async move {
        let mut connection = server::handshake(stream).await.unwrap();
        let mut asked = Vec::new();
        while asked.len() < 10 {
            asked.push(connection.accept().await.unwrap().unwrap());
        }
    })
    .await;
    let good = each(ok).await;
    let proxy = Proxy::with(&[&bad, &good], http2).await;
    for got in volley(&proxy, 10).await {
        assert_eq!((got.status(), got.text()), (200, "ok"));
        assert_eq!(got.header("x-qcc-endpoint"), Some("e1"));
    }
    assert_eq!(bad.connections(), 1);
    let reports = proxy.reported(2).await;
    assert_eq!(of_first(reports), [Class::StreamBroken]);
}

#[tokio::test]
async fn answers_that_break_with_their_connection_are_one_failure() {
    let ended = Gate::new();
    let upstream = {
        let ended = ended.clone();
        peer(move |_, stream| {
            let ended = ended.clone();
            async move {
                let mut connection = server::handshake(stream).await.unwrap();
                let mut open = Vec::new();
                while open.len() < 5 {
                    let (_, mut respond) = connection.accept().await.unwrap().unwrap();
                    let mut body = events(&mut respond);
                    body.send_data("data: 1\n\n".into(), false).unwrap();
                    open.push(body);
                }
                tokio::select! {
                    _ = connection.accept() => {}
                    () = ended.opened() => {}
                }
            }
        })
        .await
    };
    let proxy = Proxy::with(&[&upstream], http2).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = proxy.connect().await;
        client.write(POST).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.reads("data: 1\n").await;
    }
    ended.open();
    for client in &mut clients {
        let got = client.answer().await;
        assert!(!got.whole);
        let body = String::from_utf8_lossy(&got.body);
        assert!(body.contains("event: error\n"), "{body}");
    }
    let reports = proxy.reported(1).await;
    assert_eq!(of_first(reports), [Class::StreamBroken]);
}

#[tokio::test]
async fn one_request_that_breaks_its_connections_is_suspect() {
    let (one, two) = (
        each_or_break(is_poison).await,
        each_or_break(is_poison).await,
    );
    let proxy = Proxy::with(&[&one, &two], http2).await;
    assert_eq!(proxy.post().await.text(), "ok");
    let got = proxy.send(POST.replace("messages", "poison")).await;
    assert_eq!(got.status(), 502);
    assert_eq!(proxy.counters.suspects.load(Relaxed), 1);
    let got = proxy.post().await;
    assert_eq!(got.header("x-qcc-endpoint"), Some("e0"));
    assert!(!of_first(proxy.reported(1).await).contains(&Class::StreamBroken));
}

#[tokio::test]
async fn one_that_breaks_a_connection_under_others_is_found_out_alone() {
    const BYSTANDERS: usize = 5;
    for first in [true, false] {
        let one = peer(|number, stream| async move {
            if number > 0 {
                return go_on_or_break(stream, is_poison).await;
            }
            let mut connection = server::handshake(stream).await.unwrap();
            let mut asked = Vec::new();
            while asked.len() <= BYSTANDERS {
                asked.push(connection.accept().await.unwrap().unwrap());
            }
        })
        .await;
        let two = each_or_break(is_poison).await;
        let proxy = Proxy::with(&[&one, &two], |options| {
            http2(options);
            options.policy.attempts_max = 2;
        })
        .await;
        let mut poison = proxy.connect().await;
        let poison_request = POST.replace("messages", "poison");
        if first {
            poison.write(&poison_request).await;
        }
        let mut clients = Vec::new();
        for _ in 0..BYSTANDERS {
            let mut client = proxy.connect().await;
            client.write(POST).await;
            clients.push(client);
        }
        if !first {
            poison.write(&poison_request).await;
        }
        for client in &mut clients {
            let got = client.answer().await;
            assert_eq!(
                (got.status(), got.header("x-qcc-attempts")),
                (200, Some("2"))
            );
        }
        assert_eq!(poison.answer().await.status(), 502);
        assert_eq!(proxy.counters.suspects.load(Relaxed), 1);
        let reports = proxy.reported(1).await;
        let failures = reports.iter().filter(|(_, class)| *class != Class::Success);
        let failures: Vec<_> = failures.map(|(name, class)| (&**name, *class)).collect();
        // It may have been the one that told of the first end.
        assert!(
            failures.is_empty() || failures == [("e0", Class::StreamBroken)],
            "{failures:?}"
        );
    }
}

fn is_poison(request: &Request<RecvStream>) -> bool {
    request.uri().path() == "/v1/poison"
}

async fn each_or_break(breaks: fn(&Request<RecvStream>) -> bool) -> Upstream {
    peer(move |_, stream| go_on_or_break(stream, breaks)).await
}

async fn go_on_or_break(stream: TcpStream, breaks: fn(&Request<RecvStream>) -> bool) {
    let mut connection = server::handshake(stream).await.unwrap();
    while let Some(Ok(asked)) = connection.accept().await {
        if breaks(&asked.0) {
            return;
        }
        tokio::spawn(ok(asked));
    }
}

#[tokio::test]
async fn a_goaway_below_a_request_is_nobodys_failure() {
    let upstream = peer(|number, stream| async move {
        match number {
            0 => raw::says_goodbye_to_its_first_request(stream).await,
            _ => go_on(stream, ok).await,
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    let got = proxy.post().await;
    assert_eq!((got.status(), got.text()), (200, "ok"));
    assert_eq!(got.header("x-qcc-attempts"), Some("1"));
    assert_eq!(upstream.connections(), 2);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
}

#[tokio::test]
async fn a_goaway_between_requests_is_not_noticed() {
    let said = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&said);
    let upstream = peer(move |_, stream| {
        let counted = Arc::clone(&counted);
        async move {
            let mut connection = server::handshake(stream).await.unwrap();
            let asked = connection.accept().await.unwrap().unwrap();
            ok(asked).await;
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
            counted.fetch_add(1, SeqCst);
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    for round in 1..4 {
        let got = proxy.post().await;
        assert_eq!(
            (got.status(), got.header("x-qcc-attempts")),
            (200, Some("1"))
        );
        eventually(|| said.load(SeqCst) == round).await;
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn what_is_refused_is_asked_once_more_and_then_counts() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let upstream = each(move |(_, mut respond): Asked| {
        let number = counted.fetch_add(1, SeqCst);
        async move {
            match number {
                1 => ok_to(respond),
                _ => respond.send_reset(Reason::REFUSED_STREAM),
            }
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| {
        http2(options);
        options.policy.attempts_max = 1;
    })
    .await;
    let got = proxy.post().await;
    assert_eq!(
        (got.status(), got.header("x-qcc-attempts")),
        (200, Some("1"))
    );
    assert_eq!(proxy.post().await.status(), 502);
    assert_eq!(asked.load(SeqCst), 4);
    let reports = of_first(proxy.reported(2).await);
    assert_eq!(reports, [Class::Success, Class::StreamBroken]);
}

fn ok_to(mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("ok".into(), true).unwrap();
}

#[tokio::test]
async fn a_full_connection_is_no_reason_to_wait() {
    let all = Arc::new(Barrier::new(7));
    let upstream = peer(move |_, stream| {
        let all = Arc::clone(&all);
        async move {
            let mut settings = server::Builder::new();
            let connection = settings.max_concurrent_streams(2).handshake(stream).await;
            let serve = |asked| {
                let all = Arc::clone(&all);
                async move {
                    all.wait().await; // Nobody is answered before all have asked.
                    ok(asked).await;
                }
            };
            serve_all(connection.unwrap(), serve).await;
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| {
        http2(options);
        options.first_byte_timeout = Duration::from_secs(60);
    })
    .await;
    for got in volley(&proxy, 7).await {
        assert_eq!(
            (got.status(), got.header("x-qcc-attempts")),
            (200, Some("1"))
        );
    }
    assert!(upstream.connections() >= 4);
    let reports = of_first(proxy.reported(1).await);
    assert!(reports.iter().all(|class| *class == Class::Success));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let upstream = each(|(request, mut respond): Asked| async move {
        if request.uri().path() != "/v1/long" {
            return ok((request, respond)).await;
        }
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        loop {
            body.reserve_capacity(1 << 20);
            let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await else {
                return; // The client has gone.
            };
            body.send_data(vec![b'x'; room].into(), false).unwrap();
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    let mut idlers = Vec::new();
    for _ in 0..20 {
        let mut client = proxy.connect().await;
        client.write(POST.replace("messages", "long")).await;
        client.reads("xxx").await;
        idlers.push(client);
    }
    for _ in 0..20 {
        assert_eq!(proxy.post().await.text(), "ok");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn events_pass_as_they_arrive() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = each(move |(_, mut respond): Asked| {
        let held = held.clone();
        async move {
            let mut body = events(&mut respond);
            body.send_data("data: {\"caf\u{e9}\":1}\r\n\r\n: ping\n".into(), false)
                .unwrap();
            held.opened().await;
            body.send_data("\ndata: [DONE]\n\n".into(), true).unwrap();
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads(": ping\n").await; // While the upstream holds the rest back.
    gate.open();
    let got = client.answer().await;
    assert!(got.whole);
    let expected = "data: {\"caf\u{e9}\":1}\r\n\r\n: ping\n\ndata: [DONE]\n\n";
    assert_eq!(got.text(), expected);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_visibly_and_spares_its_connection() {
    for reason in [Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::CANCEL] {
        let asked = Arc::new(AtomicUsize::new(0));
        let upstream = each(move |(request, mut respond): Asked| {
            let number = asked.fetch_add(1, SeqCst);
            async move {
                if number > 0 {
                    return ok((request, respond)).await;
                }
                let mut body = events(&mut respond);
                body.send_data("data: 1\n\n".into(), false).unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await; // A reset overtakes data.
                body.send_reset(reason);
            }
        })
        .await;
        let proxy = Proxy::with(&[&upstream], http2).await;
        let got = proxy.post().await;
        assert_eq!((got.status(), got.whole), (200, false));
        let body = String::from_utf8_lossy(&got.body);
        assert!(body.contains("event: error\ndata: {"), "{body}");
        assert_eq!(proxy.post().await.text(), "ok");
        assert_eq!(upstream.connections(), 1);
        let reports = of_first(proxy.reported(2).await);
        assert_eq!(reports, [Class::StreamBroken, Class::Success]);
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_its_stream_and_nothing_else() {
    let gone = Gate::new();
    let told = gone.clone();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let upstream = each(move |(request, mut respond): Asked| {
        let (number, told) = (counted.fetch_add(1, SeqCst), told.clone());
        async move {
            if number > 0 {
                return ok((request, respond)).await;
            }
            let reason = poll_fn(|cx| respond.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), Reason::CANCEL);
            told.open();
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    eventually(|| asked.load(SeqCst) == 1).await;
    drop(client);
    soon(gone.opened()).await;
    assert_eq!(proxy.post().await.text(), "ok");
    assert_eq!(upstream.connections(), 1);
    assert_eq!(proxy.reported(1).await, [("e0".into(), Class::Success)]);
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_noticed() {
    let silent = peer(|_, stream| async move {
        let mut connection = server::handshake(stream).await.unwrap();
        let mut asked = Vec::new();
        while asked.len() < 10 {
            asked.push(connection.accept().await);
        }
        pending::<()>().await; // From here on nobody looks at it, nor at its PINGs.
    })
    .await;
    let good = each(ok).await;
    let proxy = Proxy::with(&[&silent, &good], |options| {
        http2(options);
        options.settings.upstream_ping_interval = Duration::from_millis(200);
        options.first_byte_timeout = Duration::from_secs(60);
    })
    .await;
    for got in volley(&proxy, 10).await {
        assert_eq!((got.status(), got.text()), (200, "ok"));
    }
    assert_eq!(of_first(proxy.reported(2).await), [Class::StreamBroken]);
}

#[tokio::test]
async fn those_who_cannot_connect_are_one_failure() {
    let mut gone = each(ok).await;
    gone.stop().await;
    let not_http2 = Upstream::always(answer(200, "", "ok")).await;
    let good = each(ok).await;
    for (bad, class) in [(&gone, Class::Connect), (&not_http2, Class::ServerError)] {
        let proxy = Proxy::with(&[bad, &good], http2).await;
        let answers = volley(&proxy, 10).await;
        assert!(answers.iter().all(|got| got.status() == 200));
        let reports = of_first(proxy.reported(2).await);
        assert!(!reports.is_empty() && reports.len() < 10, "{reports:?}");
        assert!(reports.iter().all(|it| *it == class), "{reports:?}");
    }
}

#[tokio::test]
async fn a_long_body_arrives_whole_and_an_early_answer_is_the_answer() {
    const LONG: usize = 20 << 20;
    let upstream = each(|(request, mut respond): Asked| async move {
        if request.uri().path() == "/v1/early" {
            let head = Response::builder().status(413).body(()).unwrap();
            let mut sink = respond.send_response(head, false).unwrap();
            sink.send_data("too long".into(), true).unwrap();
            return; // What nobody reads is reset with NO_ERROR.
        }
        let mut body = request.into_body();
        let mut size = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            size += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let mut sink = respond.send_response(Response::new(()), false).unwrap();
        sink.send_data(size.to_string().into(), true).unwrap();
    })
    .await;
    for replay_max_bytes in [LONG, 10] {
        let proxy = Proxy::with(&[&upstream], |options| {
            http2(options);
            options.settings.replay_max_bytes = replay_max_bytes;
        })
        .await;
        let request = post(&vec![b'x'; LONG]);
        let got = proxy.send(&request).await;
        assert_eq!((got.status(), got.text()), (200, &*LONG.to_string()));
        let text = String::from_utf8(request).unwrap();
        let mut client = proxy.connect().await;
        client
            .try_write(text.replacen("/v1/messages", "/v1/early", 1))
            .await;
        let got = client.answer().await;
        assert_eq!((got.status(), got.text()), (413, "too long"));
    }
}

#[tokio::test]
async fn an_answer_that_is_not_as_long_as_it_says_is_broken() {
    let upstream = each(|(_, mut respond): Asked| async move {
        let head = Response::builder().header("content-length", "5");
        let mut sink = respond
            .send_response(head.body(()).unwrap(), false)
            .unwrap();
        sink.send_data("abc".into(), true).unwrap();
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    assert!(!proxy.post().await.whole);
    assert_eq!(of_first(proxy.reported(1).await), [Class::StreamBroken]);
}

#[tokio::test]
async fn heads_that_nobody_should_get_are_the_endpoints_fault() {
    let upstream = each(|(request, mut respond): Asked| async move {
        let early = Response::builder().status(103).body(()).unwrap();
        respond.send_informational(early).unwrap();
        let mut head = Response::builder();
        match request.uri().path() {
            "/v1/messages" => {}
            "/v1/999" => head = head.status(999),
            _ => {
                for number in 0..200 {
                    head = head.header(format!("x-{number}"), "1");
                }
            }
        }
        let head = head.body(()).unwrap();
        let mut sink = respond.send_response(head, false).unwrap();
        let _ = sink.send_data("ok".into(), true);
    })
    .await;
    let proxy = Proxy::with(&[&upstream], http2).await;
    assert_eq!(proxy.post().await.text(), "ok");
    for path in ["999", "fields"] {
        let got = proxy.send(POST.replace("messages", path)).await;
        assert_eq!(got.status(), 502, "{path}");
    }
    let reports = of_first(proxy.reported(3).await);
    let expected = [Class::Success, Class::ServerError, Class::ServerError];
    assert_eq!(reports, expected);
    assert_eq!(upstream.connections(), 1);
}

/// An endpoint with TLS that speaks these.
async fn secure(protocols: &'static [&'static str]) -> (Upstream, Trust, Arc<AtomicUsize>) {
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
    let over_http2 = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&over_http2);
    let upstream = peer(move |_, stream| {
        let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                counted.fetch_add(1, SeqCst);
                return serve_all(server::handshake(stream).await.unwrap(), ok).await;
            }
            let mut heard = [0; 1000];
            while matches!(stream.read(&mut heard).await, Ok(1..)) {
                let answer = b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, certificate.pem()).unwrap();
    (
        upstream,
        Trust::load(&Roots::Only(path)).unwrap(),
        over_http2,
    )
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
        let (upstream, trust, counted) = secure(protocols).await;
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
async fn without_tls_there_is_nothing_to_choose_by() {
    let upstream = Upstream::always(answer(200, "", "ok")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.policy.upstream_protocol = UpstreamProtocol::Auto;
    })
    .await;
    assert_eq!(proxy.post().await.text(), "ok");
    assert_eq!(upstream.connections(), 1);
}

/// What h2 does not do.
mod raw {
    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    /// Takes no request: says good-bye as if none had come.
    pub(super) async fn says_goodbye_to_its_first_request(mut stream: TcpStream) {
        stream.read_exact(&mut [0; 24]).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, &[])).await.unwrap();
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.unwrap();
            let answer = match (head[3], head[4]) {
                (SETTINGS, 0) => frame(SETTINGS, ACK, &[]),
                (PING, 0) => frame(PING, ACK, &payload),
                (HEADERS, _) => frame(GOAWAY, 0, &[0; 8]),
                (DATA, _) => continue,
                _ => continue,
            };
            stream.write_all(&answer).await.unwrap();
        }
    }
}
