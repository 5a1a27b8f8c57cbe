//! An endpoint: the address of a server, the certificates that the client trusts for it, and the token that the client
//! sends.

use std::{fmt, io, path::PathBuf, sync::Arc};

use clap::Args;
use emostream_app::process::Failure;
use emostream_http::{ClientStream, ClientTls, connect};

use super::{Server, Token};

/// The flags for connections to servers.
#[derive(Debug, Clone, Args)]
pub(crate) struct AccessFlags {
    /// For https, trust the certificates in this file (PEM) and certificates signed by them, instead of those that the
    /// system trusts
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// A file of tokens (JWT), one per line. Commands that need only one token send the first
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The parsed contents of the files that [`AccessFlags`] names.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// The certificates of `--cacert`; `None` if the client trusts the certificates that the system trusts.
    named: Option<ClientTls>,
    tokens: Arc<[Token]>,
}

impl AccessFlags {
    /// Whether the flags name a file of tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.token_file.is_some()
    }

    /// Reads the files that the flags name.
    pub(crate) fn open(&self) -> Result<Access, Failure> {
        let named = self
            .cacert
            .as_deref()
            .map(ClientTls::with_ca_file)
            .transpose();
        let tokens = self.token_file.as_deref().map(Token::read_all).transpose();
        Ok(Access {
            named: named.map_err(|why| Failure::usage("--cacert", why))?,
            tokens: tokens
                .map_err(|why| Failure::usage("--token-file", why))?
                .unwrap_or_default()
                .into(),
        })
    }
}

impl Access {
    /// Returns all tokens of the file. The list is empty if the flags name no file.
    pub(crate) fn tokens(&self) -> &Arc<[Token]> {
        &self.tokens
    }

    /// Returns the endpoint of a server, with the first token of the file.
    pub(crate) fn to(&self, server: &Server) -> Result<Endpoint, Failure> {
        Ok(Endpoint {
            token: self.tokens.first().cloned(),
            ..self.without_token(server)?
        })
    }

    /// Returns the endpoint of a server to which no token is sent.
    pub(crate) fn without_token(&self, server: &Server) -> Result<Endpoint, Failure> {
        let trust = match (server.is_tls(), &self.named) {
            (false, _) => None,
            (true, Some(named)) => Some(named.clone()),
            (true, None) => {
                let system = ClientTls::with_system_roots();
                Some(system.map_err(|why| Failure::usage("--cacert", why))?)
            }
        };
        Ok(Endpoint {
            server: server.clone(),
            trust,
            token: None,
        })
    }
}

/// A server, the certificates that are trusted for it, and the token that is sent to it.
///
/// Invariant: every connection to a server whose URL is `https` uses TLS.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    server: Server,
    /// The trusted certificates; `None` without TLS.
    trust: Option<ClientTls>,
    token: Option<Token>,
}

impl Endpoint {
    /// Returns the address of the server.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Returns the token that is sent to the server.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Opens a connection, with TLS if the server uses it.
    pub(super) async fn connect(&self) -> io::Result<ClientStream> {
        let (host, port) = (self.server.bare_host(), self.server.port());
        connect(host, port, self.trust.as_ref()).await
    }
}

#[cfg(test)]
impl Endpoint {
    /// Returns the endpoint of a test's server, without TLS and without a token.
    pub(super) fn in_the_clear(address: std::net::SocketAddr) -> Self {
        Self {
            server: address.to_string().parse().expect("an address"),
            trust: None,
            token: None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)
    }
}
