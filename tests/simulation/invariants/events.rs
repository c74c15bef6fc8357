//! What people are told of what happens: every transition once, and nothing that a crash
//! has taken back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use qcc_control::registry::{Clock, EndpointName, Event, EventKind, Events, Health, Snapshot};

use super::{Asked, Violation};

/// How old an event may be that tells of something new: it goes on for a minute, and what is
/// counted on in it is told after another.
const TOLD_MAX: Duration = Duration::from_secs(122);

/// The log of events that is on disk.
#[derive(Debug, Default)]
pub(super) struct Told {
    kept: Events,
    /// The greatest id that was ever stored.
    newest: u64,
    /// Events that are kept at most, if that is known.
    pub(super) max: usize,
}

impl Told {
    /// Returns what remains where everything was lost: how many events are kept.
    pub(super) fn nothing(self) -> Self {
        Self {
            max: self.max,
            ..Self::default()
        }
    }

    /// Judges what a start has found.
    pub(super) fn is_found(&self, found: BTreeMap<u64, Event>) -> Result<(), Violation> {
        let same = found.len() == self.kept.entries.len()
            && (self.kept.entries.iter())
                .all(|(id, kept)| found.get(id).is_some_and(|it| is_kept(kept, it)));
        if same {
            return Ok(());
        }
        let differs = self
            .kept
            .entries
            .iter()
            .find(|(id, kept)| found.get(id).is_none_or(|found| !is_kept(kept, found)));
        Err(Violation::new(
            "L-1 a start finds the events that were stored",
            format!(
                "{} of {} are there; {differs:?}",
                found.len(),
                self.kept.entries.len()
            ),
        ))
    }

    /// Judges what is shown of a turn that is not stored.
    pub(super) fn is_shown(&self, shown: &Events) -> Result<(), Violation> {
        if let Some(id) = shown
            .entries
            .keys()
            .find(|id| !self.kept.entries.contains_key(*id))
        {
            return Err(Violation::new(
                "L-2 nothing is told that a crash takes back",
                format!("{:?}", shown.entries.get(id)),
            ));
        }
        Ok(())
    }

    /// Notes what is stored.
    pub(super) fn keep(&mut self, events: &Events) {
        self.kept = events.clone();
        self.newest = self.newest.max(events.newest());
    }

    /// Judges what a turn tells.
    pub(super) fn tells(
        &mut self,
        before: Option<&Snapshot>,
        after: &Snapshot,
        asked: &[Asked],
        events: &Events,
        clock: Clock,
    ) -> Result<(), Violation> {
        let is_known = events.entries.ptr_eq(&self.kept.entries);
        let mut news: Vec<&Event> = Vec::new();
        if !is_known {
            for (id, event) in &events.entries {
                match self.kept.entries.get(id) {
                    Some(kept) if Arc::ptr_eq(kept, event) || kept == event => {}
                    Some(kept) => {
                        return Err(Violation::new(
                            "L-3 an id stands for one event for ever",
                            format!("{kept:?}, now {event:?}"),
                        ));
                    }
                    None if *id <= self.newest => {
                        return Err(Violation::new(
                            "L-3 an id stands for one event for ever",
                            format!("{id} after {}: {event:?}", self.newest),
                        ));
                    }
                    None => news.push(event),
                }
            }
            self.are_gone_duly(events)?;
        }
        if let Some(before) = before {
            tells_all(before, after, asked, &news)?;
            if !self.is_short(events, clock) {
                tells_states(before, after, events, clock)?;
            }
        }
        self.keep(events);
        Ok(())
    }

    /// Whether the log may have lost an event that is still counted on in, and that comes
    /// back with the count.
    fn is_short(&self, events: &Events, clock: Clock) -> bool {
        let oldest = events.entries.values().next();
        let is_young = |oldest: &Arc<Event>| clock.since(oldest.last.clock) <= TOLD_MAX;
        self.max > 0 && events.entries.len() == self.max && oldest.is_some_and(is_young)
    }

    /// Judges that only what is replaced goes, and the oldest once there are too many.
    fn are_gone_duly(&self, events: &Events) -> Result<(), Violation> {
        if self.max > 0 && events.entries.len() > self.max {
            return Err(Violation::new(
                "L-4 the log of events is bounded",
                format!("{} of {}", events.entries.len(), self.max),
            ));
        }
        let oldest = events.entries.keys().next().copied().unwrap_or_default();
        let is_full = self.max > 0 && events.entries.len() == self.max;
        let gone = self
            .kept
            .entries
            .keys()
            .filter(|id| !events.entries.contains_key(*id));
        for id in gone {
            let is_replaced = events.entries.values().any(|event| event.replaces == *id);
            let is_pushed_out = is_full && *id < oldest;
            if !is_replaced && !is_pushed_out {
                return Err(Violation::new(
                    "L-4 the newest events stay",
                    format!("{id} is gone; the oldest is {oldest}"),
                ));
            }
        }
        Ok(())
    }
}

/// Judges that falls and recoveries, and who comes and goes, are told once each.
fn tells_all(
    before: &Snapshot,
    after: &Snapshot,
    asked: &[Asked],
    news: &[&Event],
) -> Result<(), Violation> {
    let told = |kind, name: Option<&EndpointName>| {
        let of_kind = news.iter().filter(|event| event.kind == kind);
        of_kind
            .filter(|it| name.is_none_or(|name| it.concerns(name)))
            .count() as u64
    };
    let once = |told: u64, happened: u64, what: &str| {
        if told == happened {
            return Ok(());
        }
        Err(Violation::new(
            "L-5 what happens is told once",
            format!("{what}: {happened}, told: {told} of {news:?}"),
        ))
    };
    let fell = after.totals.failed - before.totals.failed;
    once(told(EventKind::EndpointEjected, None), fell, "incidents")?;
    for name in after.endpoints.keys() {
        if !before.endpoints.contains_key(name) {
            once(told(EventKind::EndpointCreated, Some(name)), 1, "created")?;
        }
    }
    let (mut recovered, mut perhaps) = (0, 0);
    for (name, was) in &before.endpoints {
        if was.health.incident().is_none() {
            continue;
        }
        match after.endpoints.get(name) {
            Some(is) if is.generation == was.generation => {}
            Some(is) if matches!(is.health, Health::Healthy { .. }) => recovered += 1,
            // What ended the next generation, in the same turn, has covered it up.
            Some(_) | None => perhaps += u64::from(has_passed(asked, name)),
        }
    }
    let recoveries = told(EventKind::EndpointRecovered, None);
    let at_most = recovered + perhaps;
    once(
        recoveries,
        recoveries.clamp(recovered, at_most),
        "recoveries",
    )?;
    for name in before.endpoints.keys() {
        if !after.endpoints.contains_key(name) {
            once(told(EventKind::EndpointDeleted, Some(name)), 1, "deleted")?;
        }
    }
    Ok(())
}

/// Whether a check of an endpoint has passed in a turn.
fn has_passed(asked: &[Asked], name: &EndpointName) -> bool {
    asked.iter().any(|asked| {
        let Asked::Verdict {
            endpoint, verdict, ..
        } = asked
        else {
            return false;
        };
        endpoint == name && verdict.passed
    })
}

/// Judges that the state that an endpoint has come to is told.
fn tells_states(
    before: &Snapshot,
    after: &Snapshot,
    events: &Events,
    clock: Clock,
) -> Result<(), Violation> {
    for (name, is) in &after.endpoints {
        let was = before.endpoints.get(name);
        let Some(was) = was.filter(|was| !Arc::ptr_eq(was, is)) else {
            continue;
        };
        let state = is.health.state();
        if (was.generation, was.health.state()) == (is.generation, state) {
            continue;
        }
        let is_told = events.entries.values().rev().any(|event| {
            event.to == Some(state)
                && event.concerns(name)
                && (event.group.is_some() || event.generation == is.generation)
                && clock.since(event.last.clock) <= TOLD_MAX
        });
        if !is_told {
            return Err(Violation::new(
                "L-5 what happens is told once",
                format!("`{name}` is {state:?} in generation {}", is.generation.0),
            ));
        }
    }
    Ok(())
}

/// Whether what was found is what was stored: ids are the keys, not in the records.
fn is_kept(kept: &Event, found: &Event) -> bool {
    let found = Event {
        id: kept.id,
        ..found.clone()
    };
    *kept == found
}
