//! Clients that want no answer, but to be in the way of others.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use qcc_proto::v1::Timeouts;
use qcc_tests::{Answer, Testbed, eventually, metrics::Metrics, possible};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::story;

/// Connections without a request.
const IDLE: usize = 10_000;

/// Files that both ends of them need, each in its own process, and some more.
const FILES: u64 = 16_000;

/// What each may take of the proxy's memory. What is promised is less; this is not an
/// optimised build.
const IDLE_BYTES_MAX: u64 = 16 << 10;

/// Clients of each kind that send drop by drop.
const DRIPPING: usize = 100;

/// The pause between two drops.
const DROP: Duration = Duration::from_millis(50);

/// Clients that do not read, and what each of them asks for: more than systems keep for
/// a connection.
const DEAF: usize = 20;
const ANSWER_BYTES: usize = 16 << 20;

/// What the proxy may keep for each of those, whatever it is that waits.
const DEAF_BYTES_MAX: u64 = 1 << 20;

const HEALTH: &str = "GET /__qcc__/health HTTP/1.1\r\nhost: a\r\n\r\n";

/// Memory of a process that is in use, in bytes.
fn resident(process: Pid) -> u64 {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kibibytes = kibibytes.and_then(|text| text.parse::<u64>().ok());
    kibibytes.expect("a number") * 1024
}

/// The total time of a request that nobody is to meet, and of one that drips. Others,
/// who are not to meet it either, may wait while the machine is busy.
const PATIENT: Duration = Duration::from_secs(600);
const DRIPPED: Duration = Duration::from_secs(5);

/// A testbed with one endpoint, whose requests may take so long in all, and a proxy with
/// these flags.
async fn testbed(total: Duration, flags: &[&str]) -> Testbed {
    let total = total.try_into().expect("a few minutes");
    let mut testbed = Testbed::start()
        .patient_checks()
        .policy(move |policy| {
            policy.timeouts = Some(Timeouts {
                total: Some(total),
                ..Default::default()
            });
        })
        .endpoints(["a"])
        .await;
    let control = testbed.control().url();
    testbed.add_proxy_with(&[&control], flags).await;
    testbed
}

/// Waits until a series of the proxy has a value.
async fn counted(testbed: &Testbed, series: &str, wanted: usize) {
    let admin = testbed.proxy(0).admin_address();
    eventually(&format!("{series} is {wanted}"), async || {
        let value = Metrics::of(admin).await.value(series);
        match value == wanted as f64 {
            true => Ok(()),
            false => Err(value),
        }
    })
    .await;
}

pub(crate) fn ten_thousand_idle_connections_take_little_and_hold_nobody_up() {
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.unwrap_or(FILES).min(FILES);
    let needed = format!("{FILES} open files (ulimit -n)");
    if !possible(&needed, files == FILES, "ten thousand idle connections") {
        return;
    }
    let wished = Rlimit {
        current: Some(limit.current.unwrap_or(FILES).max(FILES)),
        ..limit
    };
    setrlimit(Resource::Nofile, wished).expect("it is within the maximum");
    story(async {
        // None of them is to be closed meanwhile.
        let testbed = testbed(
            PATIENT,
            &["--client-idle-timeout", "1h", "--header-read-timeout", "1h"],
        )
        .await;
        let proxy = testbed.proxy(0);
        proxy.message().await.expect_status(200);
        let before = resident(proxy.id());
        let mut crowd = Vec::with_capacity(IDLE);
        for number in 0..IDLE {
            let mut idle = TcpStream::connect(proxy.http_address())
                .await
                .expect("a place");
            if number % 2 == 0 {
                idle.write_all(HEALTH.as_bytes()).await.expect("it listens");
                let mut answer = [0; 12];
                idle.read_exact(&mut answer).await.expect("an answer");
                assert_eq!(&answer, b"HTTP/1.1 200");
            }
            crowd.push(idle);
        }
        let state = r#"qcc_proxy_connections{state="idle"}"#;
        counted(&testbed, state, IDLE).await;
        let growth = resident(proxy.id()) - before;
        assert!(
            growth < IDLE as u64 * IDLE_BYTES_MAX,
            "{growth} bytes for {IDLE} connections"
        );
        for _ in 0..10 {
            proxy.message().await.expect_status(200);
        }
        drop(crowd);
        counted(&testbed, state, 0).await;
        testbed.settled().await;
    });
}

/// Sends a start, then drops, until the connection ends.
async fn drip(proxy: SocketAddr, start: &'static str) {
    let mut stream = TcpStream::connect(proxy).await.expect("a place");
    stream
        .write_all(start.as_bytes())
        .await
        .expect("it listens");
    let mut answer = [0; 1024];
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            () = tokio::time::sleep(DROP) => {
                let _ = stream.write_all(b"x").await; // Reading tells when it has ended.
            }
        }
    }
}

pub(crate) fn heads_and_bodies_that_come_in_drops_end_and_hold_nobody_up() {
    story(async {
        let testbed = testbed(DRIPPED, &["--header-read-timeout", "1s"]).await;
        let proxy = testbed.proxy(0);
        let head = "POST /v1/messages HTTP/1.1\r\nhost: a\r\nx: ";
        let body = "POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n";
        let mut dripping = JoinSet::new();
        for _ in 0..DRIPPING {
            dripping.spawn(drip(proxy.http_address(), head));
            dripping.spawn(drip(proxy.http_address(), body));
        }
        let mut served = 0;
        while !dripping.is_empty() {
            while let Some(ended) = dripping.try_join_next() {
                ended.expect("no client fails");
            }
            proxy.message().await.expect_status(200);
            served += 1;
        }
        let limit = r#"qcc_proxy_limits_hit_total{limit="header_read_time"}"#;
        counted(&testbed, limit, DRIPPING).await;
        counted(&testbed, "qcc_proxy_buffered_bytes", 0).await;
        testbed.settled().await;
        assert_eq!(testbed.upstream("a").client_requests(), served);
        testbed.expect_every_outcome_once(&["a"]).await;
    });
}

pub(crate) fn clients_that_do_not_read_are_left_and_hold_nobody_up() {
    story(async {
        let testbed = testbed(PATIENT, &["--client-stall-timeout", "1s"]).await;
        let proxy = testbed.proxy(0);
        proxy.message().await.expect_status(200);
        let before = resident(proxy.id());
        let long = Bytes::from(vec![b'x'; ANSWER_BYTES]);
        testbed
            .upstream("a")
            .respond_by(move |request| match request.target.as_str() {
                "/v1/long" => Answer::bytes(200, "text/plain", long.clone()),
                _ => Answer::status(200),
            });
        let mut deaf = Vec::new();
        for _ in 0..DEAF {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_recv_buffer_size(4096).expect("a small buffer");
            let mut stream = socket.connect(proxy.http_address()).await.expect("a place");
            let request = "GET /v1/long HTTP/1.1\r\nhost: a\r\n\r\n";
            stream
                .write_all(request.as_bytes())
                .await
                .expect("it listens");
            deaf.push(stream);
        }
        let limit = r#"qcc_proxy_limits_hit_total{limit="client_stall_time"}"#;
        let admin = proxy.admin_address();
        let mut peak = 0;
        let mut served = 1;
        while testbed.upstream("a").disconnects() < DEAF {
            peak = peak.max(resident(proxy.id()));
            proxy.message().await.expect_status(200);
            served += 1;
        }
        let growth = peak.saturating_sub(before);
        assert!(growth < DEAF as u64 * DEAF_BYTES_MAX, "{growth} bytes more");
        let left = Metrics::of(admin).await.value(limit);
        assert_eq!(left, DEAF as f64, "all were left for not reading");
        testbed.settled().await;
        let endpoint = proxy.endpoint("a").await.expect("the proxy answers");
        assert!(endpoint.selectable, "{endpoint:?}");
        assert_eq!(testbed.upstream("a").client_requests(), served + DEAF);
    });
}
