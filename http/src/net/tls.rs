//! TLS for listeners: a certificate and its key from two files, which are reloaded when they change.
//!
//! ```text
//!  certificate.pem ─┐
//!          key.pem ─┴─ load ──▶ Identity ◀── each handshake uses the current pair
//!               changed ─ unchanged since the last look ─ valid ──▶ replaces it
//!                                                         └ invalid ──▶ one warning, the previous pair stays
//! ```
//!
//! Invariant: a pair is used only if the key belongs to the certificate. Open connections keep the pair that they
//! started with.

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

/// The byte order mark (U+FEFF) in UTF-8. Some editors write it before a text and do not show it.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The protocols that a handshake offers (ALPN), in order of preference.
const PROTOCOLS: [&[u8]; 2] = [HTTP2, b"http/1.1"];
pub(crate) const HTTP2: &[u8] = b"h2";

/// Paths of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Path of the server's certificate, followed by the intermediate certificates, in PEM.
    pub certificate: PathBuf,
    /// Path of the certificate's private key in PEM: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
}

/// One of the two files of [`TlsFiles`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The file [`TlsFiles::certificate`].
    Certificate,
    /// The file [`TlsFiles::key`].
    Key,
}

/// The reason why two files cannot be used as a certificate and its key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or this process may not read it.
    #[error("{} cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        file: TlsFile,
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A file contains no valid PEM of the expected kind.
    #[error("{} is not a {expected}", path.display())]
    Invalid {
        /// The file.
        file: TlsFile,
        /// The path of the file.
        path: PathBuf,
        /// The expected content.
        expected: &'static str,
    },
    /// Both files are valid, but the key belongs to another certificate.
    #[error("{} is not the key of the first certificate in {}; set a certificate and a key that belong together", key.display(), certificate.display())]
    KeyMismatch {
        /// Path of the certificate.
        certificate: PathBuf,
        /// Path of the key.
        key: PathBuf,
    },
}

impl TlsError {
    /// Returns the file that the user has to fix.
    pub fn file(&self) -> TlsFile {
        match self {
            Self::Unreadable { file, .. } | Self::Invalid { file, .. } => *file,
            Self::KeyMismatch { .. } => TlsFile::Key,
        }
    }
}

/// TLS of a listener. Clones share one certificate.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
}

impl Tls {
    /// Reads the certificate and its key from the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        // The versions are read before the files, so that [`Tls::reload_on_change`] detects a change that happens
        // during the read.
        let read_at = FileVersions::of(&files);
        let pair = files.read(&provider)?;
        let identity = Arc::new(Identity {
            files,
            provider: provider.clone(),
            read_at,
            pair: RwLock::new(Arc::new(pair)),
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|_| unreachable!("the provider supports TLS 1.2 and TLS 1.3"))
            .with_no_client_auth()
            .with_cert_resolver(identity.clone());
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        // Clients resume a TLS session with a ticket that only this process can decrypt. So the process does not have
        // to store sessions.
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Ok(Self {
            config: Arc::new(config),
            identity,
        })
    }

    /// Checks the files at each `interval`, and uses the new pair if they have changed and are valid. Runs until the
    /// future is dropped.
    ///
    /// Programs replace the two files one after the other. So a changed pair is read only after two checks in a row
    /// have found the same versions of both files.
    pub async fn reload_on_change(&self, interval: Duration) {
        let (mut known, mut seen) = (self.identity.read_at, self.identity.read_at);
        loop {
            tokio::time::sleep(interval).await;
            let identity = self.identity.clone();
            let reload = move || identity.reload_if_changed(known, seen);
            // `spawn_blocking` fails only if the closure panics, and then the program's panic hook has already ended
            // the process.
            if let Ok(state) = spawn_blocking(reload).await {
                (known, seen) = state;
            }
        }
    }

    /// Performs the TLS handshake with a client whose protocol is not HTTP, such as a relay. This function has no
    /// timeout.
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

/// The certificate and key that handshakes use, and the files that they come from.
struct Identity {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    read_at: FileVersions,
    pair: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// Reloads the files if their versions differ from those that were last read (`known`), and are equal to those of
    /// the last check (`seen`). Returns `known` and `seen` for the next check.
    fn reload_if_changed(
        &self,
        known: FileVersions,
        seen: FileVersions,
    ) -> (FileVersions, FileVersions) {
        let now = FileVersions::of(&self.files);
        if now == known || now != seen {
            return (known, now);
        }
        match self.files.read(&self.provider) {
            Ok(pair) => {
                *self.pair.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                let certificate = self.files.certificate.display();
                tracing::info!(%certificate, "the certificate was reloaded");
            }
            Err(error) => tracing::warn!(
                "the certificate was not reloaded, the previous one stays in use: {error}"
            ),
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
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            }),
            Err(_) => Err(self.no_certificate()),
        }
    }

    fn no_certificate(&self) -> TlsError {
        TlsError::Invalid {
            file: TlsFile::Certificate,
            path: self.certificate.clone(),
            expected: "chain of certificates in PEM (-----BEGIN CERTIFICATE-----)",
        }
    }

    fn no_key(&self) -> TlsError {
        TlsError::Invalid {
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

/// Removes a byte order mark from PEM, since a parser would not recognize the first line after it.
pub(crate) fn without_bom(mut pem: Vec<u8>) -> Vec<u8> {
    if pem.starts_with(BOM) {
        pem.drain(..BOM.len());
    }
    pem
}

/// Versions of both files; `None` for a file that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersions([Option<FileVersion>; 2]);

/// Inode and length of a file, and the time of its last change in seconds and nanoseconds.
type FileVersion = (u64, u64, i64, i64);

impl FileVersions {
    fn of(files: &TlsFiles) -> Self {
        Self([&files.certificate, &files.key].map(|path| {
            let it = fs::metadata(path).ok()?;
            Some((it.ino(), it.len(), it.ctime(), it.ctime_nsec()))
        }))
    }
}
