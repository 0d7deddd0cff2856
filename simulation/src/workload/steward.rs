//! The steward: the person who runs the cluster. Brings it together, puts a lost disk's node out and in again, takes machines out of
//! service and others in, hands the lead on, drains nodes, and at the end sees to it that everybody votes.

use std::collections::BTreeSet;
use std::time::Duration;

use featureops::rpc::cluster_service_client::ClusterServiceClient;
use featureops_proto::v1::{self, member::Role};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{Stage, World};
use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::machine::Machine;
use crate::trace::now_micros;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Looks at which a machine that is to take another's place may not be ready; then it is left alone.
const PATIENCE: u64 = 40;

/// What is under way: one at a time, as a careful person does it.
enum Work {
    None,
    /// The machine lost its disk: its old member goes, then the new one votes.
    Readmit {
        machine: u64,
        removed: bool,
    },
    /// A spare learns, and then votes instead of the machine.
    Replace {
        old: u64,
        new: u64,
        looks: u64,
    },
    /// A spare learns and goes again.
    Visit {
        machine: u64,
        looks: u64,
    },
}

struct Steward {
    world: World,
    caller: Caller,
    dice: Dice,
    request: u64,
    work: Work,
    drained: BTreeSet<u64>,
    next_ms: u64,
}

/// Keeps the cluster until the world closes and everybody votes.
pub async fn run(world: World) -> turmoil::Result {
    let caller = world.caller("steward", "human:steward");
    let dice = Dice::new(world.plan.seed, "steward");
    let (work, drained) = (Work::None, BTreeSet::new());
    let mut steward = Steward { world, caller, dice, request: 0, work, drained, next_ms: 8_000 };
    loop {
        tokio::time::sleep(LOOK).await;
        let leader = steward.world.leader.get();
        if let Some(machine) = steward.machine(leader)
            && steward.dice.percent(70)
        {
            steward.caller.move_to(&machine.name);
        }
        let act =
            |channel, request| async move { ClusterServiceClient::new(channel).get_cluster(request).await };
        let asked = steward.caller.call("look at cluster", v1::GetClusterRequest::default(), act).await;
        let Some(cluster) = asked.ok() else { continue };
        let closing = steward.world.stage.reached(Stage::Closing);
        if steward.tend(&cluster).await && closing {
            return Ok(());
        }
        let now_ms = now_micros() / 1_000;
        if !steward.world.stage.reached(Stage::Healed) && now_ms >= steward.next_ms {
            let most = steward.world.plan.churn_max_ms;
            steward.next_ms = now_ms.saturating_add(steward.dice.between(500, most));
            steward.churn(&cluster).await;
        }
    }
}

fn role(cluster: &v1::Cluster, node: u64) -> Option<Role> {
    cluster.members.iter().find(|member| member.node == node).map(v1::Member::role)
}

impl Steward {
    fn machine(&self, number: u64) -> Option<Machine> {
        self.world.machines.iter().find(|machine| machine.number == number).cloned()
    }

    fn request_id(&mut self) -> String {
        self.request = self.request.saturating_add(1);
        format!("steward-{}", self.request)
    }

    async fn ask<Q, R>(
        &mut self,
        what: &str,
        request: Q,
        act: impl Fn(Channel, Request<Q>) -> R,
    ) -> Answer<v1::Cluster>
    where
        Q: Clone,
        R: Future<Output = Result<Response<v1::Cluster>, Status>>,
    {
        self.caller.call(what, request, act).await
    }

    /// Does what is next. True: everybody who should vote does, as the leader itself says, and nothing is under way.
    async fn tend(&mut self, cluster: &v1::Cluster) -> bool {
        self.take_up();
        match self.work {
            Work::None => {}
            Work::Readmit { machine, removed } => self.readmit(cluster, machine, removed).await,
            Work::Replace { old, new, looks } => self.replace(cluster, old, new, looks).await,
            Work::Visit { machine, looks } => self.visit(cluster, machine, looks).await,
        }
        let visitor = match self.work {
            Work::Replace { new, .. } => new,
            Work::Visit { machine, .. } => machine,
            _ => 0,
        };
        let mut whole = cluster.leader == cluster.node && cluster.leader != 0;
        let powered: Vec<u64> = self
            .world
            .machines
            .iter()
            .filter(|machine| machine.life.is_powered() && machine.number != visitor)
            .map(|machine| machine.number)
            .collect();
        for number in powered {
            match role(cluster, number) {
                Some(Role::Learner) => {
                    whole = false;
                    self.promote(number).await;
                }
                Some(_) => {}
                None => whole = false,
            }
        }
        if self.world.stage.reached(Stage::Closing) {
            for node in std::mem::take(&mut self.drained) {
                self.drain(node, true).await;
            }
        }
        whole && matches!(self.work, Work::None) && self.drained.is_empty()
    }

    /// Takes up what the world did: a disk was lost.
    fn take_up(&mut self) {
        let lost = self.world.works.get();
        if matches!(self.work, Work::None) && lost != 0 {
            self.work = Work::Readmit { machine: lost, removed: false };
        }
    }

    fn done(&mut self, what: &'static str) {
        self.world.trace.note("steward", what);
        self.world.history.write(|seen| seen.stewarded.push(what));
        self.work = Work::None;
        self.world.works.end();
    }

    async fn promote(&mut self, node: u64) {
        let request = v1::PromoteMemberRequest { node, request_id: self.request_id() };
        let act = |channel, request| async move {
            ClusterServiceClient::new(channel).promote_member(request).await
        };
        let _ = self.ask(&format!("promote {node}"), request, act).await;
    }

    async fn remove(&mut self, node: u64) -> bool {
        let request = v1::RemoveMemberRequest { node, request_id: self.request_id() };
        let act =
            |channel, request| async move { ClusterServiceClient::new(channel).remove_member(request).await };
        matches!(self.ask(&format!("remove {node}"), request, act).await, Answer::Ok(_))
    }

    async fn readmit(&mut self, cluster: &v1::Cluster, machine: u64, removed: bool) {
        if !removed {
            // What was not answered may have been done: a look tells.
            if self.remove(machine).await || role(cluster, machine).is_none() {
                self.work = Work::Readmit { machine, removed: true };
            }
            return;
        }
        if matches!(role(cluster, machine), Some(Role::Voter | Role::Leader)) {
            self.done("readmitted");
        }
    }

    async fn replace(&mut self, cluster: &v1::Cluster, old: u64, new: u64, looks: u64) {
        let votes = |node| matches!(role(cluster, node), Some(Role::Voter | Role::Leader));
        if votes(new) && role(cluster, old).is_none() {
            if let Some(machine) = self.machine(old) {
                machine.life.retire();
            }
            self.done("replaced");
            return;
        }
        self.work = Work::Replace { old, new, looks: looks.saturating_add(1) };
        if role(cluster, new) == Some(Role::Learner) {
            let request =
                v1::ReplaceMemberRequest { old_node: old, new_node: new, request_id: self.request_id() };
            let act = |channel, request| async move {
                ClusterServiceClient::new(channel).replace_member(request).await
            };
            let _ = self.ask(&format!("replace {old} by {new}"), request, act).await;
        } else if votes(new) {
            // Half of it was done: the old one goes alone.
            self.remove(old).await;
        }
    }

    async fn visit(&mut self, cluster: &v1::Cluster, machine: u64, looks: u64) {
        let knows = role(cluster, machine).is_some();
        self.work = Work::Visit { machine, looks: looks.saturating_add(1) };
        if looks > PATIENCE / 2 || self.world.stage.reached(Stage::Healed) {
            if !knows {
                if let Some(machine) = self.machine(machine) {
                    machine.life.retire();
                }
                self.done("visited");
            } else {
                self.remove(machine).await;
            }
        }
    }

    async fn drain(&mut self, node: u64, undo: bool) {
        let request =
            v1::DrainMemberRequest { node, undo, validate_only: false, request_id: self.request_id() };
        let act =
            |channel, request| async move { ClusterServiceClient::new(channel).drain_member(request).await };
        let drained = self.ask(&format!("drain {node} {undo}"), request, act).await;
        match drained {
            Answer::Ok(_) | Answer::Unknown(_) if !undo => drop(self.drained.insert(node)),
            Answer::Unknown(_) => drop(self.drained.insert(node)),
            _ => {}
        }
    }

    /// One thing that people do to a cluster under load.
    async fn churn(&mut self, cluster: &v1::Cluster) {
        let voters: Vec<u64> = cluster
            .members
            .iter()
            .filter(|member| matches!(member.role(), Role::Voter | Role::Leader))
            .map(|member| member.node)
            .collect();
        let Some(node) = self.dice.pick(&voters).copied() else { return };
        let spare = self.world.machines.iter().find(|machine| !machine.life.is_powered()).cloned();
        match self.dice.between(0, 9) {
            0..=2 => {
                let request = v1::TransferLeadershipRequest { node, request_id: self.request_id() };
                let act = |channel, request| async move {
                    ClusterServiceClient::new(channel).transfer_leadership(request).await
                };
                let _ = self.ask(&format!("transfer to {node}"), request, act).await;
            }
            3..=4 => match self.drained.pop_first() {
                Some(drained) => self.drain(drained, true).await,
                None => self.drain(node, false).await,
            },
            5 => {
                let owner_weight = u32::try_from(self.dice.between(1, 300)).unwrap_or(100);
                let request = v1::SetOwnerWeightRequest {
                    node,
                    owner_weight,
                    validate_only: false,
                    request_id: self.request_id(),
                };
                let act = |channel, request| async move {
                    ClusterServiceClient::new(channel).set_owner_weight(request).await
                };
                let _ = self.ask(&format!("weigh {node}"), request, act).await;
            }
            _ => {
                let Some(spare) = spare.filter(|_| self.world.works.begin(node)) else { return };
                spare.life.set_powered(true);
                self.work = if self.dice.percent(70) {
                    Work::Replace { old: node, new: spare.number, looks: 0 }
                } else {
                    Work::Visit { machine: spare.number, looks: 0 }
                };
            }
        }
    }
}
