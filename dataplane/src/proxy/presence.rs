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

use super::{
    Counters, Limit, Live, Settings,
    framing::{Doubt, Framing, Why},
};

/// Something has come of the next request, or it is not known what.
const NOT_WHOLE: u32 = u32::MAX;

/// All client connections.
#[derive(Debug)]
pub(super) struct Crowd {
    settings: Live,
    /// Looked at whenever a connection is polled, and not changed.
    awake_max: usize,
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
    head_max_bytes: usize,
    /// Requests that have begun.
    begun: AtomicU32,
    /// Requests that are being served.
    running: AtomicU32,
    /// Milliseconds from the start to the last request's end.
    rested: AtomicU64,
    /// Milliseconds from the start to the first byte of a head that has not come whole,
    /// plus one; 0: there is none.
    in_head: AtomicU64,
    /// Requests that have come, if all have come whole and nothing after them; else
    /// [`NOT_WHOLE`].
    whole: AtomicU32,
    /// The client is behind with reading.
    is_writing: AtomicBool,
    /// The connection ends with what has begun.
    is_ending: AtomicBool,
    /// The number of the first head that is not to be served; 0: there is none.
    doubted: AtomicU32,
    is_too_long: AtomicU32,
}

/// One request on a connection, from its head to the end of its answer.
#[derive(Debug)]
pub(super) struct Turn {
    presence: Arc<Presence>,
    number: u32,
}

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
            awake_max: settings.load().awake_connections_max,
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
    pub(super) fn new(place: Place, settings: &Settings, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            place,
            start: now,
            head_max_bytes: settings.head_max_bytes,
            begun: AtomicU32::new(0),
            running: AtomicU32::new(0),
            rested: AtomicU64::new(0),
            in_head: AtomicU64::new(0),
            whole: AtomicU32::new(NOT_WHOLE),
            is_writing: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            doubted: AtomicU32::new(0),
            is_too_long: AtomicU32::new(0),
        })
    }

    /// A request has begun.
    pub(super) fn begin(self: &Arc<Self>) -> Turn {
        let number = self.begun.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            let busy = &self.place.crowd.counters.connections_busy;
            busy.fetch_add(1, Ordering::Relaxed);
        }
        Turn {
            presence: Arc::clone(self),
            number,
        }
    }

    /// Takes note of what the client has sent.
    pub(super) fn hear(&self, framing: &mut Framing, bytes: &[u8]) {
        framing.follow(bytes, self.head_max_bytes);
        let whole = framing.whole().unwrap_or(NOT_WHOLE);
        self.whole.store(whole, Ordering::Relaxed);
        if let Some(Doubt { head, why }) = framing.doubted() {
            let is_too_long = u32::from(why == Why::TooLong);
            self.is_too_long.store(is_too_long, Ordering::Relaxed);
            self.doubted.store(head, Ordering::Relaxed);
        }
        let was_in_head = self.in_head.load(Ordering::Relaxed) != 0;
        if framing.is_in_head() != was_in_head {
            let since = match was_in_head {
                true => 0,
                false => self.millis(Instant::now()) + 1,
            };
            self.in_head.store(since, Ordering::Relaxed);
        }
    }

    /// Takes note of whether what was written has left.
    pub(super) fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Ordering::Relaxed);
    }

    /// The connection will end with what has begun.
    pub(super) fn set_ending(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether hyper, which has just done all that it can, has nothing left to do: every
    /// request that has come was whole, and is answered, and its answer has been taken; and
    /// there are enough idle connections for that to be worth it. A connection that is to
    /// end is left to hyper, which ends it.
    pub(super) fn may_rest(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
            && self.whole.load(Ordering::Relaxed) == self.begun.load(Ordering::Relaxed)
            && !self.is_writing.load(Ordering::Relaxed)
            && !self.is_ending.load(Ordering::Relaxed)
            && self.place.crowd.idle() > self.place.crowd.awake_max
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
        let has_begun = self.begun.load(Ordering::Relaxed) > 0;
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

impl Turn {
    /// Why the request is not to be served.
    pub(super) fn doubt(&self) -> Option<Why> {
        let doubted = self.presence.doubted.load(Ordering::Relaxed);
        if doubted == 0 || self.number < doubted {
            return None;
        }
        Some(match self.presence.is_too_long.load(Ordering::Relaxed) {
            0 => Why::FramedTwice,
            _ => Why::TooLong,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let presence = &self.presence;
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
        let presence = Presence::new(place, &settings, start);
        let due = |now| presence.due(&settings, now);

        // It has not said a word.
        assert_eq!(due(at(0)), Due::At(at(10)));
        assert_eq!(due(at(10)), Due::Now(Limit::HeaderReadTime));
        // It has sent a part of a head.
        let mut framing = Framing::default();
        presence.hear(&mut framing, b"GET / HTTP/1.1\r\n");
        assert_eq!(due(at(10)), Due::Now(Limit::HeaderReadTime));
        // It is being served, for as long as that takes.
        presence.hear(&mut framing, b"host: a\r\n\r\n");
        let turn = presence.begin();
        assert_eq!(due(at(1000)), Due::At(at(1010)));
        assert!(!crowd.is_idle_enough());
        drop(turn); // Of real time, nothing has passed.
        assert!(matches!(due(at(1)), Due::At(_)));
        assert!(matches!(due(at(59)), Due::At(again) if again <= at(61)));
        assert_eq!(due(at(61)), Due::Now(Limit::IdleTime));
        // The next head has begun.
        presence.hear(&mut framing, b"G");
        assert_eq!(due(at(11)), Due::Now(Limit::HeaderReadTime));
        assert_eq!(crowd.counters.connections_busy.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_doubted_head_and_all_after_it_are_not_served() {
        let (crowd, settings) = crowd(|_| ());
        let place = crowd.place(address("127.0.0.1")).unwrap();
        let presence = Presence::new(place, &settings, Instant::now());
        let mut framing = Framing::default();
        presence.hear(&mut framing, b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n");
        let twice = b"content-length: 1\r\ncontent-length: 1\r\n\r\n";
        presence.hear(&mut framing, twice);
        assert_eq!(presence.begin().doubt(), None);
        assert_eq!(presence.begin().doubt(), Some(Why::FramedTwice));
        assert_eq!(presence.begin().doubt(), Some(Why::FramedTwice));
    }
}
