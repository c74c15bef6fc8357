//! The addresses that no endpoint may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a connection to an endpoint may go to this address.
///
/// Whoever can set a base URL decides where every proxy connects, with a key.
/// Link-local (where clouds serve machine credentials), unspecified, multicast and
/// broadcast addresses are never an LLM API. Loopback and private ones are: local
/// model servers are a main use. Ask after name resolution, about the very address
/// that will be connected to; a name may answer differently the next time.
pub fn may_connect(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => may_connect_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(address) => may_connect_v4(address),
            None => {
                !(address.is_unspecified()
                    || address.is_multicast()
                    || address.is_unicast_link_local())
            }
        },
    }
}

fn may_connect_v4(address: Ipv4Addr) -> bool {
    // All of 0.0.0.0/8 means "this network"; Linux connects 0.0.0.0 to itself.
    !(address.octets()[0] == 0
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

/// The IPv4 address that an IPv6 one stands for: mapped, or behind NAT64.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    address
        .to_ipv4_mapped()
        .or_else(|| match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)))
            }
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::may_connect;

    #[test]
    fn only_addresses_of_possible_apis_may_be_connected_to() {
        for (address, allowed) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.168.0.1", true),
            ("160.79.104.10", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("169.254.169.254", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("::1", true),
            ("fd00::1", true),
            ("2607:6bc0::10", true),
            ("::ffff:127.0.0.1", true),
            ("64:ff9b::a04f:680a", true),
            ("::", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:169.254.169.254", false),
            ("::ffff:0.0.0.0", false),
            ("64:ff9b::a9fe:a9fe", false),
        ] {
            assert_eq!(may_connect(address.parse().unwrap()), allowed, "{address}");
        }
    }
}
