//! One view, ready for selection: immutable, in preference order.
//!
//! Preference is priority first (lower is better), then HEALTHY before UNKNOWN
//! before DEGRADED. Endpoints that are equal in both form a tier and share the load
//! by weight. Endpoints that the view shuts out are in the table (people ask why
//! they are not used) but in no tier.
//!
//! The order is kept in blocks of a few dozen endpoints, and a table shares with the
//! one before every block that holds no changed endpoint: what an update costs hardly
//! depends on how many endpoints there are.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use imbl::OrdMap;
use qcc_proto::v1::{AdminState, View};

use super::{
    Policy,
    endpoint::{Health, Routed},
    live::{Live, Totals},
    mark::{Block as MarkBlock, Mark},
};
use crate::seeded::{Bug, seeded};

/// Endpoints in one block. About the square root of what a proxy is sized for: an
/// update goes over the entries of one block, and over all blocks.
const BLOCK_MAX: usize = 64;

/// A view and everything that selection needs of it.
#[derive(Debug)]
pub(crate) struct Table {
    view: View,
    /// Which life of the registry it belongs to; see [`super::Router::publish`].
    life: u64,
    /// Names the registry it belongs to; empty if that is not known.
    registry_id: Arc<str>,
    /// Whether endpoints are shut or missing that this version cannot use.
    has_left_out: bool,
    policy: Arc<Policy>,
    /// Endpoints by tier, then name; those in no tier come last. A position counts
    /// through all blocks. No block is empty.
    blocks: Vec<Arc<Block>>,
    /// For each block, the position behind its last endpoint.
    ends: Vec<usize>,
    /// For each block, the sum of the weights from the beginning of its tier to its end.
    weights: Vec<u64>,
    tiers: Vec<Tier>,
    by_name: OrdMap<Arc<str>, Entry>,
}

/// An endpoint's name and generation.
pub(crate) type Generation = (Arc<str>, u64);

/// Endpoints of one rank that follow each other.
#[derive(Debug)]
struct Block {
    rank: Rank,
    entries: Vec<Entry>,
    /// Running sum of the weights.
    weights: Vec<u64>,
}

/// Endpoints that are equally preferred.
#[derive(Debug, Clone)]
pub(crate) struct Tier {
    positions: Range<usize>,
    blocks: Range<usize>,
}

/// One endpoint in a table.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// What the view says.
    pub routed: Arc<Routed>,
    /// What this process knows.
    pub live: Arc<Live>,
}

impl Table {
    /// Builds the table of a view. Endpoints that `previous` has in the same
    /// generation keep their live state; counts are kept for the name.
    pub(crate) fn build<'a>(
        view: View,
        life: u64,
        policy: Arc<Policy>,
        endpoints: impl IntoIterator<Item = &'a Arc<Routed>>,
        previous: Option<&Table>,
    ) -> Self {
        let entries = endpoints.into_iter().map(|routed| Entry {
            live: live(routed, life, previous),
            routed: Arc::clone(routed),
        });
        Self::of(view, life, policy, entries.collect())
    }

    /// Builds the table of a view that an earlier process kept. Nothing in it counts as
    /// proven: much may have changed since. `rejected` are the generations whose credential
    /// that process saw rejected.
    pub(crate) fn restore<'a>(
        view: View,
        life: u64,
        policy: Arc<Policy>,
        endpoints: impl IntoIterator<Item = &'a Arc<Routed>>,
        rejected: &[Generation],
    ) -> Self {
        let rejected: BTreeSet<_> = rejected.iter().collect();
        let entries = endpoints.into_iter().map(|routed| {
            let live = Live::new(Arc::default());
            let endpoint = &routed.endpoint;
            if rejected.contains(&(Arc::clone(&endpoint.name), endpoint.generation)) {
                live.change(|mark| Some(mark.rejected()));
            }
            Entry {
                live: Arc::new(live),
                routed: Arc::clone(routed),
            }
        });
        Self::of(view, life, policy, entries.collect())
    }

    fn of(view: View, life: u64, policy: Arc<Policy>, mut entries: Vec<Entry>) -> Self {
        let by_name = entries
            .iter()
            .map(|entry| (Arc::clone(&entry.routed.endpoint.name), entry.clone()))
            .collect();
        entries.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        let blocks = entries
            .chunk_by(|a, b| rank(&a.routed) == rank(&b.routed))
            .flat_map(|tier| tier.chunks(BLOCK_MAX))
            .map(|entries| Arc::new(Block::new(entries.to_vec())))
            .collect();
        Self::arrange(view, life, policy, blocks, by_name)
    }

    /// Builds the table of the view that follows this one, and differs from it in the
    /// policy and the `changed` names only; `find` tells what each is now.
    pub(crate) fn change<'a>(
        &self,
        view: View,
        policy: Arc<Policy>,
        changed: impl IntoIterator<Item = &'a str>,
        find: impl Fn(&str) -> Option<Arc<Routed>>,
    ) -> Self {
        let (mut blocks, mut by_name) = (self.blocks.clone(), self.by_name.clone());
        for name in changed {
            if let Some(old) = by_name.remove(name) {
                take(&mut blocks, &old);
            }
            if let Some(routed) = find(name) {
                let entry = Entry {
                    live: live(&routed, self.life, Some(self)),
                    routed,
                };
                put(&mut blocks, entry.clone());
                by_name.insert(Arc::clone(&entry.routed.endpoint.name), entry);
            }
        }
        Self::arrange(view, self.life, policy, blocks, by_name)
    }

    /// Names the registry that the table belongs to, and says whether it has endpoints that
    /// are left out.
    pub(crate) fn of_registry(mut self, registry_id: Arc<str>, has_left_out: bool) -> Self {
        self.registry_id = registry_id;
        self.has_left_out = has_left_out;
        self
    }

    fn arrange(
        view: View,
        life: u64,
        policy: Arc<Policy>,
        blocks: Vec<Arc<Block>>,
        by_name: OrdMap<Arc<str>, Entry>,
    ) -> Self {
        let (mut ends, mut weights) = (Vec::with_capacity(blocks.len()), Vec::new());
        weights.reserve_exact(blocks.len());
        let mut tiers: Vec<Tier> = Vec::new();
        let mut end = 0;
        for tier in blocks.chunk_by(|a, b| a.rank == b.rank) {
            let (start, first) = (end, ends.len());
            let mut weight = 0;
            for block in tier {
                end += block.entries.len();
                weight += block.weight();
                ends.push(end);
                weights.push(weight);
            }
            if tier.first().is_some_and(|block| block.rank != Rank::Shut) {
                tiers.push(Tier {
                    positions: start..end,
                    blocks: first..ends.len(),
                });
            }
        }
        Self {
            view,
            life,
            registry_id: Arc::default(),
            has_left_out: false,
            policy,
            blocks,
            ends,
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

    /// Names the registry that the table belongs to; empty if that is not known.
    pub(crate) fn registry_id(&self) -> &Arc<str> {
        &self.registry_id
    }

    /// Returns whether endpoints are shut or missing that this version cannot use.
    pub(crate) fn has_left_out(&self) -> bool {
        self.has_left_out
    }

    /// Returns the generations whose credential was rejected here, by name.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = Generation> {
        let entries = self.by_name();
        let rejected = entries.filter(|entry| entry.live.mark().block == MarkBlock::Rejected);
        rejected.map(|entry| {
            let endpoint = &entry.routed.endpoint;
            (Arc::clone(&endpoint.name), endpoint.generation)
        })
    }

    /// Returns the cluster's policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Returns how many endpoints there are: each position is below.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or_default()
    }

    /// Returns the endpoint at a position.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub(crate) fn entry(&self, position: usize) -> &Entry {
        let block = self.ends.partition_point(|&end| end <= position);
        &self.blocks[block].entries[position - self.start(block)]
    }

    /// Returns the tiers in preference order.
    pub(crate) fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// Returns all endpoints in the order of names.
    pub(crate) fn by_name(&self) -> impl Iterator<Item = &Entry> {
        self.by_name.values()
    }

    /// Returns the endpoint of that name.
    pub(crate) fn find(&self, wanted: &str) -> Option<&Entry> {
        self.by_name.get(wanted)
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
    pub(crate) fn draw(&self, tier: &Tier, random: u64) -> usize {
        let sums = &self.weights[tier.blocks.clone()];
        let total = sums.last().copied().unwrap_or(1);
        let point = random % total;
        let before = sums.partition_point(|&sum| sum <= point);
        let point = point - before.checked_sub(1).map_or(0, |block| sums[block]);
        let block = tier.blocks.start + before;
        let sums = &self.blocks[block].weights;
        self.start(block) + sums.partition_point(|&sum| sum <= point)
    }

    /// Picks one of some positions by weight; `None` if there are none.
    pub(crate) fn draw_among(&self, positions: &[usize], random: u64) -> Option<usize> {
        let weight = |&index: &usize| u64::from(self.entry(index).routed.weight);
        let total: u64 = positions.iter().map(weight).sum();
        let mut point = random.checked_rem(total)?;
        positions.iter().copied().find(|index| {
            let found = point < weight(index);
            point = point.saturating_sub(weight(index));
            found
        })
    }

    /// Returns the first position of a block.
    fn start(&self, block: usize) -> usize {
        block.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

impl Tier {
    /// Returns its positions in the table.
    pub(crate) fn positions(&self) -> Range<usize> {
        self.positions.clone()
    }
}

impl Block {
    /// Returns a block of endpoints, at least one, all of one rank, by name.
    fn new(entries: Vec<Entry>) -> Self {
        let rank = entries.first().map_or(Rank::Shut, |it| rank(&it.routed));
        let weights = entries.iter().scan(0, |sum, entry| {
            *sum += u64::from(entry.routed.weight);
            Some(*sum)
        });
        Self {
            rank,
            weights: weights.collect(),
            entries,
        }
    }

    fn weight(&self) -> u64 {
        self.weights.last().copied().unwrap_or_default()
    }

    /// Returns where an endpoint is in preference order, as seen from here.
    fn last_key(&self) -> Option<(Rank, &str)> {
        self.entries.last().map(key)
    }
}

/// Takes an endpoint out of the blocks that hold it.
fn take(blocks: &mut Vec<Arc<Block>>, entry: &Entry) {
    let at = blocks.partition_point(|block| block.last_key() < Some(key(entry)));
    let Some(block) = blocks.get(at) else { return };
    let others = (block.entries.iter()).filter(|other| name(other) != name(entry));
    let others: Vec<Entry> = others.cloned().collect();
    if others.is_empty() {
        blocks.remove(at);
    } else {
        blocks[at] = Arc::new(Block::new(others));
    }
}

/// Puts an endpoint into blocks that do not hold it.
fn put(blocks: &mut Vec<Arc<Block>>, entry: Entry) {
    let rank = rank(&entry.routed);
    let at = blocks.partition_point(|block| block.last_key() < Some(key(&entry)));
    // Behind the last of its rank it belongs to the block before, if that has its rank.
    let fits = |at: usize| blocks.get(at).is_some_and(|block| block.rank == rank);
    let at = match at.checked_sub(1) {
        _ if fits(at) => at,
        Some(before) if fits(before) => before,
        _ => {
            blocks.insert(at, Arc::new(Block::new(vec![entry])));
            return;
        }
    };
    let mut entries = blocks[at].entries.clone();
    let place = entries.partition_point(|other| name(other) < name(&entry));
    entries.insert(place, entry);
    if entries.len() > BLOCK_MAX {
        let second = entries.split_off(entries.len() / 2);
        blocks.insert(at + 1, Arc::new(Block::new(second)));
    }
    blocks[at] = Arc::new(Block::new(entries));
}

/// Where an endpoint stands in preference order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Tier { priority: u32, health: u8 },
    Shut,
}

fn rank(routed: &Routed) -> Rank {
    let tier = |health| Rank::Tier {
        priority: if seeded(Bug::PrioritiesReversed) {
            u32::MAX - routed.priority
        } else {
            routed.priority
        },
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

fn key(entry: &Entry) -> (Rank, &str) {
    (rank(&entry.routed), name(entry))
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
            let was_paused = matches!(entry.routed.health, Health::Degraded { .. });
            if was_paused && routed.health == Health::Healthy {
                entry.live.change(Mark::relented);
            }
            if seeded(Bug::ViewForgetsMarks) {
                entry.live.change(|mark| {
                    let (held, suspects) = (mark.held, mark.suspects);
                    Some(Mark {
                        held,
                        suspects,
                        ..Mark::CLEAR
                    })
                });
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
