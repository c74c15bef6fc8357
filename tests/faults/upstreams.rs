//! Upstreams that cannot be reached, cannot be trusted, or never end.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use qcc_proto::v1::{Cause, HealthState, RestoreEndpointRequest, Timeouts};
use qcc_tests::{
    Answer, Authority, Load, Names, Network, Piece, Says, Testbed, TlsFront, Upstream, Validity,
    eventually, schedule,
};
use rustix::process::Pid;

use crate::{in_network, story};

/// What one client thinks between two requests.
const THINKING: Duration = Duration::from_millis(50);

/// Long enough for any answer that is on its way.
const SOON: Duration = Duration::from_secs(1);

/// A name that only the test's name server knows.
const NAME: &str = "provider.test";

/// Where cloud machines find their own credentials: no endpoint may be there.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

pub(crate) fn a_proxy_without_egress_takes_nothing_from_the_others() {
    in_network("a proxy without egress", async |network| {
        let testbed = Testbed::start()
            .patient_checks()
            .policy(|policy| {
                policy.timeouts = Some(Timeouts {
                    connect: duration(SOON),
                    first_byte: duration(SOON),
                    ..Default::default()
                });
            })
            .endpoints(["a", "b"])
            .on(&network)
            .proxies(2)
            .await;
        let (control, lonely, other) = (testbed.control(), testbed.proxy(0), testbed.proxy(1));
        lonely.message().await.expect_status(200);
        let load = Load::paced(THINKING, [other.message(), other.message()]);
        load.goes_on(10).await;

        let ports = ["a", "b"].map(|name| testbed.upstream(name).address().port());
        let rule = format!("tcp dport {{ {}, {} }} drop", ports[0], ports[1]);
        lonely.host().sends(&[&rule]);
        let checks = testbed.upstream("a").check_requests();
        let answer = lonely.message().await;
        assert!(answer.status.is_server_error(), "{answer:?}");
        lonely.eventually_avoids("a").await;
        lonely.eventually_avoids("b").await;
        // With nobody left to ask, the answer comes at once.
        let start = Instant::now();
        let answer = lonely.message().await.expect_status(503);
        assert!(start.elapsed() < SOON, "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        // The control plane looks for itself, and finds nothing.
        testbed.upstream("a").checked(checks + 1).await;
        load.goes_on(20).await;
        for name in ["a", "b"] {
            assert_eq!(control.state(name).await, HealthState::Healthy);
            let seen = other.endpoint(name).await.expect("the proxy answers");
            assert!(seen.selectable, "{seen:?}");
        }

        lonely.host().heal();
        eventually("it serves again", async || {
            let response = lonely.message().send().await?;
            match response.status.as_u16() {
                200 => Ok(()),
                status => Err(status.to_string()),
            }
        })
        .await;
        assert_eq!(load.stop().await, [""; 0]);
        testbed.settled().await;
        assert_eq!(control.queue_stats().await.total_failed, 0);
    });
}

/// A fleet whose preferred endpoint has the name, and an upstream behind that port.
async fn named(network: &Network) -> (Names, Upstream, Testbed) {
    let names = Names::start(Network::HERE).await;
    names.say(NAME, Says::Address(Network::HERE));
    let upstream = Upstream::start_at((Network::HERE, 0).into()).await;
    // A name is asked for with each new connection.
    upstream.respond(Answer::status(200).then_close());
    let url = format!("http://{NAME}:{}", upstream.address().port());
    let testbed = Testbed::start()
        .eager_checks()
        .endpoint("named", |endpoint| {
            endpoint.base_url = url;
            endpoint.allow_plaintext = true;
            endpoint.timeout = duration(SOON);
        })
        .endpoints(["plain"])
        .on(network)
        .proxies(1)
        .await;
    let served = testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(served.served_by(), "named");
    (names, upstream, testbed)
}

/// Waits until requests are served by an endpoint; none may fail meanwhile.
async fn served_by(testbed: &Testbed, name: &str) {
    eventually(&format!("`{name}` serves"), async || {
        let response = testbed.proxy(0).message().await.expect_status(200);
        match response.served_by() {
            served if served == name => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}

pub(crate) fn a_name_that_fails_or_moves_concerns_its_endpoint_only() {
    in_network("names of upstreams", async |network| {
        let (names, upstream, testbed) = named(&network).await;
        let control = testbed.control();
        for failure in [Says::Unknown, Says::Nothing] {
            names.say(NAME, failure);
            served_by(&testbed, "plain").await;
            let endpoint = control.eventually_is("named", HealthState::Unhealthy).await;
            let cause = endpoint.health.unwrap_or_default().cause();
            let expected = [Cause::Connect, Cause::Timeout];
            assert!(expected.contains(&cause), "{failure:?}: {cause:?}");
            names.say(NAME, Says::Address(Network::HERE));
            control.eventually_is("named", HealthState::Healthy).await;
            served_by(&testbed, "named").await;
        }
        let elsewhere = Ipv4Addr::new(10, 77, 0, 2);
        network.here(elsewhere);
        let port = upstream.address().port();
        let moved = Upstream::start_at((elsewhere, port).into()).await;
        let before = upstream.client_requests();
        names.say(NAME, Says::Address(elsewhere));
        testbed.proxy(0).message().await.expect_status(200);
        moved.received(1).await;
        assert_eq!(upstream.client_requests(), before);
    });
}

pub(crate) fn no_name_leads_to_an_address_that_no_endpoint_may_have() {
    in_network("names of forbidden addresses", async |network| {
        let (names, upstream, testbed) = named(&network).await;
        network.here(METADATA);
        let port = upstream.address().port();
        let metadata = Upstream::start_at((METADATA, port).into()).await;
        names.say(NAME, Says::Address(METADATA));
        served_by(&testbed, "plain").await;
        let control = testbed.control();
        control.eventually_is("named", HealthState::Unhealthy).await;
        let checks = |endpoint: &qcc_proto::v1::Endpoint| {
            let stats = endpoint.stats.unwrap_or_default();
            stats.checks
        };
        let so_far = checks(&control.endpoint("named").await);
        control
            .eventually("named", "checked again", |it| checks(it) > so_far + 1)
            .await;
        assert_eq!(metadata.requests().len(), 0);
    });
}

pub(crate) fn whoever_cannot_prove_who_it_is_gets_no_request() {
    story(async {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let roots = dir.path().join("roots.pem");
        let (authority, stranger) = (Authority::new(), Authority::new());
        std::fs::write(&roots, authority.pem()).expect("the file can be written");
        let here = "127.0.0.1";
        let certificates = [
            ("expired", authority.issue(here, Validity::Past)),
            ("not-yet-valid", authority.issue(here, Validity::Future)),
            ("of-another", authority.issue("another.test", Validity::Now)),
            ("unknown-issuer", stranger.issue(here, Validity::Now)),
            ("good", authority.issue(here, Validity::Now)),
        ];
        let mut fronts = Vec::new();
        for (name, certificate) in certificates {
            let upstream = Upstream::start().await;
            let front = TlsFront::start(certificate, upstream.address()).await;
            fronts.push((name, upstream, front));
        }
        let plain = Upstream::start().await;
        let mut builder = Testbed::start()
            .unchecked()
            .policy(|policy| policy.attempts_max = Some(10))
            .environment("SSL_CERT_FILE", &roots.display().to_string())
            .endpoint("plain-behind-https", |endpoint| {
                endpoint.base_url = format!("https://{}", plain.address());
            })
            .endpoint("tls-behind-http", |endpoint| {
                endpoint.base_url = format!("http://{}", fronts[0].2.address());
            });
        for (name, _, front) in &fronts {
            builder = builder.endpoint(name, |endpoint| {
                endpoint.base_url = format!("https://{}", front.address());
            });
        }
        let testbed = builder.proxies(1).await;
        let (control, proxy) = (testbed.control(), testbed.proxy(0));
        for _ in 0..3 {
            let served = proxy.message().await.expect_status(200);
            assert_eq!(served.served_by(), "good");
        }
        for (name, upstream, _) in &fronts[..fronts.len() - 1] {
            let endpoint = control.eventually_is(name, HealthState::Unhealthy).await;
            let cause = endpoint.health.unwrap_or_default().cause();
            assert_eq!(cause, Cause::Connect, "{name}");
            assert_eq!(upstream.requests().len(), 0, "{name} got a request");
        }
        proxy.eventually_avoids("plain-behind-https").await;
        proxy.eventually_avoids("tls-behind-http").await;
        assert_eq!(plain.requests().len(), 0, "a request went out in the clear");
    });
}

/// Memory of a process that is in use, in bytes.
fn resident(process: Pid) -> u64 {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kibibytes
        .and_then(|text| text.parse::<u64>().ok())
        .expect("a number")
        * 1024
}

/// A piece of an endless answer.
const PIECE_BYTES: usize = 1024 * 1024;

/// As many pieces as are surely more than a proxy may keep.
const PIECES: usize = 200;

/// What a proxy may grow by while they pass.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(crate) fn an_endless_answer_passes_and_takes_no_memory() {
    story(async {
        let testbed = Testbed::start()
            .patient_checks()
            .endpoints(["a"])
            .proxies(1)
            .await;
        let proxy = testbed.proxy(0);
        proxy.message().await.expect_status(200);
        let before = resident(proxy.id());
        let piece = Bytes::from(vec![b'x'; PIECE_BYTES]);
        let pieces = (0..PIECES).map(|_| Piece::Data(piece.clone()));
        testbed.upstream("a").respond(Answer::stream(pieces));
        let mut stream = proxy.message().open().await.expect("an answer");
        let (mut read, mut peak) = (0, before);
        while let Some(data) = stream.next().await.expect("it goes on") {
            read += data.len();
            peak = peak.max(resident(proxy.id()));
        }
        assert_eq!(read, PIECES * PIECE_BYTES);
        let growth = peak - before;
        assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
        testbed.settled().await;
    });
}

pub(crate) fn a_head_that_is_too_long_is_left() {
    story(async {
        let testbed = Testbed::start()
            .patient_checks()
            .endpoints(["a", "b"])
            .proxies(1)
            .await;
        let long = Answer::status(200).header("x-long", &"x".repeat(2 * PIECE_BYTES));
        let mut many = Answer::status(200);
        for number in 0..2_000 {
            many = many.header(&format!("x-{number}"), "x");
        }
        for answer in [long, many] {
            testbed.upstream("a").respond_once(answer);
            let served = testbed.proxy(0).message().await.expect_status(200);
            assert_eq!(served.served_by(), "b");
            let request = RestoreEndpointRequest {
                name: "a".to_owned(),
                ..Default::default()
            };
            let restored = testbed
                .control()
                .endpoints()
                .restore_endpoint(request)
                .await;
            restored.expect("it exists");
            testbed.settled().await;
        }
    });
}

/// How long an upstream that flaps is up, and then down.
const FLAP: Duration = Duration::from_millis(100);

/// When it is looked at again.
const LOOK: Duration = Duration::from_secs(2);

pub(crate) fn whoever_flaps_is_left_until_it_is_looked_at_again() {
    story(async {
        let testbed = Testbed::start()
            .policy(|policy| {
                policy.verification = Some(schedule(LOOK));
            })
            .endpoints(["a", "b"])
            .proxies(1)
            .await;
        let (control, proxy) = (testbed.control(), testbed.proxy(0));
        let start = Instant::now();
        testbed.upstream("a").respond_by(move |_| {
            let flaps = start.elapsed().as_millis() / FLAP.as_millis();
            Answer::status(if flaps.is_multiple_of(2) { 200 } else { 500 })
        });
        let load = Load::paced(Duration::from_millis(5), [proxy.message(), proxy.message()]);
        let failed = async |times: u64| {
            eventually("it has failed again", async || {
                match control.queue_stats().await.total_failed {
                    count if count >= times => Ok(()),
                    count => Err(count),
                }
            })
            .await;
        };
        // Nothing but a check brings it back, and none is before its time.
        failed(2).await;
        let by_then = start.elapsed();
        assert!(by_then > LOOK / 2, "{by_then:?}");
        assert_eq!(load.stop().await, [""; 0]);
    });
}

pub(crate) fn a_storm_of_overload_is_not_made_worse() {
    story(async {
        let names = ["a", "b", "c"];
        let testbed = Testbed::start()
            .patient_checks()
            .endpoints(names)
            .proxies(1)
            .await;
        let proxy = testbed.proxy(0);
        for name in names {
            testbed.upstream(name).respond(529);
        }
        let arrived = || -> usize {
            let requests = names.map(|name| testbed.upstream(name).client_requests());
            requests.iter().sum()
        };
        let answers = proxy.messages(30).responses().await;
        assert!(answers.iter().all(|answer| answer.status.is_server_error()));
        for name in names {
            proxy.eventually_avoids(name).await;
        }
        let so_far = arrived();
        let answers = proxy.messages(30).expect_all(503).await;
        assert!(
            answers
                .iter()
                .all(|answer| answer.header("retry-after").is_some())
        );
        assert_eq!(arrived(), so_far, "the storm goes on");
        testbed.settled().await;
        let stats = testbed.control().queue_stats().await;
        assert_eq!(stats.total_failed, 0); // Busy is not broken.
    });
}
