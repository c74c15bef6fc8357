//! A table's endpoints in preference order, in blocks of a few dozen.
//!
//! A table shares with the one before every block that holds no changed endpoint: what an
//! update costs hardly depends on how many endpoints there are.

use std::sync::Arc;

use qcc_proto::v1::AdminState;

use super::{
    Policy, Session, Strategy,
    affinity::{self, Bid},
    endpoint::{Health, Routed},
    table::Entry,
};
use crate::seeded::{Bug, seeded};

/// Endpoints in one block. About the square root of what a proxy is sized for: an
/// update goes over the entries of one block, and over all blocks.
pub(super) const BLOCK_MAX: usize = 64;

/// Endpoints of one rank that follow each other, at least one, by name.
#[derive(Debug)]
pub(super) struct Block {
    pub rank: Rank,
    pub entries: Vec<Entry>,
    /// What each of them weighs, if all weigh the same.
    pub weighs: Option<u32>,
    /// Running sum of the weights.
    pub weights: Vec<u64>,
    /// Hashes of the names.
    pub hashes: Vec<u64>,
}

/// Where an endpoint stands in preference order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Tier { priority: u32, health: u8 },
    Shut,
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
        let weighs = entries.first().map(|entry| entry.routed.weight);
        let is_like = |entry: &Entry| Some(entry.routed.weight) == weighs;
        Self {
            rank,
            weighs: weighs.filter(|_| entries.iter().all(is_like)),
            weights: weights.collect(),
            hashes,
            entries,
        }
    }

    pub(super) fn weight(&self) -> u64 {
        self.weights.last().copied().unwrap_or_default()
    }

    /// Returns what is offered to a session, and by which of the endpoints.
    pub(super) fn best(&self, session: Session) -> (Bid, usize) {
        if let Some(weight) = self.weighs {
            return session.best(&self.hashes, weight);
        }
        let pairs = self.hashes.iter().zip(&self.entries);
        let bids = pairs.map(|(hash, entry)| session.bid(*hash, entry.routed.weight));
        let mut bids = bids.zip(0..);
        let first = bids.next().unwrap_or_default();
        bids.fold(first, |best, it| if it.0.beats(best.0) { it } else { best })
    }

    /// Returns where its last endpoint is in preference order, as seen from here.
    fn last_key(&self) -> Option<(Rank, &str)> {
        self.entries.last().map(|entry| (self.rank, name(entry)))
    }
}

/// Puts endpoints into preference order.
pub(super) fn arrange(mut entries: Vec<Entry>, is_flat: bool) -> Vec<Arc<Block>> {
    let rank = |entry: &Entry| rank(&entry.routed, is_flat);
    entries.sort_unstable_by(|a, b| (rank(a), name(a)).cmp(&(rank(b), name(b))));
    entries
        .chunk_by(|a, b| rank(a) == rank(b))
        .flat_map(|tier| tier.chunks(BLOCK_MAX).map(move |it| (rank(&it[0]), it)))
        .map(|(rank, entries)| Arc::new(Block::new(rank, entries.to_vec())))
        .collect()
}

/// Takes an endpoint out of the blocks that hold it.
pub(super) fn take(blocks: &mut Vec<Arc<Block>>, entry: &Entry, is_flat: bool) {
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
pub(super) fn put(blocks: &mut Vec<Arc<Block>>, entry: Entry, is_flat: bool) {
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

/// Whether priorities do not count.
pub(super) fn is_flat(policy: &Policy) -> bool {
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
