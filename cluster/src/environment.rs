//! Everything a node takes from the world, as one value: clock, chance, storage, transport, and where heavy work runs.
//!
//! Production and simulation differ here and nowhere else. This is the only file of the room that reads a clock or
//! draws chance from the operating system.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::storage::Storage;
use crate::storage::folder::Folder;

/// Time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: milliseconds since 1970, which people and jumps of the clock can move.
    fn unix_ms(&self) -> i64;
    /// Milliseconds since some fixed moment of this process; never goes back.
    fn monotonic_ms(&self) -> u64;
}

/// Chance.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// Fills `bytes` with what nobody can guess, for keys.
    ///
    /// # Errors
    /// There is no such chance now.
    fn fill_secret(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.fill(bytes);
        Ok(())
    }

    /// A number.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where heavy work runs.
pub trait Compute: Send + Sync + 'static {
    /// Runs `work` to its end: production beside the event loop, simulation inside it.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// One byte stream between two peers.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A stream in a box.
pub type BoxStream = Box<dyn Stream>;

/// Accepts streams.
pub trait Listener: Send + Sync + 'static {
    /// The next stream, and who opened it.
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;

    /// The address that is listened on.
    ///
    /// # Errors
    /// The operating system's.
    fn address(&self) -> io::Result<SocketAddr>;
}

/// Opens and accepts streams.
pub trait Transport: Send + Sync + 'static {
    /// Listens on `address`; port 0 takes a free one.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;

    /// Connects to `address`, a host and a port.
    fn connect(&self, address: String) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// The world of one node; a clone is the same world.
#[derive(Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// The disk.
    pub storage: Arc<dyn Storage>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Heavy work.
    pub compute: Arc<dyn Compute>,
}

impl Environment {
    /// The real world, with data in `folder`.
    #[must_use]
    pub fn production(folder: impl Into<PathBuf>) -> Self {
        Self {
            clock: Arc::new(SystemClock::start()),
            entropy: Arc::new(SystemEntropy::default()),
            storage: Arc::new(Folder::new(folder)),
            transport: Arc::new(Tcp),
            compute: Arc::new(BlockingThreads),
        }
    }

    /// Runs `work` where heavy work runs, and hands back its result; `None` when it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.compute.run(Box::new(move || drop(sender.send(work())))).await;
        receiver.await.ok()
    }
}

/// The operating system's clocks.
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place where production time enters")]
    pub fn start() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where production time enters")]
    fn unix_ms(&self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The operating system's chance.
#[derive(Default)]
pub struct SystemEntropy {
    /// Used should the system ever refuse, so that numbers for waits and names at least differ; no key is made of them.
    fallback: Mutex<u64>,
}

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            tracing::error!(error = %error, "the operating system gives no entropy; numbers are only distinct");
            let mut fallback = self.fallback.lock();
            for byte in bytes {
                *fallback = fallback.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (*fallback >> 56) as u8;
            }
        }
    }

    fn fill_secret(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
    }
}

/// tokio's blocking threads.
pub struct BlockingThreads;

impl Compute for BlockingThreads {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Err(error) = tokio::task::spawn_blocking(work).await {
                tracing::error!(error = %error, "heavy work did not finish");
            }
        })
    }
}

/// Runs heavy work where it is asked for; simulation and tests use it.
pub struct Inline;

impl Compute for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }
}

/// TCP.
pub struct Tcp;

struct TcpListener(tokio::net::TcpListener);

impl Listener for TcpListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Transport for Tcp {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(address).await?;
            Ok(Box::new(TcpListener(listener)) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}
