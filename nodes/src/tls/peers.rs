//! TLS between the nodes of a cluster, both ways: who listens asks for a certificate of the authority, and who connects holds
//! the name that it dials against the one that it is shown.
//!
//! ```text
//!   Environment.transport ──> Secured ── listen: greeted beside the others, refused ones said ──> streams
//!                                    └── connect: name checked ── one byte: "you are let in" ──> stream
//! ```
//!
//! The cluster room knows nothing of it: it gets a transport. In TLS 1.3 whoever connects is done before it is known whether
//! its certificate is taken, and would hear of a refusal in the middle of a call, of which nobody could say then whether it
//! was heard. So the listener says one byte once it has taken it, and a refusal is a connection that was never made.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use featureops_cluster::environment::{BoxFuture, BoxStream, Clock, Compute, Listener, Transport};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Identity, LOOK_INTERVAL, client_config, not_after_ms, outlasts, roots, server_config, text};

/// Spoken by nodes with nodes only: a client that took the port for another is told so by TLS itself.
const ALPN: &[u8] = b"featureops-peer/1";
/// What the listener says once it has taken a certificate.
const TAKEN: u8 = 1;
/// Longest greeting.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// Greetings at once; who comes beyond them waits in the kernel's backlog.
const GREETINGS_MAX: usize = 64;
/// Greetings of one address at once; what it makes beyond them is hung up on, and a node connects again. So no address holds all
/// of [`GREETINGS_MAX`].
const GREETINGS_OF_ONE_MAX: usize = 8;
/// The same reason of the same address is said once in this time, in milliseconds.
const SAY_AGAIN_MS: u64 = 30_000;
/// Addresses and reasons that are remembered.
const SAID_MAX: usize = 256;

/// Where the certificates are: all three, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Chain, the node's own first.
    pub cert: Option<PathBuf>,
    /// Private key of the first.
    pub key: Option<PathBuf>,
    /// The authority of every node.
    pub ca: Option<PathBuf>,
}

struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    expires_ms: Option<i64>,
    texts: [Vec<u8>; 3],
}

/// The certificates between nodes as they are now.
pub struct PeerTls {
    files: [PathBuf; 3],
    loaded: ArcSwap<Loaded>,
    /// Why the files as they lie there now are not used.
    fault: Mutex<Option<String>>,
    /// When the certificates end that were shown at the addresses that were dialed, in unix milliseconds.
    shown: Mutex<BTreeMap<String, i64>>,
}

impl PeerTls {
    /// Reads the files; `None`: none are named.
    ///
    /// # Errors
    /// One of the three is missing, or cannot be used; it is named.
    pub fn open(files: &Files) -> Result<Option<Self>, String> {
        let named =
            [("peer_tls.cert", &files.cert), ("peer_tls.key", &files.key), ("peer_tls.ca", &files.ca)];
        let files = match (&files.cert, &files.key, &files.ca) {
            (None, None, None) => return Ok(None),
            (Some(cert), Some(key), Some(ca)) => [cert.clone(), key.clone(), ca.clone()],
            _ => {
                let missing: Vec<&str> =
                    named.iter().filter(|(_, file)| file.is_none()).map(|(name, _)| *name).collect();
                return Err(format!(
                    "{}: missing; peer_tls.cert, peer_tls.key and peer_tls.ca go together",
                    missing.join(", ")
                ));
            }
        };
        let loaded = ArcSwap::from_pointee(load(read(&files)?)?);
        Ok(Some(Self { files, loaded, fault: Mutex::default(), shown: Mutex::default() }))
    }

    /// When this node's own certificate ends, in unix milliseconds.
    #[must_use]
    pub fn expires_ms(&self) -> Option<i64> {
        self.loaded.load().expires_ms
    }

    /// When the certificates end that were last shown at the addresses of other nodes, in unix milliseconds.
    #[must_use]
    pub fn shown(&self) -> BTreeMap<String, i64> {
        self.shown.lock().clone()
    }

    /// Why the files as they lie there now are not used; none: they are.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Looks at the files, and uses them if they are others than those in use and fit. `now_ms` is the wall clock.
    pub fn look(&self, now_ms: i64) {
        let fault = match read(&self.files) {
            Ok(texts) if self.loaded.load().texts == texts => None,
            texts => match texts.and_then(load).and_then(|loaded| {
                outlasts("peer_tls.cert", loaded.expires_ms, self.expires_ms(), now_ms).map(|()| loaded)
            }) {
                Ok(loaded) => {
                    self.loaded.store(Arc::new(loaded));
                    tracing::info!("new certificates between nodes are in use, for connections from now on");
                    None
                }
                Err(fault) => Some(fault),
            },
        };
        let mut said = self.fault.lock();
        if let Some(fault) = fault.as_ref().filter(|fault| said.as_ref() != Some(fault)) {
            tracing::error!(fault = %fault, "the certificates between nodes as they are now are not used; those before them stay");
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

fn read([cert, key, ca]: &[PathBuf; 3]) -> Result<[Vec<u8>; 3], String> {
    Ok([text("peer_tls.cert", cert)?, text("peer_tls.key", key)?, text("peer_tls.ca", ca)?])
}

fn load(texts: [Vec<u8>; 3]) -> Result<Loaded, String> {
    let [cert, key, ca] = &texts;
    let identity =
        Identity::from_pem(cert, key).map_err(|fault| format!("peer_tls.cert, peer_tls.key: {fault}"))?;
    let authority = roots(ca).map_err(|fault| format!("peer_tls.ca: {fault}"))?;
    let named = |fault: String| format!("peer_tls.cert, peer_tls.key, peer_tls.ca: {fault}");
    let server = server_config(&identity, Some(authority.clone()), &[ALPN]).map_err(named)?;
    let mut client = client_config(authority, Some(&identity)).map_err(named)?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    let expires_ms = identity.expires_ms();
    Ok(Loaded { server: Arc::new(server), client: Arc::new(client), expires_ms, texts })
}

/// A transport whose streams are behind TLS.
pub struct Secured {
    /// What carries them.
    pub inner: Arc<dyn Transport>,
    /// By which certificates.
    pub tls: Arc<PeerTls>,
    /// When something was said last.
    pub clock: Arc<dyn Clock>,
}

struct SecuredListener {
    inner: Box<dyn Listener>,
    tls: Arc<PeerTls>,
    clock: Arc<dyn Clock>,
    greetings: tokio::sync::Mutex<JoinSet<(SocketAddr, io::Result<BoxStream>)>>,
    unfinished: Unfinished,
    said: Mutex<BTreeMap<(IpAddr, String), u64>>,
}

/// Greetings that are not done yet, by whence they come.
#[derive(Clone, Default)]
struct Unfinished(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them; it counts until it is let go of.
struct Greeting {
    of: Unfinished,
    from: IpAddr,
}

impl Unfinished {
    /// One more; `None`: there are enough from there.
    fn begin(&self, from: IpAddr) -> Option<Greeting> {
        // One machine has very many addresses of a /64.
        let from = match from.to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            ip @ IpAddr::V4(_) => ip,
        };
        let mut counts = self.0.lock();
        let count = counts.entry(from).or_default();
        if *count >= GREETINGS_OF_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Greeting { of: self.clone(), from })
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut counts = self.of.0.lock();
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

impl SecuredListener {
    fn refused(&self, from: SocketAddr, error: &io::Error) {
        let why = refused_by_listener(error);
        let now_ms = self.clock.monotonic_ms();
        let mut said = self.said.lock();
        if said.len() >= SAID_MAX {
            said.clear();
        }
        let last = said.insert((from.ip(), why.clone()), now_ms);
        match last.filter(|last_ms| now_ms.saturating_sub(*last_ms) < SAY_AGAIN_MS) {
            // Said lately; the time since then goes on.
            Some(last_ms) => drop(said.insert((from.ip(), why), last_ms)),
            None => tracing::warn!(%from, why, "a connection to the peer port was refused"),
        }
    }
}

impl Listener for SecuredListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let mut greetings = self.greetings.lock().await;
            loop {
                let has_room = greetings.len() < GREETINGS_MAX;
                tokio::select! {
                    biased;
                    Some(greeted) = greetings.join_next() => match greeted {
                        Ok((from, Ok(stream))) => return Ok((stream, from)),
                        Ok((from, Err(error))) => self.refused(from, &error),
                        Err(error) => tracing::error!(error = %error, "a greeting crashed"),
                    },
                    accepted = self.inner.accept(), if has_room => {
                        let (stream, from) = accepted?;
                        let Some(one) = self.unfinished.begin(from.ip()) else {
                            self.refused(from, &too_many());
                            continue;
                        };
                        let config = Arc::clone(&self.tls.loaded.load().server);
                        greetings.spawn(async move {
                            let greeted = greeted(stream, config).await;
                            drop(one);
                            (from, greeted)
                        });
                    }
                }
            }
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.inner.address()
    }
}

fn too_many() -> io::Error {
    io::Error::other(format!(
        "{GREETINGS_OF_ONE_MAX} connections from there have not finished their greeting"
    ))
}

async fn greeted(stream: BoxStream, config: Arc<ServerConfig>) -> io::Result<BoxStream> {
    let greeting = async {
        let mut stream = TlsAcceptor::from(config).accept(stream).await?;
        stream.write_all(&[TAKEN]).await?;
        stream.flush().await?;
        Ok(Box::new(stream) as BoxStream)
    };
    let in_time = tokio::time::timeout(GREETING_MAX, greeting).await;
    in_time.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Transport for Secured {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = SecuredListener {
                inner: self.inner.listen(address).await?,
                tls: Arc::clone(&self.tls),
                clock: Arc::clone(&self.clock),
                greetings: tokio::sync::Mutex::default(),
                unfinished: Unfinished::default(),
                said: Mutex::default(),
            };
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let host = host_of(&address);
            let name = ServerName::try_from(host.to_owned()).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("'{host}' is no name that a certificate could be of"),
                )
            })?;
            let config = Arc::clone(&self.tls.loaded.load().client);
            let stream = self.inner.connect(address.clone()).await?;
            let greeting = async {
                let mut stream = TlsConnector::from(config).connect(name, stream).await?;
                match stream.read_u8().await? {
                    TAKEN => Ok(stream),
                    other => Err(io::Error::other(format!("the listener said {other} for a greeting"))),
                }
            };
            let stream = greeting.await.map_err(|error| refused_by_connector(&address, &error))?;
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            if let Some(end_ms) = certificates.first().and_then(|own| not_after_ms(own)) {
                let mut shown = self.tls.shown.lock();
                if shown.len() < SAID_MAX || shown.contains_key(&address) {
                    shown.insert(address, end_ms);
                }
            }
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// Why a listener did not take whoever connected, in words, with the way out.
fn refused_by_listener(error: &io::Error) -> String {
    match tls_error(error) {
        Some(Error::NoCertificatesPresented) => {
            "it showed no certificate: nodes show one of peer_tls.ca (--peer-tls-cert, --peer-tls-key)".to_owned()
        }
        Some(Error::InvalidCertificate(why)) => format!("its certificate {}", certificate_text(why)),
        Some(Error::InvalidMessage(_)) => {
            "it speaks no TLS: give every node --peer-tls-cert, --peer-tls-key and --peer-tls-ca".to_owned()
        }
        Some(Error::NoApplicationProtocol) => {
            "it speaks TLS, and is no node: this port is for the nodes of a cluster; clients use the other one".to_owned()
        }
        Some(Error::AlertReceived(alert)) => format!("it did not take this node's certificate: {}", alert_text(*alert)),
        _ if error.kind() == io::ErrorKind::TimedOut => {
            format!("it said no greeting within {} s", GREETING_MAX.as_secs())
        }
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "it hung up before the greeting was done".to_owned(),
        _ => error.to_string(),
    }
}

/// Why a connection was not made, in words, with the way out.
fn refused_by_connector(address: &str, error: &io::Error) -> io::Error {
    let why = match tls_error(error) {
        Some(Error::InvalidCertificate(why)) => {
            format!("the certificate shown at {address} {}", certificate_text(why))
        }
        Some(Error::AlertReceived(alert)) => {
            format!("{address} does not take this node's certificate: {}", alert_text(*alert))
        }
        Some(Error::InvalidMessage(_)) => {
            format!(
                "{address} speaks no TLS: give every node --peer-tls-cert, --peer-tls-key and --peer-tls-ca"
            )
        }
        _ if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            format!("{address} hung up in the greeting: it speaks no TLS, or is no node's port for its peers")
        }
        _ => format!("no TLS with {address}: {error}"),
    };
    io::Error::new(error.kind(), why)
}

fn certificate_text(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired: put a new one in its place".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: see the clocks of both machines".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is of another authority than peer_tls.ca".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is not of the name that was dialed: put the host by which the node is advertised into its subjectAltName"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for this: between nodes it is for serverAuth and clientAuth".to_owned()
        }
        other => format!("is not taken: {other}"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => "it has expired".to_owned(),
        AlertDescription::UnknownCA => "it is of another authority than that of the node there".to_owned(),
        AlertDescription::CertificateRequired => "none was shown".to_owned(),
        AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
            "it is not of the name that was dialed, or not for serverAuth and clientAuth".to_owned()
        }
        AlertDescription::NoApplicationProtocol => "that port is no node's port for its peers".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_off_an_address() {
        for (address, host) in
            [("node-2:7401", "node-2"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:7401", "::1")]
        {
            assert_eq!(host_of(address), host);
            assert!(ServerName::try_from(host).is_ok());
        }
    }

    #[test]
    fn no_address_holds_every_greeting_and_what_is_done_makes_room() {
        let unfinished = Unfinished::default();
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut held: Vec<Greeting> =
            (0..GREETINGS_OF_ONE_MAX).map(|_| unfinished.begin(a).unwrap()).collect();
        assert!(
            unfinished.begin(a).is_none() && unfinished.begin("::ffff:10.0.0.1".parse().unwrap()).is_none()
        );
        assert!(unfinished.begin(b).is_some(), "another one is greeted");
        held.pop();
        held.push(unfinished.begin(a).unwrap());
        assert!(unfinished.begin(a).is_none());
        drop(held);
        assert!(unfinished.0.lock().is_empty(), "nothing is remembered of those who are done");
        let _held: Vec<Greeting> = (0..GREETINGS_OF_ONE_MAX)
            .map(|at| unfinished.begin(format!("2001:db8::{at}").parse().unwrap()).unwrap())
            .collect();
        assert!(unfinished.begin("2001:db8::ff".parse().unwrap()).is_none(), "one network, one machine");
        assert!(unfinished.begin("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn one_or_two_of_three_files_are_not_enough() {
        assert!(PeerTls::open(&Files::default()).unwrap().is_none());
        let half = Files { cert: Some("a".into()), ca: Some("b".into()), key: None };
        assert!(PeerTls::open(&half).err().unwrap().starts_with("peer_tls.key: missing"));
    }
}
