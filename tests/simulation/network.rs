//! The wires between proxies and the control plane.
//!
//! A connection carries the frames of each of its streams in order, each way, until it
//! breaks; a partition holds them up. Where the plan is hostile frames are also lost,
//! doubled and overtaken, as no transport should do and some middle box will.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    plan::Plan,
    random::Random,
    time::{MS, Time},
};

/// Names one connection, in the whole run.
pub(crate) type Wire = u64;

/// What travels.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// To the control plane: opens the stream of views.
    Watch(Bytes),
    /// To the control plane: a message of the stream of reports.
    Report(Bytes),
    /// To the proxy: an update.
    Update(Bytes),
    /// To the proxy: an answer on the stream of reports.
    Answer(Bytes),
    /// Either way: the connection is closed.
    Close,
}

/// One of the streams that share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Views,
    Reports,
    /// The connection's own.
    Control,
}

impl Frame {
    /// Returns the stream that it belongs to.
    pub(crate) fn stream(&self) -> Stream {
        match self {
            Self::Watch(_) | Self::Update(_) => Stream::Views,
            Self::Report(_) | Self::Answer(_) => Stream::Reports,
            Self::Close => Stream::Control,
        }
    }
}

/// A way, seen from the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// To the control plane.
    Up,
    /// To the proxy.
    Down,
}

/// The state of all wires.
#[derive(Debug, Default)]
pub(crate) struct Network {
    wires: Wire,
    /// When the last frame of a stream arrives, each way.
    last: BTreeMap<(Wire, Way, Stream), Time>,
    /// Ways that are cut, by proxy.
    cut: BTreeMap<(usize, Way), ()>,
}

impl Network {
    /// Opens a connection.
    pub(crate) fn open(&mut self) -> Wire {
        self.wires += 1;
        self.wires
    }

    /// Cuts a way, or mends it.
    pub(crate) fn cut(&mut self, proxy: usize, way: Way, cut: bool) {
        if cut {
            self.cut.insert((proxy, way), ());
        } else {
            self.cut.remove(&(proxy, way));
        }
    }

    /// Returns whether a way is cut.
    pub(crate) fn is_cut(&self, proxy: usize, way: Way) -> bool {
        self.cut.contains_key(&(proxy, way))
    }

    /// Mends everything.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Returns when copies of a frame arrive: usually one.
    pub(crate) fn arrivals(
        &mut self,
        (wire, way, stream): (Wire, Way, Stream),
        now: Time,
        plan: &Plan,
        calm: bool,
        random: &mut Random,
    ) -> Vec<Time> {
        let hostile = if calm { 0 } else { plan.hostile };
        let at = now + random.span(50, plan.delay_max.max(MS));
        if random.percent(hostile) {
            return Vec::new();
        }
        if random.percent(hostile) {
            return vec![at, at + random.span(50, 10 * plan.delay_max)];
        }
        if random.percent(hostile) {
            return vec![at + random.span(50, 10 * plan.delay_max)];
        }
        vec![self.no_overtaking((wire, way, stream), at)]
    }

    /// Returns when a frame arrives that would arrive `at` if it were alone.
    pub(crate) fn no_overtaking(&mut self, on: (Wire, Way, Stream), at: Time) -> Time {
        let last = self.last.entry(on).or_default();
        *last = at.max(*last + 1);
        *last
    }
}
