//! Trips: the safe variant for everybody, until a person resumes.

use featureops_proto::log::{Done, Refusal, ResumeFlag, TripFlag};
use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{AutonomyLevel, Decision, Inverse, Number, Sentence, Trip};
use featureops_proto::{ALARM_POLICY, Collection, ErrorCode, Name, timestamp, unix_ms};

use super::{Context, Outcome, done, flag_changed, flag_name, refuse};
use crate::State;
use crate::effect::Effect;
use crate::flags::{Change, etag};
use crate::oversight::ActionClass;
use crate::state::Key;

const MAX_REASON_BYTES: usize = 4_096;

impl State {
    pub(super) fn trip_command(
        &mut self,
        ctx: &Context,
        c: &TripFlag,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let key = self.live_flag(&c.name)?;
        if c.reason.len() > MAX_REASON_BYTES || c.source.len() > MAX_REASON_BYTES {
            return refuse(
                ErrorCode::InvalidArgument,
                "reason",
                c.reason.len(),
                format!("at most {MAX_REASON_BYTES} bytes"),
            );
        }
        self.can_trip(&key, &c.name)?;
        let mut decision = String::new();
        let mut took_effect = true;
        if c.alarm {
            let level = self.effective_level(&key, ActionClass::Trip);
            let status = match level {
                AutonomyLevel::Unspecified | AutonomyLevel::A0Off => {
                    let message = "protection is off for this flag; trip it by hand";
                    return refuse(ErrorCode::AutonomyTooLow, "autonomy", level.as_str_name(), message);
                }
                AutonomyLevel::A1Observe => Status::Shadow,
                AutonomyLevel::A2Recommend => Status::Proposed,
                _ => Status::Applied,
            };
            if let Some(same) = self.same_alarm(&key, c, ctx.now_ms) {
                let done = Done { name: flag_name(&key), decision: same, ..Done::default() };
                return Ok(Outcome { done, detail: "repeated".to_owned(), ..Outcome::default() });
            }
            let number = self.file_decision(ctx, &key, self.alarm_decision(&key, c, status, level), effects);
            decision = Name::format(&key.0, Collection::Decisions, number);
            took_effect = status == Status::Applied;
            if took_effect {
                let experiment = self.flags.get(&key).map_or(0, |f| f.experiment);
                self.carry_out(ctx, &key, experiment, number, Vec::new(), effects);
            }
        } else {
            ctx.require_human("tripping by hand")?;
            self.trip(ctx, &key, &c.reason, "", effects);
            self.overrule(ctx, &key, effects);
        }
        let (touched, version, etag) = self.flag_facts(&key);
        let done = Done { decision, took_effect, ..done(&flag_name(&key), version, etag) };
        Ok(Outcome { done, detail: c.reason.clone(), touched })
    }

    pub(super) fn can_trip(&self, key: &Key, name: &str) -> Result<(), Refusal> {
        let Some(record) = self.flags.get(key) else {
            return refuse(ErrorCode::NotFound, "name", name, "no such flag");
        };
        if record.trip.is_some() {
            return refuse(ErrorCode::Tripped, "name", name, "the flag is tripped already");
        }
        if record.definition.as_ref().is_none_or(|d| d.safe_variant.is_none()) {
            return refuse(
                ErrorCode::WrongState,
                "name",
                name,
                "the flag has no safe variant to serve; set one",
            );
        }
        Ok(())
    }

    /// The record of the same alarm that waits for a person, or was noted within the minute: a monitor that repeats
    /// itself must not push a flag's decisions out of its ledger.
    fn same_alarm(&self, key: &Key, c: &TripFlag, now_ms: i64) -> Option<String> {
        const NOTED_MS: i64 = 60_000;
        let source = format!("{}: ", c.source);
        let mut alarms = self
            .decisions
            .of_flag(key)
            .filter(|(_, d)| d.policy == ALARM_POLICY && d.reason.starts_with(&source));
        let (_, newest) = alarms.next()?;
        let age_ms = now_ms - newest.time.as_ref().map_or(0, unix_ms);
        let same =
            newest.status() == Status::Proposed || newest.status() == Status::Shadow && age_ms < NOTED_MS;
        same.then(|| newest.name.clone())
    }

    fn alarm_decision(&self, key: &Key, c: &TripFlag, status: Status, level: AutonomyLevel) -> Decision {
        let number = self.flags.get(key).map_or(0, |f| f.experiment);
        let experiment = self.experiments.get(&number);
        Decision {
            experiment: experiment
                .map(|e| Name::format(&e.environment, Collection::Experiments, &e.experiment))
                .unwrap_or_default(),
            generation: experiment.map_or(0, |e| e.generations.len() as u32),
            action: Action::Trip as i32,
            status: status as i32,
            policy: ALARM_POLICY.to_owned(),
            statistics: vec![Number { name: "alarms".to_owned(), value: "1".to_owned() }],
            inverse: Some(Inverse {
                runs: experiment.map(|e| e.runs.clone()).unwrap_or_default(),
                learner: experiment.and_then(|e| e.learner),
                resume: true,
                default_variant: None,
            }),
            narrative: vec![Sentence {
                text: format!("{} raised an alarm: {}", c.source, c.reason),
                numbers: vec!["alarms".to_owned()],
            }],
            reason: format!("{}: {}", c.source, c.reason),
            autonomy: level as i32,
            ..Decision::default()
        }
    }

    /// The safe variant from here on; the generation closes.
    pub(super) fn trip(
        &mut self,
        ctx: &Context,
        key: &Key,
        reason: &str,
        decision: &str,
        effects: &mut Vec<Effect>,
    ) {
        let Some(record) = self.flag_mut(key) else { return };
        record.trip = Some(Trip {
            reason: reason.to_owned(),
            time: Some(timestamp(ctx.now_ms)),
            principal: Some(ctx.principal.clone()),
            decision: decision.to_owned(),
        });
        let number = record.experiment;
        if let Some(experiment) = self.experiment_mut(number)
            && matches!(experiment.state(), Phase::Running | Phase::Paused)
        {
            experiment.paused_before_trip = experiment.state() == Phase::Paused;
            experiment.state = Phase::Tripped as i32;
            experiment.version += 1;
            if let Some(generation) = experiment.generations.last_mut() {
                generation.closed_ms = ctx.now_ms;
            }
            effects.push(Effect::ExperimentChanged { number });
        }
        self.change_flag(ctx, key, Change::Other("trip"), decision);
        effects.push(flag_changed(key));
    }

    pub(super) fn resume_flag(
        &mut self,
        ctx: &Context,
        c: &ResumeFlag,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("resuming a flag")?;
        let key = self.live_flag(&c.name)?;
        self.resume(ctx, &key, "", effects)?;
        self.overrule(ctx, &key, effects);
        let (touched, version, etag) = self.flag_facts(&key);
        let done = done(&flag_name(&key), version, etag);
        Ok(Outcome { done, detail: c.reason.clone(), touched })
    }

    /// Targeting and allocation serve again, the experiment in a new generation with the weights it had; paused if it was.
    pub(super) fn resume(
        &mut self,
        ctx: &Context,
        key: &Key,
        decision: &str,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Some(record) = self.flags.get(key) else { return Ok(()) };
        if record.trip.is_none() {
            return refuse(ErrorCode::WrongState, "name", flag_name(key), "the flag is not tripped");
        }
        let number = record.experiment;
        if self.experiments.get(&number).is_some_and(|e| e.state() == Phase::Tripped) {
            self.open_generation(ctx, number)?;
            if let Some(experiment) = self.experiment_mut(number) {
                let paused = experiment.paused_before_trip;
                experiment.state = if paused { Phase::Paused } else { Phase::Running } as i32;
                experiment.version += 1;
            }
            effects.push(Effect::ExperimentChanged { number });
        }
        if let Some(record) = self.flag_mut(key) {
            record.trip = None;
        }
        self.change_flag(ctx, key, Change::Other("resume"), decision);
        effects.push(flag_changed(key));
        Ok(())
    }

    /// Experiments to check, version and etag.
    fn flag_facts(&self, key: &Key) -> (Vec<u32>, u64, String) {
        match self.flags.get(key) {
            Some(record) => {
                let touched = (record.experiment != 0).then_some(record.experiment);
                (touched.into_iter().collect(), record.flag_version, etag(record))
            }
            None => (Vec::new(), 0, String::new()),
        }
    }
}
