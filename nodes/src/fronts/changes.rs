//! Changes of what one client sees: latest wins, at most one a second, none missed.
//!
//! A follower holds the publication it last told about and compares it with the newest one. Nothing is queued for it, so
//! nothing can be lost: however many changes came in between, the difference is there. Publications share what did not
//! change, so a comparison costs a look at each block of flags, and holding an old one costs what has changed since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use featureops_evaluation::{CompiledFlag, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fronts::selector::{Scope, Selection};
use crate::host::Host;
use crate::publisher::Published;

/// Shortest time between two messages about changes on one stream.
const PACE: Duration = Duration::from_secs(1);
/// Clients keep STATIC answers over a lost connection, so whoever connects hears what changed in this time, wherever it was.
const RECENT_MS: i64 = 24 * 60 * 60 * 1_000;

/// What happened to a flag, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new, or back from the archive.
    Write,
    /// It may answer otherwise.
    Update,
    /// It is gone.
    Delete,
}

impl Change {
    /// As event streams name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Follows the publications for one client.
pub struct Follower {
    host: Arc<Host>,
    scope: Scope,
    positions: watch::Receiver<u64>,
    /// What the client knows.
    told: Arc<Published>,
    told_at: Option<Instant>,
}

impl Follower {
    /// Begins with what is published now.
    #[must_use]
    pub fn new(host: Arc<Host>, scope: Scope) -> Self {
        let positions = host.publisher.positions();
        let told = Arc::clone(&host.publisher.load());
        Self { host, scope, positions, told, told_at: None }
    }

    /// What the client knows.
    #[must_use]
    pub const fn told(&self) -> &Arc<Published> {
        &self.told
    }

    /// What the client sees.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Flags that changed lately, archived ones too: what a client may hold an old answer of that connects again.
    #[must_use]
    pub fn recent(&self) -> BTreeMap<String, Change> {
        let now_ms = self.told.snapshot.log_time_ms();
        let selection = self.scope.select(&self.told);
        let recent = |flag: &&CompiledFlag| now_ms.saturating_sub(flag.update_ms()) <= RECENT_MS;
        let environments = selection.environments().iter();
        let nothing = Snapshot::empty();
        environments
            .flat_map(|environment| self.told.snapshot.changed_since(&nothing, environment))
            .filter(recent)
            .map(|flag| {
                let there = selection.find(flag.key()).is_some();
                (flag.key().to_owned(), if there { Change::Update } else { Change::Delete })
            })
            .collect()
    }

    /// The next changes: all since the last ones, at the earliest a second after them. May be dropped and asked again.
    pub async fn next(&mut self) -> BTreeMap<String, Change> {
        if let Some(told_at) = self.told_at {
            tokio::time::sleep_until(told_at + PACE).await;
        }
        loop {
            self.positions.borrow_and_update();
            let now = Arc::clone(&self.host.publisher.load());
            let changes = between(&self.scope, &self.told, &now);
            self.told = now;
            if !changes.is_empty() {
                self.told_at = Some(Instant::now());
                return changes;
            }
            if self.positions.changed().await.is_err() {
                // The publisher is gone: nothing changes any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What changed for this client from one publication to a later one.
#[must_use]
pub fn between(scope: &Scope, before: &Published, now: &Published) -> BTreeMap<String, Change> {
    if std::ptr::eq(before, now) {
        return BTreeMap::new();
    }
    let (old, new) = (scope.select(before), scope.select(now));
    if old.environments() != new.environments() {
        // The view itself is another: an environment came, or goes by another name.
        let (old_flags, new_flags) = (old.flags(), new.flags());
        let keys = old_flags.keys().chain(new_flags.keys()).copied();
        return keys.filter_map(|key| change(&old, &new, key)).collect();
    }
    let changed = new.environments().iter();
    changed
        .flat_map(|environment| now.snapshot.changed_since(&before.snapshot, environment))
        .filter_map(|flag| change(&old, &new, flag.key()))
        .collect()
}

fn change(old: &Selection<'_>, new: &Selection<'_>, key: &str) -> Option<(String, Change)> {
    let change = match (old.find(key), new.find(key)) {
        (None, None) => return None,
        // A flag under another environment's, or changed in nothing that clients see.
        (Some(old), Some(new)) if std::ptr::eq(old, new) || same_face(old, new) => return None,
        (Some(_), Some(_)) => Change::Update,
        (None, Some(_)) => Change::Write,
        (Some(_), None) => Change::Delete,
    };
    Some((key.to_owned(), change))
}

/// Whether it had one face from the older publication to the newer. One that changed and changed back was served as both, and
/// a client may hold the other.
fn same_face(old: &CompiledFlag, new: &CompiledFlag) -> bool {
    old.face() != 0 && old.face() == new.face() && old.face_position() == new.face_position()
}
