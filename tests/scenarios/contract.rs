//! The contract's manners: paging, etags, repeated requests, masks, errors, health.

use qcc_proto::v1::{
    ApplyResourcesRequest, CreateClusterRequest, CreateEndpointRequest, Credential,
    DeleteEndpointRequest, Endpoint, GetEndpointRequest, HealthState, ListEndpointsRequest,
    ListFailuresRequest, RestoreEndpointRequest, UpdateEndpointRequest,
};
use qcc_tests::{Testbed, eventually};
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;

/// An endpoint that nothing is ever sent to.
pub(crate) fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        base_url: "http://127.0.0.1:9".to_owned(),
        ..Default::default()
    }
}

/// A request to create it.
pub(crate) fn create(endpoint: Endpoint) -> CreateEndpointRequest {
    CreateEndpointRequest {
        endpoint: Some(endpoint),
        ..Default::default()
    }
}

/// A request to change these of its fields.
pub(crate) fn update(endpoint: Endpoint, paths: &[&str]) -> UpdateEndpointRequest {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    UpdateEndpointRequest {
        endpoint: Some(endpoint),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..Default::default()
    }
}

/// The fields that a `BadRequest` complains about, and the `ErrorInfo`'s reason.
fn complaint(status: &Status) -> (Vec<String>, String) {
    let info = status
        .get_details_error_info()
        .expect("every error says its reason");
    assert_eq!(info.domain, "qcc", "{status:?}");
    let violations = status
        .get_details_bad_request()
        .map(|details| details.field_violations);
    let fields = violations
        .into_iter()
        .flatten()
        .map(|violation| violation.field);
    (fields.collect(), info.reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_every_endpoint_once_and_in_order() {
    let testbed = Testbed::start().unchecked().await;
    let mut client = testbed.control().endpoints();
    let names: Vec<_> = (0..25).map(|index| format!("e-{index:02}")).collect();
    let request = ApplyResourcesRequest {
        endpoints: names.iter().rev().map(|name| endpoint(name)).collect(),
        ..Default::default()
    };
    testbed
        .control()
        .resources()
        .apply_resources(request)
        .await
        .expect("valid resources");

    let mut request = ListEndpointsRequest {
        page_size: 10,
        ..Default::default()
    };
    let (mut listed, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let page = client
            .list_endpoints(request.clone())
            .await
            .expect("a page")
            .into_inner();
        sizes.push(page.endpoints.len());
        listed.extend(page.endpoints.into_iter().map(|endpoint| endpoint.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((sizes, listed), (vec![10, 10, 5], names));
    for token in ["forged", "AAAA", "\u{1f980}"] {
        let forged = ListEndpointsRequest {
            page_token: token.to_owned(),
            ..Default::default()
        };
        let status = client
            .list_endpoints(forged)
            .await
            .expect_err("a forged token");
        assert_eq!(status.code(), Code::InvalidArgument, "{token}: {status:?}");
        let forged = ListFailuresRequest {
            page_token: token.to_owned(),
            ..Default::default()
        };
        let status = testbed
            .control()
            .queue()
            .list_failures(forged)
            .await
            .expect_err("forged");
        assert_eq!(status.code(), Code::InvalidArgument, "{token}: {status:?}");
    }
    let negative = ListEndpointsRequest {
        page_size: -1,
        ..Default::default()
    };
    let status = client
        .list_endpoints(negative)
        .await
        .expect_err("a negative size");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_something_that_has_changed_is_aborted() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let mut client = testbed.control().endpoints();
    let read = testbed.control().endpoint("a").await;
    let write = |weight, etag: &str| {
        let changed = Endpoint {
            weight: Some(weight),
            etag: etag.to_owned(),
            ..endpoint("a")
        };
        update(changed, &["weight"])
    };
    let first = client
        .update_endpoint(write(7, &read.etag))
        .await
        .expect("the etag is current");
    let first = first.into_inner().endpoint.unwrap_or_default();
    assert_eq!(first.weight, Some(7));
    assert_ne!(first.etag, read.etag);
    let status = client
        .update_endpoint(write(8, &read.etag))
        .await
        .expect_err("it has changed");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert!(!complaint(&status).1.is_empty());
    let delete = DeleteEndpointRequest {
        name: "a".to_owned(),
        etag: read.etag,
        ..Default::default()
    };
    let status = client
        .delete_endpoint(delete)
        .await
        .expect_err("it has changed");
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert_eq!(testbed.control().endpoint("a").await.weight, Some(7));
    // Health is no configuration: it does not void what was read.
    let restore = RestoreEndpointRequest {
        name: "a".to_owned(),
        ..Default::default()
    };
    client.restore_endpoint(restore).await.expect("it exists");
    client
        .update_endpoint(write(9, &first.etag))
        .await
        .expect("the configuration is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_makes_a_change_safe_to_repeat() {
    let testbed = Testbed::start().unchecked().await;
    let mut client = testbed.control().endpoints();
    let request = CreateEndpointRequest {
        request_id: "once".to_owned(),
        ..create(endpoint("a"))
    };
    let first = client
        .create_endpoint(request.clone())
        .await
        .expect("created")
        .into_inner();
    let view = testbed.control().view().await;
    let again = client
        .create_endpoint(request.clone())
        .await
        .expect("the same answer")
        .into_inner();
    assert_eq!(first.endpoint, again.endpoint);
    assert_eq!(testbed.control().view().await, view);
    let status = client
        .create_endpoint(create(endpoint("a")))
        .await
        .expect_err("the name is taken");
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    complaint(&status);

    // A kill between the change and its answer is just when it is needed.
    testbed.control().kill();
    testbed.control().start().await;
    let again = eventually("the request is answered", async || {
        client.create_endpoint(request.clone()).await
    });
    assert_eq!(
        again.await.into_inner().endpoint.unwrap_or_default().name,
        "a"
    );

    let reused = CreateEndpointRequest {
        request_id: "once".to_owned(),
        ..create(endpoint("b"))
    };
    let status = client
        .create_endpoint(reused)
        .await
        .expect_err("another request, the same id");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_changes_nothing() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let mut client = testbed.control().endpoints();
    let view = testbed.control().view().await;
    let request = CreateEndpointRequest {
        validate_only: true,
        ..create(endpoint("b"))
    };
    let answer = client
        .create_endpoint(request)
        .await
        .expect("valid")
        .into_inner();
    assert_eq!(answer.endpoint.unwrap_or_default().priority, Some(1));
    let request = CreateEndpointRequest {
        validate_only: true,
        ..create(endpoint("a"))
    };
    let status = client
        .create_endpoint(request)
        .await
        .expect_err("the name is taken");
    assert_eq!(status.code(), Code::AlreadyExists);
    let changed = Endpoint {
        weight: Some(7),
        ..endpoint("a")
    };
    let request = UpdateEndpointRequest {
        validate_only: true,
        ..update(changed, &["weight"])
    };
    let answer = client
        .update_endpoint(request)
        .await
        .expect("valid")
        .into_inner();
    assert_eq!(answer.endpoint.unwrap_or_default().weight, Some(7));
    let request = DeleteEndpointRequest {
        name: "a".to_owned(),
        validate_only: true,
        ..Default::default()
    };
    client.delete_endpoint(request).await.expect("valid");
    assert_eq!(testbed.control().endpoint("a").await.weight, Some(100));
    assert_eq!(testbed.control().view().await, view);
    let status = client
        .get_endpoint(GetEndpointRequest {
            name: "b".to_owned(),
        })
        .await;
    assert_eq!(
        status.expect_err("it was not created").code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_field() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let mut client = testbed.control().endpoints();
    let bad_masks = [
        ["colour"],
        ["generation"],
        ["health"],
        ["name"],
        ["stats.attempts"],
    ];
    for paths in bad_masks {
        let status = client.update_endpoint(update(endpoint("a"), &paths)).await;
        let status = status.expect_err("not a field to change");
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{paths:?}: {status:?}"
        );
        let (fields, _) = complaint(&status);
        assert_eq!(fields, ["update_mask"], "{paths:?}: {status:?}");
    }

    let url = |url: &str| Endpoint {
        base_url: url.to_owned(),
        ..endpoint("b")
    };
    let name = |name: &str| Endpoint {
        name: name.to_owned(),
        ..endpoint("b")
    };
    let bad = [
        (name(""), "endpoint.name"),
        (name("../a"), "endpoint.name"),
        (name("UPPER"), "endpoint.name"),
        (name("trailing-"), "endpoint.name"),
        (name("caf\u{e9}"), "endpoint.name"),
        (name(&"x".repeat(64)), "endpoint.name"),
        (url(""), "endpoint.base_url"),
        (url("ftp://127.0.0.1"), "endpoint.base_url"),
        (url("http://user:pw@127.0.0.1"), "endpoint.base_url"),
        (url("https://127.0.0.1/v1?x=1"), "endpoint.base_url"),
        (url("https://127.0.0.1/#top"), "endpoint.base_url"),
        (url("http://api.example.com"), "endpoint.base_url"),
        (url("file:///etc/passwd"), "endpoint.base_url"),
        (
            Endpoint {
                weight: Some(0),
                ..endpoint("b")
            },
            "endpoint.weight",
        ),
        (
            Endpoint {
                priority: Some(1001),
                ..endpoint("b")
            },
            "endpoint.priority",
        ),
        (
            Endpoint {
                max_failures: Some(0),
                ..endpoint("b")
            },
            "endpoint.max_failures",
        ),
        (
            Endpoint {
                timeout: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                ..endpoint("b")
            },
            "endpoint.timeout",
        ),
        (
            Endpoint {
                credential: Some(Credential {
                    api_key: "line\nbreak".to_owned(),
                    ..Default::default()
                }),
                ..endpoint("b")
            },
            "endpoint.credential.api_key",
        ),
    ];
    for (bad, field) in bad {
        let status = client.create_endpoint(create(bad)).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        let (fields, reason) = complaint(&status);
        assert_eq!(fields, [field], "{status:?}");
        assert!(!reason.is_empty(), "{status:?}");
        assert!(!status.message().contains("line\nbreak"), "{status:?}");
    }
    let homeless = Endpoint {
        cluster: "nowhere".to_owned(),
        ..endpoint("b")
    };
    let status = client
        .create_endpoint(create(homeless))
        .await
        .expect_err("no such cluster");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let status = testbed
        .control()
        .clusters()
        .create_cluster(CreateClusterRequest::default())
        .await;
    assert_eq!(
        status.expect_err("nothing to create").code(),
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_asks_for_the_key_again() {
    let testbed = Testbed::start().unchecked().endpoints(["a"]).await;
    let mut client = testbed.control().endpoints();
    let before = testbed.control().endpoint("a").await;
    let moved = Endpoint {
        base_url: "http://127.0.0.1:1".to_owned(),
        ..endpoint("a")
    };
    let status = client
        .update_endpoint(update(moved.clone(), &["base_url"]))
        .await;
    let status = status.expect_err("a key must not travel to a URL that it was not entered for");
    assert!(
        matches!(
            status.code(),
            Code::InvalidArgument | Code::FailedPrecondition
        ),
        "{status:?}"
    );
    let credential = Some(Credential {
        api_key: "again".to_owned(),
        ..Default::default()
    });
    let moved = Endpoint {
        credential,
        ..moved
    };
    let after = client
        .update_endpoint(update(moved, &["base_url", "credential"]))
        .await;
    let after = after
        .expect("the key was entered")
        .into_inner()
        .endpoint
        .unwrap_or_default();
    assert!(after.generation > before.generation);
    assert_eq!(
        after.health.unwrap_or_default().state(),
        HealthState::Unknown
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_are_answered_on_both_sides() {
    let testbed = Testbed::start()
        .unchecked()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let admin = testbed.proxy(0).admin_url();
    let admin = tonic::transport::Endpoint::from_shared(admin)
        .expect("a URL")
        .connect_lazy();
    for channel in [testbed.control().channel(), admin] {
        let mut client = HealthClient::new(channel);
        let request = HealthCheckRequest {
            service: String::new(),
        };
        let answer = client
            .check(request.clone())
            .await
            .expect("an answer")
            .into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
        let mut watch = client.watch(request).await.expect("a watch").into_inner();
        let first = watch.next().await.expect("an answer").expect("no error");
        assert_eq!(first.status(), ServingStatus::Serving);
    }
}
