//! Listeners with TLS: who is served, who is not, and what changes without a restart.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use qcc_tests::{
    Authority, ControlPlane, Process, Testbed, TlsFront, Validity, eventually, metrics::Metrics,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HERE: &str = "127.0.0.1";

/// Where all of these processes listen.
const ANY_PORT: &str = "127.0.0.1:0";

/// A proxy that shows clients a certificate of this authority.
async fn proxy_with_tls(testbed: &mut Testbed, authority: &Authority) -> usize {
    let (cert, key) = authority.write(testbed.dir(), "proxy", HERE);
    let control = testbed.control().url();
    let flags = ["--tls-cert", &cert, "--tls-key", &key];
    testbed.add_proxy_with(&[&control], &flags).await
}

/// Sends bytes as they are, and returns all that comes back.
async fn raw(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(bytes).await.expect("it takes them");
    let mut answer = Vec::new();
    // An answer that is followed by a reset is one all the same.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_a_restart_or_a_failed_request() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let (old, new) = (Authority::new(), Authority::new());
    let index = proxy_with_tls(&mut testbed, &old).await;
    let proxy = testbed.proxy(index);
    for protocols in [&["h2", "http/1.1"][..], &["http/1.1"], &[]] {
        let call = proxy.message().over(old.trusted(protocols));
        call.await.expect_status(200);
    }
    let (is_replaced, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = async {
        // Whoever believes both never finds anything wrong, at any moment.
        while !is_replaced.load(SeqCst) {
            let over_old = proxy.message().over(old.trusted(&["h2"])).send().await;
            let response = match over_old {
                Ok(response) => response,
                Err(_) => proxy.message().over(new.trusted(&["h2"])).await,
            };
            response.expect_status(200);
            served.fetch_add(1, SeqCst);
        }
    };
    let replace = async {
        eventually("requests are served", async || match served.load(SeqCst) {
            0 => Err("none yet".to_owned()),
            _ => Ok(()),
        })
        .await;
        new.write(testbed.dir(), "proxy", HERE);
        eventually("the new certificate is shown", async || {
            let call = proxy.message().over(new.trusted(&["h2"]));
            call.send().await.map(|answer| answer.expect_status(200))
        })
        .await;
        is_replaced.store(true, SeqCst);
    };
    tokio::join!(load, replace);
    let refused = proxy.message().over(old.trusted(&["h2"])).send().await;
    assert!(refused.is_err(), "the old certificate is shown still");

    // What cannot be used changes nothing, and somebody is told.
    fs::write(testbed.dir().join("proxy.key"), "no key").expect("the file can be written");
    eventually("it is told", async || {
        let told = testbed.logs().find("new content cannot be used");
        told.first().cloned().ok_or_else(String::new)
    })
    .await;
    let call = proxy.message().over(new.trusted(&["h2"]));
    call.await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_the_wrong_protocol_is_told_so_and_so_is_the_operator() {
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let authority = Authority::new();
    let encrypted = proxy_with_tls(&mut testbed, &authority).await;
    let (plain, encrypted) = (testbed.proxy(0), testbed.proxy(encrypted));
    for _ in 0..20 {
        let request = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n";
        let answer = raw(encrypted.http_address(), request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("use https://"), "{answer}");
    }
    for _ in 0..20 {
        let call = plain.message().over(authority.trusted(&["h2"]));
        assert!(call.send().await.is_err());
    }
    assert_eq!(testbed.upstream("a").client_requests(), 0);
    for (reason, proxy) in [
        (
            "it speaks plaintext; this port speaks TLS: clients have to use https://",
            encrypted,
        ),
        (
            "it speaks TLS; this port does not: clients have to use http://",
            plain,
        ),
    ] {
        let told = testbed.logs().find(reason);
        assert!((1..5).contains(&told.len()), "{told:?}");
        let metrics = Metrics::of(proxy.admin_address()).await;
        let failures = metrics.value(r#"qcc_proxy_tls_failures_total{listener="clients"}"#);
        assert_eq!(failures, 20.0, "{reason}");
    }
    plain.message().await.expect_status(200);
}

/// A control plane with TLS, and its address.
async fn control_with_tls(testbed: &Testbed, authority: &Authority) -> (Process, String) {
    let (cert, key) = authority.write(testbed.dir(), "control", HERE);
    let dir = testbed.dir().join("encrypted");
    fs::create_dir(&dir).expect("a directory can be made");
    let (mut command, ready_file) = ControlPlane::command_in(&dir);
    command.args(["--tls-cert", &cert, "--tls-key", &key]);
    let mut process = testbed.spawn("encrypted", &mut command);
    let ready = process.ready(&ready_file).await;
    let address = ready["grpc"].as_str().expect("an address");
    (process, format!("https://{address}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_and_operators_reach_a_control_plane_over_tls() {
    let mut testbed = Testbed::start().unchecked().await;
    let authority = Authority::new();
    let (control, url) = control_with_tls(&testbed, &authority).await;
    let ca = authority.write_own(testbed.dir());
    let (cert, key) = authority.write(testbed.dir(), "admin", HERE);
    let base_url = testbed.add_upstream("a").await.url();
    let environment = [("QCC_CACERT", ca.as_str()), ("A_KEY", "key-of-a")];
    let add = [
        "endpoints",
        "add",
        "a",
        "--base-url",
        &base_url,
        "--key-env",
        "A_KEY",
        "--control",
        &url,
    ];
    let added = testbed.ctl_with(&add, &environment, "").await;
    added.expect_code(0);
    let flags = [
        "--ca-file",
        &ca,
        "--admin-tls-cert",
        &cert,
        "--admin-tls-key",
        &key,
    ];
    let index = testbed.add_proxy_with(&[&url], &flags).await;
    let proxy = testbed.proxy(index);
    eventually("the endpoint serves", async || {
        let response = proxy.message().send().await?;
        match response.status.as_u16() {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let admin = format!("https://{}", proxy.admin_address());
    let status = ["proxy", "status", "--proxy", &admin, "-o", "json"];
    let status = testbed.ctl_with(&status, &environment, "").await;
    let status = status.expect_code(0).json();
    assert_eq!(status["connected_control_url"], url.as_str(), "{status}");

    // Who is believed is not a matter of what works.
    let list = ["endpoints", "list", "--control", &url];
    let refused = testbed.ctl_with(&list, &[], "").await.expect_code(6);
    assert!(
        refused.stderr.contains("no authority that is trusted here"),
        "{refused:?}"
    );
    let in_the_clear = url.replace("https", "http");
    let list = ["endpoints", "list", "--control", &in_the_clear];
    let refused = testbed.ctl_with(&list, &[], "").await;
    let refused = refused.expect_code(6);
    assert!(refused.stderr.contains("speaks TLS"), "{refused:?}");
    let over_tls = testbed.control().url().replace("http", "https");
    let list = ["endpoints", "list", "--control", &over_tls];
    let refused = testbed
        .ctl_with(&list, &environment, "")
        .await
        .expect_code(6);
    assert!(refused.stderr.contains("does not speak TLS"), "{refused:?}");
    assert!(control.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_may_be_vouched_for_by_an_authority_of_one_s_own() {
    let mut testbed = Testbed::start().unchecked().await;
    let authority = Authority::new();
    let ca = authority.write_own(testbed.dir());
    let upstream = testbed.add_upstream("a").await.address();
    let certificate = authority.issue(HERE, Validity::Now);
    let front = TlsFront::start(certificate, upstream).await;
    let resources = testbed.dir().join("resources.toml");
    let text = format!(
        "[[endpoints]]\nname = \"a\"\nbase_url = \"https://{}\"\napi_key = \"key-of-a\"\n",
        front.address()
    );
    fs::write(&resources, text).expect("the file can be written");
    let dir = testbed.dir().join("believing");
    fs::create_dir(&dir).expect("a directory can be made");
    let (mut command, ready_file) = ControlPlane::command_in(&dir);
    command
        .args(["--upstream-ca-file", &ca, "--apply"])
        .arg(&resources);
    let mut control = testbed.spawn("believing", &mut command);
    let ready = control.ready(&ready_file).await;
    let url = format!("http://{}", ready["grpc"].as_str().expect("an address"));
    let healthy = ["wait", "endpoint/a", "--for", "healthy", "--control", &url];
    testbed.ctl(&healthy).await.expect_code(0); // The check believes it.
    let flags = ["--upstream-ca-file", &ca];
    let index = testbed.add_proxy_with(&[&url], &flags).await;
    testbed.proxy(index).message().await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_everybody_may_read_is_refused_before_anything_starts() {
    let testbed = Testbed::start().unchecked().await;
    let (cert, key) = Authority::new().write(testbed.dir(), "open", HERE);
    let everybody = PermissionsExt::from_mode(0o644);
    fs::set_permissions(&key, everybody).expect("it is our own file");
    for name in ["qcc-control", "qcc-proxy"] {
        let mut command = testbed.command(name);
        let data = testbed.dir().join("none");
        if name == "qcc-control" {
            command.arg("--data-dir").arg(&data);
        }
        command.args(["--listen", ANY_PORT, "--tls-cert", &cert, "--tls-key", &key]);
        let mut process = testbed.spawn(name, command.arg("--check-config"));
        let status = process.ended().await;
        assert_eq!(status.code(), Some(78), "{}", process.output());
        assert!(
            process.output().contains("make it 0600"),
            "{}",
            process.output()
        );
        assert!(!data.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_with_a_key_are_served_and_their_key_goes_nowhere() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let path = testbed.dir().join("clients");
    let file = path.to_str().expect("a plain path").to_owned();
    let add = ["client-keys", "add", "eva", "--file", &file];
    let added = testbed.ctl(&add).await.expect_code(0);
    let key = added.stdout.trim();
    testbed.ctl(&add).await.expect_code(4); // The name is taken.
    let kept = fs::read_to_string(&path).expect("the file is there");
    assert!(kept.starts_with("eva:") && !kept.contains(key), "{kept}");
    let metadata = fs::metadata(&path).expect("the file is there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let control = testbed.control().url();
    let flags = ["--client-keys-file", &file];
    let index = testbed.add_proxy_with(&[&control], &flags).await;
    let (proxy, upstream) = (testbed.proxy(index), testbed.upstream("a"));
    let bearer = format!("Bearer {key}");
    for (name, value) in [("x-api-key", key), ("authorization", &bearer)] {
        let call = proxy.message().header(name, value);
        call.await.expect_status(200);
        let request = upstream.last_request();
        assert_eq!(request.header("x-api-key"), Some("key-of-a"));
        assert_eq!(request.header("authorization"), None);
    }
    let served = upstream.client_requests();
    for _ in 0..10 {
        let call = proxy.message().header("x-api-key", "wrong");
        let refused = call.await.expect_status(401);
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert_eq!(refused.header("x-qcc-error"), Some("client_key_rejected"));
        let refused = proxy.get("/v1/models").await.expect_status(401);
        assert_eq!(refused.header("x-qcc-error"), Some("client_key_required"));
        proxy.get("/__qcc__/health").await.expect_status(200);
    }
    assert_eq!(upstream.client_requests(), served);
    let told = testbed.logs().find("client key");
    assert!((1..5).contains(&told.len()), "{told:?}");
    let metrics = Metrics::of(proxy.admin_address()).await;
    assert_eq!(metrics.value("qcc_proxy_unauthenticated_total"), 20.0);

    // Revoked: its line is gone.
    fs::write(&path, "# nobody\n").expect("the file can be written");
    eventually("the key is refused", async || {
        let answer = proxy.message().header("x-api-key", key).send().await?;
        match answer.status.as_u16() {
            401 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;
    let mut told = testbed.logs().find(key);
    told.retain(|line| !line.starts_with("qcc-ctl client-keys add")); // It was to say it once.
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_client_keys_together_make_a_proxy_fit_for_other_machines() {
    let testbed = Testbed::start().unchecked().await;
    let (cert, key) = Authority::new().write(testbed.dir(), "proxy", HERE);
    let file = testbed.dir().join("clients").display().to_string();
    fs::write(&file, "").expect("the file can be written");
    let tls = ["--tls-cert", cert.as_str(), "--tls-key", &key];
    let keys = ["--client-keys-file", file.as_str()];
    for (flags, code, words) in [
        (tls.to_vec(), 78, "add --client-keys-file"),
        (keys.to_vec(), 78, "add --tls-cert and --tls-key"),
        ([&tls[..], &keys].concat(), 0, ""),
    ] {
        let mut command = testbed.command("qcc-proxy");
        command.args(["--listen", "0.0.0.0:0", "--check-config"]);
        let mut process = testbed.spawn("proxy", command.args(flags));
        let status = process.ended().await;
        let output = process.output();
        assert_eq!(status.code(), Some(code), "{output}");
        assert!(output.contains(words), "{output}");
    }
}
