//! The contract as somebody else's client sees it: Python, and nothing but reflection.

use std::{
    io::{Write, stderr},
    path::Path,
    process::Command,
};

use qcc_proto::v1::HealthState;
use qcc_tests::Testbed;

/// What the client needs, and what a person would do to get it.
const PACKAGES: &str = "grpcio grpcio-reflection grpcio-health-checking";

/// Finds a Python that has the packages.
fn python() -> Option<String> {
    let python = std::env::var("QCC_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let imports = "import grpc, grpc_reflection.v1alpha, grpc_health.v1";
    let found = Command::new(&python).args(["-c", imports]).output();
    found
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_needs_reflection_only() {
    let Some(python) = python() else {
        let required = std::env::var_os("QCC_REQUIRE_FOREIGN").is_some_and(|value| value == "1");
        assert!(
            !required,
            "no Python with {PACKAGES} (set QCC_PYTHON to one)"
        );
        // Not by `eprintln`, which is kept from whoever runs tests that pass.
        let _ = writeln!(
            stderr(),
            "SKIPPED: the foreign client needs Python with {PACKAGES}"
        );
        return;
    };
    let mut testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .proxies(1)
        .await;
    testbed.upstream("b").respond(401);
    testbed.upstream("a").respond_once(500);
    testbed.proxy(0).message().await;
    testbed
        .control()
        .eventually_is("b", HealthState::Unhealthy)
        .await;
    let url = testbed.add_upstream("from-python").await.url();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/client.py");
    let control = testbed.control().address().to_string();
    let proxy = testbed.proxy(0).admin_url().replace("http://", "");
    let mut command = Command::new(python);
    command.arg(script).args([&control, &proxy, &url]);
    let mut client = testbed.spawn("foreign", &mut command);
    let status = client.ended().await;
    assert!(status.success(), "{}", client.output());
    testbed
        .control()
        .eventually_is("from-python", HealthState::Healthy)
        .await;
}
