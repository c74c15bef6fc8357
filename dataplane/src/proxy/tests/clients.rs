//! What clients do beside asking: they wait to be told, send on, hang up, and do not wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use qcc_proto::v1::OutcomeClass as Class;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::harness::*;

const HEALTH: &str = "GET /__qcc__/health HTTP/1.1\r\nhost: a\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// `POST` to this path, with these fields and all that follows them.
fn post(path: &str, rest: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: a\r\n{rest}")
}

/// All that is said until the end of a connection.
async fn last_words(client: &mut Client) -> String {
    let mut heard = Vec::new();
    soon(client.stream.read_to_end(&mut heard)).await.unwrap();
    String::from_utf8(heard).unwrap()
}

#[tokio::test]
async fn who_waits_to_be_told_is_told_once() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    for (framing, body) in [
        ("content-length: 4\r\n", "{ok}"),
        ("content-length: 100000\r\n", &"#".repeat(100_000)),
        ("transfer-encoding: chunked\r\n", "4\r\n{ok}\r\n0\r\n\r\n"),
    ] {
        let mut client = proxy.connect().await;
        let fields = format!("connection: close\r\nexpect: 100-continue\r\n{framing}\r\n");
        client.write(post("/v1/messages", &fields)).await;
        let mut told = [0; CONTINUE.len()];
        soon(client.stream.read_exact(&mut told)).await.unwrap();
        assert_eq!(told, CONTINUE.as_bytes());
        let sent = upstream.requests().len();
        client.write(body).await;
        let heard = last_words(&mut client).await;
        assert!(heard.starts_with("HTTP/1.1 200 "), "{framing}: {heard}");
        assert!(!heard.contains("100 Continue"), "{framing}: {heard}");
        assert_eq!(upstream.requests().len(), sent + 1, "{framing}");
    }
}

#[tokio::test]
async fn who_need_not_be_told_is_not() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.body_max_bytes = Some(5);
    })
    .await;
    let waits = "connection: close\r\nexpect: 100-continue\r\ncontent-length: ";
    for (what, sent, later, status) in [
        (
            "it has not waited",
            post("/v1/messages", &format!("{waits}4\r\n\r\n{{o")),
            "k}",
            "200",
        ),
        (
            "there is nothing to wait for",
            post("/v1/messages", &format!("{waits}0\r\n\r\n")),
            "",
            "200",
        ),
        (
            "it would take that for the answer",
            format!("POST /v1/messages HTTP/1.0\r\n{waits}4\r\n\r\n"),
            "{ok}",
            "200",
        ),
        (
            "it is too long",
            post("/v1/messages", &format!("{waits}6\r\n\r\n")),
            "",
            "413",
        ),
        (
            "nobody wants it",
            post("/__qcc__/else", &format!("{waits}4\r\n\r\n")),
            "",
            "404",
        ),
    ] {
        let mut client = proxy.connect().await;
        client.write(sent).await;
        client.write(later).await;
        let heard = last_words(&mut client).await;
        let start = format!("HTTP/1.1 {status} ");
        assert!(heard.starts_with(&start), "{what}: {heard}");
        assert!(heard.contains("\r\nconnection: close\r\n"), "{what}");
    }
}

#[tokio::test]
async fn who_was_not_told_to_go_on_does_not_ask_again_there() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let fields = "expect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    client.write(post("/__qcc__/else", fields)).await;
    let got = client.answer().await;
    assert_eq!(
        (got.status(), got.header("connection")),
        (404, Some("close"))
    );
    // Nobody could tell whether this is the body.
    client.try_write(POST).await;
    assert!(client.is_closed().await);
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn who_sends_on_what_nobody_wants_hears_so_and_is_not_heard_for_long() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let fields = "content-length: 1000000000000\r\n\r\n";
    client.write(post("/__qcc__/else", fields)).await;
    let (mut from, mut to) = client.stream.split();
    let talking = async { while to.write_all(&[b'#'; 16 << 10]).await.is_ok() {} };
    let listening = async {
        let mut heard = Vec::new();
        while !String::from_utf8_lossy(&heard).contains("\r\n\r\n{") {
            assert_ne!(from.read_buf(&mut heard).await.unwrap(), 0);
        }
        String::from_utf8(heard).unwrap()
    };
    let ((), heard) = soon(async { tokio::join!(talking, listening) }).await;
    assert!(heard.starts_with("HTTP/1.1 404 "), "{heard}");
    assert!(heard.contains("\r\nconnection: close\r\n"), "{heard}");
    eventually(|| proxy.counters.connections.load(Relaxed) == 0).await;
}

#[tokio::test]
async fn who_does_not_close_a_refused_connection_does_not_keep_it() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client.write("nonsense\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 400);
    assert!(client.is_closed().await);
    eventually(|| proxy.counters.connections.load(Relaxed) == 0).await;
    drop(client);
}

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    Closed,
    Reset,
    /// It has said all that it will; nobody knows whether it still listens.
    Half,
}

const LEAVING: [Leaving; 3] = [Leaving::Closed, Leaving::Reset, Leaving::Half];

/// The connection, if it is still open for the client.
fn leave(client: Client, how: Leaving) -> Option<std::net::TcpStream> {
    let stream = client.stream.into_std().unwrap();
    match how {
        Leaving::Closed => return None,
        Leaving::Reset => {
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            stream.set_zero_linger().unwrap();
            return None;
        }
        Leaving::Half => stream.shutdown(std::net::Shutdown::Write).unwrap(),
    }
    Some(stream)
}

#[tokio::test]
async fn who_leaves_before_the_end_of_a_request_has_asked_for_nothing() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    for start in [
        "POST /v1/mess",
        "POST /v1/messages HTTP/1.1\r\nhost: a\r\n",
        &post("/v1/messages", "content-length: 4\r\n\r\n"),
        &post("/v1/messages", "content-length: 4\r\n\r\n{ok"),
        &post("/v1/messages", "content-length: 100000\r\n\r\n{ok"),
        &post("/v1/messages", "transfer-encoding: chunked\r\n\r\n"),
        &post(
            "/v1/messages",
            "transfer-encoding: chunked\r\n\r\n4\r\n{ok}\r\n",
        ),
        &[POST, "GET /v1/mod"].concat(),
    ] {
        for how in LEAVING {
            let answered = upstream.requests().len();
            let mut client = proxy.connect().await;
            client.write(start).await;
            let is_second = start.starts_with(POST);
            if is_second {
                assert_eq!(client.answer().await.status(), 200);
            }
            eventually(|| proxy.counters.connections.load(Relaxed) == 1).await;
            let open = leave(client, how);
            eventually(|| proxy.counters.connections.load(Relaxed) == 0).await;
            let seen = upstream.requests().len() - answered;
            assert_eq!(seen, usize::from(is_second), "{how:?}: {start:?}");
            drop(open);
        }
    }
    assert_eq!(proxy.counters.active.load(Relaxed), 0);
    assert!(proxy.reports().iter().all(|it| it.1 == Class::Success));
}

#[tokio::test]
async fn who_leaves_before_the_answer_takes_the_attempt_along_and_blames_nobody() {
    for how in LEAVING {
        for request in [
            POST,
            &post(
                "/v1/messages",
                "transfer-encoding: chunked\r\n\r\n4\r\n{ok}\r\n0\r\n\r\n",
            ),
        ] {
            let upstream = Upstream::always(vec![Step::Silence]).await;
            let proxy = Proxy::start(&[&upstream]).await;
            let mut client = proxy.connect().await;
            client.write(request).await;
            eventually(|| upstream.requests().len() == 1).await;
            let open = leave(client, how);
            upstream.sees_the_peer_leave().await;
            eventually(|| proxy.counters.connections.load(Relaxed) == 0).await;
            let blamed = proxy.reports().into_iter();
            let blamed = blamed.filter(|(_, class)| *class != Class::Cancelled);
            assert_eq!(blamed.count(), 0, "{how:?}");
            drop(open);
        }
    }
}

#[tokio::test]
async fn who_leaves_an_upload_takes_the_attempt_along_and_blames_nobody() {
    for how in LEAVING {
        let left = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&left);
        let upstream = Upstream::raw(move |mut stream| {
            let left = Arc::clone(&counted);
            async move {
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                left.fetch_add(1, Relaxed);
            }
        })
        .await;
        let proxy = Proxy::with(&[&upstream], |options| {
            options.settings.replay_max_bytes = 1000
        })
        .await;
        let mut client = proxy.connect().await;
        let start = format!("content-length: 100000\r\n\r\n{}", "#".repeat(50_000));
        client.write(post("/v1/messages", &start)).await;
        eventually(|| upstream.connections() == 1).await;
        let open = leave(client, how);
        eventually(|| left.load(Relaxed) == 1).await;
        eventually(|| proxy.counters.active.load(Relaxed) == 0).await;
        let blamed = proxy.reports().into_iter();
        let blamed = blamed.filter(|(_, class)| *class != Class::Cancelled);
        assert_eq!(blamed.count(), 0, "{how:?}");
        drop(open);
    }
}

#[tokio::test]
async fn who_asks_for_more_before_the_answer_is_served_after_it() {
    let gate = Gate::new();
    let first = gate.clone();
    let upstream = Upstream::start(move |number| match number {
        0 => vec![send(EVENTS), Step::Gate(first.clone()), send("0\r\n\r\n")],
        _ => answer(200, "", "second"),
    })
    .await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    client.reads("text/event-stream").await;
    client.write([HEALTH, POST].concat()).await;
    gate.open();
    assert_eq!(client.answer().await.text(), "");
    assert_eq!(client.answer().await.text(), "");
    assert_eq!(client.answer().await.text(), "second");
}

#[tokio::test]
async fn what_follows_a_request_that_is_the_last_is_not_served() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let old = "POST /v1/messages HTTP/1.0\r\ncontent-length: 4\r\n\r\n{ok}";
    let last = post(
        "/v1/messages",
        "connection: close\r\ncontent-length: 4\r\n\r\n{ok}",
    );
    for request in [old, &last] {
        let answered = upstream.requests().len();
        let mut client = proxy.connect().await;
        client.write([request, POST].concat()).await;
        let heard = last_words(&mut client).await;
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 1, "{heard}");
        assert!(heard.contains("\r\nconnection: close\r\n"), "{heard}");
        assert_eq!(upstream.requests().len(), answered + 1);
    }
}

#[tokio::test]
async fn who_uploads_on_after_the_answer_is_heard_to_the_end_and_served_again() {
    let uploaded = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&uploaded);
    let upstream = Upstream::raw(move |mut stream| {
        let uploaded = Arc::clone(&counted);
        async move {
            let _ = stream.read(&mut [0; 10]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            let mut buffer = [0; 1000];
            while let Ok(1..) = stream.read(&mut buffer).await {
                let count = buffer.iter().filter(|byte| **byte == b'#').count();
                uploaded.fetch_add(count, Relaxed);
                buffer.fill(0);
            }
        }
    })
    .await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.replay_max_bytes = 1000
    })
    .await;
    let chunks = [chunk(&"#".repeat(50_000)), chunk(&"#".repeat(50_000))];
    let bodies = [
        (
            "content-length: 100000\r\n",
            ["#".repeat(50_000), "#".repeat(50_000)],
        ),
        ("transfer-encoding: chunked\r\n", chunks),
    ];
    for (framing, [first, second]) in bodies {
        uploaded.store(0, Relaxed);
        let mut client = proxy.connect().await;
        let start = post("/v1/messages", &format!("{framing}\r\n{first}"));
        client.write(start).await;
        let got = client.answer().await;
        assert_eq!((got.text(), got.header("connection")), ("ok", None));
        client.write(second).await;
        if framing.starts_with("transfer") {
            client.write("0\r\n\r\n").await;
        }
        client.write(HEALTH).await; // Behind it, and no part of it.
        assert_eq!(client.answer().await.status(), 200, "{framing}");
        eventually(|| uploaded.load(Relaxed) == 100_000).await;
    }
}

#[tokio::test]
async fn who_speaks_http_1_0_is_answered_in_ways_that_it_knows() {
    let stream = vec![
        send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        send(chunk("first")),
        send(chunk("second")),
        send("0\r\n\r\n"),
    ];
    let upstream = Upstream::start(move |number| match number {
        0 => answer(200, "", "fine"),
        _ => stream.clone(),
    })
    .await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let request = "GET /v1/models HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n";
    client.write(request).await;
    let got = client.answer().await;
    assert_eq!(
        (got.text(), got.header("connection")),
        ("fine", Some("keep-alive"))
    );
    client.write(request).await;
    let heard = last_words(&mut client).await;
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(body, "firstsecond");
}

#[tokio::test]
async fn what_has_no_body_is_followed_by_the_next_answer() {
    let of_head = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n";
    let answers = [
        of_head,
        "HTTP/1.1 204 No\r\n\r\n",
        "HTTP/1.1 304 No\r\ncontent-length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ];
    let upstream = Upstream::start(move |number| vec![send(answers[number])]).await;
    let proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    let get = "GET /v1/models HTTP/1.1\r\nhost: a\r\n";
    let head = "HEAD /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";
    let refused = "HEAD /__qcc__/else HTTP/1.1\r\nhost: a\r\n\r\n";
    let requests = format!("{head}{refused}{get}\r\n{get}\r\n{get}connection: close\r\n\r\n");
    client.write(requests).await;
    let heard = last_words(&mut client).await;
    let heads: Vec<_> = heard.split("\r\n\r\n").collect();
    let statuses: Vec<_> = heads.iter().map(|it| it.get(9..12).unwrap_or(it)).collect();
    assert_eq!(
        statuses,
        ["200", "404", "204", "304", "200", "ok"],
        "{heard}"
    );
    let has_length: Vec<_> = heads
        .iter()
        .map(|it| it.contains("content-length"))
        .collect();
    assert_eq!(
        has_length,
        [true, true, false, true, true, false],
        "{heard}"
    );
}

#[tokio::test]
async fn when_the_proxy_stops_who_has_asked_is_answered_and_nobody_is_kept() {
    let gate = Gate::new();
    let first = gate.clone();
    let upstream = Upstream::start(move |_| {
        let mut steps = answer(200, "", "fine");
        steps.insert(0, Step::Gate(first.clone()));
        steps
    })
    .await;
    let mut proxy = Proxy::start(&[&upstream]).await;
    let [mut idle, mut silent, mut in_head, mut in_body, mut waiting] = [
        proxy.connect().await,
        proxy.connect().await,
        proxy.connect().await,
        proxy.connect().await,
        proxy.connect().await,
    ];
    idle.write(HEALTH).await;
    assert_eq!(idle.answer().await.status(), 200);
    in_head.write("POST /v1/mess").await;
    in_body.write(&POST[..POST.len() - 2]).await;
    waiting.write([POST, HEALTH].concat()).await;
    eventually(|| proxy.counters.active.load(Relaxed) == 2).await;
    eventually(|| upstream.requests().len() == 1).await;
    proxy.stop.cancel();
    for client in [&mut idle, &mut silent, &mut in_head] {
        assert_eq!(last_words(client).await, "");
    }
    in_body.write(&POST[POST.len() - 2..]).await;
    eventually(|| upstream.requests().len() == 2).await;
    gate.open();
    for client in [&mut in_body, &mut waiting] {
        let got = client.answer().await;
        assert_eq!(
            (got.status(), got.header("connection")),
            (200, Some("close"))
        );
        assert!(client.is_closed().await);
    }
    drop((in_body, waiting)); // They may still have something to say, but for so long only.
    soon(&mut proxy.serving).await.unwrap();
}

#[tokio::test]
async fn who_has_asked_again_before_hearing_that_its_connection_ends_is_not_reset() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let mut steps = answer(200, "", "fine");
        steps.insert(0, Step::Gate(held.clone()));
        steps
    })
    .await;
    let mut proxy = Proxy::start(&[&upstream]).await;
    let mut client = proxy.connect().await;
    client.write(POST).await;
    eventually(|| upstream.requests().len() == 1).await;
    proxy.stop.cancel();
    soon(async { while TcpStream::connect(proxy.address).await.is_ok() {} }).await;
    // Both have come before the proxy looks at either, and it looks for the answer first.
    gate.open();
    client.write(POST).await;
    let got = client.answer().await;
    let heard = (got.text(), got.header("connection"));
    assert_eq!(heard, ("fine", Some("close")));
    assert!(client.is_closed().await);
    // The kernel resets what is closed with something left to read.
    assert!(client.stream.take_error().unwrap().is_none());
    drop(client);
    soon(&mut proxy.serving).await.unwrap();
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn who_sends_nothing_but_empty_lines_is_idle() {
    let upstream = Upstream::always(answer(200, "", "fine")).await;
    let proxy = Proxy::with(&[&upstream], |options| {
        options.settings.client_idle_timeout = Duration::from_millis(100);
    })
    .await;
    let mut client = proxy.connect().await;
    client.write(HEALTH).await;
    assert_eq!(client.answer().await.status(), 200);
    let (mut from, mut to) = client.stream.split();
    let talking = async {
        while to.write_all(b"\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut unheard = Vec::new();
    let listening = from.read_to_end(&mut unheard);
    let _ = soon(async { tokio::join!(talking, listening) }).await;
    assert_eq!(proxy.counters.hits(crate::proxy::Limit::IdleTime), 1);
}
