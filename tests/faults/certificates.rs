//! Somebody else at the control plane's address.

use qcc_tests::{Authority, Testbed, TlsFront, Validity, eventually};

use crate::story;

const HERE: &str = "127.0.0.1";

pub(crate) fn whoever_pretends_to_be_the_control_plane_is_not_believed() {
    story(async {
        let mut testbed = Testbed::start()
            .patient_checks()
            .endpoints(["a"])
            .log("info,qcc_dataplane=debug")
            .await;
        let (authority, stranger) = (Authority::new(), Authority::new());
        let ca = authority.write_own(testbed.dir());
        let good = || authority.issue(HERE, Validity::Now);
        let front = TlsFront::start(good(), testbed.control().address()).await;
        let url = format!("https://{}", front.address());
        let index = testbed.add_proxy_with(&[&url], &["--ca-file", &ca]).await;
        let proxy = testbed.proxy(index);
        proxy.message().await.expect_status(200);
        let another = authority.issue("another.test", Validity::Now);
        for (shown, words) in [
            (
                Some(stranger.issue(HERE, Validity::Now)),
                "no authority that is trusted here",
            ),
            (
                Some(authority.issue(HERE, Validity::Past)),
                "its certificate has expired",
            ),
            (
                Some(authority.issue(HERE, Validity::Future)),
                "is not valid yet",
            ),
            (Some(another), "its certificate is not for `127.0.0.1`"),
            (None, "does not speak TLS"), // What is there would serve anybody.
        ] {
            front.show(shown);
            eventually(&format!("it says: {words}"), async || {
                let said = testbed.logs().find(words);
                said.first().cloned().ok_or_else(String::new)
            })
            .await;
            let status = proxy.status().await.expect("the proxy answers");
            assert_eq!(status.connected_control_url, "", "{words}");
            assert!(status.ready, "{words}");
            proxy.message().await.expect_status(200);
            assert!(status.counters.is_some_and(|it| it.own_errors == 0));
        }
        front.show(Some(good()));
        proxy
            .eventually_is("connected", |it| it.connected_control_url == url)
            .await;
        testbed.settled().await;
        testbed.expect_every_outcome_once(&["a"]).await;
    });
}
