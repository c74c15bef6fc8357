//! One view, ready for selection: immutable, in preference order.
//!
//! Preference is priority first (lower is better), then HEALTHY before UNKNOWN
//! before DEGRADED. Endpoints that are equal in both form a tier and share the load
//! by the cluster's strategy; that of weights alone does not look at priority. Endpoints
//! that the view shuts out are in the table (people ask why they are not used) but in no
//! tier. The order is kept in [blocks](super::block).

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::HeaderValue;
use imbl::OrdMap;
use qcc_proto::v1::View;

use super::{
    Policy,
    block::{self, BLOCK_MAX, Block, Rank},
    endpoint::{Health, Routed},
    live::{Live, Totals},
    mark::{Block as MarkBlock, Mark},
    places::Places,
};
use crate::seeded::{Bug, seeded};

/// A view and everything that selection needs of it.
#[derive(Debug)]
pub(crate) struct Table {
    view: View,
    /// The view as responses name it.
    revision: OnceLock<HeaderValue>,
    /// Which life of the registry it belongs to; see [`super::Router::publish`].
    life: u64,
    /// Whether there may be a newer one.
    is_superseded: AtomicBool,
    /// Names the registry it belongs to; empty if that is not known.
    registry_id: Arc<str>,
    /// Whether endpoints are shut or missing that this version cannot use.
    has_left_out: bool,
    policy: Arc<Policy>,
    /// Endpoints by tier, then name; those in no tier come last. No block is empty.
    pub(super) blocks: Vec<Arc<Block>>,
    /// For each block, how many endpoints there are from the beginning of its tier to its end.
    ends: Vec<usize>,
    /// For each block, the sum of the weights from the beginning of its tier to its end.
    weights: Vec<u64>,
    tiers: Vec<Tier>,
    /// Where sessions belong in the first tier, those that were asked for last. Shared with
    /// tables in which that tier is the same.
    pub(super) homes: Arc<OnceLock<Places>>,
    by_name: OrdMap<Arc<str>, Entry>,
}

/// An endpoint's name and generation.
pub(crate) type Generation = (Arc<str>, u64);

/// Endpoints that are equally preferred.
#[derive(Debug, Clone)]
pub(crate) struct Tier {
    pub(super) blocks: Range<usize>,
    /// How many.
    len: usize,
    /// Whether all weigh the same.
    is_even: bool,
}

/// Where an endpoint is in a table: its block, and where it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Place(pub(super) u32);

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

    fn of(view: View, life: u64, policy: Arc<Policy>, entries: Vec<Entry>) -> Self {
        let by_name = entries
            .iter()
            .map(|entry| (Arc::clone(&entry.routed.endpoint.name), entry.clone()))
            .collect();
        let blocks = block::arrange(entries, block::is_flat(&policy));
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
        let is_flat = block::is_flat(&self.policy);
        for name in changed {
            if let Some(old) = by_name.remove(name) {
                block::take(&mut blocks, &old, is_flat);
            }
            if let Some(routed) = find(name) {
                let entry = Entry {
                    live: live(&routed, self.life, Some(self)),
                    routed,
                };
                block::put(&mut blocks, entry.clone(), is_flat);
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
        block::is_flat(&self.policy) == block::is_flat(policy)
    }

    fn has_first_tier_of(&self, other: &Table) -> bool {
        let first = |table: &Self| table.tiers.first().map(|tier| tier.blocks.clone());
        let (Some(ours), Some(theirs)) = (first(self), first(other)) else {
            return false;
        };
        // The first tier begins where the table does, so that places are the same.
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
        for tier in blocks.chunk_by(|a, b| a.rank == b.rank) {
            let first = ends.len();
            let (mut len, mut weight) = (0, 0);
            for block in tier {
                len += block.entries.len();
                weight += block.weight();
                ends.push(len);
                weights.push(weight);
            }
            if tier.first().is_some_and(|block| block.rank != Rank::Shut) {
                let weighs = tier.first().and_then(|block| block.weighs);
                let is_like = |block: &Arc<Block>| block.weighs == weighs;
                tiers.push(Tier {
                    blocks: first..ends.len(),
                    len,
                    is_even: weighs.is_some() && tier.iter().all(is_like),
                });
            }
        }
        Self {
            view,
            revision: OnceLock::new(),
            life,
            is_superseded: AtomicBool::new(false),
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

    /// Says that there is a newer one.
    pub(super) fn supersede(&self) {
        self.is_superseded.store(true, Ordering::Release);
    }

    /// Returns whether there may be a newer one.
    #[inline(always)]
    pub(super) fn is_superseded(&self) -> bool {
        self.is_superseded.load(Ordering::Acquire)
    }

    /// Returns how many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Returns the endpoint at a place.
    ///
    /// # Panics
    ///
    /// If the place is none of this table.
    #[inline(always)]
    pub(crate) fn entry(&self, place: Place) -> &Entry {
        &self.blocks[place.block()].entries[place.within()]
    }

    /// Goes through all places.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        self.places_in(0..self.blocks.len())
    }

    /// Goes through the places of a tier.
    pub(crate) fn places_of(&self, tier: &Tier) -> impl Iterator<Item = Place> + use<'_> {
        self.places_in(tier.blocks.clone())
    }

    fn places_in(&self, blocks: Range<usize>) -> impl Iterator<Item = Place> + use<'_> {
        blocks.flat_map(|block| {
            let within = 0..self.blocks[block].entries.len();
            within.map(move |within| Place::new(block, within))
        })
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
            let same_life = self.life == other.life || seeded(Bug::RequestsOutliveRegistry);
            same_life && found.routed.endpoint.generation == endpoint.generation
        })
    }

    /// Returns the endpoint of a tier that is so many after its first.
    #[inline(always)]
    pub(crate) fn nth(&self, tier: &Tier, number: usize) -> Place {
        if tier.blocks.len() == 1 {
            return Place::new(tier.blocks.start, number);
        }
        let ends = &self.ends[tier.blocks.clone()];
        let before = ends.partition_point(|&end| end <= number);
        let start = before.checked_sub(1).map_or(0, |block| ends[block]);
        Place::new(tier.blocks.start + before, number - start)
    }

    /// Picks a place in a tier by weight. `point` is below the tier's weight.
    #[inline(always)]
    pub(crate) fn draw(&self, tier: &Tier, point: u64) -> Place {
        let sums = &self.weights[tier.blocks.clone()];
        let before = sums.partition_point(|&sum| sum <= point);
        let point = point - before.checked_sub(1).map_or(0, |block| sums[block]);
        let block = tier.blocks.start + before;
        let sums = &self.blocks[block].weights;
        Place::new(block, sums.partition_point(|&sum| sum <= point))
    }

    /// Returns the sum of the weights of a tier.
    pub(crate) fn weight(&self, tier: &Tier) -> u64 {
        self.weights[tier.blocks.end - 1]
    }
}

impl Tier {
    /// Returns how many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns whether all weigh the same.
    pub(super) fn is_even(&self) -> bool {
        self.is_even
    }
}

impl Place {
    const BITS: u32 = BLOCK_MAX.ilog2() + 1;

    pub(super) fn new(block: usize, within: usize) -> Self {
        Self((block << Self::BITS | within) as u32) // Beyond 2^25 blocks memory has ended.
    }

    #[inline(always)]
    pub(super) fn block(self) -> usize {
        (self.0 >> Self::BITS) as usize
    }

    #[inline(always)]
    pub(super) fn within(self) -> usize {
        self.0 as usize & ((1 << Self::BITS) - 1)
    }
}

fn live(routed: &Routed, life: u64, previous: Option<&Table>) -> Arc<Live> {
    let known = previous.and_then(|table| table.find(&routed.endpoint.name));
    let same_life =
        previous.is_some_and(|table| table.life == life || seeded(Bug::MarksOutliveRegistry));
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
