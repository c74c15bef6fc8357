//! Claude Code in print mode, which sends more than any other client and minds most.

use std::{process::Command, time::Duration};

use qcc_tests::{Answer, Builder, Request, Tap, Testbed, foreign};

use super::{expect_untouched, sdks::anthropic_events};

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_is_answered_and_what_it_says_arrives_verbatim() {
    let Some(claude) = foreign::claude_code() else {
        return;
    };
    let session = Session::start(Testbed::start().endpoints(["a"])).await;
    let answer = session.ask(&claude).await;
    assert!(answer.contains("hello from upstream"), "{answer}");

    let sent = session.conversation().await;
    let requests = session.testbed.upstream("a").requests();
    let arrived: Vec<_> = requests.iter().filter(|it| !it.is_check()).collect();
    assert_eq!(sent.len(), arrived.len());
    for (sent, arrived) in sent.iter().zip(arrived) {
        expect_untouched(sent, arrived);
    }
    let first = &sent[0];
    assert!(first.target.starts_with("/v1/messages"), "{}", first.target);
    // What makes it the client to be judged by; that all of it has arrived is seen above.
    for name in [
        "anthropic-beta",
        "anthropic-version",
        "user-agent",
        "x-claude-code-session-id",
    ] {
        assert!(first.header(name).is_some(), "{name}: {first:?}");
    }
    assert!(first.body.len() > 10_000, "{} bytes", first.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_does_not_notice_a_rejected_key() {
    let Some(claude) = foreign::claude_code() else {
        return;
    };
    let session = Session::start(Testbed::start().endpoints(["a", "b"])).await;
    session.testbed.upstream("a").respond(401);
    session.expect_to_notice_nothing(&claude).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_does_not_notice_a_silent_endpoint() {
    let Some(claude) = foreign::claude_code() else {
        return;
    };
    let timeout = prost_types::Duration::try_from(Duration::from_millis(500));
    let timeout = timeout.expect("a short duration");
    let builder = Testbed::start()
        .endpoint("a", |endpoint| endpoint.timeout = Some(timeout))
        .endpoints(["b"]);
    let session = Session::start(builder).await;
    session.testbed.upstream("a").respond(Answer::hang());
    session.expect_to_notice_nothing(&claude).await;
}

/// Claude Code in front of a tapped proxy.
struct Session {
    testbed: Testbed,
    tap: Tap,
}

impl Session {
    async fn start(builder: Builder) -> Self {
        let testbed = builder.proxies(1).await;
        let tap = Tap::start(testbed.proxy(0).http_address()).await;
        for upstream in testbed.upstreams() {
            upstream.respond_by(answer);
        }
        Self { testbed, tap }
    }

    /// Asks for a word, with a home of its own, and returns what it printed.
    async fn ask(&self, claude: &str) -> String {
        let home = self.testbed.dir().join("home");
        std::fs::create_dir(&home).expect("the test's directory can be written");
        let mut command = Command::new(claude);
        command
            .args(["--print", "say hello"])
            .current_dir(&home)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("ANTHROPIC_BASE_URL", self.tap.url())
            .env("ANTHROPIC_AUTH_TOKEN", "key-of-the-client")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("CLAUDE_CODE_MAX_RETRIES", "2");
        let mut run = self.testbed.spawn("claude", &mut command);
        let status = run.ended().await;
        assert!(status.success(), "{status}: {}", run.output());
        run.output()
    }

    /// What it sent, but for what a proxy answers itself.
    async fn conversation(&self) -> Vec<Request> {
        let mut requests = self.tap.requests().await;
        requests.retain(|request| request.method == "POST");
        assert!(!requests.is_empty(), "it has asked for nothing");
        requests
    }

    /// Fails the test unless it is answered by "b", after "a" has failed it, without
    /// having tried again.
    async fn expect_to_notice_nothing(&self, claude: &str) {
        let answer = self.ask(claude).await;
        assert!(answer.contains("hello from upstream"), "{answer}");
        for request in self.conversation().await {
            let retries = request.header("x-stainless-retry-count");
            assert_eq!(retries, Some("0"), "{:?}", request.headers);
        }
        let failed = self.testbed.upstream("a").client_requests();
        let served = self.testbed.upstream("b").client_requests();
        assert!(failed > 0 && served > 0, "{failed} failed, {served} served");
    }
}

fn answer(request: &Request) -> Answer {
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match body["stream"].as_bool() {
        Some(true) => Answer::stream(anthropic_events("hello ", "from upstream")),
        _ => Answer::text("hello from upstream"),
    }
}
