//! Requests that share a connection, and leave each other room.

use std::{future::poll_fn, sync::Arc, time::Duration};

use h2::Reason;
use tokio::sync::Barrier;

use super::*;

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
