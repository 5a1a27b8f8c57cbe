//! Parsers of flag values: durations and addresses.

use std::{
    fmt::Display,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use jiff::{Span, SpanRelativeTo};

/// Maximum value of a flag for a duration: a year, so that sums of times cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a duration of whole milliseconds above zero: `250ms`, `2s`, `10m`, `1h 30m`, `30d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = Span::from_str(text.trim())
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .map_err(|_| "not a duration; write 250ms, 2s, 10m or 30d".to_owned())?;
    match Duration::try_from(parsed) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0".to_owned()),
        Ok(duration) if duration > MAX_DURATION => Err("is longer than a year".to_owned()),
        Ok(duration) if !duration.subsec_nanos().is_multiple_of(1_000_000) => {
            Err("must be whole milliseconds".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err("must be longer than 0".to_owned()),
    }
}

/// Returns a duration in whole milliseconds.
pub fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Returns the host and the port of `host:port`; `None` if the text has another form. An IPv6 address must be in
/// brackets. Otherwise its last group would be parsed as the port.
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && !host.contains([':', '[', ']', '/', ','])
                && !host.contains(char::is_whitespace)
        }
    };
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    good.then_some((host, port))
}

/// Checks a list of `host:port`. This is necessary because librdkafka only logs an entry that it cannot parse.
pub fn brokers(text: &str) -> Result<String, String> {
    let good = |broker: &str| {
        let (host, port) = broker.rsplit_once(':')?;
        // A scheme of Kafka (`SASL_SSL://`) is accepted, as librdkafka does. An http or https scheme is refused,
        // because librdkafka waits forever if it does not know a scheme.
        let web = host.starts_with("http://") || host.starts_with("https://");
        (!host.is_empty() && !web && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
    };
    match text.split(',').all(|broker| good(broker.trim()).is_some()) {
        true => Ok(text.to_owned()),
        false => Err("write HOST:PORT, several separated by commas".to_owned()),
    }
}

/// Parses an address to listen on. If a host name has several addresses, an IPv4 address is preferred, because every
/// client tries IPv4 for `localhost`.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let named = !host.contains([':', '[', ']', '/']);
        named.then_some((host, port.parse::<u16>().ok()?))
    });
    let (host, port) = match parts {
        Some(("", port)) => return Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        Some(parts) => parts,
        None => {
            return Err(
                "write IP:PORT or HOST:PORT, for example 127.0.0.1:8080, or :8080 for all \
                        IPv4 addresses of this host"
                    .to_owned(),
            );
        }
    };
    let unknown = |why: &dyn Display| format!("host {host} not found ({why})");
    let found = (host, port).to_socket_addrs();
    let found: Vec<SocketAddr> = found.map_err(|error| unknown(&error))?.collect();
    let first = found.iter().find(|it| it.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| unknown(&"it has no address"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("2s", 2000),
            ("10m", 600_000),
            ("1h 30m", 5_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "2", "-2s", "0s", "two", "2s!", "1ns", "2000000h", "∞"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_an_ip_a_host_or_a_port_of_all_addresses() {
        for (text, expected) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:0", "[::1]:0"),
            (":8080", "0.0.0.0:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(address(text), Ok(expected.parse().expect(expected)));
        }
        for text in [
            "",
            "8080",
            ":",
            ":http",
            "localhost",
            "::1:80",
            "http://h:80",
            "h:70000",
        ] {
            let why = address(text).expect_err(text);
            assert!(why.contains("HOST:PORT"), "{text}: {why}");
        }
        let why = address("no-such-host.invalid:80").expect_err("RFC 6761 reserves the name");
        assert!(why.contains("no-such-host.invalid"), "{why}");
    }
}
