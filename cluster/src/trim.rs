//! Keeps the log short: asks for a snapshot when enough bytes were logged, and purges behind it ([`crate::raft::growth`]).
//!
//! Raft itself counts entries only, keeps a number of them, and asks for the snapshots that this adds to.

use std::time::Duration;

use crate::fold::Fold;
use crate::proposer::Proposer;

/// Longest wait until raft knows of a snapshot that was stored, in milliseconds; what is not purged then is purged behind
/// the next one.
const KNOWN_MS_MAX: u64 = 5_000;

/// Trims until the node ends.
pub(crate) async fn trim<F: Fold>(proposer: Proposer<F>) {
    let mut closing = proposer.closing();
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            () = proposer.shared().growth().changed() => {}
        }
        // A stopped fold takes no snapshot, and a failed disk no write.
        if proposer.check().is_err() {
            continue;
        }
        let due = proposer.shared().growth().due(proposer.options().keep_bytes);
        if due.snapshot {
            let asked = proposer.scoped(proposer.raft().trigger().snapshot()).await;
            if let Err(error) = asked {
                tracing::debug!(error = %error, "snapshot not asked for");
            }
        }
        let Some((upto, stored)) = due.purge else { continue };
        // Raft purges what it knows a snapshot of, and hears of it a moment after it was stored.
        let wait = proposer.raft().wait(Some(Duration::from_millis(KNOWN_MS_MAX)));
        let known = wait.metrics(
            |metrics| metrics.snapshot.as_ref().is_some_and(|snapshot| snapshot.index() >= stored),
            "a stored snapshot",
        );
        let known = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            known = proposer.scoped(known) => known,
        };
        if let Err(error) = known {
            tracing::debug!(error = %error, "log not purged");
            continue;
        }
        if let Err(error) = proposer.scoped(proposer.raft().trigger().purge_log(upto)).await {
            tracing::debug!(error = %error, "log not purged");
        }
    }
}
