//! Mistakes made on purpose, one at a time: the simulation has to find each of them, and
//! to call it by its name.

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use qcc_control::simulation as control;
use qcc_dataplane::simulation as dataplane;

use crate::invariants::Violation;

/// A mistake.
#[derive(Debug, Clone, Copy)]
enum Bug {
    Control(control::Bug),
    Proxy(dataplane::Bug),
}

/// Each mistake, and the invariants that it may break first.
const BUGS: [(Bug, &[&str]); 66] = {
    use control::Bug as C;
    use dataplane::Bug as P;
    [
        (Bug::Control(C::SuccessLiftsUnhealthy), &["R-6", "R-9"]),
        (Bug::Control(C::StaleFailureCounts), &["I-26"]),
        (Bug::Control(C::DuplicateCounts), &["I-20"]),
        (Bug::Control(C::AnswerBeforeCommit), &["I-5", "I-21"]),
        (Bug::Control(C::RevisionFalls), &["I-8"]),
        (Bug::Control(C::SlowReaderLosesDelta), &["I-17"]),
        (Bug::Control(C::OneReporterEjects), &["I-32"]),
        (Bug::Control(C::PauseShortened), &["R-8"]),
        (Bug::Control(C::SecondCheck), &["R-15"]),
        (Bug::Control(C::OldVerdictCounts), &["R-15"]),
        (Bug::Control(C::IncidentCountedAgain), &["R-9"]),
        (Bug::Control(C::PromiseBeforeCommit), &["R-3"]),
        (Bug::Control(C::EtagIgnored), &["I-1"]),
        (Bug::Control(C::NoCheckPlanned), &["I-31"]),
        (Bug::Control(C::CheckPutOff), &["I-31"]),
        (Bug::Control(C::FirstFailureEjects), &["R-16"]),
        (Bug::Control(C::FailuresNeverEject), &["R-16"]),
        (Bug::Control(C::RejectionUnheard), &["R-16"]),
        (Bug::Control(C::WitnessesUnheard), &["I-32"]),
        (Bug::Control(C::LoneReporterUnheard), &["I-32"]),
        (Bug::Control(C::GoneForgotten), &["I-32"]),
        (Bug::Control(C::PolicyUntold), &["I-17"]),
        (Bug::Control(C::MembersUntold), &["I-17"]),
        (Bug::Control(C::NoneAsks), &["C-1"]),
        (Bug::Control(C::BudgetIgnored), &["C-2"]),
        (Bug::Control(C::FailedPrecheckIgnored), &["C-3"]),
        (Bug::Control(C::EventForgotten), &["L-5"]),
        (Bug::Control(C::EventTwice), &["L-5"]),
        (Bug::Control(C::EventBeforeCommit), &["L-2"]),
        (Bug::Control(C::LogUnbounded), &["L-4"]),
        (Bug::Control(C::EventIdsReused), &["L-3"]),
        (Bug::Control(C::RequestsLeftBehind), &["I-6"]),
        (Bug::Control(C::ForeignReportCounts), &["I-20"]),
        (Bug::Proxy(P::RejectionIgnored), &["R-10"]),
        (Bug::Proxy(P::MarkNeverExpires), &["R-13", "I-31"]),
        (Bug::Proxy(P::SuspendedTooLong), &["R-13", "I-31"]),
        (Bug::Proxy(P::ViewForgetsMarks), &["R-8", "R-10"]),
        (Bug::Proxy(P::PinnedTableRules), &["R-11"]),
        (Bug::Proxy(P::UnprovenUnlimited), &["unproven:"]),
        (Bug::Proxy(P::ViewGoesBack), &["I-10"]),
        (Bug::Proxy(P::GapIgnored), &["I-17"]),
        (Bug::Proxy(P::RegistryUnrecognised), &["I-23", "I-26"]),
        (Bug::Proxy(P::UnansweredForgotten), &["I-20"]),
        (Bug::Proxy(P::MergedNotCounted), &["I-23"]),
        (Bug::Proxy(P::ReportNamesNewest), &["R-4"]),
        (Bug::Proxy(P::ReportBlursClass), &["R-4"]),
        (Bug::Proxy(P::NoFailover), &["R-13"]),
        (Bug::Proxy(P::NobodyServed), &["R-13"]),
        (Bug::Proxy(P::ViewPauseIgnored), &["R-11"]),
        (Bug::Proxy(P::OwnPauseIgnored), &["R-8"]),
        (Bug::Proxy(P::PrioritiesReversed), &["order:"]),
        (Bug::Proxy(P::PolicyIgnored), &["I-17"]),
        (Bug::Proxy(P::AttemptsUnlimited), &["D-1"]),
        (Bug::Proxy(P::SuspectNotSuspected), &["R-13", "R-16"]),
        (Bug::Proxy(P::BlameNotTurned), &["I-23"]),
        (Bug::Proxy(P::SuspectsUnlimited), &["I-23"]),
        (Bug::Proxy(P::SessionsAnywhere), &["A-1", "A-2"]),
        (Bug::Proxy(P::SessionsForgotten), &["A-2"]),
        (Bug::Proxy(P::TurnNotPassed), &["turns:"]),
        (Bug::Proxy(P::PlaceKept), &["balance:"]),
        (Bug::Proxy(P::MarksOutliveRegistry), &["I-26"]),
        (Bug::Proxy(P::ReportsOutliveRegistry), &["I-23"]),
        (Bug::Proxy(P::AttemptsOutliveRegistry), &["R-4"]),
        (Bug::Proxy(P::RequestsOutliveRegistry), &["R-11"]),
        (Bug::Proxy(P::KeptViewUnnamed), &["I-14"]),
        (Bug::Proxy(P::Panics), &["S-8"]),
    ]
};

/// Seeds within which each mistake has to be found.
const SEEDS: u64 = 400;

#[test]
fn every_seeded_bug_is_found_and_named() {
    let next = AtomicU64::new(0);
    let missed: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = (0..crate::threads())
            .map(|_| {
                scope.spawn(|| {
                    let mut missed = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                        let Some((bug, names)) = BUGS.get(index) else {
                            return missed;
                        };
                        if is_wanted(*bug) {
                            missed.extend(hunt(*bug, names));
                        }
                    }
                })
            })
            .collect();
        let missed = workers.into_iter().map(|worker| worker.join());
        missed
            .flat_map(|missed| missed.expect("a run does not panic"))
            .collect()
    });
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
}

/// Returns whether `QCC_SIM_BUG`, if it is there, is part of a mistake's name.
fn is_wanted(bug: Bug) -> bool {
    env::var("QCC_SIM_BUG").map_or(true, |wanted| format!("{bug:?}").contains(&wanted))
}

/// Looks for a mistake. Returns what to say if it was not found, or under another name.
fn hunt(bug: Bug, names: &[&str]) -> Option<String> {
    seed(Some(bug));
    let found = (0..SEEDS).find_map(|seed| {
        let end = crate::run(seed);
        end.violation.map(|violation| (seed, violation))
    });
    seed(None);
    match found {
        None => Some(format!("{bug:?} is not found in {SEEDS} seeds")),
        Some((seed, violation)) if !is_named(&violation, names) => Some(format!(
            "{bug:?} is taken for another in seed {seed}: {violation}"
        )),
        Some((seed, violation)) => {
            // Shown by `--nocapture`.
            eprintln!("{bug:?} is found by seed {seed}: {violation}");
            None
        }
    }
}

fn is_named(violation: &Violation, names: &[&str]) -> bool {
    let number = violation.invariant.split(' ').next().unwrap_or_default();
    names.contains(&number)
}

/// Switches a mistake on for this thread, or all off.
fn seed(bug: Option<Bug>) {
    control::seed_bug(match bug {
        Some(Bug::Control(bug)) => Some(bug),
        Some(Bug::Proxy(_)) | None => None,
    });
    dataplane::seed_bug(match bug {
        Some(Bug::Proxy(bug)) => Some(bug),
        Some(Bug::Control(_)) | None => None,
    });
}
