//! Placement, the leader's side: what it hears of the members becomes marks, and marks become assignments.
//!
//! ```text
//!   peers' answers ──> Watch ──> NoteLiveness ──┐
//!   people: drain, weight ── NoteLiveness ──────┴─> log ──> State ──> moves ──> AssignOwners ──> log ──> owners, everywhere
//! ```
//!
//! What is wanted is a function of State ([`featureops_state::placement`]); who may own is what State says, never what this node believes. A
//! leader that is none any more says nothing: marks and assignments are never handed to the next one, and what was decided on an epoch that has passed is passed over. Who may not keep an owner loses it at once, all of them in one command; what moves only for a better spread moves
//! 64 a second.
//!
//! A cluster that never had a second member, or whose feature level is from before marks, has none, and none of this: its leader
//! claims what there is (`owners.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use featureops_cluster::environment::Clock;
use featureops_cluster::{Change, Health, MemberHealth};
use featureops_proto::log::{
    AssignOwners, Entry, LivenessMark, LivenessRecord, NoteLiveness, assign_owners::Assignment, entry, reply,
};
use featureops_proto::v1::Principal;
use featureops_proto::v1::member::Mark;
use featureops_state::State;
use featureops_state::liveness::{Heard, LOOK_MS, Watch};
use featureops_state::placement::{self, MAX_ASSIGNMENTS, Move, Owned, SPREAD_MOVES_A_SECOND};
use prost::Message as _;
use tokio::time::Instant;

use crate::caller;
use crate::owners::Bell;
use crate::replica::Replica;

/// Whose the marks and assignments are, in the audit.
pub const PRINCIPAL: &str = "placement";
/// How often assignments are looked at when nothing says that they changed, in milliseconds.
const PLAN_MS: u64 = 1_000;
/// Between two attempts of a draining leader to hand over, in milliseconds.
const HAND_OVER_MS: u64 = 1_000;
/// Longest wait of a node that ends for its owners to be elsewhere.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
const LEAVE_LOOK: Duration = Duration::from_millis(20);

/// The entries that make these moves.
pub fn assignments(moves: &[Move], principal: &Principal) -> Vec<Entry> {
    let entry = |moves: &[Move]| {
        let assignment = |found: &Move| Assignment {
            experiment: found.owned.experiment,
            node: found.to,
            from_epoch: Some(found.owned.epoch),
        };
        let assignments = moves.iter().map(assignment).collect();
        Entry {
            principal: Some(principal.clone()),
            command: Some(entry::Command::AssignOwners(AssignOwners { assignments })),
            ..Entry::default()
        }
    };
    moves.chunks(MAX_ASSIGNMENTS).map(entry).collect()
}

/// What a leader knows from look to look.
struct Leader {
    replica: Replica,
    clock: Arc<dyn Clock>,
    watch: Watch,
    /// When assignments were looked at last; `None`: they are to be looked at.
    planned_ms: Option<u64>,
    /// Moves for a better spread that may be made now, in thousandths, and since when they are counted.
    spread: u64,
    spread_ms: u64,
    handed_over_ms: Option<u64>,
}

/// What State says of the members.
struct Noted {
    members: Vec<(u64, u64)>,
    marks: BTreeMap<u64, LivenessRecord>,
    /// Whether every member's release knows marks.
    known: bool,
}

/// Places owners while this node leads, until it is dropped.
pub async fn run(replica: Replica, clock: Arc<dyn Clock>, bell: Arc<Bell>) {
    let now_ms = clock.monotonic_ms();
    let mut leader = Leader {
        replica,
        clock,
        watch: Watch::default(),
        planned_ms: None,
        spread: 0,
        spread_ms: now_ms,
        handed_over_ms: None,
    };
    loop {
        if tokio::time::timeout(Duration::from_millis(LOOK_MS), bell.placing()).await.is_ok() {
            leader.planned_ms = None;
        }
        let health = leader.replica.health();
        if !health.leads || health.halted.is_some() {
            leader.watch = Watch::default();
            leader.planned_ms = None;
            continue;
        }
        leader.look(&health).await;
    }
}

impl Leader {
    async fn look(&mut self, health: &Health) {
        let noted = self.replica.read(|state| {
            let members = state.members().iter().filter_map(|record| record.member.as_ref());
            Noted {
                members: members.map(|member| (member.node, member.incarnation)).collect(),
                marks: state.liveness().clone(),
                known: state.may_hold_marks(),
            }
        });
        if !noted.known || (noted.members.len() < 2 && noted.marks.is_empty()) {
            return;
        }
        let now_ms = self.clock.monotonic_ms();
        let heard: Vec<Heard> =
            health.members.iter().filter_map(|member| heard_of(member, health.node, now_ms)).collect();
        let changes = self.watch.look(now_ms, &noted.members, &noted.marks, &heard);
        if !changes.is_empty() {
            for mark in &changes {
                tracing::info!(
                    node = mark.node,
                    mark = mark.mark().as_str_name(),
                    "a member's standing changes"
                );
            }
            self.propose(marks(changes, &caller::system(PRINCIPAL)), "marks were not noted").await;
            self.planned_ms = None;
        }
        let due = self.planned_ms.is_none_or(|planned| now_ms.saturating_sub(planned) >= PLAN_MS);
        if due && !self.replica.read(|state| state.liveness().is_empty()) {
            self.planned_ms = Some(now_ms);
            self.place(now_ms).await;
        }
        self.hand_over(health, now_ms).await;
    }

    /// Moves whatever must, or else a few of those that would be better elsewhere.
    async fn place(&mut self, now_ms: u64) {
        let (owned, candidates) =
            self.replica.read(|state| (state.running_experiments(), state.candidates()));
        let moves = placement::moves(&owned, &candidates);
        let elapsed_ms = now_ms.saturating_sub(self.spread_ms);
        let most = SPREAD_MOVES_A_SECOND as u64;
        self.spread = self.spread.saturating_add(elapsed_ms.saturating_mul(most)).min(most * 1_000);
        self.spread_ms = now_ms;
        let (later, now): (Vec<Move>, Vec<Move>) = moves.into_iter().partition(|found| found.may_wait);
        let (moved, more) = if now.is_empty() {
            let few: Vec<Move> = later.iter().copied().take((self.spread / 1_000) as usize).collect();
            self.spread -= few.len() as u64 * 1_000;
            let more = few.len() < later.len();
            (few, more)
        } else {
            (now, !later.is_empty())
        };
        if more {
            // The next look comes with the next few.
            self.planned_ms = None;
        }
        for entry in assignments(&moved, &caller::system(PRINCIPAL)) {
            self.propose(entry, "owners were not assigned").await;
        }
    }

    /// A leader that drains lets a voter lead that does not.
    async fn hand_over(&mut self, health: &Health, now_ms: u64) {
        let own = health.node;
        let waits = self.handed_over_ms.is_some_and(|tried| now_ms.saturating_sub(tried) < HAND_OVER_MS);
        let next = self.replica.read(|state| {
            let drains = state.liveness_of(own).is_some_and(|record| record.draining);
            let stays = |member: &&MemberHealth| {
                let record = state.liveness_of(member.node);
                let up = record.is_some_and(|record| record.mark() == Mark::Up && !record.draining);
                member.voter && member.node != own && up
            };
            let staying = health.members.iter().filter(stays);
            drains.then(|| staying.max_by_key(|member| member.matched).map(|member| member.node)).flatten()
        });
        if let (Some(next), false) = (next, waits) {
            self.handed_over_ms = Some(now_ms);
            if let Err(error) = self.replica.member().change(&Change::Transfer(next)).await {
                tracing::warn!(to = next, error = %error, "a leader that drains did not hand over yet");
            }
        }
    }

    async fn propose(&self, entry: Entry, otherwise: &'static str) {
        match self.replica.propose_here(entry.encode_to_vec()).await {
            Ok((_, reply)) => {
                if let Some(reply::Result::Refusal(refusal)) = reply.result {
                    tracing::warn!(code = refusal.code, message = refusal.message, "{otherwise}");
                }
            }
            // Looked at again in a moment, on what State says by then.
            Err(failure) => tracing::debug!(?failure, "{otherwise} yet"),
        }
    }
}

/// This node hears itself at every look.
fn heard_of(member: &MemberHealth, own: u64, now_ms: u64) -> Option<Heard> {
    let at_ms = if member.node == own { now_ms } else { member.heard_at_ms? };
    Some(Heard { node: member.node, boot: member.boot, at_ms })
}

/// The entry that notes marks.
fn marks(marks: Vec<LivenessMark>, principal: &Principal) -> Entry {
    Entry {
        principal: Some(principal.clone()),
        command: Some(entry::Command::NoteLiveness(NoteLiveness { marks })),
        ..Entry::default()
    }
}

/// Before a node ends: says so, and waits until its owners are elsewhere, a bounded time. They would follow its silence otherwise,
/// seconds later.
pub async fn leave(replica: &Replica) {
    let health = replica.health();
    let node = health.node;
    let stands = |state: &State| {
        let up = |record: &LivenessRecord| record.mark() == Mark::Up && record.boot == health.boot;
        state.liveness_of(node).filter(|record| up(record)).map(|record| record.incarnation)
    };
    let Some(incarnation) = replica.read(stands) else { return };
    let others = replica.read(|state| state.candidates().iter().any(|candidate| candidate.node != node));
    if !others {
        return;
    }
    let until = Instant::now() + LEAVE_PATIENCE;
    let left = LivenessMark {
        node,
        incarnation,
        mark: Mark::Left.into(),
        boot: health.boot,
        ..LivenessMark::default()
    };
    let said = marks(vec![left], &caller::system(PRINCIPAL));
    let gone = async {
        if let Err(failure) = replica.propose(said.encode_to_vec()).await {
            tracing::info!(?failure, "ending without a word to the others");
            return;
        }
        let owns = |owned: &Owned| owned.node == node;
        while replica.read(State::running_experiments).iter().any(owns) {
            tokio::time::sleep(LEAVE_LOOK).await;
        }
    };
    if tokio::time::timeout_at(until, gone).await.is_err() {
        tracing::info!("ending before all owners are elsewhere; the leader places them");
    }
}
