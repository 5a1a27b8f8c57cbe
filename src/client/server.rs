//! The address of a running EmoStream.

use std::str::FromStr;

use hyper::Uri;

/// `http://host:port`, what `--url` names.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    host: String,
    port: u16,
}

impl FromStr for Server {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not an address; write http://127.0.0.1:8080";
        let with_scheme = match text.contains("://") {
            true => text.to_owned(),
            false => format!("http://{text}"),
        };
        let uri: Uri = with_scheme.parse().map_err(|_| EXPECTED)?;
        if uri.scheme_str() == Some("https") {
            return Err("https is not in this version; write http://".to_owned());
        }
        let bare = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
        if !bare || uri.query().is_some() {
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
            true => 80,
            false => uri.port_u16().ok_or(EXPECTED)?,
        };
        Ok(Self { host, port })
    }
}

impl Server {
    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The same host at another port.
    pub(crate) fn at_port(&self, port: u16) -> Self {
        let host = self.host.clone();
        Self { host, port }
    }

    /// A URL there. `path` begins with a slash.
    pub(crate) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.authority())
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for (text, authority) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:9/", "[::1]:9"),
            ("emo.example", "emo.example:80"),
            ("localhost:8080", "localhost:8080"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().authority(), authority);
        }
        for text in [
            "",
            "https://h",
            "ftp://h",
            "http://h/room",
            "http://h:99999",
            "http://:80",
        ] {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }
}
