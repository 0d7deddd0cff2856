//! Experiments: create, start, pause, stop, and weights set by a person.

use std::sync::Arc;

use featureops_proto::log::{
    CreateExperiment, ExperimentRecord, GenerationRecord, OwnerRecord, PairRecord, PauseExperiment, Refusal,
    SetAllocation, StartExperiment, StopExperiment,
};
use featureops_proto::v1::experiment::{Policy, State as Phase};
use featureops_proto::v1::metric::LateRule;
use featureops_proto::v1::{AutonomyLevel, AutonomyLevels, Experiment, LearnerRecord};
use featureops_proto::{Collection, ErrorCode};

use super::{Context, Outcome, done, flag_changed, flag_name, refuse};
use crate::State;
use crate::allocation::{BUCKETS, initial_weights, move_buckets, runs_of};
use crate::effect::Effect;
use crate::experiments::{
    DEFAULT_COOL_DOWN_SECONDS, DEFAULT_NEW_ARM_CAP, MAX_ARMS, MAX_GENERATIONS, new_share, shape_of,
};
use crate::flags::{Change, check_etag, parse};
use crate::ledger::Ledger;
use crate::metrics::{late_limit_ms, window_minutes};
use crate::oversight::default_levels;
use crate::ramps;
use crate::state::{Key, MAX_EXPERIMENTS, MAX_ROUTES, Route, key};

/// Guardrails and secondary metrics of one experiment.
const MAX_METRICS: usize = 32;
const MAX_TEXT_BYTES: usize = 4_096;
/// Experiments that count a metric, ended ones whose window is open among them.
const MAX_ENDED_ROUTES: usize = 512;
/// Minutes before the start that a ledger's base lies: events may be that late.
const BASE_MARGIN_MINUTES: u32 = 72 * 60 + 10;

impl State {
    pub(super) fn create_experiment(
        &mut self,
        ctx: &Context,
        c: &CreateExperiment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(given) = &c.experiment else {
            return refuse(ErrorCode::InvalidArgument, "experiment", "", "missing");
        };
        let id = parse(&given.name, Collection::Experiments)?;
        if self.experiment_numbers.contains_key(&id) {
            return refuse(ErrorCode::AlreadyExists, "experiment.name", &given.name, "choose another id");
        }
        if self.experiments.len() >= MAX_EXPERIMENTS {
            return refuse(
                ErrorCode::LimitReached,
                "experiment",
                &given.name,
                format!("{MAX_EXPERIMENTS} are kept"),
            );
        }
        self.check_definition(&id, given)?;
        self.check_placement(&id.0, given)?;
        loosened(given).map_or(Ok(()), |what| ctx.require_human(what))?;
        self.check_control(ctx, &key(&id.0, &given.flag), given)?;
        let (shape, metrics) = self.shape(&id, given)?;
        let number = self.experiments.len() as u32 + 1;
        let definition = Experiment {
            policy: if given.policy() == Policy::Unspecified {
                Policy::Thompson as i32
            } else {
                given.policy
            },
            seed: if given.seed == 0 { seed_of(&id, ctx.position) } else { given.seed },
            planned_units: if given.planned_units == 0 { 20_000 } else { given.planned_units },
            state: 0,
            number: 0,
            allocation: None,
            create_time: None,
            start_time: None,
            end_time: None,
            etag: String::new(),
            cool_down_until: None,
            ..given.clone()
        };
        let record = ExperimentRecord {
            environment: id.0.clone(),
            experiment: id.1.clone(),
            number,
            definition: Some(definition),
            state: Phase::Draft as i32,
            learner: Some(LearnerRecord {
                version: 1,
                prior_alpha_millionths: 1_000_000,
                prior_beta_millionths: 1_000_000,
                discount_millionths: 1_000_000,
                window_start_minute: 0,
            }),
            create_ms: ctx.now_ms,
            version: 1,
            slots: self.slot_records(&shape),
            pairs: shape
                .pairs
                .iter()
                .map(|(a, b)| PairRecord { numerator: *a as u32, denominator: *b as u32 })
                .collect(),
            metrics,
            ..ExperimentRecord::default()
        };
        self.experiments.insert(number, Arc::new(record));
        self.experiment_numbers.insert(id, number);
        Ok(self.experiment_done(number, effects))
    }

    fn check_definition(&self, id: &Key, given: &Experiment) -> Result<(), Refusal> {
        let bad = |field: &str, value: String, message: &str| {
            refuse(ErrorCode::InvalidArgument, field, value, message)
        };
        let flag = self.flags.get(&key(&id.0, &given.flag)).filter(|record| !record.archived);
        let Some(flag) = flag.and_then(|record| record.definition.as_ref()) else {
            return refuse(
                ErrorCode::NotFound,
                "experiment.flag",
                &given.flag,
                "no such flag in this environment",
            );
        };
        if flag.safe_variant.is_none() {
            return bad(
                "experiment.flag",
                given.flag.clone(),
                "the flag needs a safe_variant before it can be experimented on",
            );
        }
        if given.arms.len() < 2 || given.arms.len() > MAX_ARMS {
            return bad(
                "experiment.arms",
                given.arms.len().to_string(),
                "2 to 32 arms; the first is control",
            );
        }
        for (at, arm) in given.arms.iter().enumerate() {
            let field = format!("experiment.arms[{at}].variant");
            if !flag.variants.contains_key(&arm.variant) {
                return bad(&field, arm.variant.clone(), "not among the flag's variants");
            }
            if given.arms.iter().take(at).any(|earlier| earlier.variant == arm.variant) {
                return bad(&field, arm.variant.clone(), "an arm twice");
            }
        }
        if given.control_floor_basis_points > BUCKETS {
            return bad(
                "experiment.control_floor_basis_points",
                given.control_floor_basis_points.to_string(),
                "0 to 10000",
            );
        }
        if given.new_arm_cap_basis_points.is_some_and(|cap| cap > BUCKETS) {
            return bad("experiment.new_arm_cap_basis_points", String::new(), "0 to 10000");
        }
        if given.cool_down_seconds.is_some_and(|s| !(0..=86_400 * 30).contains(&s)) {
            return bad("experiment.cool_down_seconds", String::new(), "0 to 2592000 (30 days)");
        }
        if given.guardrails.len() + given.secondary_metrics.len() > MAX_METRICS {
            return bad(
                "experiment.guardrails",
                String::new(),
                "at most 32 guardrails and secondary metrics",
            );
        }
        if given.hypothesis.len() > MAX_TEXT_BYTES {
            return bad("experiment.hypothesis", String::new(), "at most 4096 bytes");
        }
        if Policy::try_from(given.policy).is_err() {
            return bad("experiment.policy", given.policy.to_string(), "THOMPSON, FIXED or RAMP");
        }
        ramps::check(given)?;
        crate::dimensions::check(given)?;
        crate::covariates::check(given)?;
        for (at, guardrail) in given.guardrails.iter().enumerate() {
            if guardrail.limit_basis_points > BUCKETS {
                return bad(
                    &format!("experiment.guardrails[{at}].limit_basis_points"),
                    guardrail.limit_basis_points.to_string(),
                    "0 to 10000",
                );
            }
        }
        Ok(())
    }

    /// The first arm is exempt from the cap on new arms, so only what is served by default anyway may be it, unless a person
    /// says otherwise.
    fn check_control(&self, ctx: &Context, flag: &Key, given: &Experiment) -> Result<(), Refusal> {
        let control = given.arms.first().map(|arm| arm.variant.as_str());
        let default = self
            .flags
            .get(flag)
            .and_then(|f| f.definition.as_ref())
            .and_then(|d| d.default_variant.as_deref());
        if control == default && control.is_some() {
            return Ok(());
        }
        ctx.require_human("a first arm (control) that is not the flag's default variant")
    }

    /// The experiment's number, by name.
    pub(super) fn named_experiment(&self, name: &str) -> Result<u32, Refusal> {
        let id = parse(name, Collection::Experiments)?;
        match self.experiment_numbers.get(&id) {
            Some(number) => Ok(*number),
            None => refuse(ErrorCode::NotFound, "name", name, "no such experiment"),
        }
    }

    pub(super) fn start_experiment(
        &mut self,
        ctx: &Context,
        c: &StartExperiment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let number = self.named_experiment(&c.name)?;
        let Some(record) = self.experiments.get(&number).cloned() else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such experiment");
        };
        check_etag(&c.etag, &format!("e{}", record.version))?;
        let definition = record.definition.clone().unwrap_or_default();
        let flag = key(&record.environment, &definition.flag);
        let Ok(level) = AutonomyLevel::try_from(c.autonomy) else {
            let message = "A0 to A5; leave it out to start at the flag's own level";
            return refuse(ErrorCode::InvalidArgument, "autonomy", c.autonomy, message);
        };
        let present = self.flags.get(&flag).and_then(|f| f.autonomy).unwrap_or_else(default_levels).growth();
        let after = if level == AutonomyLevel::Unspecified { present } else { level };
        if after > AutonomyLevel::A2Recommend || after > present {
            ctx.require_human("starting with more autonomy than A2, or more than before,")?;
        }
        if record.state() == Phase::Paused {
            ctx.require_human("starting what was paused")?;
        }
        match record.state() {
            Phase::Draft => self.first_start(ctx, &record, &definition, &flag)?,
            Phase::Paused => {
                if let Some(record) = self.experiment_mut(number) {
                    record.state = Phase::Running as i32;
                }
            }
            Phase::Tripped => {
                let message = "the flag is tripped; a person must resume it";
                return refuse(ErrorCode::Tripped, "name", &c.name, message);
            }
            Phase::Running | Phase::Stopped | Phase::Unspecified => {
                let message = "only a draft or paused experiment can be started";
                return refuse(ErrorCode::WrongState, "name", record.state().as_str_name(), message);
            }
        }
        let mut detail = String::new();
        if level != AutonomyLevel::Unspecified
            && let Some(flag) = self.flag_mut(&flag)
        {
            let mut levels = flag.autonomy.unwrap_or_else(default_levels);
            detail = format!("growth autonomy {} -> {}", levels.growth().as_str_name(), level.as_str_name());
            levels.growth = level as i32;
            flag.autonomy = Some(levels);
        }
        if let Some(record) = self.experiment_mut(number) {
            record.version += 1;
            // Given for as long as it runs: its end gives back what the flag had before the first such start.
            if level != AutonomyLevel::Unspecified && record.growth_before == 0 {
                record.growth_before = present as i32;
            }
        }
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.dirty = true;
        }
        self.change_flag(ctx, &flag, Change::Other("start"), "");
        effects.push(flag_changed(&flag));
        let mut outcome = self.experiment_done(number, effects);
        outcome.detail = detail;
        Ok(outcome)
    }

    fn first_start(
        &mut self,
        ctx: &Context,
        record: &ExperimentRecord,
        definition: &Experiment,
        flag: &Key,
    ) -> Result<(), Refusal> {
        let Some(held) = self.flags.get(flag).filter(|f| !f.archived) else {
            return refuse(ErrorCode::NotFound, "experiment.flag", &definition.flag, "the flag is gone");
        };
        self.check_control(ctx, flag, definition)?;
        self.check_rested_on(ctx, flag, "starting an experiment on a flag")?;
        if held.trip.is_some() {
            return refuse(ErrorCode::Tripped, "experiment.flag", &definition.flag, "resume the flag first");
        }
        if held.experiment != 0 {
            let by = self.experiments.get(&held.experiment).map(|e| e.experiment.clone()).unwrap_or_default();
            return refuse(
                ErrorCode::WrongState,
                "experiment.flag",
                &definition.flag,
                format!("experiment {by} holds the flag; stop it first"),
            );
        }
        for slot in &record.slots {
            let routes = self.routes.get(&slot.metric).map(Vec::as_slice).unwrap_or_default();
            if routes.len() >= MAX_ENDED_ROUTES {
                let message =
                    "too many ended experiments still count this metric; wait for their windows to close";
                return refuse(ErrorCode::LimitReached, "experiment.metrics", slot.metric, message);
            }
            let running =
                routes.iter().filter(|r| self.experiments.get(&r.experiment).is_some_and(|e| e.end_ms == 0));
            if running.count() >= MAX_ROUTES {
                let name = self.metric_keys.get(&slot.metric).map(|k| k.1.clone()).unwrap_or_default();
                let message = format!("{MAX_ROUTES} running experiments use this metric; stop one first");
                return refuse(ErrorCode::LimitReached, "experiment.metrics", name, message);
            }
        }
        if ctx.now_ms == 0 {
            let message = "no log time yet; try again";
            return refuse(ErrorCode::NotInitialized, "clock", 0, message);
        }
        let established: Vec<bool> = definition.arms.iter().map(|arm| arm.established).collect();
        let cap = self.new_arm_cap(record);
        let weights = match ramps::first_weights(definition) {
            Some(weights) => {
                ramps::check_start(ctx, definition)?;
                self.check_bounds(record, &runs_of(&weights))?;
                Some(weights)
            }
            None => initial_weights(&established, definition.control_floor_basis_points, cap),
        };
        let Some(weights) = weights else {
            let message = "control's floor and the other arms cannot both be served; lower the floor";
            return refuse(
                ErrorCode::BelowFloor,
                "experiment.control_floor_basis_points",
                definition.control_floor_basis_points,
                message,
            );
        };
        self.check_room_for_sample(definition)?;
        let slots = self.take_share(record)?;
        let base = self.clock.minute().saturating_sub(BASE_MARGIN_MINUTES);
        let mut ledger = Ledger::new(base, shape_of(record));
        self.begin_parts(record, &mut ledger);
        self.ledgers.insert(record.number, ledger);
        self.open_routes(record);
        if let Some(stored) = self.experiment_mut(record.number) {
            stored.state = Phase::Running as i32;
            stored.start_ms = ctx.now_ms;
            stored.runs = runs_of(&weights);
            stored.layer_slots = slots;
            stored.allocation_version = 1;
            stored.owner = Some(OwnerRecord::default());
            stored.generations =
                vec![GenerationRecord { opened_position: ctx.position, opened_ms: ctx.now_ms, closed_ms: 0 }];
        }
        self.ramp_allocated(record.number);
        if let Some(stored) = self.flag_mut(flag) {
            stored.experiment = record.number;
            // What a person did before the start is what the experiment starts from.
            stored.cool_down_until_ms = 0;
        }
        Ok(())
    }

    /// Outcomes of the experiment's metrics find it from now on.
    pub(crate) fn open_routes(&mut self, record: &ExperimentRecord) {
        for (slot, metric) in record.slots.iter().enumerate() {
            let routes = self.routes.entry(metric.metric).or_default();
            let at = routes.partition_point(|route| route.experiment < record.number);
            routes.insert(at, Route { experiment: record.number, slot });
        }
    }

    /// Outcomes of the metric no longer find the experiment; with its last metric its rows and sums are let go.
    pub(crate) fn close_route(&mut self, metric: u32, number: u32) {
        if let Some(routes) = self.routes.get_mut(&metric) {
            routes.retain(|route| route.experiment != number);
            if routes.is_empty() {
                self.routes.remove(&metric);
            }
        }
        let still = self.routes.values().flatten().any(|route| route.experiment == number);
        if !still && let Some(ledger) = self.ledgers.get_mut(&number) {
            if !ledger.released {
                self.rows -= ledger.rows;
                self.entries -= ledger.entries;
                ledger.release();
            }
            self.heavy.remove(&number);
            self.frozen.remove(&number);
        }
    }

    pub(super) fn pause_experiment(
        &mut self,
        ctx: &Context,
        c: &PauseExperiment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let number = self.named_experiment(&c.name)?;
        let flag = self.in_phase(number, &c.name, &c.etag, &[Phase::Running])?;
        if let Some(record) = self.experiment_mut(number) {
            record.state = Phase::Paused as i32;
            record.version += 1;
        }
        self.change_flag(ctx, &flag, Change::Other("pause"), "");
        self.supersede(ctx, &flag, effects);
        effects.push(flag_changed(&flag));
        Ok(self.experiment_done(number, effects))
    }

    /// The flag of an experiment in one of the phases.
    pub(super) fn in_phase(
        &self,
        number: u32,
        name: &str,
        etag: &str,
        phases: &[Phase],
    ) -> Result<Key, Refusal> {
        let Some(record) = self.experiments.get(&number) else {
            return refuse(ErrorCode::NotFound, "name", name, "no such experiment");
        };
        check_etag(etag, &format!("e{}", record.version))?;
        if !phases.contains(&record.state()) {
            let wanted: Vec<&str> = phases.iter().map(|p| p.as_str_name()).collect();
            let message = format!("the experiment must be {}", wanted.join(" or "));
            return refuse(ErrorCode::WrongState, "name", record.state().as_str_name(), message);
        }
        let flag = record.definition.as_ref().map(|d| d.flag.clone()).unwrap_or_default();
        Ok(key(&record.environment, &flag))
    }

    pub(super) fn stop_experiment(
        &mut self,
        ctx: &Context,
        c: &StopExperiment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("stopping an experiment")?;
        let number = self.named_experiment(&c.name)?;
        let phases = [Phase::Running, Phase::Paused, Phase::Tripped, Phase::Draft];
        let flag = self.in_phase(number, &c.name, &c.etag, &phases)?;
        if let Some(serve) = &c.serve {
            if self.experiments.get(&number).is_some_and(|record| record.state() == Phase::Draft) {
                let message =
                    "a draft holds no flag: stop it without serve, and set the flag's default by itself";
                return refuse(ErrorCode::WrongState, "serve", serve, message);
            }
            let known = self.flags.get(&flag).and_then(|f| f.definition.as_ref());
            if !known.is_some_and(|d| d.variants.contains_key(serve)) {
                return refuse(ErrorCode::InvalidArgument, "serve", serve, "not among the flag's variants");
            }
        }
        self.end_experiment(ctx, number, &flag, c.serve.as_deref(), effects);
        Ok(self.experiment_done(number, effects))
    }

    /// Ends the experiment and frees its flag, which serves `serve` by default from then on, if given.
    pub(super) fn end_experiment(
        &mut self,
        ctx: &Context,
        number: u32,
        flag: &Key,
        serve: Option<&str>,
        effects: &mut Vec<Effect>,
    ) {
        let now = ctx.now_ms;
        let Some(record) = self.experiment_mut(number) else { return };
        record.state = Phase::Stopped as i32;
        record.end_ms = now;
        record.version += 1;
        if let Some(generation) = record.generations.last_mut() {
            generation.closed_ms = now;
        }
        let slots: Vec<u32> = record.slots.iter().map(|slot| slot.metric).collect();
        let mut counts_until_ms = Vec::with_capacity(slots.len());
        for metric in slots {
            let definition = self.metric_by_number(metric).and_then(|m| m.definition.as_ref());
            let until_end = definition.is_some_and(|m| m.late_rule() == LateRule::CountUntilEnd);
            let window_ms = i64::from(definition.map_or(0, window_minutes)) * 60_000;
            // The last event that a unit's window holds may come as late as any other.
            let late_ms = definition.map_or(0, late_limit_ms);
            let until_ms =
                if until_end { now } else { now.saturating_add(window_ms).saturating_add(late_ms) };
            counts_until_ms.push(until_ms);
            self.ended.insert((until_ms, metric, number));
        }
        if let Some(record) = self.experiment_mut(number) {
            record.counts_until_ms = counts_until_ms;
        }
        let mut holds = false;
        if let Some(stored) = self.flag_mut(flag)
            && stored.experiment == number
        {
            stored.experiment = 0;
            holds = true;
        }
        if let Some(variant) = serve
            && let Some(definition) = self.flag_mut(flag).and_then(|f| f.definition.as_mut())
        {
            definition.default_variant = Some(variant.to_owned());
        }
        let change = if serve.is_some() { Change::Set } else { Change::Other("stop") };
        if holds || serve.is_some() {
            self.change_flag(ctx, flag, change, "");
        }
        if holds {
            self.supersede(ctx, flag, effects);
            self.give_back_growth(ctx, number, flag, effects);
        }
        effects.push(flag_changed(flag));
    }

    /// The level that a start gave was for the experiment, not for the next one on the flag.
    fn give_back_growth(&mut self, ctx: &Context, number: u32, flag: &Key, effects: &mut Vec<Effect>) {
        let Some(record) = self.experiment_mut(number) else { return };
        let before = AutonomyLevel::try_from(std::mem::take(&mut record.growth_before)).unwrap_or_default();
        let levels = self.flags.get(flag).and_then(|f| f.autonomy).unwrap_or_else(default_levels);
        if before == AutonomyLevel::Unspecified || before == levels.growth() {
            return;
        }
        if let Some(stored) = self.flag_mut(flag) {
            stored.autonomy = Some(AutonomyLevels { growth: before as i32, ..levels });
        }
        let (from, to) = (levels.growth().as_str_name(), before.as_str_name());
        let detail = format!("growth autonomy {from} -> {to}: the experiment that was started with it ended");
        self.record(ctx, "flag.restore_autonomy", flag_name(flag), detail, String::new(), effects);
    }

    pub(super) fn set_allocation(
        &mut self,
        ctx: &Context,
        c: &SetAllocation,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("setting an allocation by hand")?;
        let number = self.named_experiment(&c.name)?;
        let flag = self.in_phase(number, &c.name, &c.etag, &[Phase::Running, Phase::Paused])?;
        let Some(record) = self.experiments.get(&number) else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such experiment");
        };
        let runs = self.bounded_move(record, &c.weights_basis_points)?;
        self.reallocate(number, runs);
        self.change_flag(ctx, &flag, Change::Other("set allocation"), "");
        self.overrule(ctx, &flag, effects);
        if let Some(record) = self.experiment_mut(number) {
            record.version += 1;
            record.human_allocation_version = record.allocation_version;
        }
        effects.push(flag_changed(&flag));
        let mut outcome = self.experiment_done(number, effects);
        outcome.detail = format!("weights {:?}", c.weights_basis_points);
        Ok(outcome)
    }

    /// The map after moving to the weights, if sum, floor, cap and budget hold for what is reached.
    pub(super) fn bounded_move(
        &self,
        record: &ExperimentRecord,
        weights: &[u32],
    ) -> Result<Vec<featureops_proto::v1::Run>, Refusal> {
        let definition = record.definition.clone().unwrap_or_default();
        let field = "weights_basis_points";
        let shown = format!("{weights:?}");
        if weights.len() != definition.arms.len() {
            return refuse(
                ErrorCode::InvalidArgument,
                field,
                shown,
                format!("one weight an arm: {}", definition.arms.len()),
            );
        }
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        if sum != u64::from(BUCKETS) {
            return refuse(ErrorCode::InvalidArgument, field, shown, format!("they sum to {sum}, not 10000"));
        }
        let runs = move_buckets(&record.runs, weights);
        self.check_bounds(record, &runs)?;
        Ok(runs)
    }

    /// Floor, cap and budget hold for a map.
    pub(super) fn check_bounds(
        &self,
        record: &ExperimentRecord,
        runs: &[featureops_proto::v1::Run],
    ) -> Result<(), Refusal> {
        let field = "weights_basis_points";
        let definition = record.definition.clone().unwrap_or_default();
        let reached = crate::allocation::weights_of(runs, definition.arms.len());
        let (control, floor) = (reached.first().copied().unwrap_or(0), definition.control_floor_basis_points);
        if control < floor {
            let message = format!("control would have {control}, its floor is {floor}");
            return refuse(ErrorCode::BelowFloor, field, format!("{reached:?}"), message);
        }
        let (new, cap) = (new_share(&definition, &reached), self.new_arm_cap(record));
        if new > cap {
            let message = format!("arms that are not established would have {new}, the cap is {cap}");
            return refuse(ErrorCode::OverCap, field, format!("{reached:?}"), message);
        }
        Ok(())
    }

    /// Serves another map inside the generation.
    pub(super) fn reallocate(&mut self, number: u32, runs: Vec<featureops_proto::v1::Run>) {
        self.close_shares(number);
        if let Some(record) = self.experiment_mut(number) {
            record.runs = runs;
            record.allocation_version += 1;
        }
        self.ramp_allocated(number);
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.dirty = true;
        }
    }

    /// Opens the next generation.
    pub(super) fn open_generation(&mut self, ctx: &Context, number: u32) -> Result<(), Refusal> {
        let Some(record) = self.experiments.get(&number) else { return Ok(()) };
        if record.generations.len() >= MAX_GENERATIONS {
            let message =
                format!("{MAX_GENERATIONS} generations are kept: stop this experiment and start a new one");
            return refuse(ErrorCode::LimitReached, "experiment", &record.experiment, message);
        }
        if let Some(record) = self.experiment_mut(number) {
            let opened =
                GenerationRecord { opened_position: ctx.position, opened_ms: ctx.now_ms, closed_ms: 0 };
            record.generations.push(opened);
            record.allocation_version = 1;
            record.human_allocation_version = 1;
        }
        self.open_shares(number);
        self.ramp_begins_again(number);
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.dirty = true;
        }
        self.frozen.remove(&number);
        Ok(())
    }

    pub(super) fn experiment_done(&mut self, number: u32, effects: &mut Vec<Effect>) -> Outcome {
        effects.push(Effect::ExperimentChanged { number });
        let message = self.experiment_by_number(number).unwrap_or_default();
        let version = self.experiments.get(&number).map_or(0, |r| r.version);
        let done = done(&message.name, version, message.etag);
        Outcome { done, touched: vec![number], ..Outcome::default() }
    }

    /// End of a freeze or cool-down that holds growth off now.
    pub(super) fn growth_held(&self, flag: &Key) -> Option<(ErrorCode, i64)> {
        let now = self.clock.now_ms();
        if let Some(until) = self.frozen_until(&flag.0) {
            return Some((ErrorCode::Frozen, until));
        }
        let until = self.flags.get(flag)?.cool_down_until_ms;
        (until > now).then_some((ErrorCode::CoolDown, until))
    }
}

/// What in a definition loosens a bound, and so takes a person.
fn loosened(given: &Experiment) -> Option<&'static str> {
    if given.arms.iter().skip(1).any(|arm| arm.established) {
        return Some("calling an arm established");
    }
    if given.new_arm_cap_basis_points.is_some_and(|cap| cap > DEFAULT_NEW_ARM_CAP) {
        return Some("a cap on new arms above 2,000 basis points");
    }
    if ramps::is_loose(given) {
        return Some("a ramp beyond 2,000 basis points to an arm that is not established");
    }
    given
        .cool_down_seconds
        .is_some_and(|s| s < DEFAULT_COOL_DOWN_SECONDS)
        .then_some("a cool-down below 300 seconds")
}

/// A seed that differs by experiment and is the same on every replica.
fn seed_of(id: &Key, position: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(format!("{}/{}", id.0, id.1).as_bytes(), position).max(1)
}
