//! How a node comes into a cluster: it asks the nodes it was told of, until it is a member at its present address.
//!
//! A node that is one already asks nobody, unless it has moved.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::watch;

use crate::fold::Fold;
use crate::members::{Change, ChangeError, Newcomer, ask, change, hello};
use crate::peer::Target;
use crate::proposer::{ProposeError, Proposer};

/// Waits between two rounds, in milliseconds; doubles from the first to the last.
const RETRY_MS: (u64, u64) = (100, 3_000);
/// Nodes that are asked.
pub const SEEDS_MAX: usize = featureops_state::MAX_MEMBERS;

/// What a node that joins waits for; absent once it is a member.
pub(crate) type Awaited = watch::Sender<Option<String>>;

/// Whether the membership holds this node as it is: its address and its incarnation.
fn is_member<F: Fold>(proposer: &Proposer<F>) -> bool {
    let identity = proposer.peers().identity();
    let receiver = proposer.raft().metrics();
    let metrics = receiver.borrow_watched();
    let known = metrics.membership_config.membership().get_node(&identity.node);
    known.is_some_and(|known| {
        known.address == proposer.options().address && known.incarnation == identity.incarnation
    })
}

/// Asks until this node is a member, or ends.
pub(crate) async fn join<F: Fold>(
    proposer: Proposer<F>,
    mut seeds: watch::Receiver<Vec<String>>,
    awaited: Awaited,
) {
    let mut closing = proposer.closing();
    let mut wait_ms = RETRY_MS.0;
    let mut said = String::new();
    while !is_member(&proposer) {
        let round = async {
            let addresses = seeds.borrow_and_update().clone();
            let why = ask_around(&proposer, &addresses).await.err();
            if let Some(why) = &why
                && *why != said
            {
                tracing::warn!(why, "not a member yet");
                said.clone_from(why);
            }
            awaited.send_replace(why);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
                _ = seeds.changed() => {}
            }
        };
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            () = round => {}
        }
        wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS.1);
    }
    awaited.send_replace(None);
}

async fn ask_around<F: Fold>(proposer: &Proposer<F>, seeds: &[String]) -> Result<(), String> {
    let identity = proposer.peers().identity();
    let admit = Change::Admit(Newcomer {
        node: identity.node,
        incarnation: identity.incarnation,
        address: proposer.options().address.clone(),
    });
    // A member that moved knows whom to ask.
    if proposer.leader().is_some() {
        return change(proposer, &admit).await.map(drop).map_err(|error| error.to_string());
    }
    let mut why = "it waits for `featureops cluster init` here, or for a node to join".to_owned();
    for seed in seeds.iter().take(SEEDS_MAX).filter(|seed| **seed != proposer.options().address) {
        let found = match hello(proposer, &Target::anybody(seed)).await {
            Ok(found) => found,
            Err(error) => {
                why = error;
                continue;
            }
        };
        let level_max = proposer.shared().read(Fold::feature_level_max);
        if found.feature_level > level_max.max(1) {
            why = format!(
                "the cluster of node {} at {seed} is at feature level {}, and this build (release {}) knows levels up to \
                 {level_max}: start a release that knows level {} here",
                found.node,
                found.feature_level,
                proposer.options().release,
                found.feature_level
            );
            continue;
        }
        let leader = match found.leader {
            Some(node) if !found.leader_address.is_empty() => {
                Target { node, incarnation: 0, address: found.leader_address }
            }
            _ => {
                why = format!("node {} at {seed} knows no leader yet", found.node);
                continue;
            }
        };
        match ask(proposer, &leader, &admit).await {
            Ok(_) => return Ok(()),
            Err(ChangeError::Refused { why: refused }) => why = refused,
            Err(ChangeError::Failed(ProposeError::NotLeader { .. })) => {
                why = format!("node {} does not lead any more", leader.node);
            }
            Err(ChangeError::Failed(error)) => why = error.to_string(),
        }
    }
    Err(why)
}
