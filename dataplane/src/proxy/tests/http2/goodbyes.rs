//! What an endpoint says that it has not looked at, and what it says as it leaves.

use std::sync::Arc;

use h2::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

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
