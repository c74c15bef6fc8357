//! The data directory: one life after the other, one process at a time, and
//! nothing but what we wrote.

use std::{collections::BTreeSet, fs, path::PathBuf};

use qcc_proto::v1::{HealthState, ListEndpointsRequest};
use qcc_tests::{Testbed, eventually};

use crate::contract::{create, endpoint};

#[tokio::test(flavor = "multi_thread")]
async fn each_start_is_a_new_term_and_nothing_goes_back() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let mut last = control.view().await;
    let generation = control.endpoint("a").await.generation;
    for start in 0..4 {
        if start % 2 == 0 {
            control.restart().await;
        } else {
            control.kill();
            control.start().await;
        }
        let view = control.view().await;
        assert!(view.term > last.term, "{view} after {last}");
        assert!(view.revision >= last.revision, "{view} after {last}");
        let endpoint = control.endpoint("a").await;
        assert_eq!(endpoint.generation, generation);
        assert_eq!(
            endpoint.health.unwrap_or_default().state(),
            HealthState::Healthy
        );
        last = view;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill_at_any_time() {
    let testbed = Testbed::start().unchecked().await;
    let control = testbed.control();
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let mut client = control.endpoints();
        let writer = tokio::spawn(async move {
            let mut created = Vec::new();
            for index in 0.. {
                let name = format!("e-{round}-{index}");
                if client
                    .create_endpoint(create(endpoint(&name)))
                    .await
                    .is_err()
                {
                    break;
                }
                created.push(name);
            }
            created
        });
        let before = acknowledged.len() as u32;
        eventually("some endpoints exist", async || {
            match control.status().await.endpoints {
                count if count >= before + 1 + round * 5 => Ok(()),
                count => Err(count),
            }
        })
        .await;
        control.kill();
        acknowledged.extend(writer.await.expect("no panic"));
        control.start().await;
        let request = ListEndpointsRequest {
            page_size: 1000,
            ..Default::default()
        };
        let listed = control
            .endpoints()
            .list_endpoints(request)
            .await
            .expect("a page");
        let listed: BTreeSet<_> = listed
            .into_inner()
            .endpoints
            .into_iter()
            .map(|endpoint| endpoint.name)
            .collect();
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|name| !listed.contains(*name))
            .collect();
        assert_eq!(lost, [""; 0]);
        // One more may have been made than the client heard of.
        assert!(listed.len() <= acknowledged.len() + 1 + round as usize);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_control_plane_on_the_same_data_is_refused() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let mut twin = testbed.spawn("twin", &mut testbed.control().twin());
    let status = twin.ended().await;
    assert!(!status.success(), "{status}");
    let data_dir = testbed.control().data_dir();
    assert!(
        twin.output().contains(&data_dir.display().to_string()),
        "{}",
        twin.output()
    );
    testbed.proxy(0).message().await.expect_status(200);
    assert_eq!(testbed.control().state("a").await, HealthState::Healthy);
}

/// The largest file in the data directory: the store itself.
fn data_file(testbed: &Testbed) -> PathBuf {
    let entries = fs::read_dir(testbed.control().data_dir()).expect("the directory can be read");
    let files = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file());
    files
        .max_by_key(|path| path.metadata().expect("metadata").len())
        .expect("there is a file")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_data_file_is_refused_and_left_alone() {
    let foreign = b"this is somebody's diary, not a store\n".repeat(100);
    a_bad_data_file_is_refused(move |_| foreign.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_data_file_is_refused_and_left_alone() {
    a_bad_data_file_is_refused(|whole| whole[..whole.len() / 3].to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_data_file_is_refused_and_left_alone() {
    a_bad_data_file_is_refused(|_| Vec::new()).await;
}

async fn a_bad_data_file_is_refused(damage: impl Fn(&[u8]) -> Vec<u8>) {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a"])
        .proxies(1)
        .await;
    let control = testbed.control();
    control.stop().await;
    let file = data_file(&testbed);
    let whole = fs::read(&file).expect("the file can be read");
    let damaged = damage(&whole);
    fs::write(&file, &damaged).expect("the file can be written");
    let mut refused = testbed.spawn("refused", &mut control.twin());
    let status = refused.ended().await;
    assert!(!status.success(), "{status}: {}", refused.output());
    let named = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    assert!(refused.output().contains(&named), "{}", refused.output());
    assert!(
        fs::read(&file).expect("it is still there") == damaged,
        "the file was changed"
    );
    testbed.proxy(0).message().await.expect_status(200);

    fs::write(&file, &whole).expect("the file can be written");
    control.start().await;
    assert_eq!(control.state("a").await, HealthState::Healthy);
}
