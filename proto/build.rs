//! Compiles the contract without `protoc`: types, clients and servers, and the
//! descriptor set that reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use tonic_build::manual::{Method, Service};

const FILES: [&str; 11] = [
    "qcc/v1/cluster.proto",
    "qcc/v1/config.proto",
    "qcc/v1/control.proto",
    "qcc/v1/endpoint.proto",
    "qcc/v1/event.proto",
    "qcc/v1/failure_queue.proto",
    "qcc/v1/health.proto",
    "qcc/v1/health_sync.proto",
    "qcc/v1/proxy.proto",
    "qcc/v1/proxy_admin.proto",
    "qcc/v1/resource.proto",
];

/// Messages that hold a credential. Their `Debug` is written by hand in `lib.rs`.
const SECRET: [&str; 2] = ["qcc.v1.Credential", "qcc.v1.RoutedEndpoint"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    fs::write(out.join("qcc.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    encoded_health_sync(&out)?;
    println!("cargo:rerun-if-changed=qcc");
    Ok(())
}

/// Generates a second server for `HealthSyncService`, whose watch takes messages
/// that are encoded already, so that one update is encoded once for all streams.
fn encoded_health_sync(out: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let prost = "::tonic_prost::ProstCodec";
    let method = |name: &str, route: &str| {
        Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::v1::{route}Request"))
    };
    let service = Service::builder()
        .name("HealthSyncService")
        .package("qcc.v1")
        .method(
            method("watch_snapshots", "WatchSnapshots")
                .output_type("::bytes::Bytes")
                .codec_path("crate::encoded::EncodedCodec")
                .server_streaming()
                .build(),
        )
        .method(
            method("get_snapshot", "GetSnapshot")
                .output_type("crate::v1::GetSnapshotResponse")
                .codec_path(prost)
                .build(),
        )
        .method(
            method("stream_reports", "StreamReports")
                .output_type("crate::v1::StreamReportsResponse")
                .codec_path(prost)
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .method(
            method("report_outcomes", "ReportOutcomes")
                .output_type("crate::v1::ReportOutcomesResponse")
                .codec_path(prost)
                .build(),
        )
        .build();
    let dir = out.join("encoded");
    fs::create_dir_all(&dir)?;
    tonic_build::manual::Builder::new()
        .build_client(false)
        .out_dir(dir)
        .compile(&[service]);
    Ok(())
}
