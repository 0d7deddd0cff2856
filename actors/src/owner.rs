//! The shell around one experiment's mind: feeds it events, performs its actions, keeps nothing.
//!
//! ```text
//!   Look -------> read the view --Frozen--> mind --Submit--> proposer (at most one under way)
//!   Answered ----------------Replied/Unanswered--^                |
//!      ^----------------------------------------------------------'
//! ```
//!
//! Everything the mind must know is in the view, so the shell may be stopped or may crash at any line: a decision under way is
//! then unknown, and the next owner learns from its first view whether it happened. A panic of the mind is passed on to the
//! supervisor, which starts a new shell with a new mind.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use featureops_decision::owner::{Action, Event};
use featureops_proto::{log, v1};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::directory::Latch;
use crate::mind::Mind;
use crate::ports::{Answer, Ports, Proposal, chance_of};

/// How long a proposal may go unanswered before it counts as unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before an unknown proposal is repeated, so that an owner without a quorum does not spin.
const REPEAT_PAUSE: Duration = Duration::from_millis(250);

pub(crate) enum OwnerMessage {
    /// Something in the view changed: read it.
    Look,
    /// What became of the proposal under way.
    Answered { sequence: u64, answer: Answer },
}

pub(crate) struct Owner;

pub(crate) struct OwnerArguments {
    pub(crate) experiment: u32,
    pub(crate) epoch: u64,
    pub(crate) latch: Arc<Latch>,
    pub(crate) ports: Ports,
}

/// Ends the wait for an answer with the shell that waits for it.
struct UnderWay(AbortHandle);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct OwnerState {
    experiment: u32,
    epoch: u64,
    latch: Arc<Latch>,
    ports: Ports,
    // Absent only while it thinks.
    mind: Option<Box<dyn Mind>>,
    // Of the last view: what the next step's chance is drawn from.
    seed: u64,
    last_sequence: u64,
    under_way: Option<UnderWay>,
}

impl Actor for Owner {
    type Msg = OwnerMessage;
    type State = OwnerState;
    type Arguments = OwnerArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let OwnerArguments { experiment, epoch, latch, ports } = arguments;
        let mind = Some(ports.minds.mind(experiment));
        Ok(OwnerState { experiment, epoch, latch, ports, mind, seed: 0, last_sequence: 0, under_way: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            OwnerMessage::Look => {
                state.latch.lower();
                let Some(view) = state.ports.views.owner_view(state.experiment) else { return Ok(()) };
                // The log has moved on to another owner. Its epoch in our hands would be two owners under one fence.
                if view.frozen.epoch != state.epoch {
                    return Ok(());
                }
                state.seed = view.seed;
                state.last_sequence = view.frozen.last_sequence;
                state.step(&myself, Event::Frozen(Box::new(view.frozen))).await
            }
            OwnerMessage::Answered { sequence, answer } => {
                let event = match answer {
                    Answer::Accepted => Event::Replied { sequence, accepted: Ok(()) },
                    Answer::Refused(code) => Event::Replied { sequence, accepted: Err(code) },
                    Answer::Unknown => Event::Unanswered { sequence },
                };
                state.step(&myself, event).await
            }
        }
    }
}

impl OwnerState {
    /// Lets the mind think where thinking is done, then performs what it says.
    async fn step(
        &mut self,
        myself: &ActorRef<OwnerMessage>,
        event: Event,
    ) -> Result<(), ActorProcessingErr> {
        let mut mind = self.mind.take().ok_or("the mind was lost in an earlier step")?;
        let now_ms = self.ports.clock.now_ms();
        let mut chance = chance_of(self.seed, self.epoch, self.last_sequence.saturating_add(1));
        let (sender, thought) = oneshot::channel();
        let work = Box::new(move || {
            let outcome =
                std::panic::catch_unwind(AssertUnwindSafe(|| mind.step(event, now_ms, &mut chance)));
            let outcome = outcome.map(|actions| (mind, actions)).map_err(|panic| {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
            });
            drop(sender.send(outcome));
        });
        self.ports.compute.run(work).await;
        let (mind, actions) = match thought.await {
            Ok(Ok(thought)) => thought,
            Ok(Err(panic)) => return Err(format!("the mind panicked: {panic}").into()),
            Err(_) => return Err("the step was not run to its end".into()),
        };
        self.mind = Some(mind);
        for action in actions {
            match action {
                Action::Submit { stamp, decision } => self.submit(myself, stamp, *decision),
                Action::Note(text) => {
                    tracing::info!(experiment = self.experiment, epoch = self.epoch, "{text}")
                }
            }
        }
        Ok(())
    }

    /// Proposes, and waits beside the mailbox. One that is still waited for is given up: the mind has decided that it is past.
    fn submit(&mut self, myself: &ActorRef<OwnerMessage>, stamp: log::OwnerStamp, decision: v1::Decision) {
        let sequence = stamp.sequence;
        let submission =
            self.ports.proposer.submit(Proposal { experiment: self.experiment, stamp, decision });
        let owner = myself.clone();
        let waiting = tokio::spawn(async move {
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, submission).await.unwrap_or(Answer::Unknown);
            if answer == Answer::Unknown {
                tokio::time::sleep(REPEAT_PAUSE).await;
            }
            // An owner that is gone has a successor, which reads the outcome from its view.
            drop(owner.cast(OwnerMessage::Answered { sequence, answer }));
        });
        self.under_way = Some(UnderWay(waiting.abort_handle()));
    }
}
