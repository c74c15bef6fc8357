//! What client connections are doing: how many there are, whose, and which of them have
//! been waiting for too long.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Counters, Limit, Live, Settings};

/// All client connections.
#[derive(Debug)]
pub(super) struct Crowd {
    settings: Live,
    counters: Arc<Counters>,
    /// Connections of each address, where they are bounded.
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place among them, given up on drop.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    /// Whose it is, if that counts.
    address: Option<IpAddr>,
}

/// One connection, as it looks from outside.
#[derive(Debug)]
pub(super) struct Presence {
    place: Place,
    start: Instant,
    /// Whether a request has begun, ever.
    has_begun: AtomicBool,
    /// Requests that are being served.
    running: AtomicU32,
    /// Milliseconds from the start to the last request's end.
    rested: AtomicU64,
    /// Milliseconds from the start to the first byte of a head that has not come whole,
    /// plus one; 0: there is none.
    in_head: AtomicU64,
    /// Of what has not begun, nothing is served.
    is_ending: AtomicBool,
}

/// One request on a connection, from its head to the end of its answer.
#[derive(Debug)]
pub(super) struct Turn(Arc<Presence>);

/// What there is to do about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// To look again.
    At(Instant),
    /// To end it.
    Now(Limit),
}

impl Crowd {
    pub(super) fn new(settings: Live, counters: Arc<Counters>) -> Arc<Self> {
        Arc::new(Self {
            settings,
            counters,
            addresses: Mutex::default(),
        })
    }

    /// Finds a place for a new connection.
    pub(super) fn place(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Limit> {
        let open = self.counters.connections.fetch_add(1, Ordering::Relaxed);
        let mut place = Place {
            crowd: Arc::clone(self),
            address: None,
        };
        let settings = self.settings.load();
        if open >= settings.connections_max {
            return Err(Limit::Connections);
        }
        let peer = whose(peer);
        // Whoever is on this machine has the same address as everybody else there.
        let max = match settings.connections_per_address_max {
            Some(max) => max,
            None if peer.is_loopback() => return Ok(place),
            None => super::CONNECTIONS_PER_ADDRESS_MAX,
        };
        let mut addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let of_address = addresses.entry(peer).or_default();
        if *of_address >= max {
            return Err(Limit::ConnectionsPerAddress);
        }
        *of_address += 1;
        place.address = Some(peer);
        Ok(place)
    }

    /// Whether no further connection may be kept for a next request.
    pub(super) fn is_idle_enough(&self) -> bool {
        self.idle() >= self.settings.load().idle_connections_max
    }

    /// Connections without a request.
    fn idle(&self) -> usize {
        let open = self.counters.connections.load(Ordering::Relaxed);
        let busy = self.counters.connections_busy.load(Ordering::Relaxed);
        open.saturating_sub(busy)
    }
}

/// Who an address stands for. A host with IPv6 has not one address but a network of them.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counters = &self.crowd.counters;
        counters.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else {
            return;
        };
        let addresses = &self.crowd.addresses;
        let mut addresses = addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut of_address) = addresses.entry(address) {
            *of_address.get_mut() -= 1;
            if *of_address.get() == 0 {
                of_address.remove();
            }
        }
    }
}

impl Presence {
    pub(super) fn new(place: Place, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            place,
            start: now,
            has_begun: AtomicBool::new(false),
            running: AtomicU32::new(0),
            rested: AtomicU64::new(0),
            in_head: AtomicU64::new(0),
            is_ending: AtomicBool::new(false),
        })
    }

    /// A request has begun.
    pub(super) fn begin(self: &Arc<Self>) -> Turn {
        self.has_begun.store(true, Ordering::Relaxed);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            let busy = &self.place.crowd.counters.connections_busy;
            busy.fetch_add(1, Ordering::Relaxed);
        }
        Turn(Arc::clone(self))
    }

    /// Takes note of whether a head has begun to come, and has not come whole.
    pub(super) fn set_in_head(&self, is_in_head: bool) {
        let was_in_head = self.in_head.load(Ordering::Relaxed) != 0;
        if is_in_head != was_in_head {
            let since = match was_in_head {
                true => 0,
                false => self.millis(Instant::now()) + 1,
            };
            self.in_head.store(since, Ordering::Relaxed);
        }
    }

    /// Serves only what has begun.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether only what has begun is to be served.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }

    /// Counts that a limit has been met.
    pub(super) fn hit(&self, limit: Limit) {
        self.place.crowd.counters.hit(limit);
    }

    /// Decides whether the connection has waited for too long.
    pub(super) fn due(&self, settings: &Settings, now: Instant) -> Due {
        let (head, idle) = (settings.header_read_timeout, settings.client_idle_timeout);
        // No head that begins from now on is due before this.
        let look_again = now + head.min(idle);
        if self.running.load(Ordering::Relaxed) > 0 {
            return Due::At(look_again);
        }
        let rested = self.rested.load(Ordering::Relaxed);
        let in_head = self.in_head.load(Ordering::Relaxed);
        let has_begun = self.has_begun.load(Ordering::Relaxed);
        let (since, limit, patience) = match (in_head, has_begun) {
            // Until the request before it has ended, a head may have to wait for us.
            (1.., true) => (rested.max(in_head - 1), Limit::HeaderReadTime, head),
            (_, false) => (0, Limit::HeaderReadTime, head),
            (0, true) => (rested, Limit::IdleTime, idle),
        };
        let over = self.start + Duration::from_millis(since) + patience;
        match now >= over {
            true => Due::Now(limit),
            false => Due::At(over.min(look_again)),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX >> 1)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let presence = &self.0;
        let rested = presence.millis(Instant::now());
        presence.rested.store(rested, Ordering::Relaxed);
        if presence.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            let busy = &presence.place.crowd.counters.connections_busy;
            busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(change: impl FnOnce(&mut Settings)) -> (Arc<Crowd>, Settings) {
        let mut settings = Settings::default();
        change(&mut settings);
        (
            Crowd::new(settings.clone().into(), Arc::default()),
            settings,
        )
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let (crowd, _) = crowd(|it| it.connections_per_address_max = Some(2));
        let (a, b) = (address("10.0.0.1"), address("::ffff:10.0.0.1"));
        let first = crowd.place(a).unwrap();
        let _second = crowd.place(b).unwrap();
        assert_eq!(crowd.place(a).unwrap_err(), Limit::ConnectionsPerAddress);
        assert!(crowd.place(address("10.0.0.2")).is_ok());
        drop(first);
        assert!(crowd.place(a).is_ok());
        drop(_second);
        assert!(crowd.addresses.lock().unwrap().is_empty());
    }

    #[test]
    fn another_limit_counts_for_the_next_connection() {
        let (crowd, mut settings) = crowd(|it| it.connections_max = 2);
        let places = [(); 2].map(|()| crowd.place(address("10.0.0.1")).unwrap());
        settings.connections_max = 1;
        crowd.settings.store(settings.clone());
        assert!(crowd.place(address("10.0.0.2")).is_err());
        settings.connections_max = 3;
        settings.connections_per_address_max = Some(2);
        crowd.settings.store(settings);
        // Those who were let in under no such limit are counted all the same.
        let refused = crowd.place(address("10.0.0.1")).unwrap_err();
        assert_eq!(refused, Limit::ConnectionsPerAddress);
        assert!(crowd.place(address("10.0.0.2")).is_ok());
        drop(places);
    }

    #[test]
    fn a_network_of_ipv6_addresses_is_one_client() {
        let (crowd, _) = crowd(|it| it.connections_per_address_max = Some(1));
        let _place = crowd.place(address("2001:db8::1")).unwrap();
        assert!(crowd.place(address("2001:db8::2")).is_err());
        assert!(crowd.place(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn this_machine_is_bounded_only_by_all_places_unless_asked_for() {
        let (by_default, _) = crowd(|it| it.connections_max = 3000);
        let places: Vec<_> = (0..3000)
            .map(|_| by_default.place(address("127.0.0.1")).unwrap())
            .collect();
        let refused = by_default.place(address("10.0.0.1")).unwrap_err();
        assert_eq!(refused, Limit::Connections);
        drop(places);
        assert!(by_default.place(address("10.0.0.1")).is_ok());
        let (asked, _) = crowd(|it| it.connections_per_address_max = Some(1));
        let _place = asked.place(address("127.0.0.1")).unwrap();
        assert!(asked.place(address("127.0.0.1")).is_err());
    }

    #[test]
    fn a_connection_is_due_by_what_it_waits_for() {
        let (crowd, settings) = crowd(|it| {
            it.header_read_timeout = Duration::from_secs(10);
            it.client_idle_timeout = Duration::from_secs(60);
        });
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let place = crowd.place(address("127.0.0.1")).unwrap();
        let presence = Presence::new(place, start);
        let due = |now| presence.due(&settings, now);

        // It has not said a word.
        assert_eq!(due(at(0)), Due::At(at(10)));
        assert_eq!(due(at(10)), Due::Now(Limit::HeaderReadTime));
        // It has sent a part of a head.
        presence.set_in_head(true);
        assert_eq!(due(at(10)), Due::Now(Limit::HeaderReadTime));
        // It is being served, for as long as that takes.
        presence.set_in_head(false);
        let turn = presence.begin();
        assert_eq!(due(at(1000)), Due::At(at(1010)));
        assert!(!crowd.is_idle_enough());
        drop(turn); // Of real time, nothing has passed.
        assert!(matches!(due(at(1)), Due::At(_)));
        assert!(matches!(due(at(59)), Due::At(again) if again <= at(61)));
        assert_eq!(due(at(61)), Due::Now(Limit::IdleTime));
        // The next head has begun.
        presence.set_in_head(true);
        assert_eq!(due(at(11)), Due::Now(Limit::HeaderReadTime));
        assert_eq!(crowd.counters.connections_busy.load(Ordering::Relaxed), 0);
    }
}
