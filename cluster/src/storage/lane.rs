//! Group commit: one sync serves every write that waits, and callbacks fire in issue order, never before the disk has it.
//!
//! ```text
//!   writers --submit(write, done)--> [bounded queue] --> lane: take all that wait -> commit -> done, done, done ...
//! ```
//!
//! The lane is a plain future. Production runs it on one I/O thread per node, where a sync blocks nobody else;
//! simulation spawns it as a task, where a sync takes simulated time. After the first failed sync the lane stops for
//! good and says so to every later writer: what the kernel dropped on a failed sync cannot be synced by asking again.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::log::{Log, LogPosition};
use super::marks::{Mark, Marks, Vote};
use super::values::{Change, Values, check_sizes};
use super::{Outlook, outlook};
use crate::environment::Clock;

/// Writes that may wait for the lane before `submit` itself waits.
pub const QUEUE_LENGTH_MAX: usize = 4096;
/// Writes that one commit serves at most.
pub const GROUP_LENGTH_MAX: usize = 1024;

/// Told once, when the write is durable or never will be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;
/// A lane, to be run to its end.
pub type LaneFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a lane commits to.
trait Device: Send + Sync + 'static {
    type Write: Send + 'static;

    /// Makes all writes durable, in order.
    fn commit(&self, writes: Vec<Self::Write>) -> impl Future<Output = io::Result<()>> + Send;
}

/// The first error of a lane, kept so that health can name it.
#[derive(Clone, Default)]
pub struct Fault(Arc<Mutex<Option<Stopped>>>);

struct Stopped {
    kind: io::ErrorKind,
    text: String,
    outlook: Outlook,
}

impl Fault {
    /// The error that stopped the lane.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.lock().as_ref().map(|stopped| stopped.text.clone())
    }

    /// Whether it may pass with the disk's trouble. One that says nothing may: whoever opens anew looks at the data.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|stopped| stopped.outlook != Outlook::Stays)
    }

    /// Notes an error: the first one stops everything.
    pub(crate) fn set(&self, error: &io::Error) {
        self.0.lock().get_or_insert_with(|| Stopped {
            kind: error.kind(),
            text: error.to_string(),
            outlook: outlook(error),
        });
    }

    fn check(&self) -> io::Result<()> {
        match self.0.lock().as_ref() {
            Some(stopped) => Err(io::Error::new(stopped.kind, stopped.text.clone())),
            None => Ok(()),
        }
    }
}

async fn run<D: Device>(device: D, mut queue: mpsc::Receiver<(D::Write, Done)>, fault: Fault) {
    let mut waiting = Vec::with_capacity(GROUP_LENGTH_MAX);
    while queue.recv_many(&mut waiting, GROUP_LENGTH_MAX).await > 0 {
        let (writes, dones): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
        if fault.check().is_ok()
            && let Err(error) = device.commit(writes).await
        {
            tracing::error!(error = %error, "storage stopped: a commit failed");
            fault.set(&error);
        }
        for done in dones {
            done(fault.check());
        }
    }
}

struct Queue<W> {
    sender: mpsc::Sender<(W, Done)>,
    fault: Fault,
}

impl<W> Clone for Queue<W> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), fault: self.fault.clone() }
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "storage has stopped")
}

impl<W: Send + 'static> Queue<W> {
    fn open<D: Device<Write = W>>(device: D) -> (Self, LaneFuture) {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH_MAX);
        let fault = Fault::default();
        (Self { sender, fault: fault.clone() }, Box::pin(run(device, receiver, fault)))
    }

    async fn submit(&self, write: W, done: Done) -> io::Result<()> {
        self.fault.check()?;
        self.sender.send((write, done)).await.map_err(|_| stopped())
    }

    async fn wait(&self, write: W) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.submit(write, done).await?;
        receiver.await.map_err(|_| stopped())?
    }
}

/// Group commit over the values.
#[derive(Clone)]
pub struct ValueLane(Queue<Vec<Change>>);

struct ValueDevice(Arc<dyn Values>);

impl Device for ValueDevice {
    type Write = Vec<Change>;

    async fn commit(&self, writes: Vec<Vec<Change>>) -> io::Result<()> {
        for changes in writes {
            self.0.write(changes)?;
        }
        self.0.sync().await
    }
}

impl ValueLane {
    /// A lane over `values`, and the future that runs it.
    #[must_use]
    pub fn open(values: Arc<dyn Values>) -> (Self, LaneFuture) {
        let (queue, lane) = Queue::open(ValueDevice(values));
        (Self(queue), lane)
    }

    /// Queues one atomic batch; `done` fires when it is durable. Waits while the queue is full.
    ///
    /// # Errors
    /// The batch was not queued: it breaks a bound, or the lane has stopped. `done` is then dropped unfired.
    pub async fn submit(&self, changes: Vec<Change>, done: Done) -> io::Result<()> {
        check_sizes(&changes)?;
        self.0.submit(changes, done).await
    }

    /// Writes one atomic batch and waits until it is durable.
    ///
    /// # Errors
    /// The write's, or that of the write that stopped the lane.
    pub async fn write(&self, changes: Vec<Change>) -> io::Result<()> {
        check_sizes(&changes)?;
        self.0.wait(changes).await
    }

    /// The error that stopped the lane, if one did.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.0.fault.clone()
    }
}

/// What the raft log's lane makes durable.
enum LogWrite {
    /// Entries up to here were appended to the log, and wait for its sync.
    Appended(LogPosition),
    /// Removes entries; done in the lane, so that it stays in order with the mark.
    TruncateAfter(Option<LogPosition>),
    Vote(Vote),
    /// A stored snapshot stands for everything up to here, which lies beyond the log's end.
    Installed(LogPosition),
    /// A snapshot of a peer is about to be stored.
    Installs,
    /// The cluster in which this node votes from now on.
    Cluster(u64),
    /// Everything before.
    Settle,
}

/// Group commit over the raft log and the mark file.
///
/// The order inside one commit is the promise of the whole room: log sync, then mark written and synced, then acknowledged.
/// So an acknowledged entry always lies at or below the mark, and a log that ends below it has lost acknowledged entries.
#[derive(Clone)]
pub struct LogLane(Queue<LogWrite>);

struct LogDevice {
    log: Arc<dyn Log>,
    marks: Arc<dyn Marks>,
    timed: Option<(Arc<dyn Clock>, SyncTimes)>,
}

/// Commits of which the times are held.
const TIMES_MAX: usize = 256;

/// How long the last commits took to be durable, in milliseconds; clones share them.
#[derive(Clone, Default)]
pub struct SyncTimes(Arc<Mutex<VecDeque<u64>>>);

impl SyncTimes {
    fn add(&self, took_ms: u64) {
        let mut times = self.0.lock();
        if times.len() == TIMES_MAX {
            times.pop_front();
        }
        times.push_back(took_ms);
    }

    /// The median and the longest; none before the first commit.
    #[must_use]
    pub fn median_and_longest(&self) -> Option<(u64, u64)> {
        let mut times: Vec<u64> = self.0.lock().iter().copied().collect();
        times.sort_unstable();
        Some((*times.get(times.len() / 2)?, *times.last()?))
    }
}

impl LogDevice {
    async fn truncate_after(&self, mark: &mut Mark, last: Option<LogPosition>) -> io::Result<()> {
        self.log.sync().await?;
        // The mark goes down before the log does: the other way round a crash between the two would look like
        // lost entries. What is forgotten here was refused by the leader, never acknowledged as its log.
        mark.durable = mark.durable.min(last);
        self.marks.write(mark.clone(), true).await?;
        self.log.truncate_after(last)?;
        self.log.sync().await
    }
}

impl Device for LogDevice {
    type Write = LogWrite;

    async fn commit(&self, writes: Vec<LogWrite>) -> io::Result<()> {
        let from_ms = self.timed.as_ref().map(|(clock, _)| clock.monotonic_ms());
        let committed = self.committed(writes).await;
        if let (Some((clock, times)), Some(from_ms)) = (&self.timed, from_ms) {
            times.add(clock.monotonic_ms().saturating_sub(from_ms));
        }
        committed
    }
}

impl LogDevice {
    async fn committed(&self, writes: Vec<LogWrite>) -> io::Result<()> {
        let before = self.marks.current();
        let mut mark = before.clone();
        let mut unsynced = false;
        for write in writes {
            match write {
                LogWrite::Appended(position) => {
                    mark.durable = mark.durable.max(Some(position));
                    unsynced = true;
                }
                LogWrite::TruncateAfter(last) => {
                    self.truncate_after(&mut mark, last).await?;
                    unsynced = false;
                }
                LogWrite::Vote(vote) => mark.vote = Some(vote),
                LogWrite::Installs => mark.installs = true,
                // For good: who comes second finds another's there.
                LogWrite::Cluster(cluster) if mark.cluster == 0 || mark.is_unfounded() => {
                    mark.cluster = cluster
                }
                LogWrite::Cluster(_) => {}
                LogWrite::Installed(upto) => {
                    // The log first: a mark above its end looks like lost entries.
                    self.log.purge(upto)?;
                    self.log.sync().await?;
                    mark.durable = mark.durable.max(Some(upto));
                    unsynced = false;
                }
                LogWrite::Settle => unsynced = true,
            }
        }
        if unsynced {
            self.log.sync().await?;
        }
        let current = self.marks.current();
        if mark == current {
            return Ok(());
        }
        let both =
            (mark.vote, mark.installs, mark.cluster) != (current.vote, current.installs, current.cluster);
        self.marks.write(mark, both).await
    }
}

impl LogLane {
    /// A lane over `log` and `marks`, and the future that runs it.
    #[must_use]
    pub fn open(log: Arc<dyn Log>, marks: Arc<dyn Marks>) -> (Self, LaneFuture) {
        let (queue, lane) = Queue::open(LogDevice { log, marks, timed: None });
        (Self(queue), lane)
    }

    /// The same, and how long its commits take.
    #[must_use]
    pub fn open_timed(
        log: Arc<dyn Log>,
        marks: Arc<dyn Marks>,
        clock: Arc<dyn Clock>,
    ) -> (Self, LaneFuture, SyncTimes) {
        let times = SyncTimes::default();
        let (queue, lane) = Queue::open(LogDevice { log, marks, timed: Some((clock, times.clone())) });
        (Self(queue), lane, times)
    }

    /// Queues the sync of entries already appended, up to `position`; `done` fires when they are durable.
    ///
    /// # Errors
    /// The lane has stopped; `done` is dropped unfired.
    pub async fn appended(&self, position: LogPosition, done: Done) -> io::Result<()> {
        self.0.submit(LogWrite::Appended(position), done).await
    }

    /// Saves a vote, durably.
    ///
    /// # Errors
    /// The mark file's, or that of the write that stopped the lane.
    pub async fn vote(&self, vote: Vote) -> io::Result<()> {
        self.0.wait(LogWrite::Vote(vote)).await
    }

    /// Removes every entry after `last`, durably.
    ///
    /// # Errors
    /// The log's or the mark file's, or that of the write that stopped the lane.
    pub async fn truncate_after(&self, last: Option<LogPosition>) -> io::Result<()> {
        self.0.wait(LogWrite::TruncateAfter(last)).await
    }

    /// Notes, durably, that a snapshot of a peer is about to be stored.
    ///
    /// # Errors
    /// As [`LogLane::vote`].
    pub async fn installs(&self) -> io::Result<()> {
        self.0.wait(LogWrite::Installs).await
    }

    /// Enters a cluster, durably and for good.
    ///
    /// # Errors
    /// As [`LogLane::vote`].
    pub async fn enter(&self, cluster: u64) -> io::Result<()> {
        self.0.wait(LogWrite::Cluster(cluster)).await
    }

    /// Lets the log begin behind `upto`, which a stored snapshot stands for, and marks that as acknowledged.
    ///
    /// # Errors
    /// As [`LogLane::truncate_after`].
    pub async fn installed(&self, upto: LogPosition) -> io::Result<()> {
        self.0.wait(LogWrite::Installed(upto)).await
    }

    /// Waits until everything written before is durable.
    ///
    /// # Errors
    /// As [`LogLane::vote`].
    pub async fn settle(&self) -> io::Result<()> {
        self.0.wait(LogWrite::Settle).await
    }

    /// The error that stopped the lane, if one did.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.0.fault.clone()
    }
}
