//! A switch between the hosts of a test's network, whose every way loses, delays, garbles or drops what the test says.
//!
//! ```text
//!   host 1 ── its kernel's TCP ── TAP ──> frame ── way 1 -> 2: cut? lost? ── delay ──> TAP ── its kernel's TCP ── host 2
//!                                                  way 1 -> 3: ...
//! ```
//!
//! Each of the two directions of a pair is a way of its own: one-way partitions are as easy as whole ones. It asks nothing of
//! the kernel but TAP devices: no filters, no queue disciplines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chance::Chance;

/// The longest frame: no offloads are asked for, so it is the MTU and the header.
const FRAME_BYTES_MAX: usize = 2_048;
/// Frames that wait on one way; a real one drops what is more, too.
const WAITING_MAX: usize = 4_096;

/// One direction between two hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// Nothing passes.
    pub cut: bool,
    /// So many frames of a thousand are lost.
    pub lost_per_mille: u64,
    /// So many of a thousand arrive with other bytes: half of them with a flipped bit, which TCP's checksum finds, and half with two
    /// words in each other's place, which it cannot.
    pub garbled_per_mille: u64,
    /// How long each takes.
    pub delay: Duration,
}

impl Way {
    /// Everything passes, at once.
    pub const OPEN: Self =
        Self { cut: false, lost_per_mille: 0, garbled_per_mille: 0, delay: Duration::ZERO };
    /// Nothing does.
    pub const CUT: Self = Self { cut: true, ..Self::OPEN };
}

/// What became of the frames.
#[derive(Debug, Default)]
pub struct Passed {
    /// Arrived.
    pub passed: AtomicU64,
    /// Met a way that was cut.
    pub cut: AtomicU64,
    /// Lost by chance.
    pub lost: AtomicU64,
    /// Arrived with other bytes.
    pub garbled: AtomicU64,
    /// Waited first.
    pub delayed: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    ways: Mutex<BTreeMap<(u8, u8), Way>>,
    passed: Passed,
}

/// The switch: it runs as long as this value lives.
#[derive(Debug)]
pub struct Switch {
    hosts: Vec<u8>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// The hardware address of a host.
#[must_use]
pub fn hardware(host: u8) -> [u8; 6] {
    [0x02, 0x66, 0x6f, 0, 0, host]
}

impl Switch {
    /// Over the TAP devices of these hosts, whose hardware addresses are [`hardware`]'s. All ways are open.
    ///
    /// # Panics
    /// No thread can be started.
    #[must_use]
    pub fn start(taps: Vec<(u8, File)>, seed: u64) -> Self {
        let hosts = taps.iter().map(|(host, _)| *host).collect();
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = watch::channel(false);
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(taps, own, seed, stopped));
        });
        Self { hosts, shared, stop, thread: Some(thread) }
    }

    /// Changes the one way from `from` to `to`.
    ///
    /// # Panics
    /// The switch did.
    pub fn one_way(&self, from: u8, to: u8, way: Way) {
        self.shared.ways.lock().unwrap().insert((from, to), way);
    }

    /// Changes every way from or to `host`.
    pub fn around(&self, host: u8, way: Way) {
        self.to(host, way);
        self.from(host, way);
    }

    /// Changes every way to `host`.
    pub fn to(&self, host: u8, way: Way) {
        self.hosts.iter().filter(|other| **other != host).for_each(|other| self.one_way(*other, host, way));
    }

    /// Changes every way from `host`.
    pub fn from(&self, host: u8, way: Way) {
        self.hosts.iter().filter(|other| **other != host).for_each(|other| self.one_way(host, *other, way));
    }

    /// Changes all ways.
    pub fn all(&self, way: Way) {
        self.hosts.iter().for_each(|host| self.from(*host, way));
    }

    /// What became of the frames so far.
    #[must_use]
    pub fn passed(&self) -> &Passed {
        &self.shared.passed
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // What it panicked with is printed already.
            let _ = thread.join();
        }
    }
}

#[allow(unsafe_code, reason = "the runtime asks for a descriptor's word that it stays open")]
fn watched(tap: File) -> AsyncFd<File> {
    // SAFETY: a file keeps its descriptor, the same one, until it is dropped, and the watch owns the file.
    unsafe { AsyncFd::register(tap) }.unwrap()
}

async fn run(taps: Vec<(u8, File)>, shared: Arc<Shared>, seed: u64, mut stopped: watch::Receiver<bool>) {
    let taps: BTreeMap<u8, Arc<AsyncFd<File>>> =
        taps.into_iter().map(|(host, tap)| (host, Arc::new(watched(tap)))).collect();
    let mut tasks = JoinSet::new();
    for (from, tap) in &taps {
        let mut ways = BTreeMap::new();
        for (to, other) in taps.iter().filter(|(to, _)| *to != from) {
            let (queue, waiting) = mpsc::channel(WAITING_MAX);
            ways.insert(*to, queue);
            tasks.spawn(deliver(Arc::clone(other), waiting, Arc::clone(&shared)));
        }
        let chance = Chance::new(seed ^ u64::from(*from));
        tasks.spawn(take(*from, Arc::clone(tap), ways, Arc::clone(&shared), chance));
    }
    // Dropping the tasks closes the devices.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// When it is due, and its bytes.
type Frame = (Instant, Vec<u8>);

/// Takes what a host sends.
async fn take(
    from: u8,
    tap: Arc<AsyncFd<File>>,
    ways: BTreeMap<u8, mpsc::Sender<Frame>>,
    shared: Arc<Shared>,
    mut chance: Chance,
) {
    let mut block = vec![0; FRAME_BYTES_MAX];
    while let Ok(mut ready) = tap.readable().await {
        let read = ready.try_io(|tap| tap.get_ref().read(&mut block));
        let Ok(Ok(length)) = read else { continue };
        let frame = &block[..length];
        let to_one = ways.keys().copied().find(|to| frame.starts_with(&hardware(*to)));
        for (to, queue) in ways.iter().filter(|(to, _)| to_one.is_none_or(|one| one == **to)) {
            let way = shared.ways.lock().unwrap().get(&(from, *to)).copied().unwrap_or_default();
            let counter = match way {
                Way { cut: true, .. } => &shared.passed.cut,
                Way { lost_per_mille, .. } if chance.below(1_000) < lost_per_mille => &shared.passed.lost,
                Way { garbled_per_mille, delay, .. } => {
                    let mut frame = frame.to_vec();
                    if chance.below(1_000) < garbled_per_mille && garble(&mut frame, &mut chance) {
                        shared.passed.garbled.fetch_add(1, Ordering::Relaxed);
                    }
                    if !delay.is_zero() {
                        shared.passed.delayed.fetch_add(1, Ordering::Relaxed);
                    }
                    let _ = queue.try_send((Instant::now() + delay, frame));
                    continue;
                }
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Changes bytes of what TCP carries; whether there were any to change.
fn garble(frame: &mut [u8], chance: &mut Chance) -> bool {
    // The headers of Ethernet, IPv4 and TCP with its usual options; shorter frames carry nothing.
    const HEADERS: usize = 14 + 20 + 32;
    let words = frame.len().saturating_sub(HEADERS) / 2;
    if words < 2 {
        return false;
    }
    let place = |word: u64| HEADERS + 2 * word as usize;
    let (one, other) = (place(chance.below(words as u64)), place(chance.below(words as u64)));
    if chance.below(2) == 0 {
        frame[one] ^= 1 << chance.below(8);
        return true;
    }
    // A sum does not know the order of what it sums up.
    let differs = frame[one..one + 2] != frame[other..other + 2];
    frame.swap(one, other);
    frame.swap(one + 1, other + 1);
    differs
}

/// Gives a host what is due, in its order.
async fn deliver(tap: Arc<AsyncFd<File>>, mut waiting: mpsc::Receiver<Frame>, shared: Arc<Shared>) {
    while let Some((due, frame)) = waiting.recv().await {
        tokio::time::sleep_until(due).await;
        // A frame goes whole or not at all: a device that is down, or a kernel short of buffers, loses it.
        if tap.get_ref().write_all(&frame).is_ok() {
            shared.passed.passed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
