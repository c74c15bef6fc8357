//! The contract as somebody else's client sees it: Python, and nothing but reflection.

use std::{path::Path, process::Command};

use qcc_proto::v1::HealthState;
use qcc_tests::{Testbed, foreign};

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_needs_reflection_only() {
    let imports = "grpc, grpc_reflection.v1alpha, grpc_health.v1";
    let packages = "grpcio grpcio-reflection grpcio-health-checking";
    let Some(python) = foreign::python(imports, packages) else {
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
