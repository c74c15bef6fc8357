//! Mistakes that can be made on purpose, so that a simulation can show that it finds
//! them. Without the feature `simulation` the question whether one is made is the
//! constant "no", and nothing of it is left in the program.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "simulation"), allow(dead_code, unreachable_pub))]
pub enum Bug {
    /// A 401 leaves no mark.
    RejectionIgnored,
    /// A suspension has no end.
    MarkNeverExpires,
    /// The first one is as long as one after many failures.
    SuspendedTooLong,
    /// A new view voids what this process has seen itself.
    ViewForgetsMarks,
    /// A request goes by the table that it began with, whatever the newest says.
    PinnedTableRules,
    /// Any number may find out about an endpoint that nobody has proven.
    UnprovenUnlimited,
    /// A view older than ours is taken.
    ViewGoesBack,
    /// A change of another view than ours is taken.
    GapIgnored,
    /// Another registry is taken for ours.
    RegistryUnrecognised,
    /// What was sent and not answered is not sent again after a break.
    UnansweredForgotten,
    /// A success that is merged into another is not counted.
    MergedNotCounted,
    /// A report names the newest view, not that of its attempt.
    ReportNamesNewest,
    /// A report calls a failure by another name.
    ReportBlursClass,
    /// A request gets one attempt.
    NoFailover,
    /// No request gets an endpoint.
    NobodyServed,
    /// The end of a pause in the view means nothing.
    ViewPauseIgnored,
    /// The end of a pause that it was told of itself means nothing.
    OwnPauseIgnored,
    /// What is to be preferred comes last.
    PrioritiesReversed,
    /// A change of the cluster's rules is not taken.
    PolicyIgnored,
    /// A request tries whomever it can.
    AttemptsUnlimited,
    /// A request that fails alike at two endpoints is not to blame.
    SuspectNotSuspected,
    /// What was put down to a request stays with it, even if somebody serves it.
    BlameNotTurned,
    /// Any number of requests in a row may be to blame.
    SuspectsUnlimited,
    /// Sessions go wherever the strategy says.
    SessionsAnywhere,
    /// Where a session went is not noted.
    SessionsForgotten,
    /// It is always the same one's turn.
    TurnNotPassed,
    /// A place is not given back.
    PlaceKept,
    /// What was seen of endpoints outlives their registry.
    MarksOutliveRegistry,
    /// Reports that wait are sent to the next registry as if they were about that.
    ReportsOutliveRegistry,
    /// So is what an attempt comes to that has outlived its registry.
    AttemptsOutliveRegistry,
    /// A request of before goes where the next registry has the same generation.
    RequestsOutliveRegistry,
    /// A view that was kept is of no registry.
    KeptViewUnnamed,
    /// It panics where it chooses.
    Panics,
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
