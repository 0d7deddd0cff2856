//! The shells: one actor per running experiment, supervised, around a pure mind.
//!
//! ```text
//!                          node (applier, publisher)
//!                assign / end / frozen |        ^ submit, owner_view
//!                                      v        |
//!   Owners = Directory (bounded) --> Supervisor --> Owner, Owner, Owner ...  (ractor)
//!                                                     '--> mind (featureops-decision, pure)
//! ```
//!
//! Truth lives in the log; an owner holds only the right to propose. So every actor here may stop or crash at any moment, and
//! nothing is lost but time. See README.md for what is deliberately absent.

#![forbid(unsafe_code)]

pub mod directory;
pub mod mind;
mod owner;
pub mod ports;
pub mod supervisor;

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef};

use directory::{Directory, Full, Notice, OwnerHealth};
use ports::Ports;
use supervisor::{Restarts, Supervisor, SupervisorArguments, SupervisorMessage};

/// How long stopping may take: every owner gets five seconds, all at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// All owners of one node. A clone is the same owners.
#[derive(Clone)]
pub struct Owners {
    directory: Arc<Directory>,
}

/// The supervisor did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStarted(pub String);

impl std::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "owner supervisor did not start: {}", self.0)
    }
}

impl std::error::Error for NotStarted {}

impl Owners {
    /// Starts the supervisor of a node.
    ///
    /// # Errors
    /// Its actor could not be spawned.
    pub async fn start(ports: Ports, restarts: Restarts) -> Result<Self, NotStarted> {
        let directory = Arc::new(Directory::default());
        let arguments = SupervisorArguments { directory: Arc::clone(&directory), ports, restarts };
        let (supervisor, _) = Supervisor::spawn(None, Supervisor, arguments)
            .await
            .map_err(|error| NotStarted(error.to_string()))?;
        directory.attach(supervisor);
        Ok(Self { directory })
    }

    /// The assignment was applied here: this node proposes for the experiment under `epoch`.
    ///
    /// # Errors
    /// [`Full`]: the experiment stays without autonomous decisions.
    pub fn assigned(&self, experiment: u32, epoch: u64) -> Result<(), Full> {
        self.directory.assign(experiment, epoch)
    }

    /// The experiment ended, or another node was assigned.
    pub fn ended(&self, experiment: u32) {
        self.directory.end(experiment);
    }

    /// The experiment's moments were frozen, or its view changed otherwise.
    pub fn frozen(&self, experiment: u32) -> Notice {
        self.directory.frozen(experiment)
    }

    /// How every owner fares.
    #[must_use]
    pub fn health(&self) -> Vec<OwnerHealth> {
        self.directory.health()
    }

    /// Owners that run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.directory.running()
    }

    /// Notices that became a message; the rest were coalesced.
    #[must_use]
    pub fn casts(&self) -> u64 {
        self.directory.casts()
    }

    /// Stops every owner and waits for them: afterwards nothing here proposes.
    pub async fn stop(&self) {
        let Some(supervisor) = self.directory.detach() else { return };
        stop(&supervisor).await;
    }
}

async fn stop(supervisor: &ActorRef<SupervisorMessage>) {
    let reason = Some("node stops".to_owned());
    if supervisor.stop_and_wait(reason, Some(STOP_TIMEOUT)).await.is_err() {
        tracing::warn!("owners did not stop in time: killed");
        supervisor.kill();
    }
}
