//! The owner's mind: one experiment's loop as a step function. Events in, actions out; no clock, no waiting, no chance of its own.
//!
//! ```text
//!             Frozen(view) --+                     +--> Submit{stamp, decision}  (at most one in flight)
//!    Replied{sequence, ..} --+--> Owner::step -----+
//!     Unanswered{sequence} --+                     +--> Note(text)
//! ```
//!
//! The rules, in the order in which they apply:
//! 1. One change in flight. An unanswered one is unknown: it is repeated under its own sequence, never made anew.
//! 2. After an accepted change nothing is decided before a view shows it; after a refusal, before a newer view.
//! 3. Harm first: a trip ignores cool-down, freeze windows, blocks and the pace.
//! 4. Growth needs a running experiment, no cool-down, no freeze window, no block, and one second of log time since the last decision.
//! 5. The level says what becomes of it: A1 recorded as shadow, A2 proposed, A3 proposed unless it only takes traffic from new
//!    arms, A4 and A5 applied; a promotion is proposed at most, and so is a ramp's step that takes an approval.
//!    What waits for a person is not proposed again unless 500 basis points differ or 60 seconds have passed.
//!
//! The replicated state enforces all of this again. Everything the owner must know is in the view: a new owner that has
//! seen one view decides as the old one would. What it holds beyond that (the change in flight, a
//! refusal's pause, the last note) may be lost without harm.

use featureops_proto::v1::{self, AutonomyLevel, decision::Action as Kind, decision::Status};
use featureops_proto::{ErrorCode, log, timestamp};

use crate::blocks::blocks;
use crate::chance::Chance;
use crate::policy::ramp;
use crate::policy::thompson::{self, Verdict, moved};
use crate::{guardrail, record, winner};

/// Paces of the mind; the defaults are the product's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Log time between two decisions of growth.
    pub pace_ms: i64,
    /// Log time after which a waiting proposal or a shadow is made anew.
    pub repropose_after_ms: i64,
    /// Basis points by which a new proposal must differ before that.
    pub material_basis_points: u32,
    /// Log time without growth after a refusal that a newer view alone does not cure.
    pub refusal_pause_ms: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pace_ms: 1_000,
            repropose_after_ms: 60_000,
            material_basis_points: 500,
            refusal_pause_ms: 10_000,
        }
    }
}

/// The experiment and everything around it at one frozen position of the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FrozenView {
    /// Key of the flag, as it goes into the record.
    pub flag: String,
    /// Resource name of the experiment.
    pub experiment: String,
    /// Its state; only RUNNING decides.
    pub state: v1::experiment::State,
    /// Integers of the frozen position; `log_time_ms` and `flag_version` are read here.
    pub inputs: v1::DecisionInputs,
    /// The allocation in force, for the inverse.
    pub runs: Vec<v1::Run>,
    /// The flag's default variant, for the inverse of a promotion.
    pub default_variant: String,
    /// Effective level for growth: the minimum over environment, flag and action class.
    pub growth: AutonomyLevel,
    /// Effective level for protection.
    pub protection: AutonomyLevel,
    /// Log time until which a human command holds growth off; 0 for none.
    pub cool_down_until_ms: i64,
    /// Log time until which a freeze window holds growth off; 0 for none.
    pub frozen_until_ms: i64,
    /// Log time of the flag's last autonomous decision; 0 for none.
    pub last_decision_ms: i64,
    /// Latest decisions of this experiment: at least the last of each action, in any order.
    pub recent: Vec<Recent>,
    /// Epoch under which this owner was assigned.
    pub epoch: u64,
    /// Highest sequence the log has seen from this epoch; 0 for none.
    pub last_sequence: u64,
}

/// A decision as the state remembers it, as far as the mind needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recent {
    /// What it did.
    pub action: Kind,
    /// What became of it.
    pub status: Status,
    /// Generation it was made in.
    pub generation: u32,
    /// For TRIP and PROMOTE.
    pub variant: String,
    /// For REALLOCATE.
    pub weights_after: Vec<u32>,
    /// Log time at which it was made.
    pub time_ms: i64,
}

/// What happens to an owner.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A newer frozen position.
    Frozen(Box<FrozenView>),
    /// The log answered.
    Replied {
        /// Of the stamp.
        sequence: u64,
        /// Applied, or why not.
        accepted: Result<(), ErrorCode>,
    },
    /// No answer came: the change may or may not be in the log.
    Unanswered {
        /// Of the stamp.
        sequence: u64,
    },
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Propose this decision.
    Submit {
        /// Fences it.
        stamp: log::OwnerStamp,
        /// With status SHADOW, PROPOSED or APPLIED as the level says.
        decision: Box<v1::Decision>,
    },
    /// Say this in the log of the process.
    Note(String),
}

#[derive(Debug, Clone)]
struct InFlight {
    stamp: log::OwnerStamp,
    decision: Box<v1::Decision>,
}

/// The mind of one experiment's owner.
#[derive(Debug, Clone)]
pub struct Owner {
    config: Config,
    in_flight: Option<InFlight>,
    /// Views at or before this position are older than the last answer.
    settled_position: u64,
    /// (epoch, sequence) of the last accepted change: decided on again only when a view shows it.
    settled_sequence: Option<(u64, u64)>,
    /// No growth before this log time.
    pause_until_ms: i64,
    last_note: String,
}

impl Owner {
    /// A mind that has seen nothing.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            in_flight: None,
            settled_position: 0,
            settled_sequence: None,
            pause_until_ms: i64::MIN,
            last_note: String::new(),
        }
    }

    /// One step. At most one `Submit`. `now_ms` is the node's clock and stamps notes only: rules read the view's log time.
    pub fn step(&mut self, event: Event, now_ms: i64, chance: &mut Chance) -> Vec<Action> {
        match event {
            Event::Frozen(view) => self.look(&view, now_ms, chance),
            Event::Replied { sequence, accepted } => self.settle(sequence, accepted),
            Event::Unanswered { sequence } => match &self.in_flight {
                Some(waiting) if waiting.stamp.sequence == sequence => {
                    vec![Action::Submit { stamp: waiting.stamp, decision: waiting.decision.clone() }]
                }
                _ => Vec::new(),
            },
        }
    }

    fn settle(&mut self, sequence: u64, accepted: Result<(), ErrorCode>) -> Vec<Action> {
        let Some(waiting) = self.in_flight.take_if(|waiting| waiting.stamp.sequence == sequence) else {
            return Vec::new();
        };
        let inputs = waiting.decision.inputs.as_ref();
        self.settled_position = inputs.map_or(0, |inputs| inputs.frozen_position);
        match accepted {
            Ok(()) => {
                self.settled_sequence = Some((waiting.stamp.epoch, sequence));
                Vec::new()
            }
            Err(code) => {
                // A newer view cures these; the others would only be refused again twice a second.
                let cured_by_view = matches!(
                    code,
                    ErrorCode::StaleDecision
                        | ErrorCode::Fenced
                        | ErrorCode::DigestMismatch
                        | ErrorCode::TooFrequent
                );
                if !cured_by_view {
                    let log_time_ms = inputs.map_or(0, |inputs| inputs.log_time_ms);
                    self.pause_until_ms = log_time_ms.saturating_add(self.config.refusal_pause_ms);
                }
                vec![Action::Note(format!("decision {sequence} refused: {}", code.as_str()))]
            }
        }
    }

    fn look(&mut self, view: &FrozenView, now_ms: i64, chance: &mut Chance) -> Vec<Action> {
        if let Some(waiting) = &self.in_flight {
            let overtaken = view.epoch != waiting.stamp.epoch || view.last_sequence >= waiting.stamp.sequence;
            if !overtaken {
                return Vec::new();
            }
            // The answer got lost, or another epoch began: the view says what is true.
            self.in_flight = None;
        }
        let fresh = view.inputs.frozen_position > self.settled_position || self.settled_position == 0;
        let shown = self
            .settled_sequence
            .is_none_or(|(epoch, sequence)| view.epoch != epoch || view.last_sequence >= sequence);
        if !fresh || !shown {
            return Vec::new();
        }
        match self.decide(view) {
            Ok(decision) => {
                self.last_note.clear();
                self.submit(view, decision, chance)
            }
            Err(Wait::Quiet) => Vec::new(),
            Err(Wait::Because(text)) => self.note(text, now_ms),
        }
    }

    /// Says a thing once, not at every tick.
    fn note(&mut self, text: String, now_ms: i64) -> Vec<Action> {
        if text == self.last_note {
            return Vec::new();
        }
        self.last_note.clone_from(&text);
        vec![Action::Note(format!("at {now_ms}: {text}"))]
    }

    fn submit(&mut self, view: &FrozenView, decision: v1::Decision, chance: &mut Chance) -> Vec<Action> {
        let stamp = log::OwnerStamp {
            epoch: view.epoch,
            sequence: view.last_sequence.saturating_add(1),
            expected_flag_version: view.inputs.flag_version,
        };
        let decision = Box::new(complete(view, decision, chance.bits()));
        self.in_flight = Some(InFlight { stamp, decision: decision.clone() });
        vec![Action::Submit { stamp, decision }]
    }

    fn decide(&self, view: &FrozenView) -> Result<v1::Decision, Wait> {
        if view.state != v1::experiment::State::Running {
            return Err(Wait::Quiet);
        }
        if let Some(judgement) = guardrail::trip(&view.inputs)? {
            let Some(decision) = self.protect(view, record::trip(&view.inputs, &judgement)) else {
                return Err(Wait::Because(format!(
                    "{} trips guardrail {}; level {} leaves it to a person",
                    judgement.variant,
                    judgement.metric,
                    view.protection.as_str_name()
                )));
            };
            return Ok(decision);
        }
        self.grow(view)
    }

    /// A trip as the level of protection allows; `None` when nothing is to be submitted.
    fn protect(&self, view: &FrozenView, decision: v1::Decision) -> Option<v1::Decision> {
        let status = status_of(view.protection, AutonomyLevel::A3Guarded)?;
        if status != Status::Applied
            && self.is_repeated(view, &decision, &[Status::Proposed, Status::Shadow, Status::Rejected])
        {
            return None;
        }
        Some(v1::Decision { status: status as i32, autonomy: view.protection as i32, ..decision })
    }

    fn grow(&self, view: &FrozenView) -> Result<v1::Decision, Wait> {
        let now = view.inputs.log_time_ms;
        let status = status_of(view.growth, AutonomyLevel::A4Bounded).ok_or(Wait::Quiet)?;
        if view.cool_down_until_ms > now {
            return Err(Wait::Because("cool-down after a human command".to_owned()));
        }
        if view.frozen_until_ms > now {
            return Err(Wait::Because("freeze window".to_owned()));
        }
        let too_soon =
            view.last_decision_ms > 0 && now.saturating_sub(view.last_decision_ms) < self.config.pace_ms;
        if too_soon || self.pause_until_ms > now {
            return Err(Wait::Quiet);
        }
        let blocks = blocks(&view.inputs);
        if let Some(block) = blocks.iter().find(|block| block.stops_learning()) {
            return Err(Wait::Because(block.text()));
        }
        let finish = |decision: v1::Decision, status: Status| v1::Decision {
            status: status as i32,
            autonomy: view.growth as i32,
            ..decision
        };
        if view.inputs.policy() == v1::experiment::Policy::Ramp {
            let climb = match ramp::decide(&view.inputs)? {
                ramp::Verdict::Go(climb) => climb,
                ramp::Verdict::Wait(waits) => return Err(Wait::ramp(&waits)),
            };
            let decision = ramp::record(&view.inputs, &climb)?;
            if Self::is_step_known(view, &decision) {
                return Err(Wait::Quiet);
            }
            let asks = climb.standing.approval && status == Status::Applied;
            return Ok(finish(decision, if asks { Status::Proposed } else { status }));
        }
        // A fixed allocation is judged as a fixed test; crossed units void it.
        let fixed = view.inputs.policy() == v1::experiment::Policy::Fixed;
        if (!fixed || blocks.is_empty())
            && let Some(winner) = winner::winner(&view.inputs)?
        {
            let decision = record::promotion(&view.inputs, &winner)?;
            if !self.is_promotion_known(view, &decision) {
                let most = if status == Status::Shadow { Status::Shadow } else { Status::Proposed };
                return Ok(finish(decision, most));
            }
        }
        match thompson::decide(&view.inputs)? {
            Verdict::Stay(..) => Err(Wait::Quiet),
            Verdict::Move(allocation) => {
                let decision = record::reallocation(&view.inputs, &allocation)?;
                let status = if view.growth == AutonomyLevel::A3Guarded && reduces_exposure(&decision) {
                    Status::Applied
                } else {
                    status
                };
                if status != Status::Applied
                    && self.is_repeated(view, &decision, &[Status::Proposed, Status::Shadow])
                {
                    return Err(Wait::Quiet);
                }
                Ok(finish(decision, status))
            }
        }
    }

    /// The same action, still waiting or recorded a moment ago, and not materially different.
    fn is_repeated(&self, view: &FrozenView, decision: &v1::Decision, statuses: &[Status]) -> bool {
        view.recent.iter().any(|recent| {
            recent.action == decision.action()
                && statuses.contains(&recent.status)
                && recent.generation == decision.generation
                && recent.variant == decision.variant
                && view.inputs.log_time_ms.saturating_sub(recent.time_ms) < self.config.repropose_after_ms
                && moved(&recent.weights_after, &decision.weights_after) < self.config.material_basis_points
        })
    }

    /// A ramp's step that waits for a person, or was refused or noted, since the weights are in force.
    fn is_step_known(view: &FrozenView, decision: &v1::Decision) -> bool {
        view.recent.iter().any(|recent| {
            recent.action == decision.action()
                && matches!(recent.status, Status::Proposed | Status::Rejected | Status::Shadow)
                && recent.generation == decision.generation
                && recent.variant == decision.variant
                && recent.weights_after == decision.weights_after
                && recent.time_ms >= view.inputs.allocated_ms
        })
    }

    /// A promotion that waits, or that a person has refused in this generation.
    fn is_promotion_known(&self, view: &FrozenView, decision: &v1::Decision) -> bool {
        let refused = view.recent.iter().any(|recent| {
            recent.action == Kind::Promote
                && matches!(recent.status, Status::Rejected | Status::Proposed)
                && recent.generation == decision.generation
                && recent.variant == decision.variant
        });
        refused || self.is_repeated(view, decision, &[Status::Shadow])
    }
}

/// Why a look ends without a decision.
enum Wait {
    Quiet,
    Because(String),
}

impl Wait {
    /// A ramp that waits for time and units needs no words.
    fn ramp(waits: &[ramp::Wait]) -> Self {
        match waits.iter().find(|wait| wait.stands_in_the_way()) {
            Some(wait) => Self::Because(wait.text()),
            None => Self::Quiet,
        }
    }
}

impl From<crate::error::InputError> for Wait {
    fn from(error: crate::error::InputError) -> Self {
        Self::Because(format!("inputs refused: {error}"))
    }
}

/// What becomes of a decision at a level, if it applies from `applies` on; `None`: nothing at all.
fn status_of(level: AutonomyLevel, applies: AutonomyLevel) -> Option<Status> {
    match level {
        AutonomyLevel::Unspecified | AutonomyLevel::A0Off => None,
        AutonomyLevel::A1Observe => Some(Status::Shadow),
        level if level as i32 >= applies as i32 => Some(Status::Applied),
        _ => Some(Status::Proposed),
    }
}

/// No arm that is not established gets more, and at least one gets less: what A3 applies without a person.
fn reduces_exposure(decision: &v1::Decision) -> bool {
    let arms = decision.inputs.iter().flat_map(|inputs| &inputs.arms);
    let changes = arms.zip(decision.weights_before.iter().zip(&decision.weights_after)).skip(1);
    let mut less = false;
    for (_, (before, after)) in changes.filter(|(arm, _)| !arm.established) {
        if after > before {
            return false;
        }
        less |= after < before;
    }
    less
}

/// Fills what belongs to the moment: names, seed, inverse, time, principal.
fn complete(view: &FrozenView, decision: v1::Decision, seed: u64) -> v1::Decision {
    let inverse = v1::Inverse {
        runs: view.runs.clone(),
        learner: view.inputs.learner,
        resume: decision.action() == Kind::Trip,
        default_variant: (decision.action() == Kind::Promote).then(|| view.default_variant.clone()),
    };
    v1::Decision {
        flag: view.flag.clone(),
        experiment: view.experiment.clone(),
        seed,
        inverse: Some(inverse),
        principal: Some(v1::Principal {
            kind: v1::principal::Kind::System as i32,
            id: "owner".to_owned(),
            verified: true,
        }),
        time: Some(timestamp(view.inputs.log_time_ms)),
        flag_version_before: view.inputs.flag_version,
        ..decision
    }
}
