//! A table that was changed is the table that would have been built.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::routing::Table;

/// So many that several blocks of a tier fill up, split and run empty.
const NAMES: u16 = 400;

/// An endpoint comes as one with these, or goes.
type Change = (u16, Option<(u32, u32, u8)>);

fn change() -> impl Strategy<Value = Change> {
    // Few priorities: large tiers.
    let endpoint = prop::option::weighted(0.8, (0..2_u32, 1..9_u32, 0..4_u8));
    (0..NAMES, endpoint)
}

fn name(number: u16) -> Arc<str> {
    format!("e{number}").into()
}

fn routed_as(number: u16, (priority, weight, health): (u32, u32, u8)) -> Arc<Routed> {
    let mut routed = endpoint(&name(number));
    (routed.priority, routed.weight) = (priority, weight);
    routed.health = match health {
        0 | 1 => Health::Healthy,
        2 => Health::Unknown,
        _ => Health::Unhealthy {
            cause: qcc_proto::v1::Cause::Auth,
        },
    };
    Arc::new(routed)
}

/// All that can be asked of a table.
fn describe(table: &Table) -> impl PartialEq + std::fmt::Debug + use<> {
    let at = |position| Arc::clone(&table.entry(position).routed);
    let order: Vec<_> = (0..table.len()).map(at).collect();
    let by_name: Vec<_> = table.by_name().map(|it| Arc::clone(&it.routed)).collect();
    let tiers: Vec<_> = (table.tiers().iter())
        .map(|tier| {
            let weights: u32 = (tier.positions())
                .map(|it| table.entry(it).routed.weight)
                .sum();
            let drawn = (0..u64::from(weights)).map(|random| table.draw(tier, random));
            (tier.positions(), drawn.collect::<Vec<_>>())
        })
        .collect();
    (order, by_name, tiers)
}

/// What a draw must come to: each position as often as its weight says.
fn draws(table: &Table) -> Vec<Vec<usize>> {
    let often = |position| {
        let weight = table.entry(position).routed.weight as usize;
        std::iter::repeat_n(position, weight)
    };
    let tiers = table.tiers().iter();
    tiers
        .map(|tier| tier.positions().flat_map(often).collect())
        .collect()
}

proptest! {
    #[test]
    fn changed_is_as_built(deltas in vec(vec(change(), 1..200), 1..12)) {
        let mut endpoints: BTreeMap<Arc<str>, Arc<Routed>> = BTreeMap::new();
        let policy = Arc::new(Policy::default());
        let build = |view, endpoints: &BTreeMap<_, _>, previous: Option<&Table>| {
            Table::build(view, 0, Arc::clone(&policy), endpoints.values(), previous)
        };
        let mut view = View { term: 1, revision: 0 };
        let mut changed = build(view, &endpoints, None);
        for delta in deltas {
            view.revision += 1;
            let names: Vec<_> = delta.iter().map(|(number, _)| name(*number)).collect();
            for (number, endpoint) in delta {
                match endpoint {
                    Some(endpoint) => endpoints.insert(name(number), routed_as(number, endpoint)),
                    None => endpoints.remove(&name(number)),
                };
            }
            let built = build(view, &endpoints, Some(&changed));
            let names = names.iter().map(AsRef::as_ref);
            let next = changed.change(view, Arc::clone(&policy), names, |name| {
                endpoints.get(name).cloned()
            });
            prop_assert_eq!(next.view(), view);
            prop_assert_eq!(describe(&next), describe(&built));
            for (tier, expected) in next.tiers().iter().zip(draws(&next)) {
                let drawn = (0..expected.len() as u64).map(|random| next.draw(tier, random));
                prop_assert_eq!(drawn.collect::<Vec<_>>(), expected);
            }
            // What is known here stays with the endpoint.
            for entry in next.by_name() {
                let before = changed.find(&entry.routed.endpoint.name);
                let same = before.is_none_or(|before| Arc::ptr_eq(&before.live, &entry.live));
                prop_assert!(same);
            }
            changed = next;
        }
    }
}
