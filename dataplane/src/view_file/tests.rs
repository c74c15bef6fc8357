use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Instant};

use http::HeaderName;
use proptest::prelude::*;
use qcc_proto::v1::{self, AdminState, Cause, CredentialScheme, HealthState};
use tempfile::TempDir;

use super::*;
use crate::{
    reports::Outbox,
    routing::{
        Affinity, Health, Next, Outcome, Reason, RetryBudget, ReturnPolicy, Router, Strategy,
        Update, UpstreamProtocol, Verification,
    },
    sync::{Clocks, Link, Replica, convert},
};

const CANARY: &str = "sk-canary-0123456789";

/// A directory with a kept view.
struct Disk {
    dir: TempDir,
    file: ViewFile,
}

impl Disk {
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = ViewFile::new(dir.path().join("view"), None, "default".into());
        Self { dir, file }
    }

    fn with_a_view() -> Self {
        let disk = Self::empty();
        disk.save();
        disk
    }

    fn save(&self) {
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let seal = self.file.seal().unwrap();
        self.file.save(&seal, &table(), an_hour_ago).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.file.path()).unwrap()
    }

    /// What is said of these bytes in the place of the view.
    fn refusal(&self, bytes: &[u8]) -> Error {
        fs::write(self.file.path(), bytes).unwrap();
        self.file.load().unwrap_err()
    }
}

fn wire() -> Vec<v1::RoutedEndpoint> {
    let endpoint = v1::RoutedEndpoint {
        name: "a".into(),
        base_url: "https://api.example/base".into(),
        api_key: CANARY.into(),
        credential_scheme: CredentialScheme::XApiKey.into(),
        generation: 7,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        max_failures: 3,
        consecutive_failures: 1,
        proven: true,
        priority: 1,
        weight: 100,
        ..Default::default()
    };
    let bearer = v1::RoutedEndpoint {
        name: "b".into(),
        credential_scheme: CredentialScheme::Bearer.into(),
        state: HealthState::Unhealthy.into(),
        cause: Cause::Auth.into(),
        mark_summary: "auth: http 401".into(),
        since_clock_ms: 40_000,
        ..endpoint.clone()
    };
    let paused = v1::RoutedEndpoint {
        name: "c".into(),
        api_key: String::new(),
        state: HealthState::Degraded.into(),
        cause: Cause::RateLimited.into(),
        until_clock_ms: 350_000,
        ..endpoint.clone()
    };
    vec![endpoint, bearer, paused]
}

fn update(registry_id: &str) -> Update {
    let clocks = Clocks {
        clock_ms: 50_000,
        received: Instant::now(),
    };
    let named = |endpoint| {
        let routed = Arc::new(convert::routed(endpoint, clocks).unwrap());
        (Arc::clone(&routed.endpoint.name), routed)
    };
    Update {
        view: View {
            term: 3,
            revision: 17,
        },
        registry_id: registry_id.into(),
        policy: Arc::new(Policy {
            attempts_max: 5,
            verification: Verification {
                max: Duration::from_secs(30),
                auth_max: Duration::from_secs(90),
            },
            queue_timeout: Duration::from_millis(1234),
            strategy: Strategy::PeakEwma,
            affinity: Affinity {
                enabled: false,
                headers: vec![HeaderName::from_static("x-session")],
                return_policy: ReturnPolicy::Stay,
            },
            slow_start: Duration::ZERO,
            retry_budget: RetryBudget {
                percent: 7,
                min_per_second: 0,
            },
            hold_timeout: Duration::ZERO,
            max_ejected_percent: 40,
            last_resort: true,
            model_override: Some("m".into()),
            model_aliases: [("a".into(), "b".into())].into(),
            expose_headers: false,
            upstream_protocol: UpstreamProtocol::Http2,
            ..Policy::default()
        }),
        endpoints: wire().into_iter().map(named).collect(),
        has_left_out: false,
        changes: None,
        reset: false,
        restored: None,
    }
}

fn table() -> Arc<Table> {
    let router = Router::new(1, Arc::new(Outbox::new(1)));
    router.publish(update("registry-1"));
    router.table().unwrap()
}

#[test]
fn a_view_comes_back_as_it_was() {
    let disk = Disk::with_a_view();
    let kept = disk.file.load().unwrap().unwrap();
    let table = table();
    assert_eq!(
        (kept.view, &*kept.registry_id),
        (table.view(), "registry-1")
    );
    assert_eq!(&kept.policy, table.policy());
    assert!((3600..3660).contains(&kept.age.as_secs()), "{:?}", kept.age);
    assert_eq!(kept.endpoints.len(), 3);
    for (saved, kept) in table.by_name().zip(&kept.endpoints) {
        let saved = &saved.routed;
        assert_eq!(saved.endpoint, kept.endpoint); // Credentials too.
        assert_eq!((saved.admin, saved.failures), (kept.admin, kept.failures));
        assert_eq!(saved.summary, kept.summary);
        match (saved.health, kept.health) {
            (
                Health::Degraded { cause, until },
                Health::Degraded {
                    cause: same,
                    until: later,
                },
            ) => {
                assert_eq!(cause, same);
                let delay = later.saturating_duration_since(until);
                assert!(later + Duration::from_millis(2) > until && delay.as_secs() < 60);
            }
            (saved, kept) => assert_eq!(saved, kept),
        }
    }
    let since = kept.endpoints[1].since.unwrap().elapsed();
    assert!((10..70).contains(&since.as_secs()), "{since:?}");
}

#[test]
fn no_key_is_in_the_file_and_nobody_else_may_read_it() {
    let disk = Disk::with_a_view();
    for name in ["view", "view.key"] {
        let mode = fs::metadata(disk.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let bytes = fs::read(disk.path(name)).unwrap();
        for clear in [CANARY, "canary", "api.example", "default"] {
            let found = bytes.windows(clear.len()).any(|at| at == clear.as_bytes());
            assert!(!found, "{clear} in {name}");
        }
    }
    let mut names: Vec<_> = fs::read_dir(disk.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["view", "view.key"], "nothing else is left");
    let kept = disk.file.load().unwrap();
    assert!(!format!("{kept:?}").contains("canary"));
}

#[test]
fn a_file_that_is_not_there_is_no_view() {
    let disk = Disk::empty();
    assert!(disk.file.load().unwrap().is_none());
    assert!(
        !disk.path("view.key").exists(),
        "no key is made to read nothing"
    );
}

#[test]
fn what_is_not_ours_is_not_read_and_not_replaced() {
    let disk = Disk::empty();
    disk.save();
    for text in ["[[endpoints]]\n", "qcc-control", "x", &"\0".repeat(5000)] {
        let error = disk.refusal(text.as_bytes());
        assert!(matches!(error, Error::Foreign(_)), "{error}");
        assert!(!disk.file.may_be_replaced_after(&error));
    }
    fs::remove_file(disk.file.path()).unwrap();
    fs::create_dir(disk.file.path()).unwrap();
    let error = disk.file.load().unwrap_err();
    assert!(matches!(error, Error::Foreign(_)), "{error}");
}

#[test]
fn what_other_users_may_read_is_refused() {
    let disk = Disk::with_a_view();
    for (name, may_be_replaced) in [("view", true), ("view.key", false)] {
        for mode in [0o640, 0o604, 0o660, 0o602] {
            fs::set_permissions(disk.path(name), fs::Permissions::from_mode(mode)).unwrap();
            let error = disk.file.load().unwrap_err();
            assert!(matches!(error, Error::Exposed(_)), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
            assert_eq!(disk.file.may_be_replaced_after(&error), may_be_replaced);
        }
        fs::set_permissions(disk.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(disk.file.load().unwrap().is_some());
}

#[test]
fn a_view_of_another_cluster_key_or_format_is_not_used_but_may_be_replaced() {
    let disk = Disk::with_a_view();
    let path = disk.file.path().to_owned();
    let other = ViewFile::new(path.clone(), None, "other".into());
    let error = other.load().unwrap_err();
    assert!(
        matches!(&error, Error::OtherCluster(name) if name == "default"),
        "{error}"
    );
    assert!(disk.file.may_be_replaced_after(&error));

    let elsewhere = ViewFile::new(path, Some(disk.path("sub/other.key")), "default".into());
    elsewhere.seal().unwrap();
    let error = elsewhere.load().unwrap_err();
    assert!(matches!(error, Error::OtherKey), "{error}");
    assert!(disk.file.may_be_replaced_after(&error));

    let mut newer = disk.bytes();
    newer[MAGIC.len()] = FORMAT + 1;
    let error = disk.refusal(&newer);
    assert!(matches!(error, Error::Format(2)), "{error}");
    assert!(disk.file.may_be_replaced_after(&error));
    disk.save();
    assert!(disk.file.load().unwrap().is_some());
}

#[test]
fn a_key_file_that_is_something_else_is_neither_used_nor_replaced() {
    let disk = Disk::with_a_view();
    for text in ["", "password", "qcc-view-key-1:00", "qcc-seal-key-1:"] {
        fs::write(disk.path("view.key"), text).unwrap();
        let error = disk.file.load().unwrap_err();
        assert!(matches!(error, Error::Key(_)), "{error}");
        assert!(!disk.file.may_be_replaced_after(&error));
        disk.file.seal().unwrap_err();
        assert_eq!(fs::read_to_string(disk.path("view.key")).unwrap(), text);
    }
}

#[test]
fn the_rest_of_an_interrupted_writing_goes_and_what_another_process_writes_stays() {
    let disk = Disk::with_a_view();
    let (rest, others) = ("view.1-0.incomplete", "view.2-0.incomplete");
    for name in [rest, others] {
        fs::write(disk.path(name), "torn").unwrap();
    }
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = fs::File::options().write(true).open(disk.path(rest));
    file.unwrap().set_modified(an_hour_ago).unwrap();
    disk.save();
    assert!(!disk.path(rest).exists());
    assert_eq!(fs::read_to_string(disk.path(others)).unwrap(), "torn");
    assert!(disk.file.load().unwrap().is_some());
}

#[test]
fn a_key_that_somebody_else_has_made_is_not_replaced() {
    let disk = Disk::empty();
    let path = disk.path("view.key");
    assert!(disk::create(&path, b"theirs").unwrap());
    assert!(!disk::create(&path, b"ours").unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
}

#[test]
fn reading_makes_no_key() {
    let disk = Disk::with_a_view();
    fs::remove_file(disk.path("view.key")).unwrap();
    let error = disk.file.load().unwrap_err();
    assert!(matches!(error, Error::NoKey(_)), "{error}");
    assert!(!disk.path("view.key").exists());
}

/// A control plane's view at a router, and what keeps it.
struct Keeping {
    disk: Disk,
    router: Router,
    link: Link,
    saver: Saver,
}

impl Keeping {
    fn new() -> Self {
        let disk = Disk::empty();
        let router = Router::new(1, Arc::new(Outbox::new(10)));
        let link = Link::new();
        let path = disk.file.path().to_owned();
        let file = Arc::new(ViewFile::new(path, None, "default".into()));
        let saver = Saver::new(file, router.clone(), link.clone());
        Self {
            disk,
            router,
            link,
            saver,
        }
    }

    fn publish(&self, registry_id: &str, reset: bool) {
        self.router.publish(Update {
            reset,
            ..update(registry_id)
        });
        let url = http::Uri::from_static("http://127.0.0.1:1");
        let view = self.router.table().map(|table| table.view());
        self.link.confirmed(&url, view, Instant::now());
    }

    /// Lets the saver work until the file is as wanted.
    async fn until(&self, wanted: impl Fn(&Kept) -> bool) -> Kept {
        let found = async {
            loop {
                if let Ok(Some(kept)) = self.disk.file.load()
                    && wanted(&kept)
                {
                    return kept;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), found);
        tokio::select! {
            found = found => found.expect("it is written"),
            () = self.saver.run() => panic!("it ends never"),
        }
    }

    fn rejects(&self) {
        let Next::Attempt(attempt) = self.router.begin().unwrap().next(Instant::now()) else {
            panic!("an attempt");
        };
        attempt.finish(Outcome::of(v1::OutcomeClass::Auth), Instant::now());
    }
}

#[tokio::test]
async fn a_rejected_credential_is_not_forgotten_and_nothing_kept_counts_as_proven() {
    let keeping = Keeping::new();
    keeping.publish("registry-1", false);
    keeping.until(|kept| kept.rejected.is_empty()).await;
    keeping.rejects();
    let kept = keeping.until(|kept| !kept.rejected.is_empty()).await;
    assert_eq!(kept.rejected, [("a".into(), 7)]);

    let router = Router::new(1, Arc::new(Outbox::new(10)));
    let update = Replica::default().restore(kept);
    router.publish(update);
    let table = router.table().unwrap();
    let rejected = table.find("a").unwrap();
    assert_eq!(rejected.routed.health, Health::Healthy); // A local mark.
    let reason = rejected.selectable(table.policy(), Instant::now());
    assert_eq!(reason, Err(Reason::Rejected));
    assert!(table.by_name().all(|entry| !entry.live.proven()));
}

#[tokio::test]
async fn a_kept_view_that_is_not_confirmed_learns_of_a_rejection_too() {
    let keeping = Keeping::new();
    keeping.disk.save();
    let kept = keeping.disk.file.load().unwrap().unwrap();
    let (view, age) = (kept.view, kept.age);
    keeping.router.publish(Replica::default().restore(kept));
    keeping.link.restored(view, age, Instant::now());
    keeping.rejects();
    let kept = keeping.until(|kept| !kept.rejected.is_empty()).await;
    assert!(kept.age >= age, "it has not been confirmed since");
}

#[tokio::test]
async fn a_writing_that_fails_is_tried_again() {
    let keeping = Keeping::new();
    fs::create_dir(keeping.disk.path("view.key")).unwrap();
    keeping.publish("registry-1", false);
    keeping.saver.save().await;
    assert!(!keeping.disk.file.path().exists());
    fs::remove_dir(keeping.disk.path("view.key")).unwrap();
    keeping.until(|_| true).await;
}

#[tokio::test]
async fn a_new_registry_is_written_even_at_the_same_view() {
    let keeping = Keeping::new();
    keeping.publish("registry-1", false);
    keeping.until(|kept| kept.registry_id == "registry-1").await;
    keeping.publish("registry-2", true);
    keeping.until(|kept| kept.registry_id == "registry-2").await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Torn, altered or extended at any place: no view, and no panic.
    #[test]
    fn a_damaged_view_is_never_used(
        cut in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..20),
        is_cut in any::<bool>(),
    ) {
        let disk = Disk::with_a_view();
        let whole = disk.bytes();
        let mut bytes = whole.clone();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes.extend(tail);
        prop_assume!(bytes != whole);
        fs::write(disk.file.path(), &bytes).unwrap();
        prop_assert!(disk.file.load().is_err());
    }

    /// Whatever is sealed, it is decoded or refused.
    #[test]
    fn contents_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(contents) = Contents::decode(&bytes) {
            let _ = contents.into_kept(Instant::now());
        }
    }
}

#[test]
fn a_view_torn_or_flipped_at_every_byte_is_never_used() {
    let disk = Disk::with_a_view();
    let whole = disk.bytes();
    for at in 0..whole.len() {
        disk.refusal(&whole[..at]);
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        disk.refusal(&flipped);
    }
    fs::write(disk.file.path(), &whole).unwrap();
    assert!(disk.file.load().unwrap().is_some());
}
