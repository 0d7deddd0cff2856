//! Decisions: an owner submits, `apply` fences and bounds; a person approves, rejects, reverts.
//!
//! ```text
//!   submit ─ fence ─ same flag version ─ same frozen moments ─ level ─┬─ APPLIED   bounds hold, growth not held off
//!                                                                     ├─ PROPOSED  a person decides
//!                                                                     └─ SHADOW    recorded, never applied
//! ```

use featureops_proto::log::{
    Done, ExperimentRecord, OwnerRecord, Refusal, ResolveDecision, SubmitDecision, reply, resolve_decision,
};
use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{AutonomyLevel, Decision, Inverse, Principal, Run, principal};
use featureops_proto::{Collection, ErrorCode, Name, timestamp};

use super::{Context, Outcome, flag_changed, flag_name, refuse};
use crate::State;
use crate::allocation::weights_of;
use crate::effect::Effect;
use crate::flags::{Change, parse};
use crate::ledger::strata_digest;
use crate::oversight::{ActionClass, default_levels};
use crate::ramps;
use crate::state::{Key, key};

/// Between two autonomous decisions on one flag, in log time.
const DECISION_INTERVAL_MS: i64 = 1_000;
const MAX_NOTE_BYTES: usize = 4_096;
/// Bytes of one decision record.
const MAX_DECISION_BYTES: usize = 1 << 20;

impl State {
    pub(super) fn submit_decision(
        &mut self,
        ctx: &Context,
        c: &SubmitDecision,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(decision) = &c.decision else {
            return refuse(ErrorCode::InvalidArgument, "decision", "", "missing");
        };
        let number = self.named_experiment(&decision.experiment)?;
        let Some(record) = self.experiments.get(&number).cloned() else {
            return refuse(
                ErrorCode::NotFound,
                "decision.experiment",
                &decision.experiment,
                "no such experiment",
            );
        };
        let owner = record.owner.clone().unwrap_or_default();
        let Some(stamp) = ctx.owner else {
            return refuse(ErrorCode::Fenced, "owner", "", "a decision needs its owner's stamp");
        };
        if stamp.epoch != owner.epoch || owner.epoch == 0 {
            return refuse(
                ErrorCode::Fenced,
                "owner.epoch",
                stamp.epoch,
                format!("the owner's epoch is {}", owner.epoch),
            );
        }
        if stamp.sequence == owner.last_sequence && stamp.sequence != 0 {
            return previous(&owner);
        }
        if stamp.sequence != owner.last_sequence + 1 {
            let message = format!("the last sequence is {}", owner.last_sequence);
            return refuse(ErrorCode::Fenced, "owner.sequence", stamp.sequence, message);
        }
        let result = self.decide(ctx, &record, decision, stamp.expected_flag_version, effects);
        // Whatever came of it, the owner looks once more when its pace allows, also when no fact comes: a promotion that
        // waits for a person must not keep the traffic where it is.
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.dirty = true;
        }
        // Answered either way: the same sequence gets the same answer.
        let answer = match &result {
            Ok(outcome) => reply::Result::Done(outcome.done.clone()),
            Err(refusal) => reply::Result::Refusal(refusal.clone()),
        };
        if let Some(stored) = self.experiment_mut(number) {
            let stored = stored.owner.get_or_insert_default();
            stored.last_sequence = stamp.sequence;
            stored.last_reply = Some(featureops_proto::log::Reply { result: Some(answer) });
        }
        result
    }

    fn decide(
        &mut self,
        ctx: &Context,
        record: &ExperimentRecord,
        decision: &Decision,
        expected_flag_version: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let definition = record.definition.clone().unwrap_or_default();
        let flag = key(&record.environment, &definition.flag);
        let flag_version = self.flags.get(&flag).map_or(0, |f| f.flag_version);
        let class = match decision.action() {
            Action::Reallocate => ActionClass::Reallocate,
            Action::Trip => ActionClass::Trip,
            Action::Promote => ActionClass::Promote,
            Action::Unspecified => {
                return refuse(
                    ErrorCode::InvalidArgument,
                    "decision.action",
                    decision.action,
                    "REALLOCATE, TRIP or PROMOTE",
                );
            }
        };
        match record.state() {
            Phase::Running => {}
            Phase::Tripped => {
                return refuse(
                    ErrorCode::Tripped,
                    "decision.experiment",
                    &decision.experiment,
                    "the flag is tripped",
                );
            }
            other => {
                return refuse(
                    ErrorCode::WrongState,
                    "decision.experiment",
                    other.as_str_name(),
                    "the experiment does not run",
                );
            }
        }
        if expected_flag_version != flag_version {
            let message = format!("the flag is at version {flag_version} now");
            return refuse(
                ErrorCode::StaleDecision,
                "owner.expected_flag_version",
                expected_flag_version,
                message,
            );
        }
        if decision.generation as usize != record.generations.len() {
            let message = format!("generation {} lives now", record.generations.len());
            return refuse(ErrorCode::StaleDecision, "decision.generation", decision.generation, message);
        }
        {
            use prost::Message as _;
            let bytes = decision.encoded_len();
            if bytes > MAX_DECISION_BYTES {
                return refuse(
                    ErrorCode::InvalidArgument,
                    "decision",
                    bytes,
                    format!("at most {MAX_DECISION_BYTES} bytes"),
                );
            }
        }
        self.check_inputs(record, decision)?;
        if decision.action() != Action::Reallocate
            && !definition.arms.iter().any(|arm| arm.variant == decision.variant)
        {
            return refuse(
                ErrorCode::InvalidArgument,
                "decision.variant",
                &decision.variant,
                "not an arm of the experiment",
            );
        }

        let runs = match class {
            ActionClass::Reallocate => self.bounded_move(record, &decision.weights_after)?,
            ActionClass::Trip | ActionClass::Promote => record.runs.clone(),
        };
        let level = self.effective_level(&flag, class);
        let approval = self.check_ramp(record, decision)?;
        let status = disposition(class, level, reduces_exposure(&definition, &record.runs, &runs));
        let Some(status) = status.map(|status| ramps::at_most(status, approval)) else {
            return refuse(
                ErrorCode::AutonomyTooLow,
                "autonomy",
                level.as_str_name(),
                format!("{} is off for this flag", class.name()),
            );
        };
        let growth = class != ActionClass::Trip && status != Status::Shadow;
        if let Some((code, until)) = self.growth_held(&flag).filter(|_| growth) {
            let message = format!("growth is held off until {until} ms of log time");
            return refuse(code, "decision", &decision.experiment, message);
        }
        let protects = class == ActionClass::Trip && status == Status::Applied;
        if !protects && record.last_decision_ms.saturating_add(DECISION_INTERVAL_MS) > ctx.now_ms {
            let message = "at most one decision a second";
            return refuse(ErrorCode::TooFrequent, "decision", &decision.experiment, message);
        }
        let weights_before = weights_of(&record.runs, definition.arms.len());
        let stored = Decision {
            status: status as i32,
            weights_before,
            weights_applied: Vec::new(),
            bounds: bounds_held(class, &definition, self.new_arm_cap(record)),
            inverse: Some(self.inverse_of(class, record, &flag)),
            autonomy: level as i32,
            resolved_by: None,
            resolve_time: None,
            resolve_note: String::new(),
            ..decision.clone()
        };
        let number = self.file_decision(ctx, &flag, stored, effects);
        if let Some(record) = self.experiment_mut(record.number) {
            record.last_decision_ms = ctx.now_ms;
            record.last_decision = number;
        }
        if status == Status::Applied {
            self.carry_out(ctx, &flag, record.number, number, runs, effects);
        } else if status == Status::Proposed {
            // One proposal of a kind waits for a person; the newest.
            self.supersede_older(ctx, &flag, number, decision.action(), effects);
        }
        Ok(self.decision_done(number, status == Status::Applied, vec![record.number]))
    }

    /// What a decision embeds is what was frozen at the position it names, and what binds the experiment now.
    fn check_inputs(&self, record: &ExperimentRecord, decision: &Decision) -> Result<(), Refusal> {
        let Some(given) = &decision.inputs else {
            return refuse(ErrorCode::InvalidArgument, "decision.inputs", "", "missing");
        };
        let position = given.frozen_position;
        let frozen = self.frozen.get(&record.number).into_iter().flatten().find(|f| f.position == position);
        let Some(frozen) = frozen else {
            let message = "no moments are kept of that position; look again";
            return refuse(ErrorCode::StaleDecision, "decision.inputs.frozen_position", position, message);
        };
        let kept = self.inputs(record, frozen);
        let digest = strata_digest(&given.strata);
        if digest != kept.digest || given.digest != kept.digest {
            let message = format!("the moments frozen at {position} have digest {:016x}", kept.digest);
            return refuse(
                ErrorCode::DigestMismatch,
                "decision.inputs.digest",
                format!("{digest:016x}"),
                message,
            );
        }
        if *given != kept {
            let message = "weights, bounds or counts are not those in force; look again";
            return refuse(ErrorCode::StaleDecision, "decision.inputs", position, message);
        }
        Ok(())
    }

    fn inverse_of(&self, class: ActionClass, record: &ExperimentRecord, flag: &Key) -> Inverse {
        let default_variant =
            self.flags.get(flag).and_then(|f| f.definition.as_ref()?.default_variant.clone());
        Inverse {
            runs: record.runs.clone(),
            learner: record.learner,
            resume: class == ActionClass::Trip,
            default_variant: if class == ActionClass::Promote { default_variant } else { None },
        }
    }

    /// Numbers, dates and stores a record.
    pub(super) fn file_decision(
        &mut self,
        ctx: &Context,
        flag: &Key,
        mut decision: Decision,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        let number = self.decisions.next();
        let version = self.flags.get(flag).map_or(0, |f| f.flag_version);
        decision.name = Name::format(&flag.0, Collection::Decisions, number);
        decision.flag = flag_name(flag);
        decision.principal = Some(ctx.principal.clone());
        decision.time = Some(timestamp(ctx.now_ms));
        decision.flag_version_before = version;
        decision.flag_version_after = version;
        self.decisions.add(flag, decision);
        effects.push(Effect::DecisionChanged { number });
        number
    }

    /// Makes a stored decision so.
    pub(super) fn carry_out(
        &mut self,
        ctx: &Context,
        flag: &Key,
        experiment: u32,
        number: u64,
        runs: Vec<Run>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((_, decision)) = self.decisions.get(number) else { return };
        let name = decision.name.clone();
        let (action, variant, reason) =
            (decision.action(), decision.variant.clone(), decision.reason.clone());
        let arms =
            self.experiments.get(&experiment).and_then(|e| e.definition.as_ref()).map_or(0, |d| d.arms.len());
        let mut applied = Vec::new();
        match action {
            Action::Reallocate => {
                applied = weights_of(&runs, arms);
                self.reallocate(experiment, runs);
                self.change_flag(ctx, flag, Change::Other("reallocate"), &name);
                effects.push(Effect::ExperimentChanged { number: experiment });
                effects.push(flag_changed(flag));
            }
            Action::Trip => self.trip(ctx, flag, &reason, &name, effects),
            Action::Promote => {
                self.end_experiment(ctx, experiment, flag, Some(&variant), effects);
                effects.push(Effect::ExperimentChanged { number: experiment });
            }
            Action::Unspecified => {}
        }
        let version = self.flags.get(flag).map_or(0, |f| f.flag_version);
        if let Some(decision) = self.decisions.get_mut(number) {
            decision.status = Status::Applied as i32;
            decision.weights_applied = applied;
            decision.flag_version_after = version;
        }
        match action {
            // A proposal to promote, and an alarm that waits for a person, outlive the learning that goes on meanwhile.
            Action::Reallocate => self.supersede_older(ctx, flag, number, action, effects),
            Action::Trip | Action::Promote | Action::Unspecified => {
                self.supersede_except(ctx, flag, number, effects);
            }
        }
    }

    fn decision_done(&self, number: u64, took_effect: bool, touched: Vec<u32>) -> Outcome {
        let name = self.decisions.get(number).map(|(_, d)| d.name.clone()).unwrap_or_default();
        let status = self.decisions.get(number).map_or("", |(_, d)| d.status().as_str_name());
        let detail = format!("{name} {status}");
        let done =
            Done { name: name.clone(), decision: name, took_effect, version: number, ..Done::default() };
        Outcome { done, detail, touched }
    }

    /// What waits for a person on this flag is overtaken.
    pub(super) fn supersede(&mut self, ctx: &Context, flag: &Key, effects: &mut Vec<Effect>) {
        self.supersede_except(ctx, flag, 0, effects);
    }

    fn supersede_except(&mut self, ctx: &Context, flag: &Key, except: u64, effects: &mut Vec<Effect>) {
        for number in self.decisions.proposed(flag) {
            if number != except {
                self.resolve(ctx, number, Status::Superseded, "", effects);
            }
        }
    }

    fn supersede_older(
        &mut self,
        ctx: &Context,
        flag: &Key,
        newest: u64,
        action: Action,
        effects: &mut Vec<Effect>,
    ) {
        for number in self.decisions.proposed(flag) {
            let same = self.decisions.get(number).is_some_and(|(_, d)| d.action() == action);
            if number != newest && same {
                self.resolve(ctx, number, Status::Superseded, "", effects);
            }
        }
    }

    fn resolve(&mut self, ctx: &Context, number: u64, status: Status, note: &str, effects: &mut Vec<Effect>) {
        if let Some(decision) = self.decisions.get_mut(number) {
            decision.status = status as i32;
            decision.resolved_by = Some(ctx.principal.clone());
            decision.resolve_time = Some(timestamp(ctx.now_ms));
            decision.resolve_note = note.to_owned();
            effects.push(Effect::DecisionChanged { number });
        }
    }

    pub(super) fn resolve_decision(
        &mut self,
        ctx: &Context,
        c: &ResolveDecision,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        use resolve_decision::Resolution;
        let (environment, id) = parse(&c.name, Collection::Decisions)?;
        let found = id.parse::<u64>().ok().and_then(|number| Some((number, self.decisions.get(number)?)));
        let Some((number, (flag, decision))) = found.filter(|(_, (flag, _))| flag.0 == environment) else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such decision, or no longer kept");
        };
        if c.note.len() > MAX_NOTE_BYTES {
            return refuse(
                ErrorCode::InvalidArgument,
                "note",
                c.note.len(),
                format!("at most {MAX_NOTE_BYTES} bytes"),
            );
        }
        let (flag, decision) = (flag.clone(), decision.clone());
        let experiment = self.named_experiment(&decision.experiment).unwrap_or(0);
        ctx.require_human("resolving a decision")?;
        match c.resolution() {
            Resolution::Approve => {
                self.require_status(&c.name, &decision, Status::Proposed)?;
                if decision.principal.as_ref().is_some_and(|author| same_person(author, &ctx.principal)) {
                    return refuse(
                        ErrorCode::NotPermitted,
                        "principal",
                        ctx.caller(),
                        "its author cannot approve it",
                    );
                }
                self.approve(ctx, &flag, experiment, number, &decision, effects)?;
                self.resolve(ctx, number, Status::Applied, &c.note, effects);
                self.cool_down(ctx, &flag);
            }
            Resolution::Reject => {
                self.require_status(&c.name, &decision, Status::Proposed)?;
                self.resolve(ctx, number, Status::Rejected, &c.note, effects);
                self.cool_down(ctx, &flag);
            }
            Resolution::Revert => {
                self.require_status(&c.name, &decision, Status::Applied)?;
                self.revert(ctx, &flag, experiment, &decision, effects)?;
                self.demote(ctx, &flag, &decision, effects);
                self.resolve(ctx, number, Status::Reverted, &c.note, effects);
                self.overrule(ctx, &flag, effects);
            }
            Resolution::Unspecified => {
                return refuse(
                    ErrorCode::InvalidArgument,
                    "resolution",
                    c.resolution,
                    "APPROVE, REJECT or REVERT",
                );
            }
        }
        Ok(self.decision_done(number, true, vec![experiment]))
    }

    fn require_status(&self, name: &str, decision: &Decision, wanted: Status) -> Result<(), Refusal> {
        if decision.status() == wanted {
            return Ok(());
        }
        let message = format!("{name} must be {}", wanted.as_str_name());
        refuse(ErrorCode::WrongState, "status", decision.status().as_str_name(), message)
    }

    fn approve(
        &mut self,
        ctx: &Context,
        flag: &Key,
        experiment: u32,
        number: u64,
        decision: &Decision,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if decision.action() == Action::Trip && experiment == 0 {
            // An alarm on a flag without an experiment.
            self.can_trip(flag, &decision.flag)?;
            self.carry_out(ctx, flag, experiment, number, Vec::new(), effects);
            return Ok(());
        }
        let Some(record) = self.experiments.get(&experiment).cloned() else {
            let message = "no such experiment";
            return refuse(ErrorCode::NotFound, "decision.experiment", &decision.experiment, message);
        };
        let allocation_version = decision.inputs.as_ref().map_or(0, |inputs| inputs.allocation_version);
        let moved =
            decision.action() == Action::Reallocate && allocation_version != record.allocation_version;
        if decision.generation as usize != record.generations.len() || moved || record.end_ms != 0 {
            let message = "the experiment moved on since it was proposed; wait for the next proposal";
            return refuse(ErrorCode::StaleDecision, "decision", &decision.name, message);
        }
        if record.state() == Phase::Tripped {
            return refuse(
                ErrorCode::Tripped,
                "decision",
                &decision.name,
                "the flag is tripped; resume it first",
            );
        }
        let runs = match decision.action() {
            Action::Reallocate => self.bounded_move(&record, &decision.weights_after)?,
            _ => record.runs.clone(),
        };
        self.carry_out(ctx, flag, experiment, number, runs, effects);
        Ok(())
    }

    fn revert(
        &mut self,
        ctx: &Context,
        flag: &Key,
        experiment: u32,
        decision: &Decision,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let inverse = decision.inverse.clone().unwrap_or_default();
        match decision.action() {
            Action::Reallocate => self.revert_allocation(ctx, flag, experiment, decision, inverse, effects),
            Action::Trip => {
                let trip = self.flags.get(flag).and_then(|f| f.trip.as_ref());
                if trip.is_some_and(|trip| trip.decision != decision.name) {
                    let message = "the flag was tripped again since, by something else; resume that";
                    return refuse(ErrorCode::StaleDecision, "decision", &decision.name, message);
                }
                self.resume(ctx, flag, &decision.name, effects)
            }
            Action::Promote => {
                let Some(record) = self.flags.get(flag) else { return Ok(()) };
                let variants = record.definition.as_ref().map(|d| &d.variants);
                let gone = |v: &String| variants.is_none_or(|variants| !variants.contains_key(v));
                if record.definition_version != decision.flag_version_after
                    || inverse.default_variant.as_ref().is_some_and(gone)
                {
                    let message = "the flag was changed since; set its default variant by hand";
                    return refuse(ErrorCode::StaleDecision, "decision", &decision.name, message);
                }
                if let Some(definition) = self.flag_mut(flag).and_then(|f| f.definition.as_mut()) {
                    definition.default_variant = inverse.default_variant;
                }
                self.change_flag(ctx, flag, Change::Set, &decision.name);
                effects.push(flag_changed(flag));
                Ok(())
            }
            Action::Unspecified => Ok(()),
        }
    }

    /// Serves the map from before the decision: it and what was decided after it in its generation is taken back.
    fn revert_allocation(
        &mut self,
        ctx: &Context,
        flag: &Key,
        experiment: u32,
        decision: &Decision,
        inverse: Inverse,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Some(record) = self.experiments.get(&experiment).cloned() else { return Ok(()) };
        let decided_on = decision.inputs.as_ref().map_or(0, |inputs| inputs.allocation_version);
        let generation = record.generations.len();
        if decision.generation as usize != generation || record.end_ms != 0 {
            let message = "its generation is closed: what it changed is no longer served";
            return refuse(ErrorCode::StaleDecision, "decision", &decision.name, message);
        }
        if decided_on < record.human_allocation_version {
            let message = "a person set the allocation since; set it by hand";
            return refuse(ErrorCode::StaleDecision, "decision", &decision.name, message);
        }
        self.check_bounds(&record, &inverse.runs)?;
        let later: Vec<u64> = self
            .decisions
            .of_flag(flag)
            .filter(|(_, d)| {
                d.action() == Action::Reallocate
                    && d.status() == Status::Applied
                    && d.generation as usize == generation
                    && d.experiment == decision.experiment
                    && d.inputs.as_ref().is_some_and(|inputs| inputs.allocation_version > decided_on)
            })
            .map(|(number, _)| number)
            .collect();
        for number in later {
            self.resolve(ctx, number, Status::Reverted, &format!("with {}", decision.name), effects);
        }
        self.reallocate(experiment, inverse.runs);
        if let Some(record) = self.experiment_mut(experiment) {
            record.human_allocation_version = record.allocation_version;
            // The record's version rises even when an earlier record is restored.
            let version = record.learner.map_or(0, |l| l.version) + 1;
            record.learner = inverse.learner.map(|l| featureops_proto::v1::LearnerRecord { version, ..l });
            record.version += 1;
        }
        self.change_flag(ctx, flag, Change::Other("revert decision"), &decision.name);
        effects.push(Effect::ExperimentChanged { number: experiment });
        effects.push(flag_changed(flag));
        Ok(())
    }

    /// An autonomous act that a person took back costs the flag its level.
    fn demote(&mut self, ctx: &Context, flag: &Key, decision: &Decision, effects: &mut Vec<Effect>) {
        let autonomous = decision.resolved_by.is_none();
        if !autonomous || decision.action() == Action::Trip {
            return;
        }
        let Some(record) = self.flag_mut(flag) else { return };
        let mut levels = record.autonomy.unwrap_or_else(default_levels);
        if levels.growth() <= AutonomyLevel::A2Recommend {
            return;
        }
        let from = levels.growth().as_str_name();
        levels.growth = AutonomyLevel::A2Recommend as i32;
        record.autonomy = Some(levels);
        // The experiment's end gives back no more than is left now.
        let number = record.experiment;
        if let Some(experiment) = self.experiment_mut(number) {
            experiment.growth_before = experiment.growth_before.min(AutonomyLevel::A2Recommend as i32);
        }
        let principal =
            Principal { kind: principal::Kind::System as i32, id: "oversight".to_owned(), verified: true };
        let ctx = Context { principal, ..ctx.clone() };
        let detail = format!("growth autonomy {from} -> A2_RECOMMEND: {} was reverted", decision.name);
        self.record(&ctx, "flag.demote", flag_name(flag), detail, String::new(), effects);
    }

    /// A decision by number.
    #[must_use]
    pub fn decision(&self, environment: &str, number: u64) -> Option<Decision> {
        self.decisions
            .get(number)
            .filter(|(flag, _)| flag.0 == environment)
            .map(|(_, decision)| decision.clone())
    }

    /// Decisions of an environment, newest first, below `before` (0: from the newest). An empty flag means all,
    /// an unspecified status any.
    #[must_use]
    pub fn decisions(
        &self,
        environment: &str,
        flag: &str,
        before: u64,
        limit: usize,
        status: Status,
    ) -> Vec<Decision> {
        let wanted = |decision: &Decision| status == Status::Unspecified || decision.status() == status;
        if flag.is_empty() {
            let all = self.decisions.newest(before).filter(|(key, d)| key.0 == environment && wanted(d));
            return all.take(limit).map(|(_, d)| d.clone()).collect();
        }
        let of_flag = key(environment, flag);
        let all = self.decisions.of_flag(&of_flag).filter(|(n, d)| (before == 0 || *n < before) && wanted(d));
        all.take(limit).map(|(_, d)| d.clone()).collect()
    }
}

fn previous(owner: &OwnerRecord) -> Result<Outcome, Refusal> {
    match owner.last_reply.as_ref().and_then(|reply| reply.result.clone()) {
        Some(reply::Result::Done(done)) => {
            Ok(Outcome { done, detail: "repeated".to_owned(), ..Outcome::default() })
        }
        Some(reply::Result::Refusal(refusal)) => Err(refusal),
        _ => refuse(ErrorCode::Fenced, "owner.sequence", owner.last_sequence, "its reply is not kept"),
    }
}

/// What becomes of a decision at a level; `None` when even recording is off.
fn disposition(class: ActionClass, level: AutonomyLevel, reduces: bool) -> Option<Status> {
    use AutonomyLevel as L;
    match (level, class) {
        (L::Unspecified | L::A0Off, _) => None,
        (L::A1Observe, _) => Some(Status::Shadow),
        (L::A2Recommend, _) => Some(Status::Proposed),
        // A winner is only proposed: promotion on its own needs a confirmatory phase.
        (_, ActionClass::Promote) => Some(Status::Proposed),
        (L::A3Guarded | L::A4Bounded | L::A5Autopilot, ActionClass::Trip) => Some(Status::Applied),
        (L::A3Guarded, ActionClass::Reallocate) => {
            Some(if reduces { Status::Applied } else { Status::Proposed })
        }
        (L::A4Bounded | L::A5Autopilot, ActionClass::Reallocate) => Some(Status::Applied),
    }
}

/// No arm that is not established gets more, and at least one gets less.
fn reduces_exposure(definition: &featureops_proto::v1::Experiment, before: &[Run], after: &[Run]) -> bool {
    let arms = definition.arms.len();
    let (before, after) = (weights_of(before, arms), weights_of(after, arms));
    let mut less = false;
    for ((arm, b), a) in definition.arms.iter().zip(&before).zip(&after).skip(1) {
        if arm.established {
            continue;
        }
        if a > b {
            return false;
        }
        less |= a < b;
    }
    less
}

fn bounds_held(class: ActionClass, definition: &featureops_proto::v1::Experiment, cap: u32) -> Vec<String> {
    match class {
        ActionClass::Reallocate => vec![
            "weights sum to 10000".to_owned(),
            format!("control at or above {} bp", definition.control_floor_basis_points),
            format!("arms that are not established at or below {cap} bp"),
            "at most one decision a second".to_owned(),
            "made on the flag version and moments in force".to_owned(),
        ],
        ActionClass::Trip | ActionClass::Promote => {
            vec!["made on the flag version and moments in force".to_owned()]
        }
    }
}

fn same_person(a: &Principal, b: &Principal) -> bool {
    a.kind == b.kind && a.id == b.id
}
