//! The address of a running EmoStream server.

use std::str::FromStr;

use hyper::Uri;

/// The address that `--url` names: `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    tls: bool,
    /// The host; an IPv6 address is in brackets.
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not the address of a server; write http://127.0.0.1:8080 or https://emo.example, without a path";
        let with_scheme = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = with_scheme.parse().map_err(|_| EXPECTED)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(EXPECTED.to_owned()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(EXPECTED.to_owned());
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or(EXPECTED)?
            .to_owned();
        let port = match uri
            .authority()
            .is_some_and(|authority| authority.as_str() == host)
        {
            true => usual_port(tls),
            false => uri.port_u16().ok_or(EXPECTED)?,
        };
        Ok(Self { tls, host, port })
    }
}

fn usual_port(tls: bool) -> u16 {
    match tls {
        true => 443,
        false => 80,
    }
}

impl Server {
    /// Whether the server uses TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host, without the brackets of an IPv6 address. Certificates contain the host in this form.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Returns `host:port`, or `host` for the default port: the value of the Host header.
    pub(crate) fn authority(&self) -> String {
        match self.port == usual_port(self.tls) {
            true => self.host.clone(),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Returns the same server with another port.
    pub(crate) fn at_port(&self, port: u16) -> Self {
        Self {
            port,
            ..self.clone()
        }
    }

    /// Returns the URL of `path`, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Returns the WebSocket URL of `path`, which begins with a slash.
    pub(crate) fn websocket_url(&self, path: &str) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.authority())
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for (text, url, address, host) in [
            (
                "http://127.0.0.1:8080",
                "http://127.0.0.1:8080/x",
                "127.0.0.1:8080",
                "127.0.0.1",
            ),
            ("http://[::1]:9/", "http://[::1]:9/x", "[::1]:9", "::1"),
            (
                "emo.example",
                "http://emo.example/x",
                "emo.example:80",
                "emo.example",
            ),
            (
                "localhost:8080",
                "http://localhost:8080/x",
                "localhost:8080",
                "localhost",
            ),
            ("https://h", "https://h/x", "h:443", "h"),
            ("https://h:443/", "https://h/x", "h:443", "h"),
            ("https://[::1]", "https://[::1]/x", "[::1]:443", "::1"),
            ("HTTPS://h:80", "https://h:80/x", "h:80", "h"),
        ] {
            let server: Server = text.parse().unwrap();
            assert_eq!(server.url("/x"), url);
            assert_eq!(format!("{}:{}", server.host, server.port()), address);
            assert_eq!(server.bare_host(), host);
            let websocket = url.replacen("http", "ws", 1);
            assert_eq!(server.websocket_url("/x"), websocket);
        }
        for text in [
            "",
            "ftp://h",
            "http://h/room",
            "https://h/?x",
            "http://h:99999",
            "http://:80",
        ] {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }

    #[test]
    fn another_port_of_a_server_has_the_same_scheme() {
        let server: Server = "https://h".parse().unwrap();
        assert_eq!(server.at_port(9464).to_string(), "https://h:9464");
    }
}
