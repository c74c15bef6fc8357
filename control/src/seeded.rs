//! Mistakes that can be made on purpose, so that a simulation can show that it finds
//! them. Without the feature `simulation` the question whether one is made is the
//! constant "no", and nothing of it is left in the program.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), allow(dead_code, unreachable_pub))]
pub enum Bug {
    /// A success lifts *unhealthy*, whenever it was chosen.
    SuccessLiftsUnhealthy,
    /// A failure of an older generation counts.
    StaleFailureCounts,
    /// A batch that is sent again counts again.
    DuplicateCounts,
    /// Answers go out before the commit.
    AnswerBeforeCommit,
    /// The revision is not moved on at a start.
    RevisionFalls,
    /// A reader that is behind by several views learns of the last one only.
    SlowReaderLosesDelta,
    /// One proxy's word about what only it may see takes an endpoint from all.
    OneReporterEjects,
    /// Any evidence brings the end of a pause forward.
    PauseShortened,
    /// A check begins although one is under way, which is not given up.
    SecondCheck,
    /// A verdict counts, whatever has become of its check.
    OldVerdictCounts,
    /// Each observation of an incident counts as another one.
    IncidentCountedAgain,
    /// Generations are shown before they are stored.
    PromiseBeforeCommit,
    /// An update of something that has changed since it was read is carried out.
    EtagIgnored,
    /// An unhealthy endpoint has no check planned.
    NoCheckPlanned,
    /// A failure puts the check of a paused endpoint off.
    CheckPutOff,
    /// The first counted failure takes an endpoint out.
    FirstFailureEjects,
    /// Counted failures take no endpoint out.
    FailuresNeverEject,
    /// A report of a rejected key takes no endpoint out.
    RejectionUnheard,
    /// Two that agree are not believed.
    WitnessesUnheard,
    /// Nor is one that nobody can contradict.
    LoneReporterUnheard,
    /// Whose connection has just broken is not expected back.
    GoneForgotten,
    /// A changed policy is not told with what it changes.
    PolicyUntold,
    /// What a changed policy means for its endpoints is not told.
    MembersUntold,
    /// What costs something is asked although what costs nothing has failed.
    FailedPrecheckIgnored,
    /// An hour's checks have no end.
    BudgetIgnored,
    /// The check that asks nobody asks.
    NoneAsks,
    /// An ejection is not told.
    EventForgotten,
    /// An ejection is told twice.
    EventTwice,
    /// Events are told before they are stored.
    EventBeforeCommit,
    /// The log of events has no end.
    LogUnbounded,
    /// A new life gives ids of events out again.
    EventIdsReused,
    /// What was asked is not stored with what came of it.
    RequestsLeftBehind,
    /// A report about another registry counts.
    ForeignReportCounts,
}

#[cfg(feature = "simulation")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Switches a mistake on for this thread, or all of them off.
    pub fn seed_bug(bug: Option<Bug>) {
        BUG.set(bug);
    }

    pub(crate) fn seeded(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(feature = "simulation")]
pub use switch::seed_bug;
#[cfg(feature = "simulation")]
pub(crate) use switch::seeded;

/// Whether a mistake is to be made: never.
#[cfg(not(feature = "simulation"))]
pub(crate) const fn seeded(_: Bug) -> bool {
    false
}
