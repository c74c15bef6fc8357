//! Wall clocks that jump, run too fast, or stand still. Nothing is decided by them.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use qcc_proto::v1::HealthState;
use qcc_tests::{Answer, Testbed, eventually, possible};

use crate::story;

/// Where Debian and others have the library that fakes the time.
const LIBRARIES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];

/// What happens to the clock, and by how many days log lines are then off.
const FAULTS: [(&str, Option<i64>); 4] = [
    ("+3652d", Some(3652)),
    ("-3652d", Some(-3652)),
    ("+0 x2", None),
    // It stands still.
    (STANDSTILL, None),
];

/// Where a clock stands still, and how a log line of then begins.
const STANDSTILL: &str = "2031-02-03 04:05:06";
const STANDSTILL_LINE: &str = "\"timestamp\":\"2031-02-03T04:05:06";

/// Seconds in a day.
const DAY_S: u64 = 24 * 60 * 60;

/// Longer than the story.
const LONG_WAIT_S: &str = "500";

pub(crate) fn no_jump_of_the_clock_changes_a_decision() {
    let library = LIBRARIES.iter().map(PathBuf::from).find(|it| it.exists());
    let needed = "libfaketime (Debian's package faketime)";
    if possible(needed, library.is_some(), "jumps of the wall clock") {
        story(jumps(&library.unwrap_or_default()));
    }
}

async fn jumps(library: &Path) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let clock = dir.path().join("clock");
    let set = |fault: &str| std::fs::write(&clock, fault).expect("the file can be written");
    set("+0");
    let testbed = Testbed::start()
        .eager_checks()
        .endpoints(["paused", "tried", "spare"])
        .environment("LD_PRELOAD", &library.display().to_string())
        .environment("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .environment("FAKETIME_NO_CACHE", "1")
        // No clock adjustment reaches the monotonic clock.
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .proxies(2)
        .await;
    let (control, proxy) = (testbed.control(), testbed.proxy(0));
    let wait = Answer::status(429).header("retry-after", LONG_WAIT_S);
    testbed.upstream("paused").respond(wait);
    proxy.message().await.expect_status(200);
    control.eventually_is("paused", HealthState::Degraded).await;

    for (round, (fault, days)) in FAULTS.into_iter().enumerate() {
        let began = today();
        set(fault);
        if round == 1 {
            control.restart().await; // What it remembers is of another time now.
        }
        // The queue goes on: a rejected key is out at once, and back when it is good.
        testbed.upstream("tried").respond(401);
        for proxy in testbed.proxies() {
            let served = proxy.message().await.expect_status(200);
            assert_eq!(served.served_by(), "spare", "{fault}");
        }
        control.eventually_is("tried", HealthState::Unhealthy).await;
        testbed.upstream("tried").respond(200);
        control.eventually_is("tried", HealthState::Healthy).await;
        for proxy in testbed.proxies() {
            proxy.eventually_knows("tried", HealthState::Healthy).await;
            let status = proxy.status().await.expect("the proxy answers");
            assert!(!status.stale, "{fault}: {status:?}");
        }
        // A pause of before is neither over nor longer.
        assert_eq!(
            control.state("paused").await,
            HealthState::Degraded,
            "{fault}"
        );
        for proxy in testbed.proxies() {
            proxy.eventually_avoids("paused").await;
        }
        // The year may have ended meanwhile.
        let line = |day| format!("\"timestamp\":\"{}-", year_of(day));
        let lines = match days {
            Some(days) => vec![line(began + days), line(today() + days)],
            None if fault == STANDSTILL => vec![STANDSTILL_LINE.to_owned()],
            None => Vec::new(),
        };
        let logs = testbed.logs();
        let is_seen = lines.iter().any(|line| !logs.find(line).is_empty());
        assert!(lines.is_empty() || is_seen, "{fault} was not seen");
        // A short one ends when it should.
        let short = Answer::status(429).header("retry-after", "1");
        testbed.upstream("tried").respond_once(short);
        eventually("the pause is over", async || {
            let response = proxy.message().send().await?;
            match (response.status.as_u16(), response.served_by()) {
                (200, "tried") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    testbed.settled().await;
    let stats = control.queue_stats().await;
    assert_eq!(stats.total_failed, FAULTS.len() as u64);
}

/// Days since 1970.
fn today() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = now.expect("the test's own clock is right").as_secs() / DAY_S;
    i64::try_from(days).expect("days are few")
}

/// The year of a day after 1970.
fn year_of(mut day: i64) -> i64 {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    loop {
        let days = 365 + i64::from(is_leap(year));
        if day < days {
            return year;
        }
        day -= days;
        year += 1;
    }
}
