//! One view, ready for selection: immutable, in preference order.
//!
//! Preference is priority first (lower is better), then HEALTHY before UNKNOWN
//! before DEGRADED. Endpoints that are equal in both form a tier and share the load
//! by the cluster's strategy; that of weights alone does not look at priority. Endpoints that the view shuts out are in the table (people ask why
//! they are not used) but in no tier.
//!
//! The order is kept in blocks of a few dozen endpoints, and a table shares with the
//! one before every block that holds no changed endpoint: what an update costs hardly
//! depends on how many endpoints there are.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, OnceLock},
};

use http::HeaderValue;
use imbl::OrdMap;
use qcc_proto::v1::{AdminState, View};

use super::{
    Policy, Session, Strategy,
    affinity::{self, Places},
    endpoint::{Health, Routed},
    live::{Live, Totals},
    mark::{Block as MarkBlock, Mark},
};
use crate::seeded::{Bug, seeded};

/// Endpoints in one block. About the square root of what a proxy is sized for: an
/// update goes over the entries of one block, and over all blocks.
const BLOCK_MAX: usize = 64;

/// Endpoints of a tier from which on it is worth a look whether a session's place is known.
const REMEMBERED_FROM: usize = 32;

/// A view and everything that selection needs of it.
#[derive(Debug)]
pub(crate) struct Table {
    view: View,
    /// The view as responses name it.
    revision: OnceLock<HeaderValue>,
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
    /// Where sessions belong in the first tier, those that were asked for last. Shared with
    /// tables in which that tier is the same.
    homes: Arc<OnceLock<Places>>,
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
    /// Hashes of the names.
    hashes: Vec<u64>,
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
        let is_flat = is_flat(&policy);
        let rank = |entry: &Entry| rank(&entry.routed, is_flat);
        entries.sort_unstable_by(|a, b| (rank(a), name(a)).cmp(&(rank(b), name(b))));
        let blocks = entries
            .chunk_by(|a, b| rank(a) == rank(b))
            .flat_map(|tier| tier.chunks(BLOCK_MAX).map(move |it| (rank(&it[0]), it)))
            .map(|(rank, entries)| Arc::new(Block::new(rank, entries.to_vec())))
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
        let is_flat = is_flat(&self.policy);
        for name in changed {
            if let Some(old) = by_name.remove(name) {
                take(&mut blocks, &old, is_flat);
            }
            if let Some(routed) = find(name) {
                let entry = Entry {
                    live: live(&routed, self.life, Some(self)),
                    routed,
                };
                put(&mut blocks, entry.clone(), is_flat);
                by_name.insert(Arc::clone(&entry.routed.endpoint.name), entry);
            }
        }
        let mut table = Self::arrange(view, self.life, policy, blocks, by_name);
        if table.has_first_tier_of(self) {
            table.homes = Arc::clone(&self.homes);
        }
        table
    }

    /// Returns whether a policy puts endpoints into the same order.
    pub(super) fn is_ordered_by(&self, policy: &Policy) -> bool {
        is_flat(&self.policy) == is_flat(policy)
    }

    fn has_first_tier_of(&self, other: &Table) -> bool {
        let first = |table: &Self| table.tiers.first().map(|tier| tier.blocks.clone());
        let (Some(ours), Some(theirs)) = (first(self), first(other)) else {
            return false;
        };
        // The first tier begins where the table does, so that positions are the same.
        let pairs = self.blocks[ours.clone()]
            .iter()
            .zip(&other.blocks[theirs.clone()]);
        ours == theirs
            && pairs
                .into_iter()
                .all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
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
            revision: OnceLock::new(),
            life,
            registry_id: Arc::default(),
            has_left_out: false,
            policy,
            blocks,
            ends,
            weights,
            tiers,
            homes: Arc::default(),
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
        let block = self.block_of(position);
        &self.blocks[block].entries[position - self.start(block)]
    }

    fn block_of(&self, position: usize) -> usize {
        self.ends.partition_point(|&end| end <= position)
    }

    /// Returns the view as responses name it: `3.17`. Written once for all of them.
    pub(crate) fn revision(&self) -> &HeaderValue {
        self.revision.get_or_init(|| {
            let written = HeaderValue::try_from(self.view.to_string());
            written.unwrap_or(HeaderValue::from_static("")) // Two numbers and a dot.
        })
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

    /// Returns where a session belongs in a tier, among the endpoints that fit it. Those
    /// that others are preferred to are not asked whether they do.
    pub(super) fn home(
        &self,
        tier: &Tier,
        session: Session,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let is_first = tier.positions.start == 0 && tier.positions.len() >= REMEMBERED_FROM;
        if !is_first {
            return self.best(tier, session, fits);
        }
        let homes = self.homes.get_or_init(Places::new);
        let known = homes.get(session).map(|home| home as usize);
        let home = known
            .filter(|home| tier.positions.contains(home))
            .or_else(|| {
                let home = self.best(tier, session, |_| true)?;
                homes.put(session, u32::try_from(home).ok()?);
                Some(home)
            });
        home.filter(|&home| fits(home))
            .or_else(|| self.best(tier, session, &fits))
    }

    fn best(&self, tier: &Tier, session: Session, fits: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(affinity::Bid, usize)> = None;
        let mut position = tier.positions.start;
        for block in &self.blocks[tier.blocks.clone()] {
            let mut before = 0;
            for (hash, sum) in block.hashes.iter().zip(&block.weights) {
                let weight = u32::try_from(sum - before).unwrap_or(u32::MAX);
                before = *sum;
                let bid = session.bid(*hash, weight);
                if best.is_none_or(|(best, _)| bid.beats(best)) && fits(position) {
                    best = Some((bid, position));
                }
                position += 1;
            }
        }
        best.map(|(_, position)| position)
    }

    /// Returns the position of the endpoint with a name of that hash, or the end of it.
    pub(super) fn find_hashed(&self, low: u32) -> Option<usize> {
        let hashes = self.blocks.iter().flat_map(|block| &block.hashes);
        hashes.into_iter().position(|hash| *hash as u32 == low)
    }

    /// Returns the hash of the name of the endpoint at a position.
    pub(super) fn hash(&self, position: usize) -> u64 {
        let block = self.block_of(position);
        self.blocks[block].hashes[position - self.start(block)]
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
    fn new(rank: Rank, entries: Vec<Entry>) -> Self {
        let hashes = (entries.iter()).map(|entry| affinity::hash(name(entry).as_bytes()));
        let hashes = hashes.collect();
        let weights = entries.iter().scan(0, |sum, entry| {
            *sum += u64::from(entry.routed.weight);
            Some(*sum)
        });
        Self {
            rank,
            weights: weights.collect(),
            hashes,
            entries,
        }
    }

    fn weight(&self) -> u64 {
        self.weights.last().copied().unwrap_or_default()
    }

    /// Returns where an endpoint is in preference order, as seen from here.
    fn last_key(&self) -> Option<(Rank, &str)> {
        self.entries.last().map(|entry| (self.rank, name(entry)))
    }
}

/// Takes an endpoint out of the blocks that hold it.
fn take(blocks: &mut Vec<Arc<Block>>, entry: &Entry, is_flat: bool) {
    let key = (rank(&entry.routed, is_flat), name(entry));
    let at = blocks.partition_point(|block| block.last_key() < Some(key));
    let Some(block) = blocks.get(at) else { return };
    let others = (block.entries.iter()).filter(|other| name(other) != name(entry));
    let others: Vec<Entry> = others.cloned().collect();
    if others.is_empty() {
        blocks.remove(at);
    } else {
        blocks[at] = Arc::new(Block::new(block.rank, others));
    }
}

/// Puts an endpoint into blocks that do not hold it.
fn put(blocks: &mut Vec<Arc<Block>>, entry: Entry, is_flat: bool) {
    let rank = rank(&entry.routed, is_flat);
    let at = blocks.partition_point(|block| block.last_key() < Some((rank, name(&entry))));
    // Behind the last of its rank it belongs to the block before, if that has its rank.
    let fits = |at: usize| blocks.get(at).is_some_and(|block| block.rank == rank);
    let at = match at.checked_sub(1) {
        _ if fits(at) => at,
        Some(before) if fits(before) => before,
        _ => {
            blocks.insert(at, Arc::new(Block::new(rank, vec![entry])));
            return;
        }
    };
    let mut entries = blocks[at].entries.clone();
    let place = entries.partition_point(|other| name(other) < name(&entry));
    entries.insert(place, entry);
    if entries.len() > BLOCK_MAX {
        let second = entries.split_off(entries.len() / 2);
        blocks.insert(at + 1, Arc::new(Block::new(rank, second)));
    }
    blocks[at] = Arc::new(Block::new(rank, entries));
}

/// Where an endpoint stands in preference order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Tier { priority: u32, health: u8 },
    Shut,
}

/// Whether priorities do not count.
fn is_flat(policy: &Policy) -> bool {
    policy.strategy == Strategy::Weighted
}

fn rank(routed: &Routed, is_flat: bool) -> Rank {
    let tier = |health| Rank::Tier {
        priority: if is_flat {
            0
        } else if seeded(Bug::PrioritiesReversed) {
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
    match known {
        _ if !routed.proven => {}
        // Whether it has just become so, or long ago, is known of those met before only. A view
        // that was kept proves nothing, but tells it as well.
        Some(entry) if same_life && !is_known_proven(entry, routed) => drop(live.prove()),
        _ => drop(live.confirm()),
    }
    live
}

fn is_known_proven(entry: &Entry, routed: &Routed) -> bool {
    entry.routed.proven && entry.routed.endpoint.generation == routed.endpoint.generation
}
