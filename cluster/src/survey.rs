//! A look around: what each member says when it is asked now, over the way by which raft reaches it.

use std::time::Duration;

use featureops_proto::peer::HelloRequest;
use futures_util::future::join_all;

use crate::fold::Fold;
use crate::members::members;
use crate::peer::{Target, Use};
use crate::proposer::Proposer;

/// Time of one question, in milliseconds.
const ASK_MS_MAX: u64 = 2_000;

/// One member, as it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surveyed {
    /// Its number.
    pub node: u64,
    /// Where its peers reach it.
    pub address: String,
    /// Whether it votes; else it is a learner.
    pub voter: bool,
    /// Whether the asking node takes it for the leader.
    pub leads: bool,
    /// The release of its build; empty: it did not say.
    pub release: String,
    /// The highest feature level that it knows; 0: it was not heard.
    pub feature_level_max: u32,
    /// Time to its answer, in milliseconds.
    pub answer_ms: u64,
    /// How far its wall clock is ahead of this node's (behind it, when negative), in milliseconds, give or take half the time to
    /// its answer.
    pub clock_ahead_ms: i64,
    /// Why it was not heard.
    pub fault: Option<String>,
}

/// Asks every member at once, this one by itself.
pub(crate) async fn survey<F: Fold>(proposer: &Proposer<F>) -> Vec<Surveyed> {
    let own = proposer.options().node;
    let leader = proposer.leader().map(|leader| leader.node);
    let leads =
        |node: u64| leader == Some(node) || (leader.is_none() && node == own && proposer.raft().is_leader());
    let asked = members(proposer).into_iter().map(|member| {
        let surveyed = Surveyed {
            node: member.node,
            address: member.address.clone(),
            voter: member.voter,
            leads: leads(member.node),
            ..Surveyed::default()
        };
        let target = Target { node: member.node, incarnation: member.incarnation, address: member.address };
        async move {
            if target.node == own {
                let feature_level_max = proposer.shared().read(Fold::feature_level_max).max(1);
                return Surveyed {
                    release: proposer.options().release.clone(),
                    feature_level_max,
                    ..surveyed
                };
            }
            ask(proposer, &target, surveyed).await
        }
    });
    join_all(asked).await
}

async fn ask<F: Fold>(proposer: &Proposer<F>, target: &Target, surveyed: Surveyed) -> Surveyed {
    let peers = proposer.peers();
    let mut client = peers.client(&target.address, Use::Prompt);
    let request = peers.request(target, HelloRequest {});
    let (wall_ms, from_ms) = (peers.clock_ms(), peers.monotonic_ms());
    let said = peers.call(target, Duration::from_millis(ASK_MS_MAX), client.hello(request)).await;
    let answer_ms = peers.monotonic_ms().saturating_sub(from_ms);
    match said {
        Ok(said) => Surveyed {
            release: said.release,
            feature_level_max: said.feature_level_max.max(1),
            answer_ms,
            clock_ahead_ms: said.clock_ms.saturating_sub(wall_ms).saturating_sub_unsigned(answer_ms / 2),
            ..surveyed
        },
        Err(status) => Surveyed {
            answer_ms,
            fault: Some(peers.fault_of(target.node).unwrap_or_else(|| status.message().to_owned())),
            ..surveyed
        },
    }
}
