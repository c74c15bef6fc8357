//! More connections than a process has files for.

use std::net::SocketAddr;

use qcc_tests::{Testbed, eventually};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::story;

/// Files that a process may open when its supply is cut.
const LEFT: u64 = 8;

/// Connections that want more than that.
const CROWD: usize = 40;

/// Files that a process has open.
fn files(process: Pid) -> u64 {
    let path = format!("/proc/{}/fd", process.as_raw_nonzero());
    std::fs::read_dir(path).expect("the process runs").count() as u64
}

/// Lets a process have no more than a few files more.
fn cut_supply(process: Pid) -> u64 {
    let limit = files(process) + LEFT;
    let few = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(Some(process), Resource::Nofile, few).expect("it is our own process");
    limit
}

/// Opens more connections than there are files for, and waits until they are used up.
async fn crowd(process: Pid, address: SocketAddr) -> Vec<TcpStream> {
    let limit = cut_supply(process);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let connection = TcpStream::connect(address).await;
        crowd.push(connection.expect("the system accepts it, if not the process"));
    }
    eventually("there are no files left", async || match files(process) {
        count if count >= limit => Ok(()),
        count => Err(format!("{count} of {limit}")),
    })
    .await;
    crowd
}

pub(crate) fn a_proxy_without_files_serves_who_is_there_and_then_others() {
    story(async {
        let testbed = Testbed::start()
            .patient_checks()
            .endpoints(["a"])
            .proxies(1)
            .await;
        let proxy = testbed.proxy(0);
        let mut early = TcpStream::connect(proxy.http_address())
            .await
            .expect("it listens");
        let mut ask = async || {
            let request = b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\n\r\n";
            early
                .write_all(request)
                .await
                .expect("the connection stands");
            let mut answer = Vec::new();
            while !answer.ends_with(b"}") {
                let mut buffer = [0; 4096];
                let length = early.read(&mut buffer).await.expect("an answer");
                assert_ne!(length, 0, "it was closed");
                answer.extend_from_slice(&buffer[..length]);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
        };
        ask().await;
        let crowd = crowd(proxy.id(), proxy.http_address()).await;
        ask().await;
        drop(crowd);
        eventually("others are served again", async || {
            let response = proxy.message().send().await?;
            match response.status.as_u16() {
                200 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
        testbed.settled().await;
    });
}

pub(crate) fn a_control_plane_without_files_serves_who_is_there_and_then_others() {
    story(async {
        let mut testbed = Testbed::start()
            .patient_checks()
            .endpoints(["a"])
            .proxies(1)
            .await;
        let control = testbed.control();
        let crowd = crowd(control.id(), control.address()).await;
        testbed.proxy(0).message().await.expect_status(200);
        testbed.settled().await; // Over the connections that there are.
        drop(crowd);
        let late = testbed.add_proxy().await;
        testbed.proxy(late).message().await.expect_status(200);
        testbed.settled().await;
    });
}
