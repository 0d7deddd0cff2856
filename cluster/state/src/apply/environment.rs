//! Environments: set, and filled by imports. An import is decided as a whole before the first flag is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use featureops_proto::log::{
    Done, EnvironmentRecord, FlagRecord, ImportFlags, Imported, Refusal, Reply, SetEnvironment, reply,
};
use featureops_proto::v1::{Environment, Flag};
use featureops_proto::{Collection, ErrorCode, environment_of};
use prost::Message as _;

use super::flag::checked as checked_flag;
use super::{Context, Outcome, check_description, done, refuse};
use crate::State;
use crate::effect::Effect;
use crate::environments::{
    MAX_ENVIRONMENTS, MAX_EVALUATOR_BYTES, MAX_EVALUATORS, MAX_IMPORT_BYTES, MAX_METADATA_BYTES,
    MAX_REPEATED_IDS, MAX_SOURCE_BYTES, etag, generation,
};
use crate::flags::{Change, above, check_etag, parse};
use crate::prerequisites::Written;
use crate::state::{Before, Key, MAX_FLAGS, key};
use crate::sticky;

/// What an import will do, once all of it was checked.
struct Plan {
    environment: Option<Environment>,
    changed: Vec<(Key, Flag)>,
    archived: Vec<Key>,
    kept: Vec<String>,
    unchanged: usize,
}

impl State {
    pub(super) fn set_environment(
        &mut self,
        ctx: &Context,
        c: &SetEnvironment,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let Some(environment) = &c.environment else {
            return refuse(ErrorCode::InvalidArgument, "environment", "", "missing");
        };
        let id = environment_id(&environment.name, "environment.name")?;
        check_etag(&c.etag, &etag(self.environments.get(id).map(AsRef::as_ref)))?;
        let definition = self.checked_environment(ctx, id, environment)?;
        let version = self.write_environment(ctx, id, definition, effects);
        let etag = etag(self.environments.get(id).map(AsRef::as_ref));
        let done = done(&environment.name, version, etag);
        Ok(Outcome { done, detail: format!("version {version}"), ..Outcome::default() })
    }

    pub(super) fn import_flags(
        &mut self,
        ctx: &Context,
        c: &ImportFlags,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        let environment = environment_id(&c.parent, "parent")?;
        let plan = self.plan_import(ctx, environment, c)?;
        let name_of = |keys: &[Key]| keys.iter().map(|key| key.1.clone()).collect::<Vec<_>>();
        let imported = Imported {
            changed: plan.changed.iter().map(|(key, _)| key.1.clone()).collect(),
            archived: name_of(&plan.archived),
            changed_count: plan.changed.len() as u32,
            archived_count: plan.archived.len() as u32,
            kept_count: plan.kept.len() as u32,
            unchanged_count: plan.unchanged as u32,
            kept: plan.kept,
        };
        if let Some(definition) = plan.environment {
            self.write_environment(ctx, environment, definition, effects);
        }
        let mut touched = BTreeSet::new();
        for (key, definition) in plan.changed {
            if !self.flags.contains_key(&key) {
                let (environment, flag) = key.clone();
                let record = FlagRecord { environment, flag, create_ms: ctx.now_ms, ..FlagRecord::default() };
                self.flags.insert(key.clone(), Arc::new(record));
            }
            let serves = self.define(&key, Some(definition));
            touched
                .extend(self.flag_written(ctx, &key, Change::Import, serves, String::new(), effects).touched);
        }
        for key in plan.archived {
            let serves = self.define(&key, None);
            touched.extend(
                self.flag_written(ctx, &key, Change::Archive, serves, String::new(), effects).touched,
            );
        }
        let from = match c.promoted_from.as_str() {
            "" => String::new(),
            from => format!("from {from}: "),
        };
        let detail = format!(
            "{from}{} changed, {} archived, {} kept, {} unchanged",
            imported.changed_count, imported.archived_count, imported.kept_count, imported.unchanged_count
        );
        let record = self.environments.get(environment).map(AsRef::as_ref);
        let done = done(&c.parent, record.map_or(0, |record| record.version), etag(record));
        let done = Done { imported: Some(imported), ..done };
        Ok(Outcome { done, detail, touched: touched.into_iter().collect() })
    }

    /// Everything that could refuse an import, before anything is changed.
    fn plan_import(&self, ctx: &Context, environment: &str, c: &ImportFlags) -> Result<Plan, Refusal> {
        let bytes = c.encoded_len();
        if bytes > MAX_IMPORT_BYTES {
            let message = format!(
                "an import has at most {MAX_IMPORT_BYTES} bytes: split the flags over several documents and import \
                 them one after the other, without prune"
            );
            return refuse(ErrorCode::InvalidArgument, "document", format!("{bytes} bytes"), message);
        }
        if !c.promoted_from.is_empty() {
            environment_id(&c.promoted_from, "promoted_from")?;
        }
        check_etag(&c.etag, &etag(self.environments.get(environment).map(AsRef::as_ref)))?;
        let mut plan = Plan {
            environment: None,
            changed: Vec::new(),
            archived: Vec::new(),
            kept: Vec::new(),
            unchanged: 0,
        };
        if let Some(given) = &c.environment {
            if environment_id(&given.name, "environment.name")? != environment {
                let message = format!("an import into {} cannot set another environment", c.parent);
                return refuse(ErrorCode::InvalidArgument, "environment.name", &given.name, message);
            }
            let definition = self.checked_environment(ctx, environment, given)?;
            let present = self.environments.get(environment).and_then(|record| record.definition.as_ref());
            // To say the defaults of what was never set is no change either.
            if present.unwrap_or(&named(environment)) != &definition {
                plan.environment = Some(definition);
            }
        }
        let mut seen = BTreeSet::new();
        let mut added = 0;
        for flag in &c.flags {
            let key = parse(&flag.name, Collection::Flags)?;
            if key.0 != environment {
                let message = format!("is not a flag of {}", c.parent);
                return refuse(ErrorCode::InvalidArgument, "flags.name", &flag.name, message);
            }
            if !seen.insert(key.clone()) {
                return refuse(ErrorCode::InvalidArgument, "flags.name", &flag.name, "is given twice");
            }
            let record = self.flags.get(&key);
            let held = record.and_then(|r| r.definition.as_ref());
            let mut definition =
                checked_flag(&completed(flag, held)).map_err(|refusal| of_flag(&key, refusal))?;
            sticky::settle(&mut definition, held).map_err(|refusal| of_flag(&key, refusal))?;
            match record {
                Some(record) if !record.archived && record.definition.as_ref() == Some(&definition) => {
                    plan.unchanged += 1;
                    continue;
                }
                Some(record) if record.experiment != 0 && !c.promoted_from.is_empty() => {
                    let message =
                        "an experiment holds it there; stop that first, or promote the other flags by name";
                    let refusal = Refusal::new(ErrorCode::WrongState, "", &flag.name, message);
                    return Err(of_flag(&key, refusal));
                }
                Some(record) => self
                    .check_holds_experiment(ctx, &key, record, &definition)
                    .map_err(|refusal| of_flag(&key, refusal))?,
                None => {
                    self.check_serves_held(ctx, &key, &definition)
                        .map_err(|refusal| of_flag(&key, refusal))?;
                    added += 1;
                }
            }
            self.check_segments_of_flag(environment, &definition)
                .map_err(|refusal| of_flag(&key, refusal))?;
            plan.changed.push((key, definition));
        }
        if self.flags.len() + added > MAX_FLAGS {
            let message = format!("{MAX_FLAGS} flags are kept; {} are there", self.flags.len());
            return refuse(ErrorCode::LimitReached, "flags", format!("{added} new"), message);
        }
        plan.changed.sort_by(|a, b| a.0.cmp(&b.0));
        if c.prune {
            for record in above(&self.flags, environment, "").filter(|record| !record.archived) {
                let key = key(environment, &record.flag);
                if seen.contains(&key) {
                    continue;
                }
                if record.trip.is_some() || record.experiment != 0 {
                    plan.kept.push(key.1);
                } else {
                    plan.archived.push(key);
                }
            }
            self.keep_rested_on(environment, &mut plan);
        }
        let written = written(self, environment, &plan);
        for (key, definition) in &plan.changed {
            written.check(&key.1, definition).map_err(|refusal| of_flag(key, refusal))?;
        }
        Ok(plan)
    }

    /// A flag that another rests on is not archived under it.
    fn keep_rested_on(&self, environment: &str, plan: &mut Plan) {
        loop {
            let kept: BTreeSet<Key> = {
                let written = written(self, environment, plan);
                let rested_on = |key: &&Key| written.dependents(&key.1).next().is_some();
                plan.archived.iter().filter(rested_on).cloned().collect()
            };
            if kept.is_empty() {
                break;
            }
            plan.archived.retain(|key| !kept.contains(key));
            plan.kept.extend(kept.into_iter().map(|key| key.1));
        }
        plan.kept.sort();
    }

    fn write_environment(
        &mut self,
        ctx: &Context,
        id: &str,
        definition: Environment,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        let before = self.environments.get(id).cloned();
        let version = before.as_ref().map_or(0, |record| record.version) + 1;
        self.before.push(Before::Environment(id.to_owned(), before));
        let record = EnvironmentRecord {
            environment: id.to_owned(),
            definition: Some(definition),
            version,
            update_ms: ctx.now_ms,
        };
        self.environments.insert(id.to_owned(), Arc::new(record));
        effects.push(Effect::EnvironmentChanged { environment: id.to_owned() });
        version
    }

    /// The definition without output fields, if it is within the bounds and no experiment rests on what it changes.
    fn checked_environment(
        &self,
        ctx: &Context,
        id: &str,
        given: &Environment,
    ) -> Result<Environment, Refusal> {
        let bad = |field: &str, value: String, message: String| {
            refuse(ErrorCode::InvalidArgument, &format!("environment.{field}"), value, message)
        };
        let present = self.environments.get(id).and_then(|record| record.definition.as_ref());
        if present.is_none()
            && !self.environments.contains_key(id)
            && self.environments.len() >= MAX_ENVIRONMENTS
        {
            let message = format!("{MAX_ENVIRONMENTS} environments are kept");
            return refuse(ErrorCode::LimitReached, "environment", id, message);
        }
        let count = given.evaluators.len();
        if count > MAX_EVALUATORS {
            return bad("evaluators", count.to_string(), format!("at most {MAX_EVALUATORS} shared rules"));
        }
        let bytes: usize = given.evaluators.iter().map(|(name, rule)| name.len() + rule.len()).sum();
        if bytes > MAX_EVALUATOR_BYTES {
            let message = format!("shared rules have at most {MAX_EVALUATOR_BYTES} bytes together");
            return bad("evaluators", format!("{bytes} bytes"), message);
        }
        let bytes = given.metadata.as_ref().map_or(0, prost::Message::encoded_len);
        if bytes > MAX_METADATA_BYTES {
            return bad("metadata", format!("{bytes} bytes"), format!("at most {MAX_METADATA_BYTES} bytes"));
        }
        if given.source.len() > MAX_SOURCE_BYTES {
            return bad("source", given.source.clone(), format!("at most {MAX_SOURCE_BYTES} bytes"));
        }
        check_description(&given.description, "environment.description")?;
        if !matches!(given.fractional, 0 | 2 | 3) {
            return bad("fractional", given.fractional.to_string(), "2 or 3; 0 means 2".to_owned());
        }
        let before = present.map_or(generation(&Environment::default()), generation);
        if before != generation(given)
            && let Some(experiment) = self.bucketing_experiment(id)
        {
            let message = format!(
                "experiment {experiment} runs on {}: another generation moves every unit to another arm; stop it first",
                before.as_str_name()
            );
            let value = generation(given).as_str_name();
            return refuse(ErrorCode::WrongState, "environment.fractional", value, message);
        }
        self.check_shared_by_held(ctx, id, given)?;
        Ok(Environment {
            source: given.source.clone(),
            metadata: given.metadata.clone(),
            fractional: given.fractional,
            evaluators: given.evaluators.clone(),
            description: given.description.clone(),
            ..named(id)
        })
    }
}

/// The environment's flags as the import will leave them.
fn written<'a>(state: &'a State, environment: &'a str, plan: &'a Plan) -> Written<'a> {
    let changed = plan.changed.iter().map(|(key, definition)| (key.1.as_str(), Some(definition)));
    let archived = plan.archived.iter().map(|key| (key.1.as_str(), None));
    Written::new(state, environment, changed.chain(archived))
}

/// An environment as it is before anything is said of it.
fn named(id: &str) -> Environment {
    Environment { name: format!("environments/{id}"), ..Environment::default() }
}

fn environment_id<'a>(name: &'a str, field: &str) -> Result<&'a str, Refusal> {
    environment_of(name).map_err(|error| {
        Refusal::new(ErrorCode::InvalidArgument, field, name.chars().take(80).collect::<String>(), error)
    })
}

/// An import with what its form cannot say taken from the flag as it stands: without its safe variant a flag could neither
/// trip nor hold an experiment after the next import.
fn completed(given: &Flag, present: Option<&Flag>) -> Flag {
    let mut flag = given.clone();
    let Some(present) = present.filter(|_| given.imported) else { return flag };
    if flag.safe_variant.is_none() && present.safe_variant.iter().any(|safe| flag.variants.contains_key(safe))
    {
        flag.safe_variant.clone_from(&present.safe_variant);
    }
    if flag.stale_after_seconds == 0 && flag.safe_variant.is_some() {
        flag.stale_after_seconds = present.stale_after_seconds;
    }
    if flag.description.is_empty() {
        flag.description.clone_from(&present.description);
    }
    if flag.owner.is_empty() {
        flag.owner.clone_from(&present.owner);
    }
    if flag.tags.is_empty() {
        flag.tags.clone_from(&present.tags);
    }
    if flag.purpose == 0 {
        flag.purpose = present.purpose;
    }
    flag
}

/// The refusal of one flag, told by its place in the import.
fn of_flag(key: &Key, refusal: Refusal) -> Refusal {
    let field = match refusal.field.strip_prefix("flag.") {
        Some(field) => field,
        None if refusal.field == "flag" => "",
        None => &refusal.field,
    };
    let dot = if field.is_empty() || field.starts_with('[') { "" } else { "." };
    Refusal { field: format!("flags.{}{dot}{field}", key.1), ..refusal }
}

/// The reply that a repeated request will get: of a large import the counts, and the first of its flags.
pub(super) fn kept_reply(reply: &Reply) -> Reply {
    let mut kept = reply.clone();
    if let Some(reply::Result::Done(Done { imported: Some(imported), .. })) = &mut kept.result {
        for ids in [&mut imported.changed, &mut imported.archived, &mut imported.kept] {
            ids.truncate(MAX_REPEATED_IDS);
        }
    }
    kept
}
