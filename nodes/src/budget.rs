//! The budget of request bytes: what all requests together may hold in memory.
//!
//! ```text
//!   Budget ── all requests ──────────────── max
//!     ├─ facts and imports together ─────── three quarters: evaluation and control find room beside them
//!     └─ Connection ── all its requests ─── one half: no peer takes it all
//!          └─ Account ── one request: what came of it (see `meter`), and what its answer still has to send (`outgoing`)
//! ```
//!
//! A message's bound alone does not help: connections times streams times 4 MiB is more than any machine has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::refusal::Failure;

/// Bytes that may be held, and are.
pub struct Budget {
    max: usize,
    held: AtomicUsize,
    /// What facts and imports hold of it.
    bulk: AtomicUsize,
}

/// The bound that a request ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// That of all requests, in bytes.
    All(usize),
    /// That of facts and imports.
    Bulk(usize),
    /// That of one connection.
    Connection(usize),
}

impl From<Full> for tonic::Status {
    fn from(full: Full) -> Self {
        let (whose, max) = match full {
            Full::All(max) => ("requests", max),
            Full::Bulk(max) => ("facts and imports", max),
            Full::Connection(max) => ("one connection's requests", max),
        };
        Failure::Overloaded(format!("bytes of {whose} in flight are at their bound of {max}")).into()
    }
}

impl Budget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0), bulk: AtomicUsize::new(0) })
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// One connection's part in the budget.
pub struct Connection {
    budget: Arc<Budget>,
    held: AtomicUsize,
    /// The request that was called last, until its stream is run.
    called: Mutex<Option<Arc<Account>>>,
    /// Pieces of answers in the hands of HTTP, by the epoch in which they last moved.
    pieces: [AtomicUsize; EPOCHS],
    epoch: AtomicUsize,
    /// Requests that are not answered to the last byte.
    open: AtomicUsize,
    /// Those of them whose answer is worth nothing unless it is whole.
    kept: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// It was asked to make room.
    asked: AtomicBool,
    leave: Notify,
}

/// Epochs that are told apart: this one, two that may still move, and one that is too old.
const EPOCHS: usize = 4;

impl Connection {
    /// A connection that holds nothing yet.
    #[must_use]
    pub fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            held: AtomicUsize::new(0),
            called: Mutex::new(None),
            pieces: std::array::from_fn(|_| AtomicUsize::new(0)),
            epoch: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            asked: AtomicBool::new(false),
            leave: Notify::new(),
        })
    }

    /// Since when it has had nothing to do; none while it has, and once it was asked to leave.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.open.load(Ordering::Relaxed) == 0 && !self.asked.load(Ordering::Relaxed);
        is_idle.then(|| *self.idle_since.lock())
    }

    /// Whether it has an answer under way that is worth nothing unless it is whole.
    pub(crate) fn keeps(&self) -> bool {
        self.kept.load(Ordering::Relaxed) > 0
    }

    /// Asks it to make room for another.
    pub(crate) fn ask_to_leave(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }

    /// Waits until it is asked.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// A request was called, whose stream is run next. Only HTTP/2 runs streams: what nobody takes would be held for ever.
    pub(crate) fn call(&self, account: Arc<Account>) {
        *self.called.lock() = Some(account);
    }

    /// The request that was called last.
    pub(crate) fn called(&self) -> Option<Arc<Account>> {
        self.called.lock().take()
    }

    /// Begins the next epoch. True when a piece of an answer has not moved for more than two whole ones.
    pub(crate) fn tick(&self) -> bool {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.pieces_of(epoch.wrapping_add(1)).is_some_and(|oldest| oldest.load(Ordering::Relaxed) > 0)
    }

    fn pieces_of(&self, epoch: usize) -> Option<&AtomicUsize> {
        self.pieces.get(epoch % EPOCHS)
    }

    /// A piece was handed over; its epoch.
    pub(crate) fn piece_taken(&self) -> usize {
        let epoch = self.epoch.load(Ordering::Relaxed);
        if let Some(pieces) = self.pieces_of(epoch) {
            pieces.fetch_add(1, Ordering::Relaxed);
        }
        epoch
    }

    /// A part of it was sent; its new epoch.
    pub(crate) fn piece_moved(&self, epoch: usize) -> usize {
        self.piece_gone(epoch);
        self.piece_taken()
    }

    /// All of it was sent.
    pub(crate) fn piece_gone(&self, epoch: usize) {
        if let Some(pieces) = self.pieces_of(epoch) {
            pieces.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes all of these bytes or none.
    fn take(&self, bytes: usize, bulk: bool) -> Result<(), Full> {
        let Budget { max, held, bulk: all_bulk } = self.budget.as_ref();
        let (half, most) = (*max / 2, *max / 4 * 3);
        if !add(held, bytes, *max) {
            return Err(Full::All(*max));
        }
        if !add(&self.held, bytes, half) {
            held.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full::Connection(half));
        }
        if bulk && !add(all_bulk, bytes, most) {
            self.give(bytes, false);
            return Err(Full::Bulk(most));
        }
        Ok(())
    }

    fn give(&self, bytes: usize, bulk: bool) {
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        if bulk {
            self.budget.bulk.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// Adds only what stays within the bound.
fn add(counter: &AtomicUsize, bytes: usize, max: usize) -> bool {
    let fits = counter.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= max;
    if !fits {
        counter.fetch_sub(bytes, Ordering::Relaxed);
    }
    fits
}

/// Who has a hand on what came of a request: its body, and whoever answers.
const HANDS: u8 = 2;

/// One request's account. All of it is given back at the latest when it is dropped.
pub struct Account {
    connection: Arc<Connection>,
    bulk: bool,
    /// Bytes of the request. Written by one reader of one body.
    came: AtomicUsize,
    hands: AtomicU8,
    /// Bytes of the answer that were produced and not yet sent.
    owed: AtomicUsize,
    /// How often bytes of it were sent.
    moves: AtomicUsize,
    /// Its answer is worth nothing unless it is whole.
    kept: AtomicBool,
}

impl Account {
    /// An account that holds nothing yet; `bulk` for facts and imports.
    #[must_use]
    pub fn open(connection: &Arc<Connection>, bulk: bool) -> Arc<Self> {
        connection.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            connection: Arc::clone(connection),
            bulk,
            came: AtomicUsize::new(0),
            hands: AtomicU8::new(HANDS),
            owed: AtomicUsize::new(0),
            moves: AtomicUsize::new(0),
            kept: AtomicBool::new(false),
        })
    }

    /// Its answer is worth nothing unless it is whole: a person's drain does not cut its connection off.
    pub(crate) fn keep(&self) {
        if !self.kept.swap(true, Ordering::Relaxed) {
            self.connection.kept.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Holds bytes of the answer until they are sent.
    pub(crate) fn owe(&self, bytes: usize) -> Result<(), Full> {
        self.connection.take(bytes, self.bulk)?;
        self.owed.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what was sent, or never will be.
    pub(crate) fn paid(&self, bytes: usize) {
        self.owed.fetch_sub(bytes, Ordering::Relaxed);
        self.connection.give(bytes, self.bulk);
    }

    pub(crate) fn owes(&self) -> bool {
        self.owed.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn moves(&self) -> usize {
        self.moves.load(Ordering::Relaxed)
    }

    /// Holds more bytes of the request.
    pub(crate) fn grow(&self, bytes: usize) -> Result<(), Full> {
        self.connection.take(bytes, self.bulk)?;
        self.came.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Holds this many bytes of the request, more or fewer than before.
    pub(crate) fn set_to(&self, bytes: usize) -> Result<(), Full> {
        let before = self.came.load(Ordering::Relaxed);
        if bytes >= before {
            return self.grow(bytes - before);
        }
        self.came.store(bytes, Ordering::Relaxed);
        self.connection.give(before - bytes, self.bulk);
        Ok(())
    }

    /// Takes one of two hands off the request: after both, its bytes are given back.
    pub(crate) fn let_go(&self) {
        if self.hands.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.connection.give(self.came.swap(0, Ordering::Relaxed), self.bulk);
        }
    }

    /// Holds bytes beside the request's own, until the answer is dropped.
    ///
    /// # Errors
    /// There is no room for them.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Result<Held, Full> {
        self.connection.take(bytes, self.bulk)?;
        Ok(Held { account: Arc::clone(self), bytes })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.connection.give(*self.came.get_mut(), self.bulk);
        if *self.kept.get_mut() {
            self.connection.kept.fetch_sub(1, Ordering::Relaxed);
        }
        if self.connection.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.connection.idle_since.lock() = Instant::now();
        }
    }
}

/// Bytes that are given back when this is dropped.
pub struct Held {
    account: Arc<Account>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.connection.give(self.bytes, self.account.bulk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_counts_until_it_is_let_go_by_both_hands() {
        let budget = Budget::new(100);
        let account = Account::open(&Connection::new(&budget), false);
        account.grow(30).unwrap();
        assert_eq!(account.grow(21), Err(Full::Connection(50)));
        assert_eq!(budget.held(), 30, "what was refused is not held");
        let held = account.hold(20).unwrap();
        account.let_go();
        assert_eq!(budget.held(), 50);
        account.let_go();
        assert_eq!(budget.held(), 20);
        drop(held);
        account.grow(40).unwrap();
        drop(account);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_connection_keeps_what_must_be_whole_until_it_is_answered() {
        let connection = Connection::new(&Budget::new(100));
        let (other, backup) = (Account::open(&connection, false), Account::open(&connection, false));
        assert!(!connection.keeps());
        backup.keep();
        backup.keep();
        drop(other);
        assert!(connection.keeps());
        drop(backup);
        assert!(!connection.keeps());
    }

    #[test]
    fn a_piece_that_does_not_move_is_seen_after_two_epochs_and_one_that_does_is_not() {
        let connection = Connection::new(&Budget::new(100));
        let mut moving = connection.piece_taken();
        for _ in 0..9 {
            assert!(!connection.tick());
            moving = connection.piece_moved(moving);
        }
        assert!(!connection.tick() && !connection.tick() && connection.tick());
        connection.piece_gone(moving);
        assert!(!connection.tick());
    }

    #[test]
    fn facts_leave_a_quarter_and_a_connection_leaves_half() {
        let budget = Budget::new(100);
        let accounts = |bulk| [(); 3].map(|()| Account::open(&Connection::new(&budget), bulk));
        let [first, second, third] = accounts(true);
        assert_eq!(first.grow(51), Err(Full::Connection(50)));
        first.grow(50).unwrap();
        second.grow(25).unwrap();
        assert_eq!(third.grow(1), Err(Full::Bulk(75)));
        let [evaluation, control, _] = accounts(false);
        evaluation.grow(20).unwrap();
        assert_eq!(control.grow(6), Err(Full::All(100)));
        control.grow(5).unwrap();
        drop((first, second));
        third.grow(50).unwrap();
        assert_eq!(budget.held(), 75);
        let status = tonic::Status::from(Full::Bulk(75));
        assert!(status.message().contains("facts and imports in flight are at their bound of 75"));
    }
}
