//! The admin services over a real connection.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::Uri;
use qcc_proto::{
    tls,
    v1::{
        AdminState, Cause, DrainProxyRequest, ExplainProxyEndpointRequest,
        ExplainProxyEndpointResponse, GetProxyStatusRequest, HealthState,
        ListProxyEndpointsRequest, OutcomeClass, ProxyEndpoint, ProxyIdentity, View,
        proxy_admin_service_client::ProxyAdminServiceClient,
    },
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint as Target},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

use super::*;
use crate::{
    Config, Reloader,
    drain::Drain,
    files::Files,
    proxy::{Counters, Settings},
    reports::Outbox,
    routing::{Endpoint, Health as State, Next, Outcome, Policy, Routed, Router, Update},
    sync::Link,
};

/// Of a process that has no configuration to read again.
fn reloader(drain: &Drain) -> Reloader {
    let config = Config::default();
    let files = Files::load(&config).unwrap();
    let settings = Settings::default().into();
    Reloader::new(None, &config, files, settings, drain.clone())
}

struct Testbed {
    router: Router,
    link: Link,
    drain: Drain,
    channel: Channel,
}

impl Testbed {
    async fn start() -> Self {
        let outbox = Arc::new(Outbox::new(10));
        let router = Router::new(1, Arc::clone(&outbox));
        let link = Link::new();
        let drain = Drain::new(Duration::from_secs(30));
        let admin = Admin {
            identity: ProxyIdentity {
                id: "p1".into(),
                ..Default::default()
            },
            cluster: "default".into(),
            control_urls: vec!["http://127.0.0.1:7870".into()],
            started: SystemTime::now(),
            router: router.clone(),
            outbox,
            link: link.clone(),
            counters: Arc::new(Counters::default()),
            drain: drain.clone(),
            door: tls::Door::plain("admin"),
            client_door: tls::Door::plain("clients"),
            reloader: reloader(&drain),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, admin, CancellationToken::new()));
        let target = Target::from_shared(format!("http://{address}")).unwrap();
        Self {
            router,
            link,
            drain,
            channel: target.connect().await.unwrap(),
        }
    }

    /// Publishes so many endpoints, `e0` upwards.
    fn publish(&self, endpoints: usize, change: impl Fn(usize, &mut Routed)) {
        let endpoints = (0..endpoints).map(|i| {
            let mut routed = Routed {
                endpoint: Arc::new(Endpoint {
                    name: format!("e{i}").into(),
                    base_url: Uri::from_static("http://127.0.0.1:1/v"),
                    credential: None,
                    first_byte_timeout: Duration::from_secs(30),
                    generation: 1,
                }),
                admin: AdminState::Enabled,
                health: State::Healthy,
                failures: 0,
                failures_max: 3,
                proven: true,
                priority: 1,
                weight: 1,
                since: None,
                summary: None,
            };
            change(i, &mut routed);
            Arc::new(routed)
        });
        let view = View {
            term: 1,
            revision: 4,
        };
        let policy = Arc::new(Policy::default());
        self.router
            .publish(Update::whole(view, policy, endpoints, false));
        let by = Uri::from_static("http://127.0.0.1:7870");
        self.link.confirmed(&by, Some(view), Instant::now());
    }

    fn admin(&self) -> ProxyAdminServiceClient<Channel> {
        ProxyAdminServiceClient::new(self.channel.clone())
    }

    fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    async fn explain(&self, name: &str) -> Result<ExplainProxyEndpointResponse, Status> {
        let request = ExplainProxyEndpointRequest { name: name.into() };
        let response = self.admin().explain_proxy_endpoint(request).await?;
        Ok(response.into_inner())
    }

    async fn list(
        &self,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<ProxyEndpoint>, String), Status> {
        let request = ListProxyEndpointsRequest {
            page_size,
            page_token: page_token.into(),
        };
        let response = self
            .admin()
            .list_proxy_endpoints(request)
            .await?
            .into_inner();
        Ok((response.endpoints, response.next_page_token))
    }
}

fn of_service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.into(),
    }
}

#[tokio::test]
async fn the_status_tells_how_current_the_proxy_is() {
    let testbed = Testbed::start().await;
    let status = || async {
        let response = testbed
            .admin()
            .get_proxy_status(GetProxyStatusRequest {})
            .await;
        response.unwrap().into_inner().status.unwrap()
    };
    let before = status().await;
    assert!(!before.ready && before.applied_view.is_none() && before.view_age.is_none());
    testbed.publish(1, |_, _| {});
    let after = status().await;
    assert!(after.ready && !after.stale && !after.draining);
    assert_eq!(after.applied_view.unwrap().to_string(), "1.4");
    assert_eq!(after.connected_control_url, "http://127.0.0.1:7870");
    assert!(after.view_age.is_some());
}

#[tokio::test]
async fn endpoints_come_in_pages_by_name() {
    let testbed = Testbed::start().await;
    assert_eq!(testbed.list(0, "").await.unwrap(), (vec![], String::new()));
    testbed.publish(5, |i, routed| routed.priority = 9 - i as u32);
    let mut token = String::new();
    let mut pages = Vec::new();
    loop {
        let (endpoints, next) = testbed.list(2, &token).await.unwrap();
        let names: Vec<_> = endpoints
            .into_iter()
            .map(|e| format!("{}:{}", e.name, e.priority.unwrap()))
            .collect();
        pages.push(names.join(" "));
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, ["e0:9 e1:8", "e2:7 e3:6", "e4:5"]);
}

#[tokio::test]
async fn a_wrong_page_is_refused_with_a_reason() {
    let testbed = Testbed::start().await;
    for (size, token, field) in [(-1, "", "page_size"), (0, "forged", "page_token")] {
        let status = testbed.list(size, token).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID_FIELD", "qcc")
        );
        assert_eq!(info.metadata["field"], field);
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            field
        );
    }
}

#[tokio::test]
async fn an_endpoint_is_shown_as_selection_sees_it() {
    let testbed = Testbed::start().await;
    testbed.publish(3, |i, routed| match i {
        1 => routed.admin = AdminState::Draining,
        2 => routed.proven = false,
        _ => {}
    });
    let now = Instant::now();
    let mut rejected = false;
    while !rejected {
        if let Next::Attempt(attempt) = testbed.router.begin().unwrap().next(now) {
            rejected = &*attempt.endpoint().name == "e0";
            if rejected {
                attempt.finish(Outcome::of(OutcomeClass::Auth), now);
            }
        }
    }
    let Next::Attempt(_running) = testbed.router.begin().unwrap().next(now) else {
        panic!("e2 is left");
    };
    let (endpoints, _) = testbed.list(0, "").await.unwrap();
    let [e0, e1, e2] = endpoints.try_into().unwrap();
    assert_eq!(e0.state(), HealthState::Healthy); // So says the view,
    let mark = e0.local_mark.unwrap(); // but this proxy knows better.
    assert_eq!((mark.cause(), mark.remaining), (Cause::Auth, None));
    assert_eq!(
        (e0.selectable, e0.reason.as_str()),
        (false, "credential rejected here")
    );
    assert_eq!((e1.selectable, e1.reason.as_str()), (false, "draining"));
    assert_eq!((e2.selectable, e2.unproven, e2.in_flight), (true, true, 1));
}

#[tokio::test]
async fn an_explanation_names_the_attempt_that_made_the_mark() {
    let testbed = Testbed::start().await;
    testbed.publish(1, |_, _| {});
    let before = testbed.explain("e0").await.unwrap();
    assert_eq!(before.summary, "`e0` takes new requests");
    assert_eq!((before.local_evidence, before.next_in), (None, None));
    let now = Instant::now();
    for (number, http_status) in [(1, 500), (2, 401)] {
        let Next::Attempt(attempt) = testbed.router.begin().unwrap().next(now) else {
            panic!("attempt {number}");
        };
        let outcome = Outcome {
            http_status,
            error_type: "its_type".into(),
            upstream_request_id: "req_1".into(),
            ..Outcome::of(match http_status {
                401 => OutcomeClass::Auth,
                _ => OutcomeClass::ServerError,
            })
        };
        attempt.finish(outcome, now);
        let explained = testbed.explain("e0").await.unwrap();
        let evidence = explained.local_evidence.unwrap();
        assert_eq!(
            (evidence.http_status, evidence.attempt),
            (http_status.into(), number)
        );
        let said = format!(
            "this proxy's attempt {number} saw http {http_status}, its_type, request id req_1, 0 s ago"
        );
        assert!(explained.summary.ends_with(&said), "{}", explained.summary);
    }
    let rejected = testbed.explain("e0").await.unwrap();
    assert!(
        rejected
            .summary
            .starts_with("`e0` takes no new requests: credential rejected here; ")
    );
    assert!(
        rejected.next.contains("newer generation"),
        "{}",
        rejected.next
    );
    assert_eq!(rejected.view.unwrap().to_string(), "1.4");
    assert!(!rejected.stale && rejected.view_age.is_some());
    let evidence = rejected.local_evidence.unwrap();
    assert_eq!(evidence.outcome(), OutcomeClass::Auth);
    assert_eq!(evidence.view.unwrap().to_string(), "1.4");
}

#[tokio::test]
async fn an_explanation_passes_the_word_of_the_view_on() {
    let testbed = Testbed::start().await;
    let now = Instant::now();
    testbed.publish(3, |i, routed| {
        routed.summary = Some("auth: http 401, on the word of p1".into());
        routed.since = now.checked_sub(Duration::from_secs(60));
        match i {
            0 => routed.health = State::Unhealthy { cause: Cause::Auth },
            1 => {
                let (cause, until) = (Cause::RateLimited, now + Duration::from_secs(90));
                routed.health = State::Degraded { cause, until };
            }
            _ => routed.admin = AdminState::Disabled,
        }
    });
    let unhealthy = testbed.explain("e0").await.unwrap();
    assert_eq!(
        unhealthy.summary,
        "`e0` takes no new requests: unhealthy: auth (auth: http 401, on the word of p1)"
    );
    assert_eq!(unhealthy.next, "a check at the control plane has to pass");
    assert_eq!(unhealthy.view_summary, "auth: http 401, on the word of p1");
    assert!((60..90).contains(&unhealthy.view_since.unwrap().seconds));
    assert_eq!((unhealthy.next_in, unhealthy.local_evidence), (None, None));

    testbed
        .link
        .restored(unhealthy.view.unwrap(), Duration::from_secs(7), now);
    let paused = testbed.explain("e1").await.unwrap();
    assert!((60..=90).contains(&paused.next_in.unwrap().seconds));
    assert_eq!(
        paused.view_remaining.map(|it| it.seconds),
        paused.next_in.map(|it| it.seconds)
    );
    let old = "by a view that may be out of date, confirmed 7 s ago";
    assert!(
        paused.stale && paused.summary.ends_with(old),
        "{}",
        paused.summary
    );

    let disabled = testbed.explain("e2").await.unwrap();
    assert_eq!(disabled.next, "an operator has to enable it");
}

#[tokio::test]
async fn what_is_not_there_cannot_be_explained() {
    let testbed = Testbed::start().await;
    for (name, code, reason) in [
        ("", Code::InvalidArgument, "INVALID_FIELD"),
        ("e0", Code::NotFound, "NOT_FOUND"),
    ] {
        let status = testbed.explain(name).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert_eq!(status.get_details_error_info().unwrap().reason, reason);
    }
}

#[tokio::test]
async fn health_follows_view_and_drain() {
    let testbed = Testbed::start().await;
    let mut watch = testbed
        .health()
        .watch(of_service("qcc.v1.ProxyAdminService"))
        .await
        .unwrap()
        .into_inner();
    let mut next = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::NotServing);
    testbed.publish(1, |_, _| {});
    assert_eq!(next().await, ServingStatus::Serving);
    let check = testbed.health().check(of_service("")).await.unwrap();
    assert_eq!(check.into_inner().status(), ServingStatus::Serving);
    testbed.drain.begin(None);
    assert_eq!(next().await, ServingStatus::NotServing);
}

#[tokio::test]
async fn an_unknown_service_is_not_found_but_can_be_waited_for() {
    let testbed = Testbed::start().await;
    let status = testbed
        .health()
        .check(of_service("other"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut watch = testbed
        .health()
        .watch(of_service("other"))
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let more = tokio::time::timeout(Duration::from_millis(50), watch.message()).await;
    assert!(more.is_err(), "the stream stays open");
}

#[tokio::test]
async fn a_drain_takes_as_long_as_asked_and_not_longer_if_asked_again() {
    let testbed = Testbed::start().await;
    let drain = |seconds| {
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        let mut admin = testbed.admin();
        async move { admin.drain_proxy(DrainProxyRequest { timeout }).await }
    };
    assert_eq!(drain(-1).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(
        drain(100_000).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert!(!testbed.drain.has_begun());
    drain(7).await.unwrap();
    drain(9).await.unwrap();
    assert!(testbed.drain.has_begun());
    let remaining = testbed.drain.remaining().unwrap();
    assert!(remaining <= Duration::from_secs(7), "{remaining:?}");
}

#[test]
fn reflection_can_be_built() {
    assert!(reflection().build_v1().is_ok());
    assert!(reflection().build_v1alpha().is_ok());
}
