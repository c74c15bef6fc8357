//! Bodies that are still coming while their request is being sent.

use std::{convert::Infallible, pin::Pin, task::Poll};

use bytes::Bytes;
use h2::{Ping, PingPong, SendStream};
use http_body::Body as _;
use hyper::{body::Incoming, service::service_fn};
use tokio::sync::mpsc;

use super::{super::downstream::tests::chunked_body, *};
use crate::proxy::upload::Fault;

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
