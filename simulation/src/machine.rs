//! One simulated machine: what the real node gets as its `Environment`.
//!
//! Its clock may run ahead or behind, its disk may ail, its network is turmoil's, and it has one core and no threads: heavy
//! work runs where it is asked for. Everything else about the node is the product's own code, unpatched.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use featureops::unit_key::{KEY_BYTES, UnitKeyStore};
use featureops_cluster::environment::{BoxFuture, Clock, Compute, Entropy, Environment};
use featureops_cluster::{PeerKey, PeerKeyStore, PeerKeys};
use featureops_evaluation::UnitKey;
use parking_lot::Mutex;

use crate::dice::Dice;
use crate::disk::SimulatedDisk;
use crate::net::{Net, Resets};
use crate::trace::now_micros;

/// The moment at which every world begins, in unix milliseconds: 2026-01-01T00:00:00Z.
pub const EPOCH_MS: i64 = 1_767_225_600_000;

/// The wall clock of one machine, which a fault may move, and which may run fast or slow.
#[derive(Clone, Default)]
pub struct WallClock {
    ahead_ms: Arc<AtomicI64>,
    // Parts per million that it runs fast, and since when, in microseconds of the world.
    drift_ppm: Arc<AtomicI64>,
    drifts_from: Arc<AtomicU64>,
    // Microseconds of the world at which it stands, and one more; 0: it runs.
    stands_at: Arc<AtomicU64>,
}

impl WallClock {
    /// Moves the clock to so many milliseconds ahead of the world's time.
    pub fn set_ahead_ms(&self, ahead_ms: i64, now_ms: u64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        self.drifts_from.store(now_ms.saturating_mul(1_000), Ordering::Relaxed);
    }

    /// From now on it runs so many parts per million fast; what it drifted so far is set right.
    pub fn set_drift_ppm(&self, ppm: i64, now_ms: u64) {
        self.drift_ppm.store(ppm, Ordering::Relaxed);
        self.drifts_from.store(now_ms.saturating_mul(1_000), Ordering::Relaxed);
    }

    /// Stops it, as the whole machine stops; or lets it run on, at the world's time.
    pub fn set_stands(&self, stands: bool, now_ms: u64) {
        let at = if stands { now_ms.saturating_mul(1_000).saturating_add(1) } else { 0 };
        self.stands_at.store(at, Ordering::Relaxed);
    }

    /// Its own microseconds since the world began.
    fn micros(&self) -> u64 {
        self.stands_at.load(Ordering::Relaxed).checked_sub(1).unwrap_or_else(now_micros)
    }
}

impl Clock for WallClock {
    fn unix_ms(&self) -> i64 {
        let micros = self.micros();
        let elapsed = i64::try_from(micros / 1_000).unwrap_or(i64::MAX);
        let drifting = micros.saturating_sub(self.drifts_from.load(Ordering::Relaxed)) / 1_000;
        let drifted = i64::try_from(drifting)
            .unwrap_or(i64::MAX)
            .saturating_mul(self.drift_ppm.load(Ordering::Relaxed))
            .checked_div(1_000_000)
            .unwrap_or(0);
        let ahead_ms = self.ahead_ms.load(Ordering::Relaxed);
        EPOCH_MS.saturating_add(elapsed).saturating_add(ahead_ms).saturating_add(drifted)
    }

    fn monotonic_ms(&self) -> u64 {
        self.micros() / 1_000
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

/// One machine.
#[derive(Clone)]
pub struct Machine {
    /// Its number, from 1.
    pub number: u64,
    /// Its host name in the world.
    pub name: String,
    /// Its disk.
    pub disk: SimulatedDisk,
    /// Its clock.
    pub clock: WallClock,
    /// Streams of its own, which may be reset.
    pub resets: Resets,
    /// What the world asks of it and knows of it.
    pub life: Life,
    keys: Arc<Mutex<Keys>>,
    seed: u64,
    // Counts starts, so that each life draws other chance, as a real one would.
    starts: Arc<AtomicI64>,
}

/// The files of keys: durable at once, as the real ones are.
#[derive(Default)]
struct Keys {
    unit: Option<[u8; KEY_BYTES]>,
    peer: Option<PeerKey>,
}

/// What the world asks of a machine's node, and what is known of it.
#[derive(Clone, Default)]
pub struct Life {
    /// Its node is to run at all: a spare waits for its turn.
    powered: Arc<AtomicBool>,
    /// Its node is to end in order, and to start again.
    stopping: Arc<AtomicBool>,
    /// Since when its node serves, in microseconds, and one more; 0: it does not.
    serves_from: Arc<AtomicU64>,
    /// Its node can reach no majority, by the wires.
    is_minor: Arc<AtomicBool>,
    /// It stands still.
    stands: Arc<AtomicBool>,
    /// How often it stood still.
    stood: Arc<AtomicU64>,
    /// It is taken out of service: the world empties it.
    retiring: Arc<AtomicBool>,
    /// It was emptied, and so joins whatever its number is.
    emptied: Arc<AtomicU64>,
}

impl Life {
    /// Whether its node is to run.
    #[must_use]
    pub fn is_powered(&self) -> bool {
        self.powered.load(Ordering::Relaxed)
    }

    /// Its node runs from now on, or no more.
    pub fn set_powered(&self, powered: bool) {
        self.powered.store(powered, Ordering::Relaxed);
    }

    /// Its node ends in order and starts again.
    pub fn ask_to_restart(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it is to end now; asked once.
    #[must_use]
    pub fn takes_restart(&self) -> bool {
        self.stopping.swap(false, Ordering::Relaxed)
    }

    /// Its node serves from now on, or no more.
    pub fn set_serves(&self, serves: bool) {
        let from = if serves { now_micros().saturating_add(1) } else { 0 };
        self.serves_from.store(from, Ordering::Relaxed);
    }

    /// Since when its node serves, in microseconds; none: it does not.
    #[must_use]
    pub fn serves_from(&self) -> Option<u64> {
        self.serves_from.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Whether it is cut off from every majority.
    #[must_use]
    pub fn is_minor(&self) -> bool {
        self.is_minor.load(Ordering::Relaxed)
    }

    /// As the wires are now.
    pub fn set_minor(&self, is_minor: bool) {
        self.is_minor.store(is_minor, Ordering::Relaxed);
    }

    /// Whether the machine stands still.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.stands.load(Ordering::Relaxed)
    }

    /// It stands still from now on, or no more.
    pub fn set_stands(&self, stands: bool) {
        self.stands.store(stands, Ordering::Relaxed);
        self.stood.fetch_add(1, Ordering::Relaxed);
    }

    /// Grows with each time that it stood still or went on.
    #[must_use]
    pub fn times_stood(&self) -> u64 {
        self.stood.load(Ordering::Relaxed)
    }

    /// It is taken out of service: no power, and an empty disk.
    pub fn retire(&self) {
        self.set_powered(false);
        self.retiring.store(true, Ordering::Relaxed);
    }

    /// Whether it is to be emptied now; asked once.
    #[must_use]
    pub fn takes_retirement(&self) -> bool {
        self.retiring.swap(false, Ordering::Relaxed)
    }

    /// How often its disk was emptied.
    #[must_use]
    pub fn emptied(&self) -> u64 {
        self.emptied.load(Ordering::Relaxed)
    }
}

impl Machine {
    /// Machine `number`, from 1.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let life = Life::default();
        life.set_powered(true);
        Self {
            number,
            name: format!("node-{number}"),
            disk: SimulatedDisk::new(seed, number),
            clock: WallClock::default(),
            resets: Resets::default(),
            life,
            keys: Arc::default(),
            seed,
            starts: Arc::default(),
        }
    }

    /// How often the node was started.
    #[must_use]
    pub fn life(&self) -> u64 {
        u64::try_from(self.starts.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Empties the disk, the files of keys among it: another one was put in its place.
    pub fn empty(&self) {
        self.disk.empty();
        *self.keys.lock() = Keys::default();
        self.life.emptied.fetch_add(1, Ordering::Relaxed);
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
            transport: Arc::new(Net::of(self.resets.clone())),
            compute: Arc::new(Inline),
        }
    }
}

impl UnitKeyStore for Machine {
    fn read(&self) -> io::Result<Option<UnitKey>> {
        Ok(self.keys.lock().unit.map(UnitKey::new))
    }

    fn bytes(&self) -> io::Result<Option<[u8; KEY_BYTES]>> {
        Ok(self.keys.lock().unit)
    }

    fn peer_keys(&self) -> Option<PeerKeys> {
        Some(PeerKeys(Arc::new(self.clone())))
    }

    fn keep(&self, bytes: [u8; KEY_BYTES]) -> io::Result<()> {
        let mut keys = self.keys.lock();
        if keys.unit.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a key is there"));
        }
        keys.unit = Some(bytes);
        Ok(())
    }
}

impl PeerKeyStore for Machine {
    fn read_peer_key(&self) -> io::Result<Option<PeerKey>> {
        Ok(self.keys.lock().peer.clone())
    }

    fn keep_peer_key(&self, key: &PeerKey) -> io::Result<()> {
        self.keys.lock().peer = Some(key.clone());
        Ok(())
    }
}
