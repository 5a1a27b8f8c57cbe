//! A server as this process reaches it: where it is, whom it has to prove to be, and who we are there.

use std::{fmt, io, path::PathBuf, sync::Arc};

use clap::Args;
use emostream_http::{ClientStream, ClientTls, connect};

use super::{Server, Token};
use crate::exit::Failure;

/// How servers are reached.
#[derive(Debug, Clone, Args)]
pub(crate) struct AccessFlags {
    /// Where TLS is spoken, believe the certificates in this file (PEM) and those that they have signed,
    /// not the system's
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Send a token (JWT) out of this file; the first line's, where one is enough
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What the flags say, read and found to be good.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// `None`: whom the system believes.
    named: Option<ClientTls>,
    tokens: Arc<[Token]>,
}

impl AccessFlags {
    /// Whether there are tokens.
    pub(crate) fn has_tokens(&self) -> bool {
        self.token_file.is_some()
    }

    /// Reads the files.
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
    /// All tokens.
    pub(crate) fn tokens(&self) -> &Arc<[Token]> {
        &self.tokens
    }

    /// A server, by the first token.
    pub(crate) fn to(&self, server: &Server) -> Result<Endpoint, Failure> {
        Ok(Endpoint {
            token: self.tokens.first().cloned(),
            ..self.without_token(server)?
        })
    }

    /// A server that has no business with tokens.
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

/// See the module.
///
/// Invariant: who is to be reached in TLS is never spoken to in the clear.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    server: Server,
    /// There if the server speaks TLS.
    trust: Option<ClientTls>,
    token: Option<Token>,
}

impl Endpoint {
    /// Where it is.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Who we are there, if it asks.
    pub(crate) fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<ClientStream> {
        let (host, port) = (self.server.bare_host(), self.server.port());
        connect(host, port, self.trust.as_ref()).await
    }
}

#[cfg(test)]
impl Endpoint {
    /// A server of a test's own.
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
