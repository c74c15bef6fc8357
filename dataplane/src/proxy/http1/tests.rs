mod uploads;

use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use qcc_proto::{upstream::credential_header, v1::CredentialScheme};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::*;
use crate::{
    proxy::{fields_of, message::RequestHead, outgoing::Outgoing, reply::Shape},
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
