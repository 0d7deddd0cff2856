//! Promotion: flags of one environment written into another, as one import that carries what the target can compile.
//!
//! ```text
//!   a copy of State ── definitions of `from` ── names, forced units and imports as `to` has them ── compiled against `to`
//!                  └── differences by field, for whoever asked                    └── one ImportFlags, fenced by what it saw
//! ```
//!
//! Everything is read from one copy of State, so that flags which rest on each other come as they stood together.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::log::{self, CompiledAgainst, Done, entry};
use featureops_proto::v1::{Flag, FlagDifference, PromoteFlagsRequest, PromoteFlagsResponse, Rule};
use featureops_proto::{Collection, ErrorCode, Name, environment_of, id_of};
use featureops_state::{MAX_IMPORT_BYTES, State};
use prost::Message as _;
use tonic::Status;

use crate::host::{Host, Write};
use crate::refusal;
use crate::sent::Sent;
use crate::services::flag::{clear_maps, without_log};

/// Flags that one request names at most.
const NAMED_MAX: usize = 4_096;

/// What a promotion will propose, and what it says of it.
struct Promotion {
    flags: Vec<Flag>,
    differences: Vec<FlagDifference>,
    against: CompiledAgainst,
}

/// Promotes once, against the target as it is now.
///
/// # Errors
/// A name is malformed or unknown, the target could not compile a flag, the fold refused, or there was no answer.
pub async fn promote(
    host: &Host,
    sent: &Sent,
    request: &PromoteFlagsRequest,
) -> Result<PromoteFlagsResponse, Status> {
    let from = environment_of(&request.from).map_err(refusal::bad_name("from"))?.to_owned();
    let to = environment_of(&request.to).map_err(refusal::bad_name("to"))?.to_owned();
    if from == to {
        return Err(refusal::invalid(
            "to",
            &request.to,
            "is where the flags come from; name another environment",
        ));
    }
    if request.flags.len() > NAMED_MAX {
        let way_out = format!("flags are too many; name at most {NAMED_MAX}, or none for all");
        return Err(refusal::invalid("flags", request.flags.len(), way_out));
    }
    if request.prune && !request.flags.is_empty() {
        let way_out = "takes all flags: leave `flags` empty, or archive what is to go by name";
        return Err(refusal::invalid("prune", "true", way_out));
    }
    let (replica, named) = (host.replica.clone(), request.flags.clone());
    let planned = host.beside(move || plan(&replica.copy(), &from, &to, &named)).await?;
    let Promotion { flags, differences, against } = planned?;
    let command = log::ImportFlags {
        parent: request.to.clone(),
        flags,
        prune: request.prune,
        promoted_from: request.from.clone(),
        ..log::ImportFlags::default()
    };
    let bytes = command.encoded_len();
    if bytes > MAX_IMPORT_BYTES {
        let way_out = format!(
            "of flags are more than one change takes ({MAX_IMPORT_BYTES}); promote them in parts, by name and without prune"
        );
        return Err(refusal::invalid("flags", format!("{bytes} bytes"), way_out));
    }
    let write = Write {
        from: sent,
        request_id: &request.request_id,
        validate_only: request.validate_only,
        command: entry::Command::ImportFlags(command),
    };
    host.write_compiled(write, Some(against), |_, done| Some(told(done, differences))).await
}

fn told(done: &Done, differences: Vec<FlagDifference>) -> PromoteFlagsResponse {
    let imported = done.imported.clone().unwrap_or_default();
    PromoteFlagsResponse {
        changed: imported.changed,
        archived: imported.archived,
        unchanged: imported.unchanged_count,
        changed_count: imported.changed_count,
        archived_count: imported.archived_count,
        kept: imported.kept,
        differences,
    }
}

fn plan(state: &State, from: &str, to: &str, named: &[String]) -> Result<Promotion, Status> {
    let environment = state.environment(to);
    let against = CompiledAgainst {
        environment: environment.name.clone(),
        environment_version: Some(environment.environment_version),
        definitions: Some(state.definitions(to)),
    };
    let held = held(state, from, named)?;
    let coming: BTreeSet<&str> = held.keys().map(String::as_str).collect();
    let mut promotion = Promotion { flags: Vec::new(), differences: Vec::new(), against };
    for (id, flag) in &held {
        let present = state.flag(to, id);
        let flag = moved(flag, to, id, present.as_ref());
        for needed in &flag.prerequisites {
            let there = state.flag(to, &needed.flag).is_some_and(|flag| !flag.archived);
            if !there && !coming.contains(needed.flag.as_str()) {
                let field = format!("flags.{id}.prerequisites");
                let way_out = format!("is not in {}; promote it too, or create it there", environment.name);
                return Err(refusal::invalid(&field, &needed.flag, way_out));
            }
        }
        // An import keeps what cannot work as flagd would; a promotion is to work where it arrives.
        let fault = match featureops_evaluation::check(&flag, &environment) {
            Err(error) => Some((error.path, error.value, error.message)),
            Ok(()) => featureops_evaluation::warnings(&flag, &environment)
                .into_iter()
                .next()
                .map(|(path, message)| (path, String::new(), message)),
        };
        if let Some((path, value, message)) = fault {
            let way_out = format!(
                "does not compile in {} ({message}); set there what the flag shares with others, or change the flag first",
                environment.name
            );
            return Err(refusal::invalid(&format!("flags.{id}.{path}"), &value, way_out));
        }
        let live = present.as_ref().filter(|flag| !flag.archived);
        let fields = differing(live.unwrap_or(&Flag::default()), &flag);
        if !fields.is_empty() || live.is_none() {
            let created = present.is_none();
            promotion.differences.push(FlagDifference { flag: id.clone(), created, fields });
        }
        promotion.flags.push(flag);
    }
    Ok(promotion)
}

/// The flags that are named, or all that are not archived, by id.
fn held(state: &State, from: &str, named: &[String]) -> Result<BTreeMap<String, Flag>, Status> {
    let mut held = BTreeMap::new();
    for (at, id) in named.iter().enumerate() {
        let flag = state.flag(from, id).filter(|flag| !flag.archived);
        let Some(flag) = flag else {
            let name = Name::format(from, Collection::Flags, id);
            return Err(refusal::not_found(&format!("flags[{at}]"), &name));
        };
        held.insert(id.clone(), flag);
    }
    if !named.is_empty() {
        return Ok(held);
    }
    // A copy of State, which nobody waits for.
    for flag in state.flags(from, "", usize::MAX, false) {
        held.insert(id_of(&flag.name, Collection::Flags).to_owned(), flag);
    }
    if held.is_empty() {
        // With prune this would empty the target.
        let message = format!("from: environments/{from} holds no flags; there is nothing to promote");
        return Err(refusal::coded(ErrorCode::NotFound, message));
    }
    Ok(held)
}

/// The flag as the other environment is to have it: its own name, and the forced units that it has there.
fn moved(flag: &Flag, to: &str, id: &str, present: Option<&Flag>) -> Flag {
    Flag {
        name: Name::format(to, Collection::Flags, id),
        forced: present.map(|present| present.forced.clone()).unwrap_or_default(),
        // A flagd document has no word for it, so that an import leaves the one that is there.
        safe_variant: match present {
            Some(present) if flag.imported && flag.safe_variant.is_none() => present.safe_variant.clone(),
            _ => flag.safe_variant.clone(),
        },
        ..without_log(flag.clone())
    }
}

/// The rules as a person wrote them: the map of a sticky split is each environment's own, once it has one.
fn without_maps(rules: &[Rule]) -> Vec<Rule> {
    let mut rules = rules.to_vec();
    clear_maps(&mut rules);
    rules
}

/// Names of the fields by which two definitions differ.
fn differing(one: &Flag, other: &Flag) -> Vec<String> {
    let compared = [
        ("type", one.r#type == other.r#type),
        ("variants", one.variants == other.variants),
        ("default_variant", one.default_variant == other.default_variant),
        ("safe_variant", one.safe_variant == other.safe_variant),
        ("rules", without_maps(&one.rules) == without_maps(&other.rules)),
        ("disabled", one.disabled == other.disabled),
        ("description", one.description == other.description),
        ("owner", one.owner == other.owner),
        ("tags", one.tags == other.tags),
        ("stale_after_seconds", one.stale_after_seconds == other.stale_after_seconds),
        ("targeting", one.targeting == other.targeting),
        ("metadata", one.metadata == other.metadata),
        ("purpose", one.purpose == other.purpose),
        ("imported", one.imported == other.imported),
        ("prerequisites", one.prerequisites == other.prerequisites),
    ];
    compared.iter().filter(|(_, equal)| !equal).map(|(name, _)| (*name).to_owned()).collect()
}
