//! Layers and holdouts: set and deleted; and how much of its layer an experiment has.

use std::sync::Arc;

use featureops_proto::log::{
    DeleteHoldout, DeleteLayer, ExperimentRecord, HoldoutRecord, LayerRecord, Refusal, SetHoldout, SetLayer,
    SetLayerShare,
};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Experiment, Holdout, Layer, SlotRange};
use featureops_proto::{Collection, ErrorCode};

use super::{Context, Outcome, check_description, done, flag_changed, refuse};
use crate::State;
use crate::allocation::BUCKETS;
use crate::effect::Effect;
use crate::flags::{Change, above, check_etag, parse};
use crate::layers::{
    MAX_ALL_HOLDOUTS, MAX_HOLDOUTS, MAX_HOLDOUTS_OF_ONE, MAX_LAYERS, grown, holdout_etag, is_held,
    layer_etag, share_of, shrunk,
};
use crate::state::{Before, Key, key};

/// Experiments that a refusal names.
const NAMED: usize = 8;

impl State {
    pub(super) fn set_layer(&mut self, ctx: &Context, c: &SetLayer) -> Result<Outcome, Refusal> {
        let Some(given) = &c.layer else {
            return refuse(ErrorCode::InvalidArgument, "layer", "", "missing");
        };
        let id = parse(&given.name, Collection::Layers)?;
        let held = self.layers.get(&id).map(AsRef::as_ref);
        check_present(&c.etag, held.map(layer_etag), "layer", &given.name)?;
        if held.is_none() && self.layers.len() >= MAX_LAYERS {
            let message = format!("{MAX_LAYERS} layers are kept; delete one that no experiment names");
            return refuse(ErrorCode::LimitReached, "layer", &given.name, message);
        }
        check_description(&given.description, "layer.description")?;
        let record = LayerRecord {
            environment: id.0.clone(),
            layer: id.1.clone(),
            definition: Some(Layer { description: given.description.clone(), ..Layer::default() }),
            version: held.map_or(0, |held| held.version) + 1,
            position: ctx.position,
        };
        let (version, etag) = (record.version, layer_etag(&record));
        self.layers.insert(id, Arc::new(record));
        Ok(done(&given.name, version, etag).into())
    }

    pub(super) fn delete_layer(&mut self, c: &DeleteLayer) -> Result<Outcome, Refusal> {
        let id = parse(&c.name, Collection::Layers)?;
        let Some(held) = self.layers.get(&id) else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such layer");
        };
        check_etag(&c.etag, &layer_etag(held))?;
        self.check_unused(&id.0, &c.name, |experiment| {
            experiment.definition.as_ref().is_some_and(|d| d.layer == id.1)
        })?;
        self.layers.remove(&id);
        Ok(done(&c.name, 0, String::new()).into())
    }

    pub(super) fn set_holdout(
        &mut self,
        ctx: &Context,
        c: &SetHoldout,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(given) = &c.holdout else {
            return refuse(ErrorCode::InvalidArgument, "holdout", "", "missing");
        };
        let id = parse(&given.name, Collection::Holdouts)?;
        let held = self.holdouts.get(&id).cloned();
        check_present(&c.etag, held.as_deref().map(holdout_etag), "holdout", &given.name)?;
        self.check_holdout(&id, given, held.is_none())?;
        let before = held.as_ref().and_then(|held| held.definition.clone()).unwrap_or_default();
        let mut changed = Vec::new();
        for experiment in self.live_in(&id.0) {
            let was = is_held(experiment, &id.1, before.everywhere) && held.is_some();
            let is = is_held(experiment, &id.1, given.everywhere);
            let (from, to) =
                (if was { before.basis_points } else { 0 }, if is { given.basis_points } else { 0 });
            if to < from {
                let message = format!(
                    "experiment {} holds out {from} of 10000 by it, and whom a holdout holds it holds on; stop that \
                     first, or make another holdout",
                    experiment.experiment
                );
                return refuse(ErrorCode::WrongState, "holdout.basis_points", to, message);
            }
            if to > from {
                changed.push(experiment.number);
            }
        }
        if !changed.is_empty() {
            ctx.require_human("holding more units out of live experiments")?;
        }
        let record = HoldoutRecord {
            environment: id.0.clone(),
            holdout: id.1.clone(),
            definition: Some(Holdout {
                description: given.description.clone(),
                basis_points: given.basis_points,
                everywhere: given.everywhere,
                ..Holdout::default()
            }),
            version: held.as_ref().map_or(0, |held| held.version) + 1,
            position: ctx.position,
        };
        let (version, etag) = (record.version, holdout_etag(&record));
        self.before.push(Before::Holdout(id.clone(), held));
        self.holdouts.insert(id, Arc::new(record));
        for number in &changed {
            self.replaced(ctx, *number, "holdout", effects);
        }
        let detail = format!("{} basis points, everywhere {}", given.basis_points, given.everywhere);
        Ok(Outcome { done: done(&given.name, version, etag), detail, touched: changed })
    }

    fn check_holdout(&self, id: &Key, given: &Holdout, new: bool) -> Result<(), Refusal> {
        check_description(&given.description, "holdout.description")?;
        if given.basis_points > BUCKETS {
            let message = "0 to 10000 basis points";
            return refuse(ErrorCode::InvalidArgument, "holdout.basis_points", given.basis_points, message);
        }
        let of_environment = above(&self.holdouts, &id.0, "").count();
        if new && (of_environment >= MAX_HOLDOUTS || self.holdouts.len() >= MAX_ALL_HOLDOUTS) {
            let message =
                format!("{MAX_HOLDOUTS} holdouts an environment and {MAX_ALL_HOLDOUTS} over all are kept");
            return refuse(ErrorCode::LimitReached, "holdout", &given.name, message);
        }
        let others = self.everywhere(&id.0).filter(|record| record.holdout != id.1).count();
        if given.everywhere && others >= MAX_HOLDOUTS_OF_ONE {
            let message = format!("{MAX_HOLDOUTS_OF_ONE} holdouts of an environment may be everywhere");
            return refuse(ErrorCode::LimitReached, "holdout.everywhere", true, message);
        }
        Ok(())
    }

    pub(super) fn delete_holdout(&mut self, c: &DeleteHoldout) -> Result<Outcome, Refusal> {
        let id = parse(&c.name, Collection::Holdouts)?;
        let Some(held) = self.holdouts.get(&id).cloned() else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such holdout");
        };
        check_etag(&c.etag, &holdout_etag(&held))?;
        let everywhere = held.definition.as_ref().is_some_and(|d| d.everywhere);
        self.check_unused(&id.0, &c.name, |experiment| {
            is_held(experiment, &id.1, everywhere && experiment.state() != Phase::Draft)
        })?;
        self.holdouts.remove(&id);
        Ok(done(&c.name, 0, String::new()).into())
    }

    /// Refuses to let go of what an experiment that has not ended rests on.
    fn check_unused(
        &self,
        environment: &str,
        name: &str,
        uses: impl Fn(&ExperimentRecord) -> bool,
    ) -> Result<(), Refusal> {
        let mut experiments = self.experiments.values().filter(|e| e.environment == environment);
        match experiments.find(|e| e.state() != Phase::Stopped && uses(e)) {
            None => Ok(()),
            Some(experiment) => {
                let message = format!("experiment {} uses it; stop it first", experiment.experiment);
                refuse(ErrorCode::WrongState, "name", name, message)
            }
        }
    }

    /// Layer, share and holdouts of a definition: they are there and go together.
    pub(super) fn check_placement(&self, environment: &str, given: &Experiment) -> Result<(), Refusal> {
        let (layer, share) = (&given.layer, given.layer_share_basis_points);
        let field = "experiment.layer_share_basis_points";
        if layer.is_empty() && share != 0 {
            return refuse(
                ErrorCode::InvalidArgument,
                field,
                share,
                "a share of no layer: name the layer too",
            );
        }
        if !layer.is_empty() {
            if !self.layers.contains_key(&key(environment, layer)) {
                let message = "no such layer in this environment; set it first";
                return refuse(ErrorCode::NotFound, "experiment.layer", layer, message);
            }
            if !(1..=BUCKETS).contains(&share) {
                return refuse(
                    ErrorCode::InvalidArgument,
                    field,
                    share,
                    "1 to 10000 basis points of the layer",
                );
            }
        }
        if given.holdouts.len() > MAX_HOLDOUTS_OF_ONE {
            let message = format!("at most {MAX_HOLDOUTS_OF_ONE} holdouts");
            return refuse(ErrorCode::InvalidArgument, "experiment.holdouts", given.holdouts.len(), message);
        }
        for (at, holdout) in given.holdouts.iter().enumerate() {
            let field = format!("experiment.holdouts[{at}]");
            if !self.holdouts.contains_key(&key(environment, holdout)) {
                let message = "no such holdout in this environment; set it first";
                return refuse(ErrorCode::NotFound, &field, holdout, message);
            }
            if given.holdouts.iter().take(at).any(|earlier| earlier == holdout) {
                return refuse(ErrorCode::InvalidArgument, &field, holdout, "a holdout twice");
            }
        }
        Ok(())
    }

    /// The slots that an experiment gets at its start; from here on it is in its layer.
    pub(super) fn take_share(&mut self, record: &ExperimentRecord) -> Result<Vec<SlotRange>, Refusal> {
        let definition = record.definition.clone().unwrap_or_default();
        self.check_placement(&record.environment, &definition)?;
        if definition.layer.is_empty() {
            return Ok(Vec::new());
        }
        let layer = key(&record.environment, &definition.layer);
        let share = definition.layer_share_basis_points;
        let slots = self.more_slots(&layer, &[], share, "experiment.layer_share_basis_points", share)?;
        self.occupy(record);
        Ok(slots)
    }

    /// The slots with so many more of the layer's free ones.
    fn more_slots(
        &self,
        layer: &Key,
        slots: &[SlotRange],
        more: u32,
        field: &str,
        asked: u32,
    ) -> Result<Vec<SlotRange>, Refusal> {
        let free = self.free_slots(layer);
        let total = share_of(&free);
        if let Some(slots) = grown(slots, &free, more) {
            return Ok(slots);
        }
        if more <= total {
            let message = format!(
                "the {total} free slots of layer {} lie in too many pieces; ask for less, or stop an experiment in it",
                layer.1
            );
            return refuse(ErrorCode::LimitReached, field, asked, message);
        }
        let mut holders: Vec<String> = self
            .occupants(layer)
            .take(NAMED)
            .map(|record| format!("{} has {}", record.experiment, share_of(&record.layer_slots)))
            .collect();
        let others = self.occupants(layer).count().saturating_sub(NAMED);
        if others > 0 {
            holders.push(format!("{others} more have the rest"));
        }
        let message = format!(
            "layer {} has {total} of 10000 free ({}); ask for less, or stop or shrink one of them",
            layer.1,
            holders.join(", ")
        );
        refuse(ErrorCode::LimitReached, field, asked, message)
    }

    pub(super) fn set_layer_share(
        &mut self,
        ctx: &Context,
        c: &SetLayerShare,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("changing an experiment's share of its layer")?;
        let number = self.named_experiment(&c.name)?;
        let flag = self.in_phase(number, &c.name, &c.etag, &[Phase::Running, Phase::Paused, Phase::Draft])?;
        let Some(record) = self.experiments.get(&number).cloned() else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such experiment");
        };
        let definition = record.definition.clone().unwrap_or_default();
        if definition.layer.is_empty() {
            let message = "the experiment is in no layer; a layer is named when an experiment is created";
            return refuse(ErrorCode::WrongState, "name", &c.name, message);
        }
        let (have, want) = (share_of(&record.layer_slots), c.basis_points);
        if !(1..=BUCKETS).contains(&want) {
            let message = "1 to 10000 basis points of the layer; stop the experiment to give all back";
            return refuse(ErrorCode::InvalidArgument, "basis_points", want, message);
        }
        let layer = key(&flag.0, &definition.layer);
        if record.state() == Phase::Draft {
            // It has no slots before its start, which looks whether there are as many; and nobody is served by it.
            let had = definition.layer_share_basis_points;
            if let Some(record) = self.experiment_mut(number) {
                record.version += 1;
                record.definition.get_or_insert_default().layer_share_basis_points = want;
            }
            let mut outcome = self.experiment_done(number, effects);
            outcome.detail = format!("{had} -> {want} of layer {}, asked for at the start", layer.1);
            return Ok(outcome);
        }
        let slots = if want >= have {
            self.more_slots(&layer, &record.layer_slots, want - have, "basis_points", want)?
        } else {
            // Receipts of units that fall out end with the generation: their slots may be another's soon.
            self.open_generation(ctx, number)?;
            shrunk(&record.layer_slots, want)
        };
        if let Some(record) = self.experiment_mut(number) {
            if want < have
                && let Some(closed) = record.generations.iter_mut().rev().nth(1)
            {
                closed.closed_ms = ctx.now_ms;
            }
            record.layer_slots = slots;
            if let Some(definition) = &mut record.definition {
                definition.layer_share_basis_points = want;
            }
        }
        let change = if want < have { "shrink layer share" } else { "grow layer share" };
        self.replaced(ctx, number, change, effects);
        let mut outcome = self.experiment_done(number, effects);
        outcome.detail = format!("{have} -> {want} of layer {}", layer.1);
        Ok(outcome)
    }

    /// Other units are in a live experiment than before: its flag changed, by somebody from outside the loop.
    fn replaced(&mut self, ctx: &Context, number: u32, change: &'static str, effects: &mut Vec<Effect>) {
        let Some(record) = self.experiment_mut(number) else { return };
        record.version += 1;
        let flag = record.definition.as_ref().map(|d| d.flag.clone()).unwrap_or_default();
        let flag = key(&record.environment, &flag);
        self.change_flag(ctx, &flag, Change::Other(change), "");
        self.overrule(ctx, &flag, effects);
        effects.push(Effect::ExperimentChanged { number });
        effects.push(flag_changed(&flag));
    }
}

/// An etag names what is there: a resource that is not is created without one.
fn check_present(given: &str, present: Option<String>, what: &str, name: &str) -> Result<(), Refusal> {
    match present {
        Some(present) => check_etag(given, &present),
        None if given.is_empty() => Ok(()),
        None => {
            let message = format!("no such {what}; leave etag empty to create it");
            refuse(ErrorCode::NotFound, &format!("{what}.name"), name, message)
        }
    }
}
