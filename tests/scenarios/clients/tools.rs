//! curl and h2load: other people's HTTP/1.1 and HTTP/2.

use std::{fs, path::PathBuf, process::Command};

use qcc_tests::{Answer, Authority, Gate, Piece, Process, Testbed, eventually, foreign};

/// Requests of one run of h2load.
const REQUESTS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_answered_in_the_protocol_that_it_speaks() {
    let Some(curl) = Curl::find() else { return };
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    // Long enough for curl to wait for `100 Continue` first.
    let body: Vec<u8> = (0..3_000_000_u32)
        .map(|index| (index * 31 / 7) as u8)
        .collect();
    let file = testbed.dir().join("body");
    fs::write(&file, &body).expect("the test's directory can be written");
    let upstream = testbed.upstream("a");
    for (flag, version) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let answer = Answer::bytes(200, "application/octet-stream", body.clone());
        upstream.respond_once(answer.header("x-of-upstream", "as it came"));
        let data = format!("@{}", file.display());
        let arguments = [flag, "--data-binary", &data, "-H", "expect: 100-continue"];
        let got = curl.fetch(&testbed, &arguments).await;
        assert_eq!(got.said, format!("HTTP/{version} 200 as it came"));
        assert!(got.body == body, "the answer's body was changed");
        let arrived = upstream.last_request();
        assert!(arrived.body == body, "the request's body was changed");

        upstream.respond_once(404);
        let got = curl.fetch(&testbed, &[flag, "--head"]).await;
        assert_eq!(got.said, format!("HTTP/{version} 404 "));
        upstream.respond_once(Answer::stream(["data: 1\n\n".into()]).cut());
        let got = curl.fetch(&testbed, &[flag]).await;
        assert!(got.body.starts_with(b"data: 1\n\n"));
        let rest = String::from_utf8_lossy(&got.body[9..]);
        assert!(rest.contains("error"), "a clean end: {rest:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_events_as_they_come() {
    let Some(curl) = Curl::find() else { return };
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        let gate = Gate::new();
        let pieces = [
            Piece::from("data: first\n\n"),
            Piece::Wait(gate.clone()),
            Piece::from("data: second\n\n"),
        ];
        testbed.upstream("a").respond_once(Answer::stream(pieces));
        let mut run = curl.start(&testbed, &[flag, "--no-buffer", "-d", "{}"]);
        eventually("the first event is there", async || match run.output() {
            output if output == "data: first\n\n" => Ok(()),
            output => Err(output),
        })
        .await;
        gate.open();
        let status = run.ended().await;
        assert!(status.success(), "{status}: {}", run.output());
        assert_eq!(run.output(), "data: first\n\ndata: second\n\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h2load_loses_no_request() {
    let Some(h2load) = foreign::program("h2load", "nghttp2-client") else {
        return;
    };
    let testbed = Testbed::start().endpoints(["a"]).proxies(1).await;
    let file = testbed.dir().join("body");
    fs::write(&file, [b' '; 1024]).expect("the test's directory can be written");
    let url = plain_url(&testbed);
    // Two connections with many requests each, and many with one.
    for flags in [["-c2", "-m50"], ["-c50", "-m1"]] {
        for version in ["--no-tls-proto=h2c", "--h1"] {
            let before = testbed.upstream("a").client_requests();
            let mut command = Command::new(&h2load);
            command
                .args(flags)
                .args([version, "-n", &REQUESTS.to_string(), "-d"]);
            let mut run = testbed.spawn("h2load", command.arg(&file).arg(&url));
            let status = run.ended().await;
            assert!(status.success(), "{status}: {}", run.output());
            let all = format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
            assert!(run.output().contains(&all), "{}", run.output());
            let arrived = testbed.upstream("a").client_requests() - before;
            assert_eq!(arrived, REQUESTS);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_h2load_choose_their_protocol_over_tls() {
    let (Some(curl), Some(h2load)) = (Curl::find(), foreign::program("h2load", "nghttp2-client"))
    else {
        return;
    };
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let authority = Authority::new();
    let (cert, key) = authority.write(testbed.dir(), "proxy", "127.0.0.1");
    let trusted = authority.write_own(testbed.dir());
    let control = testbed.control().url();
    let flags = ["--tls-cert", &cert, "--tls-key", &key];
    let index = testbed.add_proxy_with(&[&control], &flags).await;
    let address = testbed.proxy(index).http_address();
    let url = format!("https://{address}/v1/messages");

    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let answer = Answer::from(200).header("x-of-upstream", "as it came");
        testbed.upstream("a").respond_once(answer);
        let arguments = [flag, "--cacert", &trusted, "-d", "{}"];
        let got = curl.fetch_from(&testbed, &url, &arguments).await;
        assert_eq!(got.said, format!("HTTP/{version} 200 as it came"));
    }
    for protocol in ["--npn-list=h2", "--h1"] {
        let before = testbed.upstream("a").client_requests();
        let mut command = Command::new(&h2load);
        command.args(["-c10", "-m10", protocol, "-n", &REQUESTS.to_string(), &url]);
        let mut run = testbed.spawn("h2load", &mut command);
        let status = run.ended().await;
        assert!(status.success(), "{status}: {}", run.output());
        let all = format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(run.output().contains(&all), "{}", run.output());
        let arrived = testbed.upstream("a").client_requests() - before;
        assert_eq!(arrived, REQUESTS);
    }
}

/// curl, wherever it is.
struct Curl(String);

/// What it has got.
struct Got {
    /// Version, status, and a field of upstream's.
    said: String,
    body: Vec<u8>,
}

impl Curl {
    fn find() -> Option<Self> {
        foreign::program("curl", "curl").map(Self)
    }

    /// Starts it, with these arguments and the proxy's address.
    fn start(&self, testbed: &Testbed, arguments: &[&str]) -> Process {
        self.start_at(testbed, &plain_url(testbed), arguments)
    }

    /// The same, with another address.
    fn start_at(&self, testbed: &Testbed, url: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(&self.0);
        command
            .args(["--disable", "--silent", "--show-error", "--noproxy", "*"])
            .args(arguments)
            .arg(url);
        testbed.spawn("curl", &mut command)
    }

    /// Makes one request, whatever comes of it.
    async fn fetch(&self, testbed: &Testbed, arguments: &[&str]) -> Got {
        self.fetch_from(testbed, &plain_url(testbed), arguments)
            .await
    }

    /// The same, at another address.
    async fn fetch_from(&self, testbed: &Testbed, url: &str, arguments: &[&str]) -> Got {
        let file: PathBuf = testbed.dir().join("answer");
        let output = file.to_string_lossy();
        let format = "HTTP/%{http_version} %{response_code} %header{x-of-upstream}";
        let arguments = [&["-o", &*output, "--write-out", format], arguments].concat();
        let mut run = self.start_at(testbed, url, &arguments);
        run.ended().await;
        Got {
            said: run.output(),
            body: fs::read(&file).expect("curl has written the answer"),
        }
    }
}

/// Where the first proxy takes requests in the clear.
fn plain_url(testbed: &Testbed) -> String {
    format!("http://{}/v1/messages", testbed.proxy(0).http_address())
}
