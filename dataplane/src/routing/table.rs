//! One view, ready for selection: immutable, in preference order.
//!
//! Preference is priority first (lower is better), then HEALTHY before UNKNOWN
//! before DEGRADED. Endpoints that are equal in both form a tier and share the load
//! by weight. Endpoints that the view shuts out are in the table (people ask why
//! they are not used) but in no tier.

use std::{ops::Range, sync::Arc};

use qcc_proto::v1::{AdminState, View};

use super::{
    Policy,
    endpoint::{Health, Routed},
    live::{Live, Totals},
    mark::Mark,
};

/// A view and everything that selection needs of it.
#[derive(Debug)]
pub(crate) struct Table {
    view: View,
    /// Which life of the registry it belongs to; see [`super::Router::publish`].
    life: u64,
    policy: Arc<Policy>,
    /// By tier, then name; those in no tier come last.
    entries: Vec<Entry>,
    /// Running sum of the weights within each tier, along `entries`.
    weights: Vec<u64>,
    tiers: Vec<Range<usize>>,
    /// Positions in `entries` in the order of names.
    by_name: Vec<usize>,
}

/// One endpoint in a table.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What the view says.
    pub routed: Arc<Routed>,
    /// What this process knows.
    pub live: Arc<Live>,
}

impl Table {
    /// Builds the table of a view. Endpoints that `previous` has in the same
    /// generation keep their live state; counts are kept for the name.
    pub(crate) fn build(
        view: View,
        life: u64,
        policy: Arc<Policy>,
        endpoints: impl IntoIterator<Item = Arc<Routed>>,
        previous: Option<&Table>,
    ) -> Self {
        let mut entries: Vec<Entry> = endpoints
            .into_iter()
            .map(|routed| Entry {
                live: live(&routed, life, previous),
                routed,
            })
            .collect();
        entries
            .sort_unstable_by(|a, b| (rank(&a.routed), name(a)).cmp(&(rank(&b.routed), name(b))));
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_unstable_by_key(|&index| name(&entries[index]));

        let open = entries.partition_point(|entry| rank(&entry.routed) != Rank::Shut);
        let tiers: Vec<Range<usize>> = entries[..open]
            .chunk_by(|a, b| rank(&a.routed) == rank(&b.routed))
            .scan(0, |start, tier| {
                let range = *start..*start + tier.len();
                *start = range.end;
                Some(range)
            })
            .collect();
        let weights = tiers
            .iter()
            .flat_map(|tier| {
                entries[tier.clone()].iter().scan(0, |sum, entry| {
                    *sum += u64::from(entry.routed.weight);
                    Some(*sum)
                })
            })
            .collect();
        Self {
            view,
            life,
            policy,
            entries,
            weights,
            tiers,
            by_name,
        }
    }

    /// Returns the view that the table was built from.
    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// Returns the life of the registry that the table belongs to.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Returns the cluster's policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns all endpoints; positions in it are what tiers speak of.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the tiers in preference order.
    pub(crate) fn tiers(&self) -> &[Range<usize>] {
        &self.tiers
    }

    /// Returns positions in the order of names.
    pub(crate) fn by_name(&self) -> impl ExactSizeIterator<Item = usize> {
        self.by_name.iter().copied()
    }

    /// Returns the endpoint of that name.
    pub(crate) fn find(&self, wanted: &str) -> Option<&Entry> {
        self.by_name
            .binary_search_by(|&index| name(&self.entries[index]).cmp(wanted))
            .ok()
            .map(|position| &self.entries[self.by_name[position]])
    }

    /// Returns what this table has in place of another table's endpoint: the same
    /// generation of it.
    pub(crate) fn counterpart(&self, other: &Table, entry: &Entry) -> Option<&Entry> {
        let endpoint = &entry.routed.endpoint;
        self.find(&endpoint.name).filter(|found| {
            self.life == other.life && found.routed.endpoint.generation == endpoint.generation
        })
    }

    /// Picks a position in a tier by weight. Any `random` does.
    pub(crate) fn draw(&self, tier: &Range<usize>, random: u64) -> usize {
        let sums = &self.weights[tier.clone()];
        let total = sums.last().copied().unwrap_or(1);
        let point = random % total;
        tier.start + sums.partition_point(|&sum| sum <= point)
    }

    /// Picks one of some positions by weight; `None` if there are none.
    pub(crate) fn draw_among(&self, positions: &[usize], random: u64) -> Option<usize> {
        let weight = |&index: &usize| u64::from(self.entries[index].routed.weight);
        let total: u64 = positions.iter().map(weight).sum();
        let mut point = random.checked_rem(total)?;
        positions.iter().copied().find(|index| {
            let found = point < weight(index);
            point = point.saturating_sub(weight(index));
            found
        })
    }
}

/// Where an endpoint stands in preference order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Tier { priority: u32, health: u8 },
    Shut,
}

fn rank(routed: &Routed) -> Rank {
    let tier = |health| Rank::Tier {
        priority: routed.priority,
        health,
    };
    match (routed.admin, routed.health) {
        (AdminState::Enabled, Health::Healthy) => tier(0),
        (AdminState::Enabled, Health::Unknown) => tier(1),
        (AdminState::Enabled, Health::Degraded { .. }) => tier(2),
        (AdminState::Enabled, Health::Unhealthy { .. })
        | (AdminState::Draining | AdminState::Disabled | AdminState::Unspecified, _) => Rank::Shut,
    }
}

fn name(entry: &Entry) -> &str {
    &entry.routed.endpoint.name
}

fn live(routed: &Routed, life: u64, previous: Option<&Table>) -> Arc<Live> {
    let known = previous.and_then(|table| table.find(&routed.endpoint.name));
    let same_life = previous.is_some_and(|table| table.life == life);
    let live = match known {
        Some(entry)
            if same_life && entry.routed.endpoint.generation == routed.endpoint.generation =>
        {
            if entry.routed.failures != routed.failures {
                entry.live.change(Mark::recounted);
            }
            Arc::clone(&entry.live)
        }
        Some(entry) => Arc::new(Live::new(Arc::clone(entry.live.totals()))),
        None => Arc::new(Live::new(Arc::new(Totals::default()))),
    };
    if routed.proven {
        live.prove();
    }
    live
}
