//! Flags: read, listed, written, archived, reverted.

use std::sync::Arc;

use featureops_proto::log::{self, CompiledAgainst, Done, entry};
use featureops_proto::v1::{
    ArchiveFlagRequest, Environment, Flag, GetFlagRequest, ListFlagVersionsRequest, ListFlagVersionsResponse,
    ListFlagsRequest, ListFlagsResponse, RevertFlagRequest, Rule, SetFlagRequest, rule,
};
use featureops_proto::{Collection, Name, environment_of, id_of};
use featureops_state::State;
use tonic::{Request, Response, Status};

use crate::access::grant::granted;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::flag_service_server::FlagService;
use crate::sent::{Sent, sent};
use crate::services::compiled::{compiled_against, settled};
use crate::services::{name, required};

/// The service.
pub struct Flags(pub Arc<Host>);

/// The flag a reply names, as State has it.
pub fn named_flag(state: &State, done: &Done) -> Option<Flag> {
    let name = Name::parse(&done.name, Collection::Flags).ok()?;
    state.flag(name.environment, name.id)
}

#[tonic::async_trait]
impl FlagService for Flags {
    async fn get_flag(&self, request: Request<GetFlagRequest>) -> Result<Response<Flag>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Flags, "name")?;
        let flag = self.0.replica.read(|state| {
            let flag = state.flag(name.environment, name.id)?;
            Some(if flag.imported { warned(flag, &state.environment(name.environment)) } else { flag })
        });
        flag.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_flags(
        &self,
        request: Request<ListFlagsRequest>,
    ) -> Result<Response<ListFlagsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let shown = if request.show_archived { "archived" } else { "live" };
        let page = Page::of(request.page_size, &request.page_token, &["flags", environment, shown])?;
        let read = |after: &str, limit| {
            self.0.replica.read(|state| state.flags(environment, after, limit, request.show_archived))
        };
        let (mut flags, next_page_token) =
            page.read(read, |flag| id_of(&flag.name, Collection::Flags).to_owned());
        if flags.iter().any(|flag| flag.imported) {
            let shared = self.0.replica.read(|state| state.environment(environment));
            flags = flags.into_iter().map(|flag| warned(flag, &shared)).collect();
        }
        if let Some(grant) = granted(&extensions) {
            flags.retain(|flag| grant.covers_flag(&flag.name));
        }
        Ok(Response::new(ListFlagsResponse { flags, next_page_token }))
    }

    async fn set_flag(&self, request: Request<SetFlagRequest>) -> Result<Response<Flag>, Status> {
        let (from, request) = sent(request);
        settled(|| self.set(&from, request.clone())).await
    }

    async fn archive_flag(&self, request: Request<ArchiveFlagRequest>) -> Result<Response<Flag>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Flags, "name")?;
        let command =
            entry::Command::ArchiveFlag(log::ArchiveFlag { name: request.name, etag: request.etag });
        let write = Write {
            from: &from,
            request_id: &request.request_id,
            validate_only: request.validate_only,
            command,
        };
        self.0.write(write, named_flag).await.map(Response::new)
    }

    async fn revert_flag(&self, request: Request<RevertFlagRequest>) -> Result<Response<Flag>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Flags, "name")?;
        if request.to_version == 0 {
            return Err(refusal::invalid(
                "to_version",
                0,
                "is no version; list the flag's versions and take one",
            ));
        }
        settled(|| self.revert(&from, request.clone())).await
    }

    async fn list_flag_versions(
        &self,
        request: Request<ListFlagVersionsRequest>,
    ) -> Result<Response<ListFlagVersionsResponse>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Flags, "name")?;
        let page = Page::of(request.page_size, &request.page_token, &["versions", &request.name])?;
        let before = page.before()?;
        // Taken as it is stored and decoded here: a version may be large, and applying waits while State is read.
        let stored = self.0.replica.read(|state| state.flag_history(name.environment, name.id));
        let Some(stored) = stored else { return Err(refusal::not_found("name", &request.name)) };
        let versions = stored.newest_first().filter(|version| before == 0 || version.flag_version < before);
        let (versions, next_page_token) = page.cut(versions, |version| version.flag_version.to_string());
        Ok(Response::new(ListFlagVersionsResponse { versions, next_page_token }))
    }
}

impl Flags {
    async fn set(&self, from: &Sent, request: SetFlagRequest) -> Result<Flag, Status> {
        let mut flag = required(request.flag, "flag")?;
        let mut etag = request.etag;
        let name = name(&flag.name, Collection::Flags, "flag.name")?;
        let environment = self.0.replica.read(|state| state.environment(name.environment));
        // A mask without paths is no mask, as everywhere in this kind of API: it would write nothing and say OK.
        if let Some(mask) = &request.update_mask
            && !mask.paths.is_empty()
            && mask.paths.iter().all(|path| path != "*")
        {
            let held = self.0.replica.read(|state| state.flag(name.environment, name.id));
            let held = held.ok_or_else(|| refusal::not_found("flag.name", &flag.name))?;
            // A partial write rests on what it did not name, so it stands only on the flag it was merged with.
            if etag.is_empty() {
                etag.clone_from(&held.etag);
            }
            flag = merge(held, flag, &mask.paths)?;
        }
        let flag = definition(flag);
        featureops_evaluation::check(&flag, &environment).map_err(|error| {
            refusal::invalid(&format!("flag.{}", error.path), &error.value, &error.message)
        })?;
        let command = entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag });
        let write =
            Write { from, request_id: &request.request_id, validate_only: request.validate_only, command };
        let against = compiled_against(&environment);
        self.0.write_compiled(write, Some(against), named_flag).await
    }

    async fn revert(&self, from: &Sent, request: RevertFlagRequest) -> Result<Flag, Status> {
        let against = self.compiles_still(&request.name, request.to_version)?;
        let command = entry::Command::RevertFlag(log::RevertFlag {
            name: request.name,
            to_version: request.to_version,
            etag: request.etag,
        });
        let write =
            Write { from, request_id: &request.request_id, validate_only: request.validate_only, command };
        self.0.write_compiled(write, Some(against), named_flag).await
    }

    /// Refuses to bring back a native definition that no longer compiles: what it shared with others may be gone. What
    /// else stands in the way is the fold's to say.
    fn compiles_still(&self, flag: &str, to_version: u64) -> Result<CompiledAgainst, Status> {
        let name = name(flag, Collection::Flags, "name")?;
        let (history, environment) = self.0.replica.read(|state| {
            (state.flag_history(name.environment, name.id), state.environment(name.environment))
        });
        let definition = history.and_then(|history| {
            let mut until = history.newest_first().skip_while(|version| version.flag_version > to_version);
            until.find_map(|version| version.definition)
        });
        let against = compiled_against(&environment);
        let Some(definition) = definition.filter(|definition| !definition.imported) else {
            return Ok(against);
        };
        featureops_evaluation::check(&definition, &environment).map_err(|error| {
            let way_out = format!("of version {to_version} no longer compiles: {}", error.message);
            refusal::invalid(&format!("flag.{}", error.path), &error.value, way_out)
        })?;
        Ok(against)
    }
}

/// An imported flag with what of it cannot work.
fn warned(flag: Flag, environment: &Environment) -> Flag {
    if !flag.imported {
        return flag;
    }
    let warnings = featureops_evaluation::warnings(&flag, environment);
    let warnings = warnings.into_iter().map(|(path, message)| format!("{path}: {message}")).collect();
    Flag { warnings, ..flag }
}

/// What a person defines of a flag; all that the log adds is left out.
pub fn definition(mut flag: Flag) -> Flag {
    clear_maps(&mut flag.rules);
    // Only an import keeps what cannot compile.
    Flag { imported: false, ..without_log(flag) }
}

/// Takes the maps of sticky splits away: they are each environment's own.
pub fn clear_maps(rules: &mut [Rule]) {
    for rule in rules {
        if let Some(rule::Serve::Split(split)) = &mut rule.serve {
            split.runs.clear();
        }
    }
}

/// The flag without what the log adds to it.
pub fn without_log(flag: Flag) -> Flag {
    Flag {
        flag_version: 0,
        etag: String::new(),
        archived: false,
        create_time: None,
        update_time: None,
        trip: None,
        allocation: None,
        autonomy: None,
        warnings: Vec::new(),
        ..flag
    }
}

/// The held flag with the named fields of the written one.
///
/// # Errors
/// A path is no field that can be written.
pub fn merge(mut held: Flag, written: Flag, paths: &[String]) -> Result<Flag, Status> {
    for (index, path) in paths.iter().enumerate() {
        match path.as_str() {
            "type" => held.r#type = written.r#type,
            "variants" => held.variants.clone_from(&written.variants),
            "default_variant" => held.default_variant.clone_from(&written.default_variant),
            "safe_variant" => held.safe_variant.clone_from(&written.safe_variant),
            "rules" => held.rules.clone_from(&written.rules),
            "disabled" => held.disabled = written.disabled,
            "description" => held.description.clone_from(&written.description),
            "owner" => held.owner.clone_from(&written.owner),
            "tags" => held.tags.clone_from(&written.tags),
            "stale_after_seconds" => held.stale_after_seconds = written.stale_after_seconds,
            "targeting" => held.targeting.clone_from(&written.targeting),
            "metadata" => held.metadata.clone_from(&written.metadata),
            "purpose" => held.purpose = written.purpose,
            "prerequisites" => held.prerequisites.clone_from(&written.prerequisites),
            "forced" => held.forced.clone_from(&written.forced),
            other => {
                return Err(refusal::invalid(
                    &format!("update_mask.paths[{index}]"),
                    other,
                    "is not a field that can be written; known: type, variants, default_variant, safe_variant, \
                     rules, disabled, description, owner, tags, stale_after_seconds, targeting, metadata, purpose, \
                     prerequisites, forced, or * for all",
                ));
            }
        }
    }
    Ok(held)
}
