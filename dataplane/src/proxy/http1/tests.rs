use std::{convert::Infallible, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{Ping, PingPong, SendStream};
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use qcc_proto::{upstream::credential_header, v1::CredentialScheme};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::{downstream::tests::chunked_body, *};
use crate::{
    proxy::{fields_of, message::RequestHead, outgoing::Outgoing, reply::Shape, upload::Fault},
    routing::Endpoint,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn endpoint() -> (TcpListener, Arc<Pool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tls = crate::proxy::upstream::tls(&qcc_proto::tls::Trust::nobody());
    let connector = Connector::new(tls, Duration::from_secs(5));
    let pool = Pool::new(&url.parse().unwrap(), connector, LIMITS);
    (listener, Arc::new(pool))
}

const LIMITS: Limits = Limits {
    fields_max: 16,
    head_bytes_max: 8 << 10,
};

fn asked() -> Outgoing {
    Outgoing {
        head: Box::new(RequestHead {
            method: Method::POST,
            target: Uri::from_static("/v1/messages?beta=true"),
            ..RequestHead::default()
        }),
        has_length: true,
        shape: Shape::Anthropic,
    }
}

fn asked_of() -> Endpoint {
    Endpoint {
        name: Arc::from("e0"),
        base_url: Uri::from_static("http://127.0.0.1:1/base/"),
        credential: None,
        first_byte_timeout: Duration::from_secs(1),
        generation: 1,
    }
}

/// Sends a request and waits for the head of its answer.
async fn ask(pool: &Arc<Pool>, upload: Upload, progress: &Progress) -> Result<Inbound, Failed> {
    let (asked, endpoint) = (asked(), asked_of());
    let answer = pool.send(&asked.to(&endpoint)?, upload, progress).await?;
    Ok(answer.body)
}

/// Sends a request and reads its answer.
async fn exchange(pool: &Arc<Pool>) -> Result<(), Failed> {
    let (upload, progress) = Upload::whole("body".into(), None, Instant::now());
    let mut answer = ask(pool, upload, &progress).await?;
    assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
    assert!(answer.is_end());
    Ok(())
}

async fn answer(peer: &mut TcpStream) {
    let mut request = [0; 1024];
    let mut length = 0;
    while !request[..length].ends_with(b"\r\n\r\nbody") {
        length += peer.read(&mut request[length..]).await.unwrap();
    }
    peer.write_all(ANSWER).await.unwrap();
}

async fn serve_one(listener: &TcpListener) -> TcpStream {
    let mut peer = listener.accept().await.unwrap().0;
    answer(&mut peer).await;
    peer
}

#[tokio::test]
async fn a_connection_is_used_again_after_the_end_of_its_answer() {
    let (listener, pool) = endpoint().await;
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        answer(&mut peer).await;
        answer(&mut peer).await;
        peer
    };
    let ask = async {
        exchange(&pool).await.unwrap();
        exchange(&pool).await.unwrap();
    };
    let (_peer, ()) = tokio::join!(serve, ask);
    assert_eq!(pool.idle().len(), 1);
}

#[tokio::test]
async fn an_upload_that_nobody_reads_does_not_outlive_its_answer_for_long() {
    let (listener, mut pool) = endpoint().await;
    Arc::get_mut(&mut pool).unwrap().sent_on_for = Duration::ZERO;
    let (upload, progress) = Upload::whole(vec![0; 64 << 20].into(), None, Instant::now());
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        peer.write_all(ANSWER).await.unwrap();
        peer
    };
    let (_peer, answer) = tokio::join!(serve, ask(&pool, upload, &progress));
    let mut answer = answer.unwrap();
    assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
    drop(answer);
    let dropped = async {
        while Arc::strong_count(&progress) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), dropped).await.unwrap();
    assert!(pool.idle().is_empty());
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_is_not_used() {
    let (listener, pool) = endpoint().await;
    let serve = async {
        drop(serve_one(&listener).await);
        serve_one(&listener).await
    };
    let ask = async {
        exchange(&pool).await.unwrap();
        exchange(&pool).await.unwrap();
    };
    let (_peer, ()) = tokio::join!(serve, ask);
    assert_eq!(pool.idle().len(), 1);
}

#[tokio::test]
async fn a_reset_of_an_idle_connection_is_nobodys_failure() {
    let (listener, pool) = endpoint().await;
    let (peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
    asked.unwrap();
    peer.set_zero_linger().unwrap();
    drop(peer);
    // What came later has come, but the runtime has had no time to tell of either.
    let _later = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let serve = async {
        drop(listener.accept().await.unwrap());
        serve_one(&listener).await
    };
    let (_peer, asked) = tokio::join!(serve, exchange(&pool));
    asked.unwrap(); // Nothing of the request had been sent.
}

#[tokio::test]
async fn where_one_has_ended_those_that_were_idle_for_longer_are_not_tried() {
    let (listener, pool) = endpoint().await;
    let ask = async {
        let (one, other) = tokio::join!(exchange(&pool), exchange(&pool));
        one.and(other).unwrap();
    };
    let serve = async { (serve_one(&listener).await, serve_one(&listener).await) };
    let (_peers, ()) = tokio::join!(serve, ask);
    let [older, newer] = [0, 1].map(|at| pool.idle()[at].since);
    pool.forget(older);
    assert_eq!(pool.idle().len(), 1, "one that was used later is left");
    pool.forget(newer);
    assert!(pool.idle().is_empty());
}

#[tokio::test]
async fn idle_connections_are_swept_when_they_are_old_or_closed() {
    let (listener, pool) = endpoint().await;
    let (peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
    asked.unwrap();
    let now = Instant::now();
    pool.sweep(now);
    assert_eq!(pool.idle().len(), 1);
    drop(peer);
    while !pool.idle().is_empty() {
        tokio::task::yield_now().await; // Until the kernel has told us.
        pool.sweep(now);
    }

    let (_peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
    asked.unwrap();
    pool.sweep(Instant::now() + IDLE_TIMEOUT);
    assert!(pool.idle().is_empty());
}

/// What a peer has read when the request has come whole.
async fn read_until(peer: &mut TcpStream, end: &[u8]) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        assert_ne!(peer.read_buf(&mut read).await.unwrap(), 0);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn a_request_is_written_as_it_came_with_one_credential() {
    let (listener, pool) = endpoint().await;
    let mut asked = asked();
    asked.head.fields = fields_of(&[
        ("X-Api-Key", "client's"),
        ("Anthropic-Beta", "a"),
        ("cookie", "client's"),
        ("accept", "*/*"),
        ("anthropic-beta", "b"),
        ("authorization", "client's"),
    ]);
    let mut endpoint = asked_of();
    endpoint.credential = credential_header(CredentialScheme::XApiKey, "ours").ok();
    let (upload, progress) = Upload::whole("body".into(), None, Instant::now());
    let call = asked.to(&endpoint).unwrap();
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        let read = read_until(&mut peer, b"body").await;
        peer.write_all(ANSWER).await.unwrap();
        read
    };
    let (read, answer) = tokio::join!(serve, pool.send(&call, upload, &progress));
    answer.unwrap();
    let host = listener.local_addr().unwrap();
    let lines: Vec<_> = read.split("\r\n").collect();
    assert_eq!(
        lines,
        [
            "POST /base/v1/messages?beta=true HTTP/1.1",
            &format!("host: {host}"),
            "Anthropic-Beta: a",
            "accept: */*",
            "anthropic-beta: b",
            "x-api-key: ours",
            "content-length: 4",
            "",
            "body"
        ]
    );
}

/// A client's body whose pieces come as the test says.
async fn coming() -> (TcpStream, Upload, Arc<Progress>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let client = client.unwrap();
    let body = Inbound::of_client(chunked_body(accepted.unwrap().0));
    let (upload, progress) = Upload::streamed("start".into(), body, None, Instant::now());
    (client, upload, progress)
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_out_as_it_comes() {
    let (listener, pool) = endpoint().await;
    let (mut client, upload, progress) = coming().await;
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        let read = read_until(&mut peer, b"5\r\nstart\r\n").await;
        assert!(
            read.contains("\r\ntransfer-encoding: chunked\r\n"),
            "{read}"
        );
        client.write_all(b"4\r\nmore\r\n").await.unwrap();
        assert_eq!(read_until(&mut peer, b"more\r\n").await, "4\r\nmore\r\n");
        client.write_all(b"0\r\n\r\n").await.unwrap();
        assert_eq!(read_until(&mut peer, b"0\r\n\r\n").await, "0\r\n\r\n");
        peer.write_all(ANSWER).await.unwrap();
        peer
    };
    let (_peer, answer) = tokio::join!(serve, ask(&pool, upload, &progress));
    let mut answer = answer.unwrap();
    assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
    drop(answer);
    assert_eq!(pool.idle().len(), 1);
}

#[tokio::test]
async fn an_answer_is_read_while_its_request_is_still_coming() {
    let (listener, pool) = endpoint().await;
    let (mut client, upload, progress) = coming().await;
    let (mut peer, answer) = tokio::join!(
        async {
            let mut peer = listener.accept().await.unwrap().0;
            read_until(&mut peer, b"start\r\n").await;
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            peer.write_all(head).await.unwrap();
            peer
        },
        ask(&pool, upload, &progress)
    );
    let mut answer = answer.unwrap();
    for word in ["one", "two"] {
        client
            .write_all(format!("3\r\n{word}\r\n").as_bytes())
            .await
            .unwrap();
        let chunk = read_until(&mut peer, format!("{word}\r\n").as_bytes()).await;
        peer.write_all(chunk.as_bytes()).await.unwrap(); // An echo.
        assert_eq!(answer.data().await.unwrap().unwrap(), word);
    }
    // Nobody wants the rest of the answer: then nobody sends the rest of the request.
    drop(answer);
    assert_eq!(peer.read(&mut [0; 16]).await.unwrap_or(0), 0);
    assert!(pool.idle().is_empty());
}

#[tokio::test]
async fn a_cut_answer_is_no_ended_one_while_its_request_is_still_coming() {
    let (listener, pool) = endpoint().await;
    let (_client, upload, progress) = coming().await;
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        read_until(&mut peer, b"start\r\n").await;
        let sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
        peer.write_all(sent).await.unwrap();
    };
    let ((), answer) = tokio::join!(serve, ask(&pool, upload, &progress));
    let mut answer = answer.unwrap();
    assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
    answer.data().await.unwrap().unwrap_err();
    assert!(!answer.is_end());
}

/// A client's body over HTTP/2, which it sends itself, and may ask whether it has come.
async fn coming_over_http2() -> (SendStream<Bytes>, PingPong, Upload, Arc<Progress>) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (sender, mut bodies) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            sender.send(request.into_body()).await.unwrap();
            std::future::pending::<Result<http::Response<String>, Infallible>>().await
        }
    });
    let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(ours), service));
    let (requests, mut connection) = h2::client::handshake(theirs).await.unwrap();
    let pings = connection.ping_pong().unwrap();
    tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    let request = Request::post("http://a/").body(()).unwrap();
    let (answer, mut client) = requests.send_request(request, false).unwrap();
    tokio::spawn(answer);
    client.send_data("start".into(), false).unwrap();
    let mut body = Inbound::of_shared_client(bodies.recv().await.unwrap());
    let start = body.data().await.unwrap().unwrap();
    let (upload, progress) = Upload::streamed(start, body, None, Instant::now());
    (client, pings, upload, progress)
}

#[tokio::test]
async fn an_empty_piece_of_a_body_holds_nothing_up() {
    let (listener, pool) = endpoint().await;
    let (mut client, mut pings, upload, progress) = coming_over_http2().await;
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        read_until(&mut peer, b"5\r\nstart\r\n").await;
        client.send_data("".into(), false).unwrap();
        // It comes alone. The first ping may overtake it.
        for _ in 0..2 {
            pings.ping(Ping::opaque()).await.unwrap();
        }
        client.send_data("more".into(), false).unwrap();
        assert_eq!(read_until(&mut peer, b"more\r\n").await, "4\r\nmore\r\n");
        client.send_data("".into(), true).unwrap();
        assert_eq!(read_until(&mut peer, b"0\r\n\r\n").await, "0\r\n\r\n");
        peer.write_all(ANSWER).await.unwrap();
        peer
    };
    let asking = async { tokio::join!(serve, ask(&pool, upload, &progress)).1 };
    let answer = timeout(Duration::from_secs(10), asking).await;
    answer.expect("the rest of the body is sent").unwrap();
}

#[tokio::test]
async fn no_more_is_taken_of_a_body_than_its_peer_takes() {
    let (listener, pool) = endpoint().await;
    let (mut client, upload, progress) = coming().await;
    let piece = [b"1000\r\n", &[b'x'; 4096][..], b"\r\n"].concat();
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        read_until(&mut peer, b"start\r\n").await;
        tokio::spawn(async move { while client.write_all(&piece).await.is_ok() {} });
        // Nobody reads: at some time no more fits in, whatever else there is to do.
        let (mut state, mut rounds) = (progress.state(), 0);
        while rounds < 200 {
            let head = b"HTTP/1.1 103 Early Hints\r\n\r\n";
            peer.write_all(head).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            rounds = if progress.state() == state {
                rounds + 1
            } else {
                0
            };
            state = progress.state();
        }
    };
    let serve = timeout(Duration::from_secs(10), serve);
    tokio::select! {
        served = serve => served.expect("an end of what is taken"),
        answer = ask(&pool, upload, &progress) => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_sent_on_another_connection() {
    let (listener, pool) = endpoint().await;
    let (_peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
    asked.unwrap();
    let (client, mut upload, progress) = coming().await;
    let start = poll_fn(|cx| Pin::new(&mut upload).poll_frame(cx)).await;
    start.unwrap().unwrap();
    drop(client);
    let mut is_asked = false;
    let is_known = poll_fn(|cx| {
        if std::mem::replace(&mut is_asked, true) {
            return Poll::Ready(()); // Woken for what it has not looked at.
        }
        assert!(Pin::new(&mut upload).poll_frame(cx).is_pending());
        Poll::Pending
    });
    is_known.await;
    let broken = async {
        ask(&pool, upload, &progress).await.unwrap_err();
        assert_eq!(progress.fault(), Some(Fault::Broken));
    };
    tokio::select! {
        () = broken => {}
        _ = listener.accept() => panic!("nothing of it is for another connection"),
    }
}

#[tokio::test]
async fn a_connection_that_speaks_something_else_is_not_used_again() {
    let (listener, pool) = endpoint().await;
    let (upload, progress) = Upload::whole("body".into(), None, Instant::now());
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        read_until(&mut peer, b"body").await;
        let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        peer.write_all(head).await.unwrap();
        peer
    };
    let (_peer, answer) = tokio::join!(serve, ask(&pool, upload, &progress));
    drop(answer.unwrap());
    assert!(pool.idle().is_empty());
}

#[tokio::test]
async fn a_request_is_sent_on_after_an_answer_of_a_known_length() {
    let (listener, pool) = endpoint().await;
    let (mut client, upload, progress) = coming().await;
    let serve = async {
        let mut peer = listener.accept().await.unwrap().0;
        read_until(&mut peer, b"start\r\n").await;
        peer.write_all(ANSWER).await.unwrap();
        peer
    };
    let (mut peer, answer) = tokio::join!(serve, ask(&pool, upload, &progress));
    let mut answer = answer.unwrap();
    assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
    assert!(answer.is_end());
    drop(answer);
    client.write_all(b"4\r\nmore\r\n0\r\n\r\n").await.unwrap();
    let rest = read_until(&mut peer, b"0\r\n\r\n").await;
    assert_eq!(rest, "4\r\nmore\r\n0\r\n\r\n");
}

/// What hyper reads, if it reads all of it.
async fn read_by_hyper(bytes: &[u8]) -> Option<(u16, Vec<(String, Vec<u8>)>, Vec<u8>)> {
    let (ours, mut its) = tokio::io::duplex(64 << 10);
    let (mut requests, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
    let serve = async {
        its.read_buf(&mut Vec::new()).await.unwrap();
        its.write_all(bytes).await.unwrap();
        drop(its);
    };
    let ask = async {
        let request = Request::get("/").body(String::new()).unwrap();
        let response = requests.send_request(request).await.ok()?;
        drop(requests);
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?.to_bytes().to_vec();
        let fields = head.headers.iter();
        let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        Some((head.status.as_u16(), fields.collect(), body))
    };
    tokio::join!(serve, ask, connection).1
}

/// Lines that heads are made of, in all their variety.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("content-length: 5\r\n".to_owned()),
        Just("Content-Length: 5, 5\r\n".to_owned()),
        Just("transfer-encoding: chunked\r\n".to_owned()),
        Just("Transfer-Encoding: Chunked\r\n".to_owned()),
        Just("connection: close\r\n".to_owned()),
        Just("x: y\n".to_owned()),
        "[a-z-]{1,8}:[ \t]{0,2}[ -~]{0,12}\r\n",
        "(content-length|transfer-encoding):[ -~]{0,6}\r\n",
        "[ -~]{0,12}\r?\n",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Whatever is taken for a whole answer is the same answer to somebody else.
    #[test]
    fn hyper_reads_the_same(
        status in prop_oneof![Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.0 200 OK\r\n"), Just("HTTP/1.1 204 \r\n"), Just("HTTP/1.1 103 X\r\n\r\nHTTP/1.1 404 X\r\n")],
        lines in prop::collection::vec(line(), 0..5),
        body in prop_oneof!["5\r\nhello\r\n0\r\n\r\n", "[0-5][ ;\r\n][a-f\r\n]{0,9}0\r\n(x: y\r\n)?\r\n", "[a-f0-9\r\n]{0,12}"],
    ) {
        let bytes = [status, &lines.concat(), "\r\n", &body].concat().into_bytes();
        let ours = reading::read([&*bytes], false).ok().flatten().filter(|it| it.is_whole);
        if let Some(ours) = ours {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let Some((status, mut fields, body)) = runtime.block_on(read_by_hyper(&bytes)) else {
                let text = String::from_utf8_lossy(&bytes);
                return Err(TestCaseError::fail(format!("hyper refuses {text:?}")));
            };
            prop_assert_eq!(status, ours.status);
            prop_assert_eq!(body, ours.body);
            // It leaves a length as it came.
            let is_length = |(name, _): &(String, Vec<u8>)| name == "content-length";
            fields.retain(|field| !is_length(field));
            let others: Vec<_> = ours.fields.into_iter().filter(|it| !is_length(it)).collect();
            prop_assert_eq!(fields, others);
        }
    }
}
