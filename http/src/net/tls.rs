//! TLS for listeners: a certificate and its key from two files, taken anew when they change.
//!
//! ```text
//!  certificate.pem ─┐
//!          key.pem ─┴─ load ──▶ Identity ◀── each handshake takes what is there now
//!               changed ─ settled ─ good ──▶ replaces it
//!                                  └ bad ──▶ one warning, the former stays
//! ```
//!
//! Invariant: a pair is used only if the key is the certificate's. Connections that stand keep what they
//! began with.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::spawn_blocking,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

/// U+FEFF in UTF-8, which some editors put before a text and do not show.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What a handshake offers (ALPN), the best first.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
pub(crate) const HTTP2: &[u8] = b"h2";

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate first, then those that lead to a root, in PEM.
    pub certificate: PathBuf,
    /// The certificate's private key in PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
}

/// Which of the two files is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// [`TlsFiles::certificate`]
    Certificate,
    /// [`TlsFiles::key`]
    Key,
}

/// Why two files are no identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or not for us.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// Which.
        file: TlsFile,
        /// Where it should be.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// There is nothing in PEM to be found in it, or what is there is broken.
    #[error("{} is no {expected}", path.display())]
    Useless {
        /// Which.
        file: TlsFile,
        /// Where it is.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// Each is good, but not for the other.
    #[error("{} is not the key of the first certificate in {}; name the pair", key.display(), certificate.display())]
    Strangers {
        /// Where the certificate is.
        certificate: PathBuf,
        /// Where the key is.
        key: PathBuf,
    },
}

impl TlsError {
    /// The file to mend.
    pub fn file(&self) -> TlsFile {
        match self {
            Self::Unreadable { file, .. } | Self::Useless { file, .. } => *file,
            Self::Strangers { .. } => TlsFile::Key,
        }
    }
}

/// TLS as listeners speak it. Clones share one identity.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
}

impl Tls {
    /// Reads the files; they are used from now on.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // Before they are read: what changes meanwhile is seen as a change.
        let read_at = Stamps::of(&files);
        let pair = files.read(&provider)?;
        let identity = Arc::new(Identity {
            files,
            provider: provider.clone(),
            read_at,
            pair: RwLock::new(Arc::new(pair)),
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|_| unreachable!("the provider has the suites of TLS 1.2 and 1.3"))
            .with_no_client_auth()
            .with_cert_resolver(identity.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        // Who comes back resumes by a ticket that only this process can read, which costs it no memory.
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Ok(Self {
            config: Arc::new(config),
            identity,
        })
    }

    /// Looks at the files `every` so often for as long as it is polled, and takes a good new pair.
    ///
    /// A pair counts as new once both files have stayed as they are from one look to the next: whoever
    /// replaces them does so one after the other.
    pub async fn follow(&self, every: Duration) {
        let (mut known, mut seen) = (self.identity.read_at, self.identity.read_at);
        loop {
            tokio::time::sleep(every).await;
            let identity = self.identity.clone();
            let look = move || identity.look(known, seen);
            // Its panic would have ended the process.
            if let Ok(looked) = spawn_blocking(look).await {
                (known, seen) = looked;
            }
        }
    }

    /// A client's stream in TLS, for what is no HTTP. A client may take as long as it likes.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor().accept(stream).await
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.identity.files).finish()
    }
}

/// The pair that is used now.
struct Identity {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    read_at: Stamps,
    pair: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// Takes what has changed since `known` and is as it was when `seen`; how the files are now.
    fn look(&self, known: Stamps, seen: Stamps) -> (Stamps, Stamps) {
        let now = Stamps::of(&self.files);
        if now == known || now != seen {
            return (known, now);
        }
        match self.files.read(&self.provider) {
            Ok(pair) => {
                *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                let certificate = self.files.certificate.display();
                tracing::info!(%certificate, "a new certificate is used from now on");
            }
            Err(error) => tracing::warn!("the former certificate stays in use: {error}"),
        }
        (now, now)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let pair = self.pair.read().unwrap_or_else(PoisonError::into_inner);
        Some(pair.clone())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.files).finish()
    }
}

impl TlsFiles {
    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let text = read(TlsFile::Certificate, &self.certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| self.no_certificate())?;
        let text = read(TlsFile::Key, &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| self.no_key())?;
        let key = provider.key_provider.load_private_key(key);
        let pair = CertifiedKey::new(chain, key.map_err(|_| self.no_key())?);
        match pair.keys_match() {
            Ok(()) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Strangers {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            }),
            Err(_) => Err(self.no_certificate()),
        }
    }

    fn no_certificate(&self) -> TlsError {
        TlsError::Useless {
            file: TlsFile::Certificate,
            path: self.certificate.clone(),
            expected: "chain of certificates in PEM (-----BEGIN CERTIFICATE-----)",
        }
    }

    fn no_key(&self) -> TlsError {
        TlsError::Useless {
            file: TlsFile::Key,
            path: self.key.clone(),
            expected: "private key in PEM, RSA, EC or Ed25519 and not encrypted \
                (-----BEGIN PRIVATE KEY-----)",
        }
    }
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        file,
        path: path.to_owned(),
        error,
    };
    fs::read(path).map(without_bom).map_err(unreadable)
}

/// PEM without a byte order mark, which would hide its first line.
pub(crate) fn without_bom(mut pem: Vec<u8>) -> Vec<u8> {
    if pem.starts_with(BOM) {
        pem.drain(..BOM.len());
    }
    pem
}

/// What tells one version of both files from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamps([Option<Stamp>; 2]);

/// Which file, how long, and when it was changed, to the nanosecond.
type Stamp = (u64, u64, i64, i64);

impl Stamps {
    fn of(files: &TlsFiles) -> Self {
        Self([&files.certificate, &files.key].map(|path| {
            let it = fs::metadata(path).ok()?;
            Some((it.ino(), it.len(), it.ctime(), it.ctime_nsec()))
        }))
    }
}
