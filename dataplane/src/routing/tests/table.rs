//! A table that was changed is the table that would have been built.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::routing::{
    Table,
    table::{Place, Tier},
};

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
    let at = |place| Arc::clone(&table.entry(place).routed);
    let order: Vec<_> = table.places().map(at).collect();
    let by_name: Vec<_> = table.by_name().map(|it| Arc::clone(&it.routed)).collect();
    let tiers: Vec<Vec<_>> = (table.tiers().iter())
        .map(|tier| table.places_of(tier).map(at).collect())
        .collect();
    (order, by_name, tiers)
}

/// What a tier's draws must come to: each endpoint as often as its weight says.
fn draws(table: &Table, tier: &Tier) -> Vec<Place> {
    let often = |place| {
        let weight = table.entry(place).routed.weight as usize;
        std::iter::repeat_n(place, weight)
    };
    table.places_of(tier).flat_map(often).collect()
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
            for tier in next.tiers() {
                let drawn = (0..next.weight(tier)).map(|point| next.draw(tier, point));
                prop_assert_eq!(drawn.collect::<Vec<_>>(), draws(&next, tier));
                let counted = (0..tier.len()).map(|number| next.nth(tier, number));
                prop_assert_eq!(counted.collect::<Vec<_>>(), next.places_of(tier).collect::<Vec<_>>());
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
