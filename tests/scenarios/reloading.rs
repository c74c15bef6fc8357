//! The configuration, read again by programs that run.

use std::{fs, path::PathBuf};

use qcc_proto::v1::{
    GetControlStatusRequest, ReloadControlConfigRequest, ReloadProxyConfigRequest,
    control_service_client::ControlServiceClient,
};
use qcc_tests::{
    Answer, Authority, ControlPlane, Gate, Load, Piece, Proxy, Testbed, TlsFront, Validity,
    eventually,
};
use rustix::process::Signal;
use tonic::{Code, transport::Endpoint};
use tonic_types::StatusExt;

const HERE: &str = "127.0.0.1";
const START: &str = "event: message_start\ndata: {\"type\":\"message_start\"}\n\n";
const DELTA: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

/// A configuration file of a program.
struct File(PathBuf);

impl File {
    fn new(testbed: &Testbed, text: &str) -> Self {
        let file = Self(testbed.dir().join("program.toml"));
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).expect("the file can be written");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

/// Starts a proxy with a configuration file.
async fn proxy_with(testbed: &mut Testbed, file: &File) -> usize {
    let control = testbed.control().url();
    let flags = ["--config", file.path()];
    testbed.add_proxy_with(&[&control], &flags).await
}

/// Has a proxy read its configuration again, and waits until it is in use.
async fn hang_up(proxy: &Proxy, revision: u64) {
    proxy.signal(Signal::HUP);
    let what = format!("at configuration {revision}");
    let is_there = |config: &qcc_proto::v1::ConfigStatus| config.revision == revision;
    proxy
        .eventually_is(&what, |status| status.config.as_ref().is_some_and(is_there))
        .await;
}

/// Makes a client key, and returns it with the file that knows it.
async fn client_key(testbed: &Testbed, name: &str) -> (String, String) {
    let file = testbed.dir().join(name).display().to_string();
    let add = ["client-keys", "add", name, "--file", &file];
    let added = testbed.ctl(&add).await.expect_code(0);
    (added.stdout.trim().to_owned(), file)
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_keys_and_certificates_change_while_a_stream_runs_on() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let (old, new) = (Authority::new(), Authority::new());
    let (old_cert, old_tls_key) = old.write(testbed.dir(), "old", HERE);
    let (new_cert, new_tls_key) = new.write(testbed.dir(), "new", HERE);
    let (eva, eva_file) = client_key(&testbed, "eva").await;
    let (max, max_file) = client_key(&testbed, "max").await;
    let text = |cert: &str, key: &str, keys: &str, more: &str| {
        format!("tls_cert = '{cert}'\ntls_key = '{key}'\nclient_keys_file = '{keys}'\n{more}")
    };
    let file = File::new(&testbed, &text(&old_cert, &old_tls_key, &eva_file, ""));
    let index = proxy_with(&mut testbed, &file).await;
    let (proxy, upstream) = (testbed.proxy(index), testbed.upstream("a"));
    let ask = |authority: &Authority, key: &str| {
        let call = proxy.message().header("x-api-key", key);
        call.over(authority.trusted(&["http/1.1"]))
    };
    let gate = Gate::new();
    let steps = [START, DELTA].map(Piece::from);
    let steps = steps
        .into_iter()
        .chain([Piece::Wait(gate.clone()), STOP.into()]);
    upstream.respond_once(Answer::stream(steps));
    let mut stream = ask(&old, &eva).open().await.expect("an answer");
    stream.expect(&[START, DELTA].concat()).await;
    ask(&old, &max).await.expect_status(401);
    ask(&old, &eva).await.expect_status(200);

    let more = "requests_max = 1\n";
    file.write(&text(&new_cert, &new_tls_key, &max_file, more));
    hang_up(proxy, 2).await;
    assert!(ask(&old, &max).send().await.is_err(), "the old certificate");
    ask(&new, &eva).await.expect_status(401);
    let refused = ask(&new, &max).await.expect_status(529); // The stream is the one request.
    assert_eq!(refused.header("x-qcc-error"), Some("overloaded"));
    gate.open();
    let mut rest = Vec::new();
    while let Some(piece) = stream.next().await.expect("it goes on") {
        rest.extend_from_slice(&piece);
    }
    assert_eq!(String::from_utf8_lossy(&rest), STOP);
    eventually("the place is free", async || {
        match ask(&new, &max).send().await?.status.as_u16() {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;

    // Everything as before, but for the keys: nobody is asked for one any more.
    let text = format!("tls_cert = '{new_cert}'\ntls_key = '{new_tls_key}'\n");
    file.write(&text);
    hang_up(proxy, 3).await;
    ask(&new, "none").await.expect_status(200);
    let mut told = testbed.logs().find(&eva);
    told.retain(|line| !line.starts_with("qcc-ctl client-keys add"));
    assert!(told.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reload_after_the_other_costs_no_request() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let (key, one) = client_key(&testbed, "eva").await;
    let both = testbed.dir().join("both").display().to_string();
    fs::copy(&one, &both).expect("the file can be written");
    let add = ["client-keys", "add", "max", "--file", &both];
    testbed.ctl(&add).await.expect_code(0);
    let text = |round: usize| {
        let file = [&one, &both][round % 2];
        let (requests, seconds) = (10 + round, 1 + round);
        format!(
            "client_keys_file = '{file}'\nrequests_max = {requests}\n\
             drain_timeout = '{seconds}s'\nreplay_max_bytes = {requests}\n"
        )
    };
    let file = File::new(&testbed, &text(0));
    let index = proxy_with(&mut testbed, &file).await;
    let proxy = testbed.proxy(index);
    let call = proxy.message().header("x-api-key", &key);
    let load = Load::start([(); 4].map(|()| call.clone()));
    for round in 1..30 {
        file.write(&text(round));
        let request = ReloadProxyConfigRequest::default();
        let reloaded = proxy.admin().reload_proxy_config(request).await;
        let reload = reloaded.expect("a good configuration").into_inner().reload;
        assert_eq!(reload.expect("what came of it").applied.len(), 4);
        load.goes_on(5).await;
    }
    assert_eq!(load.stop().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_to_wait_for_a_restart_is_said_and_the_rest_counts() {
    let mut testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let file = File::new(&testbed, "");
    let index = proxy_with(&mut testbed, &file).await;
    let proxy = testbed.proxy(index);
    let admin = proxy.admin_url();
    let reload = ["proxy", "reload", "--proxy", &admin];
    // The command line names another cluster and another listener, and wins.
    file.write(
        "cluster = 'other'\nlisten = '127.0.0.1:1'\nreports_max = 7\nbody_max_bytes = 5\n\
         no_view_file = true\n",
    );
    let dry = [&reload[..], &["--dry-run"]].concat();
    let shown = testbed.ctl(&dry).await.expect_code(0).stdout;
    assert!(
        shown.contains("would apply       body_max_bytes\n"),
        "{shown}"
    );
    assert!(shown.contains("needs a restart   reports_max\n"), "{shown}");
    proxy.message().await.expect_status(200);
    let json = [&reload[..], &["-o", "json"]].concat();
    let answer = testbed.ctl(&json).await.expect_code(0).json();
    assert_eq!(answer["applied"], serde_json::json!(["body_max_bytes"]));
    assert_eq!(answer["needs_restart"], serde_json::json!(["reports_max"]));
    assert_eq!(answer["revision"], "2");
    proxy.message().await.expect_status(413);
    let status = testbed.ctl(&["proxy", "status", "--proxy", &admin]).await;
    let status = status.expect_code(0).stdout;
    assert!(status.contains("needs a restart: reports_max"), "{status}");
    let told = testbed.logs().find("these changes need a restart");
    assert!(
        told.len() == 1 && told[0].contains("reports_max"),
        "{told:?}"
    );

    // One at a time, however many ask at once, and each sees all that was done before.
    file.write("");
    let mut reloads = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let mut admin = proxy.admin();
        let request = ReloadProxyConfigRequest::default();
        reloads.spawn(async move { admin.reload_proxy_config(request).await });
    }
    let mut applied = 0;
    let mut revisions = Vec::new();
    while let Some(reloaded) = reloads.join_next().await {
        let reloaded = reloaded.expect("no panic").expect("a good configuration");
        let reload = reloaded.into_inner().reload.expect("what came of it");
        applied += reload.applied.len();
        revisions.push(reload.revision);
        assert!(reload.needs_restart.is_empty(), "{reload:?}");
    }
    revisions.sort_unstable();
    assert_eq!((applied, revisions), (1, (3..13).collect()));
    proxy.message().await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_reads_its_configuration_again() {
    let testbed = Testbed::start().unchecked().await;
    let file = File::new(&testbed, "");
    let dir = testbed.dir().join("another");
    fs::create_dir(&dir).expect("a directory can be made");
    let (mut command, ready_file) = ControlPlane::command_in(&dir);
    command.args(["--config", file.path()]);
    let mut control = testbed.spawn("another", &mut command);
    let ready = control.ready(&ready_file).await;
    let url = format!("http://{}", ready["grpc"].as_str().expect("an address"));
    let reload = ["reload", "--control", &url];
    file.write("allow_host = ['qcc.internal']\nseal_key_file = '/elsewhere'\nlisten = '1.2.3.4:5'");
    let shown = testbed.ctl(&reload).await.expect_code(0).stdout;
    assert!(shown.contains("applied           allow_host\n"), "{shown}");
    assert!(
        shown.contains("needs a restart   seal_key_file\n"),
        "{shown}"
    );
    file.write("allow_host = ['a:80']");
    let refused = testbed.ctl(&reload).await.expect_code(4).stderr;
    assert!(refused.contains("without a port"), "{refused}");
    assert!(refused.contains(file.path()), "{refused}");
    let status = testbed.ctl(&["status", "--control", &url]).await;
    let status = status.expect_code(0).stdout;
    assert!(
        status.contains("needs a restart: seal_key_file"),
        "{status}"
    );
    assert!(status.contains("failed: "), "{status}");
    file.write("");
    control.signal(Signal::HUP);
    let channel = Endpoint::from_shared(url).expect("a URL").connect_lazy();
    let mut client = ControlServiceClient::new(channel);
    eventually("it is read again", async || {
        let mut client = client.clone();
        let status = client.get_control_status(GetControlStatusRequest {});
        let status = status.await.map_err(|status| status.to_string())?;
        let config = status.into_inner().status.unwrap_or_default().config;
        let config = config.unwrap_or_default();
        match config.revision == 3 && !config.last_reload_failed {
            true => Ok(()),
            false => Err(format!("{config:?}")),
        }
    })
    .await;
    let request = ReloadControlConfigRequest::default();
    let again = client.reload_control_config(request).await;
    let again = again.expect("a good configuration").into_inner();
    let again = again.reload.expect("what came of it");
    assert_eq!((again.applied.len(), again.needs_restart.len()), (0, 0));
    assert!(control.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_an_open_proxy_safe_is_not_taken_from_it() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let authority = Authority::new();
    let (cert, tls_key) = authority.write(testbed.dir(), "proxy", HERE);
    let (key, keys) = client_key(&testbed, "eva").await;
    let control = testbed.control().url();
    let always = format!(
        "control = '{control}'\nadmin_listen = '127.0.0.1:0'\nno_view_file = true\n\
         tls_cert = '{cert}'\ntls_key = '{tls_key}'\n"
    );
    let open = format!("{always}listen = '0.0.0.0:0'\n");
    let file = File::new(&testbed, &format!("{open}client_keys_file = '{keys}'\n"));
    let ready_file = testbed.dir().join("open.json");
    let mut command = testbed.command("qcc-proxy");
    command.args(["--config", file.path(), "--ready-file"]);
    let mut proxy = testbed.spawn("open", command.arg(&ready_file));
    let ready = proxy.ready(&ready_file).await;
    let address = |name: &str| ready[name].as_str().expect("an address").to_owned();
    let admin = format!("http://{}", address("admin"));
    let port = address("http")
        .rsplit_once(':')
        .expect("a port")
        .1
        .to_owned();
    let http = format!("{HERE}:{port}").parse().expect("an address");
    let ask = |key: &str| {
        let call = qcc_tests::client::Call::new(http, hyper::Method::POST, "/v1/messages");
        let call = call.message(false).header("x-api-key", key);
        call.over(authority.trusted(&["h2"]))
    };
    let reload = ["proxy", "reload", "--proxy", &admin];
    for text in [
        open.as_str(), // As at a start.
        // It would be safe there. But it is not there before a restart.
        &format!("{always}listen = '127.0.0.1:0'\n"),
    ] {
        file.write(text);
        let refused = testbed.ctl(&reload).await.expect_code(4).stderr;
        assert!(refused.contains("without authentication"), "{refused}");
        ask("none").await.expect_status(401);
    }
    // Without TLS it cannot be either, but whether there is TLS waits for a restart anyway.
    let bare = always.replace("tls_", "# tls_");
    file.write(&format!(
        "{bare}listen = '127.0.0.1:0'\nclient_keys_file = '{keys}'\n"
    ));
    let shown = testbed.ctl(&reload).await.expect_code(0).stdout;
    let waiting = "needs a restart   listen, tls_cert, tls_key\n";
    assert!(shown.contains(waiting), "{shown}");
    ask("none").await.expect_status(401);
    ask(&key).await.expect_status(200);
    file.write(&format!("{open}insecure_listen = true\n"));
    testbed.ctl(&reload).await.expect_code(0);
    ask("none").await.expect_status(200);
    assert!(proxy.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_endpoints_change_and_those_of_control_planes_do_not() {
    let mut testbed = Testbed::start().unchecked().await;
    let (authority, nobody) = (Authority::new(), Authority::new());
    let upstream = testbed.add_upstream("a").await.address();
    let certificate = authority.issue(HERE, Validity::Now);
    let front = TlsFront::start(certificate, upstream).await;
    let base_url = format!("https://{}", front.address());
    let add = [
        "endpoints",
        "add",
        "a",
        "--base-url",
        &base_url,
        "--key-stdin",
    ];
    testbed.ctl_with(&add, &[], "key-of-a").await.expect_code(0);
    let (mine, theirs) = (testbed.dir().join("mine"), testbed.dir().join("theirs"));
    fs::write(&mine, authority.pem()).expect("the file can be written");
    fs::write(&theirs, nobody.pem()).expect("the file can be written");
    let (mine, theirs) = (mine.display(), theirs.display());

    // Both believe the platform at first, which is in memory once.
    let file = File::new(&testbed, "");
    let index = proxy_with(&mut testbed, &file).await;
    let proxy = testbed.proxy(index);
    proxy.message().await.expect_status(503);
    file.write(&format!(
        "upstream_ca_file = '{mine}'\nca_file = '{theirs}'\n"
    ));
    let request = ReloadProxyConfigRequest::default();
    let reloaded = proxy.admin().reload_proxy_config(request).await;
    let reload = reloaded.expect("a good configuration").into_inner().reload;
    let reload = reload.expect("what came of it");
    assert_eq!(reload.applied, ["ca_file", "upstream_ca_file"]);
    // The failed attempt has taken the endpoint out.
    testbed
        .ctl(&["endpoints", "restore", "a"])
        .await
        .expect_code(0);
    eventually("the endpoint is believed", async || {
        match proxy.message().send().await?.status.as_u16() {
            200 => Ok(()),
            status => Err(status.to_string()),
        }
    })
    .await;

    file.write("upstream_ca_file = '/no/such/file'\nrequests_max = 1\n");
    let refused = proxy.admin().reload_proxy_config(request).await;
    let refused = refused.expect_err("there is no such file");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let info = refused.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "CONFIG_REJECTED");
    assert_eq!(info.metadata["field"], "upstream_ca_file");
    assert_eq!(info.metadata["file"], "/no/such/file");
    proxy.message().await.expect_status(200);
}
