//! Oversight: an environment's limits, freezes and budget; a flag's own levels.

use std::sync::Arc;

use featureops_proto::log::{OversightRecord, Refusal, SetFlagAutonomy, SetOversight};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{AutonomyLevel, AutonomyLevels, Oversight};
use featureops_proto::{ErrorCode, unix_ms};

use super::{Context, Outcome, done, flag_changed, flag_name, refuse};
use crate::State;
use crate::allocation::{BUCKETS, weights_of};
use crate::effect::Effect;
use crate::experiments::new_share;
use crate::flags::{Change, check_etag, etag};
use crate::oversight::{ActionClass, MAX_FREEZES, default_levels};
use crate::state::MAX_OVERSIGHTS;

const CLASSES: [ActionClass; 3] = [ActionClass::Reallocate, ActionClass::Trip, ActionClass::Promote];

impl State {
    pub(super) fn set_oversight(
        &mut self,
        ctx: &Context,
        c: &SetOversight,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("changing oversight")?;
        let Some(oversight) = &c.oversight else {
            return refuse(ErrorCode::InvalidArgument, "oversight", "", "missing");
        };
        let environment = oversight.name.strip_suffix("/oversight").map(featureops_proto::environment_of);
        let Some(Ok(environment)) = environment else {
            let message = "must be environments/{environment}/oversight";
            return refuse(ErrorCode::InvalidArgument, "oversight.name", &oversight.name, message);
        };
        if !self.oversight.contains_key(environment) && self.oversight.len() >= MAX_OVERSIGHTS {
            let message =
                format!("{MAX_OVERSIGHTS} environments have limits of their own, the most there can be");
            return refuse(ErrorCode::LimitReached, "oversight.name", &oversight.name, message);
        }
        let version = self.oversight.get(environment).map_or(0, |o| o.version);
        let before = self.oversight.get(environment).and_then(|o| o.definition.clone());
        check_etag(&c.etag, &format!("o{version}"))?;
        check_oversight(oversight)?;
        self.check_budget(environment, oversight)?;
        let record = OversightRecord {
            environment: environment.to_owned(),
            definition: Some(Oversight { etag: String::new(), ..oversight.clone() }),
            version: version + 1,
        };
        self.oversight.insert(environment.to_owned(), Arc::new(record));
        // Owners whose limits changed look again, also when no fact comes.
        let here = self.experiments.values().filter(|held| held.environment == environment);
        let numbers: Vec<u32> = here.map(|held| held.number).collect();
        for number in numbers {
            if let Some(ledger) = self.ledgers.get_mut(&number).filter(|ledger| !ledger.released) {
                ledger.dirty = true;
            }
        }
        effects.push(Effect::OversightChanged { environment: environment.to_owned() });
        let detail = format!("{} -> {}", told(before.as_ref()), told(Some(oversight)));
        let done = done(&oversight.name, version + 1, format!("o{}", version + 1));
        Ok(Outcome { done, detail, touched: Vec::new() })
    }

    /// A budget that running experiments already exceed would make the next of their commands a violation.
    fn check_budget(&self, environment: &str, oversight: &Oversight) -> Result<(), Refusal> {
        let Some(budget) = oversight.new_arm_budget_basis_points else { return Ok(()) };
        if budget > BUCKETS {
            return refuse(
                ErrorCode::InvalidArgument,
                "oversight.new_arm_budget_basis_points",
                budget,
                "0 to 10000",
            );
        }
        for record in self.experiments.values().filter(|e| e.environment == environment) {
            let Some(definition) = &record.definition else { continue };
            let new = new_share(definition, &weights_of(&record.runs, definition.arms.len()));
            if new > budget && matches!(record.state(), Phase::Running | Phase::Paused | Phase::Tripped) {
                let message =
                    format!("experiment {} gives {new} to new arms; reduce that first", record.experiment);
                return refuse(ErrorCode::OverCap, "oversight.new_arm_budget_basis_points", budget, message);
            }
        }
        Ok(())
    }

    pub(super) fn set_flag_autonomy(
        &mut self,
        ctx: &Context,
        c: &SetFlagAutonomy,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let key = self.live_flag(&c.name)?;
        let Some(given) = &c.autonomy else {
            return refuse(ErrorCode::InvalidArgument, "autonomy", "", "missing");
        };
        check_levels("autonomy", given)?;
        let before = self.flags.get(&key).and_then(|f| f.autonomy).unwrap_or_else(default_levels);
        let pick = |given: i32, before: i32| if given == 0 { before } else { given };
        let after = AutonomyLevels {
            growth: pick(given.growth, before.growth),
            protection: pick(given.protection, before.protection),
        };
        if after.growth > before.growth || after.protection < before.protection {
            ctx.require_human("raising growth or lowering protection")?;
        }
        if let Some(record) = self.flag_mut(&key) {
            record.autonomy = Some(after);
        }
        let version = self.change_flag(ctx, &key, Change::Other("set autonomy"), "");
        effects.push(flag_changed(&key));
        let number = self.flags.get(&key).map_or(0, |f| f.experiment);
        // Who says the level now means it also beyond the experiment that is running.
        if given.growth != 0
            && let Some(record) = self.experiment_mut(number)
        {
            record.growth_before = 0;
        }
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.dirty = true;
        }
        let detail = format!(
            "growth {} -> {}, protection {} -> {}",
            before.growth().as_str_name(),
            after.growth().as_str_name(),
            before.protection().as_str_name(),
            after.protection().as_str_name()
        );
        let etag = self.flags.get(&key).map(|r| etag(r)).unwrap_or_default();
        Ok(Outcome { done: done(&flag_name(&key), version, etag), detail, touched: Vec::new() })
    }
}

/// Limits, budget and freezes in one line, for the audit.
fn told(oversight: Option<&Oversight>) -> String {
    let Some(oversight) = oversight else { return "none".to_owned() };
    let level = |level: i32| AutonomyLevel::try_from(level).map_or("?", |level| level.as_str_name());
    let limits = oversight.limits.unwrap_or_default();
    let classes: Vec<String> =
        oversight.action_limits.iter().map(|(class, limit)| format!("{class} {}", level(*limit))).collect();
    let seconds = |time: Option<&prost_types::Timestamp>| time.map_or(0, |t| t.seconds);
    let freezes: Vec<String> = oversight
        .freezes
        .iter()
        .map(|w| format!("{}..{}", seconds(w.start.as_ref()), seconds(w.end.as_ref())))
        .collect();
    format!(
        "growth {}, protection {}, actions [{}], budget {:?}, freezes [{}]",
        level(limits.growth),
        level(limits.protection),
        classes.join(", "),
        oversight.new_arm_budget_basis_points,
        freezes.join(", ")
    )
}

fn check_oversight(oversight: &Oversight) -> Result<(), Refusal> {
    if let Some(limits) = &oversight.limits {
        check_levels("oversight.limits", limits)?;
    }
    for (class, level) in &oversight.action_limits {
        let field = format!("oversight.action_limits[{class}]");
        if !CLASSES.iter().any(|known| known.name() == class) {
            return refuse(ErrorCode::InvalidArgument, &field, class, "reallocate, trip or promote");
        }
        check_level(&field, *level)?;
    }
    if oversight.freezes.len() > MAX_FREEZES {
        let count = oversight.freezes.len();
        return refuse(
            ErrorCode::LimitReached,
            "oversight.freezes",
            count,
            format!("at most {MAX_FREEZES} windows"),
        );
    }
    for (at, window) in oversight.freezes.iter().enumerate() {
        if window_ms(window.start.as_ref(), window.end.as_ref()).is_none() {
            let field = format!("oversight.freezes[{at}]");
            return refuse(ErrorCode::InvalidArgument, &field, "", "needs a start before its end");
        }
    }
    Ok(())
}

fn check_levels(field: &str, levels: &AutonomyLevels) -> Result<(), Refusal> {
    check_level(&format!("{field}.growth"), levels.growth)?;
    check_level(&format!("{field}.protection"), levels.protection)
}

fn check_level(field: &str, level: i32) -> Result<(), Refusal> {
    match AutonomyLevel::try_from(level) {
        Ok(_) => Ok(()),
        Err(_) => refuse(ErrorCode::InvalidArgument, field, level, "A0 to A5"),
    }
}

/// A window with its ends in order, in unix milliseconds.
fn window_ms(
    start: Option<&prost_types::Timestamp>,
    end: Option<&prost_types::Timestamp>,
) -> Option<(i64, i64)> {
    let (start, end) = (unix_ms(start?), unix_ms(end?));
    (start < end).then_some((start, end))
}
