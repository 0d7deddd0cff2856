//! One simulated machine: what the real node gets as its `Environment`.
//!
//! Its clock may run ahead or behind, its disk may ail, its network is turmoil's, and it has one core and no threads: heavy
//! work runs where it is asked for. Everything else about the node is the product's own code, unpatched.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use featureops::unit_key::{KEY_BYTES, UnitKeyStore};
use featureops_cluster::environment::{
    BoxFuture, BoxStream, Clock, Compute, Entropy, Environment, Listener, Transport,
};
use featureops_evaluation::UnitKey;
use parking_lot::Mutex;

use crate::dice::Dice;
use crate::disk::SimulatedDisk;
use crate::trace::now_micros;

/// The moment at which every world begins, in unix milliseconds: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// The wall clock of one machine, which a fault may move.
#[derive(Clone, Default)]
pub struct WallClock {
    ahead_ms: Arc<AtomicI64>,
}

impl WallClock {
    /// Moves the clock to so many milliseconds ahead of the world's time.
    pub fn set_ahead_ms(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}

impl Clock for WallClock {
    fn unix_ms(&self) -> i64 {
        let elapsed = i64::try_from(now_micros() / 1_000).unwrap_or(i64::MAX);
        EPOCH_MS.saturating_add(elapsed).saturating_add(self.ahead_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        now_micros() / 1_000
    }
}

struct SeededEntropy(Mutex<Dice>);

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut dice = self.0.lock();
        for part in bytes.chunks_mut(8) {
            let word = dice.bits().to_le_bytes();
            for (byte, drawn) in part.iter_mut().zip(word) {
                *byte = drawn;
            }
        }
    }
}

struct Inline;

impl Compute for Inline {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }
}

struct Net;

struct NetListener(turmoil::net::TcpListener);

impl Listener for NetListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((Box::new(stream) as BoxStream, peer))
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Transport for Net {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            // A simulated machine has one address. The node binds loopback until there are tokens; its clients live on other
            // machines, which the wire between them is there to be cut.
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            let listener = turmoil::net::TcpListener::bind(address).await?;
            Ok(Box::new(NetListener(listener)) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'_, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(address).await?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

/// One machine.
#[derive(Clone)]
pub struct Machine {
    /// Its host name in the world.
    pub name: String,
    /// Its disk.
    pub disk: SimulatedDisk,
    /// Its clock.
    pub clock: WallClock,
    /// The unit key's file: durable at once, as the real one is.
    key: Arc<Mutex<Option<[u8; KEY_BYTES]>>>,
    seed: u64,
    // Counts starts, so that each life draws other chance, as a real one would.
    starts: Arc<AtomicI64>,
}

impl Machine {
    /// Machine `number`, from 1.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        Self {
            name: format!("node-{number}"),
            disk: SimulatedDisk::new(seed, number),
            clock: WallClock::default(),
            key: Arc::default(),
            seed,
            starts: Arc::default(),
        }
    }

    /// How often the node was started.
    #[must_use]
    pub fn life(&self) -> u64 {
        u64::try_from(self.starts.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The world of the node's next life.
    #[must_use]
    pub fn environment(&self) -> Environment {
        let life = self.starts.fetch_add(1, Ordering::Relaxed);
        let dice = Dice::new(self.seed, &format!("entropy {} {life}", self.name));
        Environment {
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SeededEntropy(Mutex::new(dice))),
            storage: Arc::new(self.disk.clone()),
            transport: Arc::new(Net),
            compute: Arc::new(Inline),
        }
    }
}

impl UnitKeyStore for Machine {
    fn read(&self) -> io::Result<Option<UnitKey>> {
        Ok(self.key.lock().map(UnitKey::new))
    }

    fn keep(&self, bytes: [u8; KEY_BYTES]) -> io::Result<()> {
        let mut key = self.key.lock();
        if key.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a key is there"));
        }
        *key = Some(bytes);
        Ok(())
    }
}
