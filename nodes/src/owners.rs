//! Owners: this node's side of the actors' ports.
//!
//! ```text
//!   apply ── effects ──> bell ──> reconcile: State's assignments for this node  ──> actors start and stop
//!        └── Frozen ──────────> owner looks ──> mind ──> Proposer ──> SubmitDecision, stamped ──> log
//!   leader of several ── marks, moves ──> AssignOwners (`placement.rs`)
//!   a node that is alone ── unassigned experiments, and all of its own after a restart ──> one AssignOwners
//! ```
//!
//! Truth stays in the log: an assignment counts when it was applied here, and a decision counts when apply let it through.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use featureops_actors::directory::Standing;
use featureops_actors::mind::OwnerMinds;
use featureops_actors::ports::{
    Answer, Clock, Compute, OwnerView, Ports, Proposal, Proposer, Submission, Views, Work, Worked,
};
use featureops_actors::supervisor::Restarts;
use featureops_cluster::{Environment, Health};
use featureops_decision::owner::{FrozenView, Recent};
use featureops_proto::log::{AssignOwners, Entry, assign_owners::Assignment, entry, reply};
use featureops_proto::{ErrorCode, log, unix_ms, v1};
use featureops_state::Effect;
use featureops_state::placement::{MAX_ASSIGNMENTS, Owned};
use prost::Message as _;
use tokio::sync::Notify;

use crate::caller;
use crate::replica::Replica;

/// Decisions of a flag that an owner is shown; promotions also beyond them.
const RECENT_MAX: usize = 64;
/// How often assignments are looked at without a bell: a leader that changed rings none.
const LOOK: Duration = Duration::from_secs(1);

/// The owners of this node.
#[derive(Clone)]
pub struct Owners {
    actors: featureops_actors::Owners,
    bell: Arc<Bell>,
}

/// Rung by apply.
#[derive(Default)]
pub struct Bell {
    notify: Notify,
    placing: Notify,
}

impl Bell {
    /// Something about experiments or their owners changed.
    pub fn ring(&self) {
        self.notify.notify_one();
    }

    /// Who may own, or what there is to own, changed.
    fn ring_to_place(&self) {
        self.placing.notify_one();
    }

    /// Waits for that.
    pub(crate) async fn placing(&self) {
        self.placing.notified().await;
    }
}

impl Owners {
    /// Starts the supervisor.
    ///
    /// # Errors
    /// It could not be spawned; the text says why.
    pub async fn start(
        environment: &Environment,
        replica: &Replica,
        bell: Arc<Bell>,
    ) -> Result<Self, String> {
        let ports = Ports {
            proposer: Arc::new(LogProposer(replica.clone())),
            views: Arc::new(StateViews(replica.clone())),
            clock: Arc::new(NodeClock(Arc::clone(&environment.clock))),
            compute: Arc::new(Beside(Arc::clone(&environment.compute))),
            minds: Arc::new(OwnerMinds::default()),
        };
        let actors = featureops_actors::Owners::start(ports, Restarts::default()).await;
        Ok(Self { actors: actors.map_err(|error| error.to_string())?, bell })
    }

    /// Hears what was applied. Called by apply: never waits.
    pub fn note(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Frozen { number } => {
                    self.actors.frozen(*number);
                }
                Effect::ExperimentChanged { .. } | Effect::LivenessChanged => {
                    self.bell.ring();
                    self.bell.ring_to_place();
                }
                Effect::OwnerAssigned { .. } => self.bell.ring(),
                _ => {}
            }
        }
    }

    /// Follows the assignments until it is dropped.
    pub async fn run(self, replica: Replica) {
        let mut known = BTreeSet::new();
        // A new incarnation takes new epochs, so that whatever the last one still had under way is fenced off.
        let mut claimed = BTreeSet::new();
        loop {
            let health = replica.health();
            let node = health.node;
            let (running, marked, stands) = replica.read(|state| {
                let stands = state.liveness_of(node).map(|record| record.boot);
                (state.running_experiments(), !state.liveness().is_empty(), stands)
            });
            if marked {
                // What was assigned before this life was noted is of the last one: its epoch may be in use still.
                claimed.clear();
            }
            let lives = marked && stands == Some(health.boot);
            let mut mine = BTreeSet::new();
            for Owned { experiment, node: owner, epoch } in &running {
                if *owner == node && (lives || claimed.contains(experiment)) {
                    mine.insert(*experiment);
                    if let Err(full) = self.actors.assigned(*experiment, *epoch) {
                        tracing::warn!(experiment, error = %full, "owner not started");
                    }
                }
            }
            for gone in known.difference(&mine) {
                self.actors.ended(*gone);
            }
            known = mine;
            if health.leads && !marked {
                claim(&replica, &health, &running, &mut claimed).await;
            }
            claimed.retain(|number| running.iter().any(|owned| owned.experiment == *number));
            let _ = tokio::time::timeout(LOOK, self.bell.notify.notified()).await;
        }
    }

    /// Experiments whose owner crashed too often.
    #[must_use]
    pub fn held(&self) -> Vec<u32> {
        let health = self.actors.health();
        let held = health.into_iter().filter(|owner| matches!(owner.standing, Standing::Held { .. }));
        held.map(|owner| owner.experiment).collect()
    }

    /// Owners that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.actors.running()
    }

    /// Stops every owner: afterwards none proposes.
    pub async fn stop(&self) {
        self.actors.stop().await;
    }
}

/// Proposes this node, which leads, as owner of whatever it does not own, and again of what was its own before it started: without
/// marks nobody knows whether another owner lives.
async fn claim(replica: &Replica, health: &Health, running: &[Owned], claimed: &mut BTreeSet<u32>) {
    let node = health.node;
    let wanted: Vec<u32> = running
        .iter()
        .filter(|owned| owned.node != node || !claimed.contains(&owned.experiment))
        .map(|owned| owned.experiment)
        .take(MAX_ASSIGNMENTS)
        .collect();
    if wanted.is_empty() {
        return;
    }
    let assignment = |experiment: &u32| Assignment { experiment: *experiment, node, from_epoch: None };
    let assignments = wanted.iter().map(assignment).collect();
    let entry = Entry {
        principal: Some(caller::system("placement")),
        command: Some(entry::Command::AssignOwners(AssignOwners { assignments })),
        ..Entry::default()
    };
    match replica.propose(entry.encode_to_vec()).await {
        Ok((_, reply)) => match reply.result {
            Some(reply::Result::Refusal(refusal)) => {
                tracing::warn!(code = refusal.code, message = refusal.message, "owners were not assigned");
            }
            _ => claimed.extend(wanted),
        },
        // Looked at again in a second; assigning twice only raises the epoch.
        Err(failure) => tracing::debug!(?failure, "owners were not assigned yet"),
    }
}

struct LogProposer(Replica);

impl Proposer for LogProposer {
    fn submit(&self, proposal: Proposal) -> Submission {
        let replica = self.0.clone();
        Box::pin(async move {
            let span = tracing::debug_span!("decide", experiment = proposal.experiment);
            let entry = Entry {
                principal: Some(caller::system("owner")),
                request_id: String::new(),
                owner: Some(proposal.stamp),
                compiled_against: None,
                sent_hash: None,
                command: Some(entry::Command::SubmitDecision(log::SubmitDecision {
                    decision: Some(proposal.decision),
                })),
            };
            let answered =
                tracing::Instrument::instrument(replica.propose(entry.encode_to_vec()), span).await;
            match answered.map(|(_, reply)| reply.result) {
                Ok(Some(reply::Result::Done(_))) => Answer::Accepted,
                // A code of another release stops growth for a while, as any refusal that a newer view does not cure.
                Ok(Some(reply::Result::Refusal(refusal))) => {
                    Answer::Refused(ErrorCode::parse(&refusal.code).unwrap_or(ErrorCode::WrongState))
                }
                // Not proposed at all is the same to an owner: it repeats the sequence, which the log answers once.
                Ok(_) | Err(_) => Answer::Unknown,
            }
        })
    }
}

struct StateViews(Replica);

impl Views for StateViews {
    fn owner_view(&self, experiment: u32) -> Option<OwnerView> {
        self.0.read(|state| {
            let view = state.owner_view(experiment)?;
            let definition = state.experiment_by_number(experiment)?;
            let flag = state.flag(&view.environment, &view.flag)?;
            let decisions = state.flag_decisions(&view.environment, &view.flag);
            Some(OwnerView { seed: view.seed, frozen: frozen_view(view, &definition, &flag, decisions) })
        })
    }
}

/// State's view in the mind's terms. `decisions` are the flag's, newest first.
pub fn frozen_view<'d>(
    view: featureops_state::OwnerView,
    definition: &v1::Experiment,
    flag: &v1::Flag,
    decisions: impl Iterator<Item = &'d v1::Decision>,
) -> FrozenView {
    FrozenView {
        experiment: definition.name.clone(),
        state: definition.state(),
        runs: definition.allocation.as_ref().map(|allocation| allocation.runs.clone()).unwrap_or_default(),
        default_variant: flag.default_variant.clone().unwrap_or_default(),
        growth: view.reallocate,
        protection: view.trip,
        cool_down_until_ms: view.cool_down_until_ms,
        frozen_until_ms: view.frozen_until_ms,
        last_decision_ms: view.last_decision_ms,
        recent: decisions
            .enumerate()
            .filter(|(at, decision)| {
                // A promotion is proposed once a generation, however many reallocations came after it.
                let promotes = decision.action() == v1::decision::Action::Promote;
                decision.experiment == definition.name && (*at < RECENT_MAX || promotes)
            })
            .map(|(_, decision)| recent(decision))
            .collect(),
        epoch: view.epoch,
        last_sequence: view.last_sequence,
        flag: view.flag,
        inputs: view.inputs,
    }
}

fn recent(decision: &v1::Decision) -> Recent {
    Recent {
        action: decision.action(),
        status: decision.status(),
        generation: decision.generation,
        variant: decision.variant.clone(),
        weights_after: decision.weights_after.clone(),
        time_ms: decision.time.as_ref().map_or(0, unix_ms),
    }
}

struct NodeClock(Arc<dyn featureops_cluster::environment::Clock>);

impl Clock for NodeClock {
    fn now_ms(&self) -> i64 {
        self.0.unix_ms()
    }
}

/// Minds think where the environment puts heavy work.
struct Beside(Arc<dyn featureops_cluster::environment::Compute>);

impl Compute for Beside {
    fn run(&self, work: Work) -> Worked {
        self.0.run(work)
    }
}

/// Recomputes a recorded decision.
#[must_use]
pub fn replay(recorded: v1::Decision) -> v1::ReplayDecisionResponse {
    match featureops_decision::replay::replay(&recorded) {
        Ok(recomputed) => v1::ReplayDecisionResponse {
            same: recomputed.encode_to_vec() == recorded.encode_to_vec(),
            recorded: Some(recorded),
            recomputed: Some(recomputed),
            unavailable: String::new(),
        },
        Err(unavailable) => v1::ReplayDecisionResponse {
            same: false,
            recorded: Some(recorded),
            recomputed: None,
            unavailable: unavailable.to_string(),
        },
    }
}
