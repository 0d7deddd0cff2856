//! The directory of one node: which owners it should run, which run, and the only doors to their mailboxes.
//!
//! ```text
//!   applied assignments --assign/end--> [ wanted, latest wins ] --one Reconcile--> supervisor
//!   frozen moments ------frozen-------> [ notice, latest wins ] --one Look-------> owner
//! ```
//!
//! A mailbox is unbounded, so nothing is sent that cannot be bounded here first: every entry is a level, not an edge. A second
//! notice before the first was taken changes nothing, because whoever takes it reads the newest view. So at most one cast of
//! either kind is under way per receiver, however fast the log moves.
//!
//! Actors are never named: ractor's registry is process-wide, and two nodes in one process would collide. An owner is found
//! by its experiment's number in this value, which each node has for itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use ractor::ActorRef;

use crate::owner::OwnerMessage;
use crate::supervisor::SupervisorMessage;

/// Owners that one node runs at most: ten times the fleet's stated size, so that one node can carry all of it.
pub const OWNERS_MAX: usize = 10_000;

/// How an owner of this node fares; what health shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Wanted, not started yet.
    Waiting,
    /// Running.
    Running,
    /// Crashed, to be started again after a pause.
    Restarting {
        /// The last crash.
        reason: String,
    },
    /// Crashed too often: not started again until its assignment changes. The allocation in force keeps serving.
    Held {
        /// The last crash.
        reason: String,
    },
}

/// One line of health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerHealth {
    /// Number of the experiment.
    pub experiment: u32,
    /// Epoch of the assignment that is wanted.
    pub epoch: u64,
    /// How it fares.
    pub standing: Standing,
    /// Crashes since it was assigned.
    pub crashes: u64,
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Cast to the owner.
    Sent,
    /// One is under way; its taker will read the newest view.
    Coalesced,
    /// No owner runs here for it. One that starts reads the view first.
    NoOwner,
}

/// The directory has no room for another owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "this node runs {OWNERS_MAX} owners already")
    }
}

impl std::error::Error for Full {}

/// The latch of one mailbox: raised by the sender, lowered by the receiver before it reads.
#[derive(Debug, Default)]
pub(crate) struct Latch(AtomicBool);

impl Latch {
    /// True for the one caller that must send.
    fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Lowered before the reading, so that what changes during it sends again.
    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The way to a running owner.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) actor: ActorRef<OwnerMessage>,
    pub(crate) latch: Arc<Latch>,
}

struct Entry {
    epoch: u64,
    standing: Standing,
    crashes: u64,
    door: Option<Door>,
}

/// What the supervisor has to bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) experiment: u32,
    pub(crate) epoch: u64,
}

/// The directory. Shared by the node's applier, which writes what is wanted, and the supervisor, which writes what is.
#[derive(Default)]
pub struct Directory {
    entries: Mutex<BTreeMap<u32, Entry>>,
    supervisor: Mutex<Option<ActorRef<SupervisorMessage>>>,
    reconcile: Latch,
    casts: AtomicU64,
}

impl Directory {
    /// Wants an owner of `epoch` for the experiment. A stale epoch is ignored: assignments may be told again.
    ///
    /// # Errors
    /// [`Full`], and the experiment stays without autonomous decisions: its last allocation keeps serving.
    pub fn assign(&self, experiment: u32, epoch: u64) -> Result<(), Full> {
        {
            let mut entries = self.entries.lock();
            let full = entries.len() >= OWNERS_MAX;
            match entries.get_mut(&experiment) {
                Some(entry) if entry.epoch >= epoch => return Ok(()),
                // A new epoch is a new start: what held the old one may be gone.
                Some(entry) => {
                    entry.epoch = epoch;
                    entry.standing = Standing::Waiting;
                    entry.crashes = 0;
                }
                None if full => return Err(Full),
                None => {
                    let entry = Entry { epoch, standing: Standing::Waiting, crashes: 0, door: None };
                    entries.insert(experiment, entry);
                }
            }
        }
        self.ask_to_reconcile();
        Ok(())
    }

    /// Wants no owner for the experiment any more: it ended, or another node owns it.
    pub fn end(&self, experiment: u32) {
        let was = self.entries.lock().remove(&experiment);
        if was.is_some() {
            self.ask_to_reconcile();
        }
    }

    /// Tells the owner that new moments were frozen, or that anything else of its view changed.
    pub fn frozen(&self, experiment: u32) -> Notice {
        let door = self.entries.lock().get(&experiment).and_then(|entry| entry.door.clone());
        let Some(door) = door else { return Notice::NoOwner };
        if !door.latch.raise() {
            return Notice::Coalesced;
        }
        if door.actor.cast(OwnerMessage::Look).is_err() {
            // It has just stopped; its successor reads the view before anything else.
            return Notice::NoOwner;
        }
        self.casts.fetch_add(1, Ordering::Relaxed);
        Notice::Sent
    }

    /// Every owner that is wanted here, by number.
    #[must_use]
    pub fn health(&self) -> Vec<OwnerHealth> {
        let line = |(experiment, entry): (&u32, &Entry)| OwnerHealth {
            experiment: *experiment,
            epoch: entry.epoch,
            standing: entry.standing.clone(),
            crashes: entry.crashes,
        };
        self.entries.lock().iter().map(line).collect()
    }

    /// Owners that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.entries.lock().values().filter(|entry| entry.standing == Standing::Running).count()
    }

    /// Notices that became a cast.
    #[must_use]
    pub fn casts(&self) -> u64 {
        self.casts.load(Ordering::Relaxed)
    }

    pub(crate) fn attach(&self, supervisor: ActorRef<SupervisorMessage>) {
        *self.supervisor.lock() = Some(supervisor);
        self.reconcile.lower();
        self.ask_to_reconcile();
    }

    /// From here on nothing is started.
    pub(crate) fn detach(&self) -> Option<ActorRef<SupervisorMessage>> {
        self.supervisor.lock().take()
    }

    fn ask_to_reconcile(&self) {
        let supervisor = self.supervisor.lock().clone();
        if let Some(supervisor) = supervisor
            && self.reconcile.raise()
            && supervisor.cast(SupervisorMessage::Reconcile).is_err()
        {
            tracing::warn!("owner supervisor is gone: assignments are not followed");
        }
    }

    /// Takes the reconcile notice and reads what is wanted.
    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        self.reconcile.lower();
        let entries = self.entries.lock();
        entries
            .iter()
            .map(|(experiment, entry)| Wanted { experiment: *experiment, epoch: entry.epoch })
            .collect()
    }

    /// Whether this very assignment is still wanted.
    pub(crate) fn wants(&self, wanted: Wanted) -> bool {
        self.entries.lock().get(&wanted.experiment).is_some_and(|entry| entry.epoch == wanted.epoch)
    }

    /// Writes how the owner of this assignment fares. A newer assignment's line is left alone.
    pub(crate) fn note(&self, wanted: Wanted, standing: Standing, crashes: u64, door: Option<Door>) {
        if let Some(entry) = self.entries.lock().get_mut(&wanted.experiment)
            && entry.epoch == wanted.epoch
        {
            entry.standing = standing;
            entry.crashes = crashes;
            entry.door = door;
        }
    }
}
