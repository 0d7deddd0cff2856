//! TLS of the listeners: certificates from files, read again when they change; and what of a certificate the doctor looks at.
//!
//! ```text
//!   tls.cert, tls.key, tls.client_ca ──> ServerConfig (ALPN h2, http/1.1) ──> swapped whole; connections keep what they began with
//!                                          └─ a file that cannot be used: said in the log and by the doctor, the old one stays
//! ```
//!
//! [`server_config`] and [`client_config`] take what was read and know nothing of listeners: whoever connects nodes uses the same.

mod der;
pub mod peers;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
pub use der::{names, not_after_ms};
use featureops_cluster::environment::{Clock, Compute};
use parking_lot::Mutex;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Largest PEM file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How often the files are looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Protocols of every listener, the preferred first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the certificates are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Chain, the node's own first.
    pub cert: Option<PathBuf>,
    /// Private key of the first.
    pub key: Option<PathBuf>,
    /// Authorities of those who connect; absent: nobody is asked for a certificate.
    pub client_ca: Option<PathBuf>,
}

/// A chain and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From the text of two PEM files.
    ///
    /// # Errors
    /// One of them holds no such thing.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| format!("holds no private key that can be read ({error})"))?;
        Ok(Self { chain, key })
    }

    /// When its certificate ends, in unix milliseconds; `None`: that cannot be read.
    #[must_use]
    pub fn expires_ms(&self) -> Option<i64> {
        self.chain.first().and_then(|own| not_after_ms(own))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = read.map_err(|error| format!("holds a certificate that cannot be read ({error})"))?;
    if chain.is_empty() {
        return Err("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    Ok(chain)
}

/// Authorities from the text of a PEM file.
///
/// # Errors
/// It holds none.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("holds no authority: {error}"))?;
    }
    Ok(roots)
}

/// A listener's side. With `client_roots` whoever connects must show a certificate of one of them.
///
/// # Errors
/// Chain and key do not fit together, or are of a kind that is not spoken.
pub fn server_config(
    identity: &Identity,
    client_roots: Option<RootCertStore>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|error| format!("certificate and key do not fit together: {error}"))?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// The side of whoever connects; with an identity it can be asked who it is.
///
/// # Errors
/// As [`server_config`].
pub fn client_config(roots: RootCertStore, identity: Option<&Identity>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| format!("certificate and key do not fit together: {error}")),
    }
}

/// What is in use.
struct Loaded {
    config: Arc<ServerConfig>,
    /// Unix milliseconds; absent: the certificate's end cannot be read.
    expires_ms: Option<i64>,
    texts: Texts,
}

/// The files' bytes.
#[derive(PartialEq, Eq)]
struct Texts {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// The listeners' certificates as they are now.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    loaded: ArcSwap<Loaded>,
    /// Why the files as they lie there now are not used.
    fault: Mutex<Option<String>>,
}

impl Tls {
    /// Reads the files; `None`: none are named.
    ///
    /// # Errors
    /// Only one of the two is named, or a file cannot be used; it is named.
    pub fn open(files: &Files) -> Result<Option<Self>, String> {
        let (cert, key) = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            (None, None) if files.client_ca.is_none() => return Ok(None),
            (None, None) => return Err("tls.client_ca: needs tls.cert and tls.key beside it".to_owned()),
            (None, Some(_)) => return Err("tls.key: needs tls.cert beside it".to_owned()),
            (Some(_), None) => return Err("tls.cert: needs tls.key beside it".to_owned()),
        };
        let client_ca = files.client_ca.clone();
        let loaded = ArcSwap::from_pointee(load(read(&cert, &key, client_ca.as_deref())?)?);
        Ok(Some(Self { cert, key, client_ca, loaded, fault: Mutex::default() }))
    }

    /// Greets whoever connected.
    ///
    /// # Errors
    /// They speak no TLS, or none that is spoken here, or show no certificate where one is asked for.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        TlsAcceptor::from(Arc::clone(&self.loaded.load().config)).accept(stream).await
    }

    /// Whose certificate was shown: nobody's where none is asked for.
    #[must_use]
    pub fn names_of<S>(stream: &TlsStream<S>) -> Vec<String> {
        let chain = stream.get_ref().1.peer_certificates();
        chain.and_then(<[_]>::first).map(|own| names(own)).unwrap_or_default()
    }

    /// When the certificate in use ends, in unix milliseconds.
    #[must_use]
    pub fn expires_ms(&self) -> Option<i64> {
        self.loaded.load().expires_ms
    }

    /// Why the files as they lie there now are not used; none: they are.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Looks at the files, and uses them if they are others than those in use and fit. `now_ms` is the wall clock.
    pub fn look(&self, now_ms: i64) {
        let texts = read(&self.cert, &self.key, self.client_ca.as_deref());
        let fault = match texts {
            Ok(texts) if self.loaded.load().texts == texts => None,
            texts => match texts.and_then(load).and_then(|loaded| {
                outlasts("tls.cert", loaded.expires_ms, self.expires_ms(), now_ms).map(|()| loaded)
            }) {
                Ok(loaded) => {
                    self.loaded.store(Arc::new(loaded));
                    tracing::info!("new certificates are in use");
                    None
                }
                Err(fault) => Some(fault),
            },
        };
        let mut said = self.fault.lock();
        if let Some(fault) = fault.as_ref().filter(|fault| said.as_ref() != Some(fault)) {
            tracing::error!(fault = %fault, "the certificates as they are now are not used; those before them stay");
        }
        *said = fault;
    }

    /// Looks at the files every few seconds.
    pub async fn follow(self: Arc<Self>, compute: Arc<dyn Compute>, clock: Arc<dyn Clock>) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let (tls, now_ms) = (Arc::clone(&self), clock.unix_ms());
            compute.run(Box::new(move || tls.look(now_ms))).await;
        }
    }
}

/// Refuses a certificate that has ended already in place of one that has not.
pub(crate) fn outlasts(
    setting: &str,
    new_ms: Option<i64>,
    used_ms: Option<i64>,
    now_ms: i64,
) -> Result<(), String> {
    let has_ended = |ms: Option<i64>| ms.is_some_and(|ms| ms <= now_ms);
    match new_ms.filter(|_| has_ended(new_ms) && !has_ended(used_ms)) {
        Some(ended_ms) => Err(format!(
            "{setting}: the certificate that lies there now ended {} hours ago",
            now_ms.saturating_sub(ended_ms) / 3_600_000
        )),
        None => Ok(()),
    }
}

/// The bytes of a PEM file, which a setting names.
pub(crate) fn text(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(format!("{setting}: '{}' cannot be read: {error}", path.display())),
        Ok(_) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("{setting}: '{}' has more than {FILE_BYTES_MAX} bytes", path.display()))
        }
        Ok(_) => Ok(bytes),
    }
}

fn read(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Texts, String> {
    Ok(Texts {
        cert: text("tls.cert", cert)?,
        key: text("tls.key", key)?,
        client_ca: client_ca.map(|path| text("tls.client_ca", path)).transpose()?,
    })
}

fn load(texts: Texts) -> Result<Loaded, String> {
    let identity =
        Identity::from_pem(&texts.cert, &texts.key).map_err(|fault| format!("tls.cert, tls.key: {fault}"))?;
    let client_roots = texts.client_ca.as_deref().map(roots).transpose();
    let client_roots = client_roots.map_err(|fault| format!("tls.client_ca: {fault}"))?;
    let config = server_config(&identity, client_roots, &ALPN)?;
    let expires_ms = identity.expires_ms();
    Ok(Loaded { config: Arc::new(config), expires_ms, texts })
}
