//! Who gets the cluster's peer key: whoever is let in, before it is a member; and the members of a cluster of before there were keys.
//!
//! ```text
//!   found ── makes it                 admit ── entrusts the newcomer with it ── only then the change
//!   a leader without one: once every other member answers and has none ── makes it, entrusts all, keeps it itself last
//!   a leader with one: members without it are entrusted where joining is open; where tokens are asked for, a person copies it
//! ```
//!
//! A key that was handed out in part (a leader that ended in between) is completed by whoever leads next and has it, unless there
//! are tokens: then the log says which member lacks the file, and a person copies it. What is found of another key is said, and
//! never overwritten.

use std::collections::BTreeSet;
use std::time::Duration;

use featureops_proto::peer::{EntrustRequest, HelloResponse};
use tonic::Code;

use crate::fold::Fold;
use crate::members::hello;
use crate::peer::proof::PeerKey;
use crate::peer::{LEVEL_OF_PROOFS, Target, Use, is_loopback};
use crate::proposer::Proposer;
use crate::raft::types::Peer;

/// How often it is looked whether every member has the key, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// Time of one member to keep it, in milliseconds: its disk is in it.
const KEEP_MS_MAX: u64 = 3_000;

/// After so many rounds every member is asked again: a file may have been lost.
const AGAIN_ROUNDS: u64 = 30;

/// What one round leaves to the next.
#[derive(Default)]
struct Round {
    number: u64,
    /// Made here and not yet everywhere.
    made: Option<PeerKey>,
    /// Members, with their incarnations, that said that they have this node's key.
    having: BTreeSet<(u64, u64)>,
}

/// Hands this node's key to a node that has none, or one of its own and no cluster yet.
///
/// # Errors
/// Why it does not have it then, in words.
pub(crate) async fn entrust<F: Fold>(
    proposer: &Proposer<F>,
    target: &Target,
    found: &HelloResponse,
) -> Result<(), String> {
    match proposer.peers().keyring().key() {
        Some(key) if found.peer_key_id != key.id() => hand(proposer, target, found, &key).await,
        _ => Ok(()),
    }
}

async fn hand<F: Fold>(
    proposer: &Proposer<F>,
    target: &Target,
    found: &HelloResponse,
    key: &PeerKey,
) -> Result<(), String> {
    let node = found.node;
    if found.level < LEVEL_OF_PROOFS {
        return Err(format!(
            "node {node} speaks level {} of the peer protocol, and this cluster asks for the proofs of level {LEVEL_OF_PROOFS}: \
             update it",
            found.level
        ));
    }
    if !proposer.options().secured && !is_loopback(&target.address) {
        return Err(format!(
            "node {node} at {} is not on this machine, and the peer port has no TLS, so it is not handed the peer key: give the \
             nodes --peer-tls-cert, --peer-tls-key and --peer-tls-ca, or copy peer.key (mode 0600) into its data folder",
            target.address
        ));
    }
    let peers = proposer.peers();
    let mut client = peers.client(&target.address, Use::Prompt);
    let request = peers.request(target, EntrustRequest { peer_key: key.bytes().to_vec() });
    let within = Duration::from_millis(KEEP_MS_MAX);
    let answered = peers.call(target, within, client.entrust(request)).await;
    answered.map(drop).map_err(|status| match status.code() {
        Code::FailedPrecondition => status.message().to_owned(),
        _ => format!("node {node} at {} did not keep the peer key: {}", target.address, status.message()),
    })
}

/// Sees that every member has the key, until the node ends.
pub(crate) async fn settle<F: Fold>(proposer: Proposer<F>) {
    if !proposer.peers().keyring().has_store() {
        return;
    }
    let mut closing = proposer.closing();
    let mut said = String::new();
    let mut round = Round::default();
    loop {
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            () = tokio::time::sleep(Duration::from_millis(LOOK_MS)) => {}
        }
        let looked = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            looked = look(&proposer, &mut round) => looked,
        };
        if let Err(why) = looked
            && why != said
        {
            tracing::warn!(why, "not every member has the cluster's peer key");
            said = why;
        }
    }
}

async fn look<F: Fold>(proposer: &Proposer<F>, round: &mut Round) -> Result<(), String> {
    if round.number.is_multiple_of(AGAIN_ROUNDS) {
        round.having.clear();
    }
    round.number = round.number.wrapping_add(1);
    let keyring = proposer.peers().keyring();
    if keyring.key().is_none() {
        keyring.look(proposer.peers().environment()).await;
    }
    if !proposer.raft().is_leader() || proposer.check().is_err() {
        return Ok(());
    }
    let held = keyring.key();
    let mut lacking = Vec::new();
    for target in others(proposer) {
        let name = (target.node, target.incarnation);
        if held.is_some() && round.having.contains(&name) {
            continue;
        }
        match hello(proposer, &target).await {
            Ok(found) if held.as_ref().is_some_and(|key| key.id() == found.peer_key_id) => {
                round.having.insert(name);
            }
            Ok(found) => lacking.push((target, found)),
            // One that is away is asked when it is back.
            Err(_) if held.is_some() => {}
            Err(why) => return Err(format!("it is made when all answer: {why}")),
        }
    }
    if let Some(key) = held {
        let is_open = proposer.shared().read(|state| state.admits("").is_ok());
        lacking.retain(|(_, found)| found.peer_key_id == 0 && found.level >= LEVEL_OF_PROOFS);
        if !is_open && let Some((target, _)) = lacking.first() {
            return Err(format!(
                "node {} has no peer.key, and this cluster has tokens: copy it (mode 0600) from another member's data folder \
                 into that of node {}",
                target.node, target.node
            ));
        }
        for (target, found) in &lacking {
            hand(proposer, target, found, &key).await?;
        }
        return Ok(());
    }
    let key = match &round.made {
        Some(key) => key.clone(),
        None => PeerKey::draw(proposer.peers().environment().entropy.as_ref())
            .map_err(|error| format!("no entropy for it: {error}"))?,
    };
    for (target, found) in &lacking {
        if found.level < LEVEL_OF_PROOFS {
            return Err(format!("node {} is of a release without it: update it", target.node));
        }
        if found.peer_key_id != 0 && found.peer_key_id != key.id() {
            return Err(format!(
                "node {} has a peer key, and the leader, node {}, has none: copy peer.key (mode 0600) from there",
                target.node,
                proposer.options().node
            ));
        }
    }
    round.made = Some(key.clone());
    for (target, found) in lacking.iter().filter(|(_, found)| found.peer_key_id == 0) {
        hand(proposer, target, found, &key).await?;
    }
    // Last: from here on this node refuses whoever has none.
    let kept = keyring.keep(proposer.peers().environment(), key).await;
    kept.map_err(|error| format!("it was not kept here: {error}"))?;
    round.made = None;
    tracing::info!("this cluster's members prove who they are from now on");
    Ok(())
}

fn others<F: Fold>(proposer: &Proposer<F>) -> Vec<Target> {
    let own = proposer.options().node;
    let target = |(node, peer): (u64, Peer)| crate::peer::network::target_of(node, &peer);
    proposer.members().into_iter().filter(|(node, _)| *node != own).map(target).collect()
}
