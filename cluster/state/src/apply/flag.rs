//! Flags: set, archive, revert. The door has compiled the rules; what is checked here is what other commands rely on.

use std::sync::Arc;

use featureops_proto::log::{ArchiveFlag, FlagRecord, Refusal, RevertFlag, SetFlag};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Flag, Purpose, ValueType};
use featureops_proto::{Collection, ErrorCode};

use super::{Context, Outcome, done, flag_changed, flag_name, refuse};
use crate::State;
use crate::effect::Effect;
use crate::flags::{Change, check_etag, etag, parse};
use crate::prerequisites::Serves;
use crate::state::{Key, MAX_FLAGS};
use crate::sticky;

/// Bytes of one encoded definition.
const MAX_FLAG_BYTES: usize = 1 << 20;

impl State {
    pub(super) fn set_flag(
        &mut self,
        ctx: &Context,
        c: &SetFlag,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(flag) = &c.flag else { return refuse(ErrorCode::InvalidArgument, "flag", "", "missing") };
        let key = parse(&flag.name, Collection::Flags)?;
        // Whoever writes a flag by hand means what he writes: from here on it must compile.
        let mut definition = Flag { imported: false, ..checked(flag)? };
        sticky::settle(&mut definition, self.flags.get(&key).and_then(|held| held.definition.as_ref()))?;
        match self.flags.get(&key) {
            Some(record) => {
                check_etag(&c.etag, &etag(record))?;
                self.check_holds_experiment(ctx, &key, record, &definition)?;
                self.check_named(&key, &definition)?;
            }
            None if !c.etag.is_empty() => {
                return refuse(
                    ErrorCode::NotFound,
                    "name",
                    &flag.name,
                    "no such flag; leave etag empty to create it",
                );
            }
            None if self.flags.len() >= MAX_FLAGS => {
                return refuse(
                    ErrorCode::LimitReached,
                    "flag",
                    &flag.name,
                    format!("{MAX_FLAGS} flags are kept"),
                );
            }
            None => {
                self.check_serves_held(ctx, &key, &definition)?;
                self.check_named(&key, &definition)?;
                let (environment, flag) = key.clone();
                let record = FlagRecord { environment, flag, create_ms: ctx.now_ms, ..FlagRecord::default() };
                self.flags.insert(key.clone(), Arc::new(record));
            }
        }
        let serves = self.define(&key, Some(definition));
        Ok(self.flag_written(ctx, &key, Change::Set, serves, String::new(), effects))
    }

    pub(super) fn archive_flag(
        &mut self,
        ctx: &Context,
        c: &ArchiveFlag,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let key = self.live_flag(&c.name)?;
        if let Some(record) = self.flags.get(&key) {
            check_etag(&c.etag, &etag(record))?;
            if record.trip.is_some() {
                return refuse(ErrorCode::Tripped, "name", &c.name, "the flag is tripped; resume it first");
            }
            if record.experiment != 0 {
                let message = "an experiment holds the flag; stop it first";
                return refuse(ErrorCode::WrongState, "name", &c.name, message);
            }
        }
        self.check_unnamed(&key, &c.name)?;
        let serves = self.define(&key, None);
        Ok(self.flag_written(ctx, &key, Change::Archive, serves, String::new(), effects))
    }

    pub(super) fn revert_flag(
        &mut self,
        ctx: &Context,
        c: &RevertFlag,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let key = parse(&c.name, Collection::Flags)?;
        let Some(record) = self.flags.get(&key) else {
            return refuse(ErrorCode::NotFound, "name", &c.name, "no such flag");
        };
        check_etag(&c.etag, &etag(record))?;
        // A version that left the definition as it was stands for the newest one that wrote it.
        let definition = {
            let history = self.history(&key);
            let mut until =
                history.newest_first().skip_while(|version| version.flag_version > c.to_version).peekable();
            let known = until.peek().is_some_and(|version| version.flag_version == c.to_version);
            until.find_map(|version| version.definition).filter(|_| known)
        };
        let Some(definition) = definition else {
            let message = "not among the versions kept; list them with flag history";
            return refuse(ErrorCode::NotFound, "to_version", c.to_version, message);
        };
        self.check_holds_experiment(ctx, &key, record, &definition)?;
        self.check_named(&key, &definition)?;
        let serves = self.define(&key, Some(definition));
        let detail = format!("to version {}", c.to_version);
        Ok(self.flag_written(ctx, &key, Change::Revert, serves, detail, effects))
    }

    /// What an experiment on the flag or a trip rests on may not be taken away.
    pub(super) fn check_holds_experiment(
        &self,
        ctx: &Context,
        key: &Key,
        record: &FlagRecord,
        definition: &Flag,
    ) -> Result<(), Refusal> {
        let present = record.definition.as_ref().map_or(definition.r#type, |present| present.r#type);
        if record.experiment != 0 && present != definition.r#type {
            let by = self.experiments.get(&record.experiment).map_or("", |e| e.experiment.as_str());
            let message = format!(
                "experiment {by} holds the flag, and callers ask for its type: stop that first, or use another flag"
            );
            let value = ValueType::try_from(definition.r#type).map_or("?", |given| given.as_str_name());
            return refuse(ErrorCode::WrongState, "flag.type", value, message);
        }
        self.check_serves_held(ctx, key, definition)?;
        let safe = |flag: &Flag| {
            let safe = flag.safe_variant.clone()?;
            let value = flag.variants.get(&safe).cloned();
            Some((safe, value))
        };
        if record.trip.is_some() && record.definition.as_ref().and_then(safe) != safe(definition) {
            ctx.require_human("changing what a tripped flag serves")?;
            if definition.safe_variant.is_none() {
                let message = "the flag is tripped and serves its safe variant; resume it first";
                return refuse(ErrorCode::Tripped, "flag.safe_variant", "", message);
            }
        }
        let live = self.experiments.values().filter(|e| {
            e.environment == key.0
                && e.definition.as_ref().is_some_and(|d| d.flag == key.1)
                && e.state() != Phase::Stopped
        });
        for experiment in live {
            if definition.safe_variant.is_none() {
                let message =
                    format!("experiment {} needs a safe variant; stop it first", experiment.experiment);
                return refuse(ErrorCode::WrongState, "flag.safe_variant", "", message);
            }
            for arm in experiment.definition.iter().flat_map(|d| &d.arms) {
                if !definition.variants.contains_key(&arm.variant) {
                    let message =
                        format!("it is an arm of experiment {}; stop that first", experiment.experiment);
                    return refuse(ErrorCode::WrongState, "flag.variants", &arm.variant, message);
                }
            }
        }
        Ok(())
    }

    /// Counts and tells a write of the definition. One by which the flag `serves` as before (its words, owner, tags)
    /// overrules nothing.
    pub(super) fn flag_written(
        &mut self,
        ctx: &Context,
        key: &Key,
        change: Change,
        serves: Serves,
        detail: String,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let version = self.change_flag(ctx, key, change, "");
        if serves == Serves::Otherwise {
            self.overrule(ctx, key, effects);
        }
        let touched = self.flags.get(key).map(|record| record.experiment).filter(|n| *n != 0);
        let touched = touched.into_iter().collect();
        effects.push(flag_changed(key));
        let etag = self.flags.get(key).map(|r| etag(r)).unwrap_or_default();
        let done = done(&flag_name(key), version, etag);
        let detail = if detail.is_empty() { format!("version {version}") } else { detail };
        Outcome { done, detail, touched }
    }

    /// A command from outside the loop wins: growth rests for a while and what was proposed is overtaken.
    pub(super) fn overrule(&mut self, ctx: &Context, key: &Key, effects: &mut Vec<Effect>) {
        self.cool_down(ctx, key);
        self.supersede(ctx, key, effects);
    }
}

/// The definition without output fields, if other commands can rely on it.
pub(super) fn checked(flag: &Flag) -> Result<Flag, Refusal> {
    use prost::Message as _;
    let bytes = flag.encoded_len();
    if bytes > MAX_FLAG_BYTES {
        return refuse(
            ErrorCode::InvalidArgument,
            "flag",
            format!("{bytes} bytes"),
            format!("at most {MAX_FLAG_BYTES} bytes"),
        );
    }
    known_enums(flag)?;
    // An imported flag may be whatever flagd would load: variants of several types, or none.
    if flag.r#type() == ValueType::Unspecified && !flag.imported {
        return refuse(ErrorCode::InvalidArgument, "flag.type", "", "boolean, string, number or object");
    }
    if flag.variants.is_empty() && !flag.imported {
        return refuse(ErrorCode::InvalidArgument, "flag.variants", "", "at least one variant");
    }
    for (field, variant) in
        [("flag.default_variant", &flag.default_variant), ("flag.safe_variant", &flag.safe_variant)]
    {
        if let Some(variant) = variant
            && !flag.variants.contains_key(variant)
        {
            return refuse(ErrorCode::InvalidArgument, field, variant, "not among the flag's variants");
        }
    }
    Ok(Flag {
        name: flag.name.clone(),
        r#type: flag.r#type,
        variants: flag.variants.clone(),
        default_variant: flag.default_variant.clone(),
        safe_variant: flag.safe_variant.clone(),
        rules: flag.rules.clone(),
        disabled: flag.disabled,
        description: flag.description.clone(),
        owner: flag.owner.clone(),
        tags: flag.tags.clone(),
        stale_after_seconds: flag.stale_after_seconds,
        targeting: flag.targeting.clone(),
        metadata: flag.metadata.clone(),
        purpose: flag.purpose,
        imported: flag.imported,
        prerequisites: flag.prerequisites.clone(),
        forced: flag.forced.clone(),
        ..Flag::default()
    })
}

/// Refuses a number that stands for nothing: it would be kept, and read as whatever a later version gives it.
pub(super) fn known_enums(flag: &Flag) -> Result<(), Refusal> {
    if ValueType::try_from(flag.r#type).is_err() {
        return refuse(
            ErrorCode::InvalidArgument,
            "flag.type",
            flag.r#type,
            "boolean, string, number or object",
        );
    }
    if Purpose::try_from(flag.purpose).is_err() {
        let known = "no purpose; RELEASE, EXPERIMENT, OPERATIONAL, PERMANENT, or leave it out";
        return refuse(ErrorCode::InvalidArgument, "flag.purpose", flag.purpose, known);
    }
    Ok(())
}
