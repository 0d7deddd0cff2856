//! Erasure of a unit by its keyed hash: out of experiments, waiting outcomes, samples and segments' lists.
//!
//! A person asks for it. The audit tells that it happened and how much went, never of whom: neither key nor hash.

use std::sync::Arc;

use featureops_proto::log::{Done, EraseUnit, Refusal, UnitErased};
use featureops_proto::{ErrorCode, environment_of};

use super::{Context, Outcome, refuse};
use crate::State;
use crate::effect::Effect;
use crate::state::Key;

/// Stands for every environment.
const EVERYWHERE: &str = "environments/-";

impl State {
    pub(super) fn erase_unit(
        &mut self,
        ctx: &Context,
        c: &EraseUnit,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("erasing a unit")?;
        let only = match c.parent.as_str() {
            EVERYWHERE => None,
            parent => match environment_of(parent) {
                Ok(environment) => Some(environment.to_owned()),
                Err(error) => return refuse(ErrorCode::InvalidArgument, "parent", parent, error),
            },
        };
        if let Some(only) = &only
            && self.environments_after("", usize::MAX).binary_search(only).is_err()
        {
            let message = "no such environment; `environments/-` stands for all of them";
            return refuse(ErrorCode::NotFound, "parent", &c.parent, message);
        }
        if c.unit_key_id != self.unit_key_id {
            let (given, wanted) = (format!("{:016x}", c.unit_key_id), self.unit_key_id);
            let message = format!("the cluster hashes units with the key {wanted:016x}");
            return refuse(ErrorCode::WrongUnitKey, "unit_key_id", given, message);
        }
        let unit = c.unit_hash;
        let covers = |environment: &str| only.as_deref().is_none_or(|only| only == environment);
        let mut erased = UnitErased { position: ctx.position, ..UnitErased::default() };
        let mut touched = Vec::new();
        for (number, ledger) in &mut self.ledgers {
            if !self.experiments.get(number).is_some_and(|record| covers(&record.environment)) {
                continue;
            }
            let sums = ledger.entries;
            let gone = ledger.erase(unit);
            if gone == crate::ledger::Erased::default() {
                continue;
            }
            self.rows = self.rows.saturating_sub(u64::from(gone.stays > 0));
            self.entries = self.entries.saturating_sub(sums - ledger.entries);
            erased.experiments += 1;
            erased.stays += gone.stays;
            erased.sums += gone.sums;
            erased.marks += gone.marks;
            erased.sampled += u32::from(gone.sampled);
            touched.push(*number);
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        erased.waiting = waiting.forget(unit, |held| {
            self.metric_keys.get(&held.metric).is_none_or(|(environment, _)| covers(environment))
        });
        self.waiting = waiting;
        erased.segments = self.take_off_lists(ctx, unit, covers, effects)?;
        let took_effect = erased.experiments + erased.waiting + erased.segments > 0;
        self.erasures.count += u64::from(took_effect);
        // The entry that asks for it has the hash, too, whoever it found.
        self.erasures.position = ctx.position;
        self.erasures.time_ms = ctx.now_ms;
        effects.push(Effect::UnitErased { unit });
        let detail = format!(
            "{} experiments, {} stays, {} sums, {} marks, {} sampled, {} waiting outcomes, {} segments",
            erased.experiments,
            erased.stays,
            erased.sums,
            erased.marks,
            erased.sampled,
            erased.waiting,
            erased.segments
        );
        let done = Done { name: c.parent.clone(), took_effect, erased: Some(erased), ..Done::default() };
        Ok(Outcome { done, detail, touched })
    }

    /// Takes the unit off every list that it is on.
    fn take_off_lists(
        &mut self,
        ctx: &Context,
        unit: u64,
        covers: impl Fn(&str) -> bool,
        effects: &mut Vec<Effect>,
    ) -> Result<u32, Refusal> {
        let lists = self.segment_units.iter().filter(|((environment, _), _)| covers(environment));
        let changed: Vec<(Key, crate::segments::Units)> = lists
            .filter_map(|(key, units)| {
                let change = units.changed(&[], &[unit]);
                (change.removed > 0).then(|| (key.clone(), change.units))
            })
            .collect();
        let mut count = 0;
        for (key, units) in changed {
            let Some(record) = self.segments.get(&key) else { continue };
            let mut record = Arc::clone(record);
            let written = Arc::make_mut(&mut record);
            written.version += 1;
            written.units_version = written.version;
            written.update_ms = ctx.now_ms;
            self.write_segment(&key, Some(record), Some(units));
            effects.push(Effect::SegmentChanged { environment: key.0, segment: key.1 });
            count += 1;
        }
        Ok(count)
    }
}
