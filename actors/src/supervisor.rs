//! One supervisor per node: makes the owners that run equal to the owners that are wanted, and starts crashed ones again.
//!
//! ```text
//!   Directory (wanted) --Reconcile--> supervisor --spawn/stop--> owner, owner, owner ...
//!                                         ^------- failed ---------'
//!                                         '-- Retry, after a pause that doubles
//! ```
//!
//! An owner keeps nothing that State does not hold, so a start and a restart are the same act: read the view, think on. A
//! crash therefore costs a pause. One that crashes again and again is a bug, not bad luck: past the intensity bound the owner is
//! held and shown in health, and its flag keeps serving the last committed allocation.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::time::Instant;

use crate::directory::{Directory, Door, Latch, Standing, Wanted};
use crate::owner::{Owner, OwnerArguments, OwnerMessage};
use crate::ports::Ports;

/// How crashes are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restarts {
    /// Crashes within `window` after which an owner is held.
    pub crashes_max: usize,
    /// The window.
    pub window: Duration,
    /// Pause after the first crash of a window; doubles with each.
    pub pause_first: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Default for Restarts {
    fn default() -> Self {
        Self {
            crashes_max: 5,
            window: Duration::from_secs(60),
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
        }
    }
}

/// How long an owner may take to stop. Its handlers only think and spawn, so a longer wait means it never will.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an owner stops when its assignment ended.
const MOVED: &str = "assignment ended";

pub(crate) enum SupervisorMessage {
    /// What is wanted changed.
    Reconcile,
    /// A crashed owner's pause is over.
    Retry(Wanted),
}

pub(crate) struct Supervisor;

pub(crate) struct SupervisorArguments {
    pub(crate) directory: Arc<Directory>,
    pub(crate) ports: Ports,
    pub(crate) restarts: Restarts,
}

/// One assignment that the supervisor knows.
struct Child {
    wanted: Wanted,
    actor: Option<ActorRef<OwnerMessage>>,
    recent: VecDeque<Instant>,
    crashes: u64,
}

pub(crate) struct SupervisorState {
    directory: Arc<Directory>,
    ports: Ports,
    restarts: Restarts,
    children: BTreeMap<u32, Child>,
    // For lookup only: the order of ids is that of a process-wide counter.
    experiments: BTreeMap<ActorId, u32>,
}

impl Actor for Supervisor {
    type Msg = SupervisorMessage;
    type State = SupervisorState;
    type Arguments = SupervisorArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let SupervisorArguments { directory, ports, restarts } = arguments;
        Ok(SupervisorState {
            directory,
            ports,
            restarts,
            children: BTreeMap::new(),
            experiments: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SupervisorMessage::Reconcile => state.reconcile(&myself).await,
            SupervisorMessage::Retry(wanted) => {
                let rests = |child: &Child| child.wanted == wanted && child.actor.is_none();
                if state.directory.wants(wanted) && state.children.get(&wanted.experiment).is_some_and(rests)
                {
                    state.start(&myself, wanted).await;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => state.crashed(&myself, &cell, &error.to_string()),
            // One that stopped without being asked to is as gone as one that crashed.
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.crashed(&myself, &cell, &reason.unwrap_or_else(|| "stopped by itself".to_owned()));
            }
            _ => {}
        }
        Ok(())
    }

    // ractor itself does not wait for children: without this, a node that says it has stopped would still propose.
    async fn post_stop(
        &self,
        myself: ActorRef<Self::Msg>,
        _state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        myself.stop_children_and_wait(Some("node stops".to_owned()), Some(STOP_TIMEOUT)).await;
        Ok(())
    }
}

impl SupervisorState {
    async fn reconcile(&mut self, myself: &ActorRef<SupervisorMessage>) {
        let wanted = self.directory.wanted();
        let keep: BTreeMap<u32, u64> =
            wanted.iter().map(|wanted| (wanted.experiment, wanted.epoch)).collect();
        let gone: Vec<u32> = self
            .children
            .values()
            .filter(|child| keep.get(&child.wanted.experiment) != Some(&child.wanted.epoch))
            .map(|child| child.wanted.experiment)
            .collect();
        for experiment in gone {
            self.stop(experiment).await;
        }
        for wanted in wanted {
            if let Entry::Vacant(place) = self.children.entry(wanted.experiment) {
                place.insert(Child { wanted, actor: None, recent: VecDeque::new(), crashes: 0 });
                self.start(myself, wanted).await;
            }
        }
    }

    async fn stop(&mut self, experiment: u32) {
        let Some(child) = self.children.remove(&experiment) else { return };
        let Some(actor) = child.actor else { return };
        self.experiments.remove(&actor.get_id());
        // Waited for: two owners of one experiment in one node would only fence each other off.
        if actor.stop_and_wait(Some(MOVED.to_owned()), Some(STOP_TIMEOUT)).await.is_err() {
            tracing::warn!(experiment, "owner did not stop in time: killed");
            actor.kill();
        }
    }

    async fn start(&mut self, myself: &ActorRef<SupervisorMessage>, wanted: Wanted) {
        let latch = Arc::new(Latch::default());
        let arguments = OwnerArguments {
            experiment: wanted.experiment,
            epoch: wanted.epoch,
            latch: Arc::clone(&latch),
            ports: self.ports.clone(),
        };
        match Owner::spawn_linked(None, Owner, arguments, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.experiments.insert(actor.get_id(), wanted.experiment);
                let crashes = self.children.get_mut(&wanted.experiment).map_or(0, |child| {
                    child.actor = Some(actor.clone());
                    child.crashes
                });
                self.directory.note(wanted, Standing::Running, crashes, Some(Door { actor, latch }));
                // The first look: whatever was frozen before it ran.
                self.directory.frozen(wanted.experiment);
            }
            // The supervisor is stopping: nothing is to be started again.
            Err(SpawnErr::StartupFailed(error)) => self.rest(myself, wanted, &error.to_string()),
            Err(error) => self.rest(myself, wanted, &error.to_string()),
        }
    }

    fn crashed(&mut self, myself: &ActorRef<SupervisorMessage>, cell: &ActorCell, reason: &str) {
        // Unknown: it was stopped on purpose, or has a successor.
        let Some(experiment) = self.experiments.remove(&cell.get_id()) else { return };
        let Some(child) = self.children.get_mut(&experiment) else { return };
        child.actor = None;
        let wanted = child.wanted;
        self.rest(myself, wanted, reason);
    }

    /// Counts the crash, then lets the owner rest: for a pause, or for good.
    fn rest(&mut self, myself: &ActorRef<SupervisorMessage>, wanted: Wanted, reason: &str) {
        let Some(child) = self.children.get_mut(&wanted.experiment) else { return };
        let now = Instant::now();
        child.crashes = child.crashes.saturating_add(1);
        child.recent.push_back(now);
        while child.recent.front().is_some_and(|at| now.duration_since(*at) > self.restarts.window) {
            child.recent.pop_front();
        }
        let reason = reason.to_owned();
        if child.recent.len() >= self.restarts.crashes_max {
            tracing::error!(experiment = wanted.experiment, crashes = child.crashes, reason, "owner held");
            self.directory.note(wanted, Standing::Held { reason }, child.crashes, None);
            return;
        }
        tracing::warn!(experiment = wanted.experiment, crashes = child.crashes, reason, "owner crashed");
        let doublings = u32::try_from(child.recent.len().saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let pause = self.restarts.pause_first.saturating_mul(1_u32 << doublings).min(self.restarts.pause_max);
        self.directory.note(wanted, Standing::Restarting { reason }, child.crashes, None);
        drop(myself.send_after(pause, move || SupervisorMessage::Retry(wanted)));
    }
}
