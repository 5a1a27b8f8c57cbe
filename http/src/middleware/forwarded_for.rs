//! The address of a client behind proxies.
//!
//! ```text
//!  client ──▶ proxy ──▶ proxy ──▶ here        X-Forwarded-For: (what the client claims,) client, proxy
//!     ▲         └─trusted─┴─ the peer, trusted
//!     └ the first that is not trusted, from the right
//! ```
//!
//! Invariant: an entry of the header is trusted only if a trusted address has added it. So a client cannot choose its
//! own address, whatever list it sends.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use hyper::{HeaderMap, header::HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The networks of proxies whose `X-Forwarded-For` is trusted. By default, there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// The error for a value of `--trusted-proxy` that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a network; write, for example, 10.0.0.0/8 or ::1")]
pub struct InvalidNetwork(String);

impl FromStr for TrustedProxies {
    type Err = InvalidNetwork;

    /// Parses a network (an address and a prefix length) or an address.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let text = text.trim();
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let network = network.ok_or_else(|| InvalidNetwork(text.to_owned()))?;
        Ok(Self(vec![network]))
    }
}

impl FromIterator<TrustedProxies> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = TrustedProxies>>(some: I) -> Self {
        Self(some.into_iter().flat_map(|some| some.0).collect())
    }
}

impl TrustedProxies {
    /// Returns the address of the client that sent a request: the rightmost address, beginning with `peer`, that is not
    /// a trusted proxy. An IPv4 address that is written as IPv6 counts as the IPv4 address.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = headers.get_all(FORWARDED_FOR).into_iter().rev();
        let mut hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        let mut client = peer.to_canonical();
        while self.trust(client) {
            let Some(before) = hops.next().and_then(address) else {
                break;
            };
            client = before;
        }
        client
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Parses an address. Some proxies add the port, which is dropped.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop
        .strip_prefix('[')
        .and_then(|hop| hop.strip_suffix(']'))
        .unwrap_or(hop);
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| hop.parse().ok().map(|at: SocketAddr| at.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    fn proxies() -> TrustedProxies {
        let networks = ["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"];
        networks
            .iter()
            .map(|text| text.parse::<TrustedProxies>().unwrap())
            .collect()
    }

    fn client(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        proxies()
            .client(peer.parse().unwrap(), &headers)
            .to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        for (peer, lines, expected) in [
            ("203.0.113.5", &[][..], "203.0.113.5"),
            // The header of an untrusted peer is ignored.
            ("203.0.113.5", &["198.51.100.1"], "203.0.113.5"),
            ("10.1.2.3", &[], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.1.2.3", &["198.51.100.1"], "198.51.100.1"),
            ("192.0.2.7", &["198.51.100.1"], "198.51.100.1"),
            ("192.0.2.8", &["198.51.100.1"], "192.0.2.8"),
            ("2001:db8:1:2::3", &["2001:db8:2::1"], "2001:db8:2::1"),
            // The addresses that the client itself has sent are to the left of its real address, so they are ignored.
            (
                "10.1.2.3",
                &["1.1.1.1, 198.51.100.1 ,10.9.9.9"],
                "198.51.100.1",
            ),
            (
                "10.1.2.3",
                &["1.1.1.1", "198.51.100.1", "10.9.9.9"],
                "198.51.100.1",
            ),
            (
                "10.1.2.3",
                &["1.1.1.1,10.0.0.1", "198.51.100.1"],
                "198.51.100.1",
            ),
            ("10.1.2.3", &["10.0.0.9, 10.0.0.1"], "10.0.0.9"),
            // If an entry is not an address, the entries to the left of it are ignored.
            ("10.1.2.3", &["unknown"], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1, junk, 10.0.0.1"], "10.0.0.1"),
            ("10.1.2.3", &[""], "10.1.2.3"),
            ("10.1.2.3", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.1.2.3", &["[2001:db8:2::1]:4711"], "2001:db8:2::1"),
            ("10.1.2.3", &["[2001:db8:2::1]"], "2001:db8:2::1"),
            ("10.1.2.3", &["::ffff:198.51.100.1"], "198.51.100.1"),
        ] {
            assert_eq!(client(peer, lines), expected, "{peer} {lines:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, "198.51.100.1".parse().unwrap());
        let nobody = TrustedProxies::default();
        let peer: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(nobody.client(peer, &headers), peer);
    }

    #[test]
    fn an_invalid_network_is_refused() {
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "proxy.example",
            "::1/129",
            "*",
        ] {
            assert!(text.parse::<TrustedProxies>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_client_cannot_choose_its_address(
            claimed in "[0-9a-f:., \\[\\]]{0,60}", own in any::<u32>(),
        ) {
            let own = IpAddr::from(own.to_be_bytes());
            prop_assume!(!proxies().trust(own));
            // The proxy appends the address that it sees.
            let line = format!("{claimed},{own}");
            prop_assert_eq!(client("10.0.0.1", &[&line]), own.to_string());
        }
    }
}
