//! What breaks, and whose failure that is.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use h2::Reason;

use super::*;

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
