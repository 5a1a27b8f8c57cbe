//! The URL of a key set.

use std::{fmt, str::FromStr};

use url::Url;

/// An `http://` or `https://` URL. It has no user name and no password, since messages repeat the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl(Url);

/// The reason why a text is not the URL of a key set. No message repeats the text, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwksUrl {
    /// The text is not an absolute `http://` or `https://` URL.
    #[error(
        "write the URL of a key set (JWKS), for example https://id.example/.well-known/jwks.json"
    )]
    NotHttp,
    /// The URL has a user name or a password.
    #[error("a key set (JWKS) is public; write its URL without a user name and a password")]
    HasUser,
}

impl FromStr for JwksUrl {
    type Err = InvalidJwksUrl;

    fn from_str(text: &str) -> Result<Self, InvalidJwksUrl> {
        let mut url: Url = text.trim().parse().map_err(|_| InvalidJwksUrl::NotHttp)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(InvalidJwksUrl::NotHttp);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidJwksUrl::HasUser);
        }
        url.set_fragment(None);
        Ok(Self(url))
    }
}

impl JwksUrl {
    /// Returns whether the server must use TLS.
    pub(super) fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Returns the host. An IPv6 address has no brackets, since connections and certificates need it in this form.
    pub(super) fn host(&self) -> &str {
        self.0
            .host_str()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
    }

    /// Returns the port. The default is 80 for `http://` and 443 for `https://`.
    pub(super) fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    /// Returns the value of the Host header.
    pub(super) fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Returns the path and the query, which are the target of a request.
    pub(super) fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }
}

impl fmt::Display for JwksUrl {
    /// Writes the URL without its query, which may contain an access key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}{}",
            self.0.scheme(),
            self.authority(),
            self.0.path()
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn the_parts_of_a_url_are_those_that_a_request_needs() {
        for (text, shown, host, port, authority, target) in [
            (
                "https://id.example/.well-known/jwks.json",
                "https://id.example/.well-known/jwks.json",
                "id.example",
                443,
                "id.example",
                "/.well-known/jwks.json",
            ),
            (
                " http://[::1]:8080/keys?key=hunter2#fragment ",
                "http://[::1]:8080/keys",
                "::1",
                8080,
                "[::1]:8080",
                "/keys?key=hunter2",
            ),
            ("HTTP://Keys", "http://keys/", "keys", 80, "keys", "/"),
        ] {
            let url: JwksUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!((url.host(), url.port()), (host, port));
            assert_eq!(
                (url.authority(), url.path_and_query()),
                (authority.to_owned(), target.to_owned())
            );
            assert_eq!(url.is_https(), shown.starts_with("https"));
        }
    }

    #[test]
    fn other_texts_are_refused_and_not_repeated() {
        for (text, why) in [
            ("", InvalidJwksUrl::NotHttp),
            ("id.example/jwks.json", InvalidJwksUrl::NotHttp),
            ("file:///etc/jwks.json", InvalidJwksUrl::NotHttp),
            ("ftp://hunter2.example/", InvalidJwksUrl::NotHttp),
            ("https://", InvalidJwksUrl::NotHttp),
            ("https://id.example:99999/", InvalidJwksUrl::NotHttp),
            ("https://user:hunter2@id.example/", InvalidJwksUrl::HasUser),
            ("https://hunter2@id.example/", InvalidJwksUrl::HasUser),
        ] {
            let refused = text.parse::<JwksUrl>().unwrap_err();
            assert_eq!(refused, why, "{text}");
            assert!(!refused.to_string().contains("hunter2"));
        }
    }
}
