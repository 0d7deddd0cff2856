//! Environments: read, listed, set; and whole sets of flags in flagd's form.
//!
//! A native flag that was accepted keeps compiling: what would stop one (a shared rule that it refers to) is refused here,
//! and says which flag. Imported flags are kept as flagd would keep them, with warnings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use featureops_evaluation::CompileError;
use featureops_evaluation::flagd::{self, LeftOut, What};
use featureops_proto::log::{self, CompiledAgainst, Done, entry};
use featureops_proto::v1::{
    Environment, ExportFlagsRequest, ExportFlagsResponse, Flag, GetEnvironmentRequest, ImportFlagsRequest,
    ImportFlagsResponse, ImportWarning, ListEnvironmentsRequest, ListEnvironmentsResponse,
    PromoteFlagsRequest, PromoteFlagsResponse, SetEnvironmentRequest,
};
use featureops_proto::{Collection, ErrorCode, environment_of, id_of};
use featureops_state::{MAX_SEGMENTS, State};
use prost::Message as _;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};

use crate::access::grant::granted;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::publisher::{READ_MAX, read_pages};
use crate::refusal;
use crate::replica::Replica;
use crate::rpc::environment_service_server::EnvironmentService;
use crate::sent::{Sent, sent};
use crate::services::compiled::settled;
use crate::services::{promotion, required};

/// Where a flagd document has its shared rules; no rule is called so.
const EVALUATORS: &str = "$evaluators";
/// Bytes of the flags of one export.
const EXPORT_BYTES_MAX: usize = 128 << 20;

/// The service.
pub struct Environments(pub Arc<Host>);

#[tonic::async_trait]
impl EnvironmentService for Environments {
    async fn get_environment(
        &self,
        request: Request<GetEnvironmentRequest>,
    ) -> Result<Response<Environment>, Status> {
        let request = request.into_inner();
        let id = environment_of(&request.name).map_err(refusal::bad_name("name"))?;
        Ok(Response::new(self.0.replica.read(|state| state.environment(id))))
    }

    async fn list_environments(
        &self,
        request: Request<ListEnvironmentsRequest>,
    ) -> Result<Response<ListEnvironmentsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let page = Page::of(request.page_size, &request.page_token, &["environments"])?;
        let read = |after: &str, limit| {
            self.0.replica.read(|state| {
                let ids = state.environments_after(after, limit);
                ids.iter().map(|id| state.environment(id)).collect()
            })
        };
        let (mut environments, next_page_token) = page.read(read, |environment: &Environment| {
            environment_of(&environment.name).unwrap_or_default().to_owned()
        });
        if let Some(grant) = granted(&extensions) {
            environments.retain(|environment| grant.covers(&environment.name));
        }
        Ok(Response::new(ListEnvironmentsResponse { environments, next_page_token }))
    }

    async fn set_environment(
        &self,
        request: Request<SetEnvironmentRequest>,
    ) -> Result<Response<Environment>, Status> {
        let (from, mut request) = sent(request);
        let environment = required(request.environment.take(), "environment")?;
        let id = environment_of(&environment.name).map_err(refusal::bad_name("environment.name"))?.to_owned();
        check_metadata(&environment, "environment.metadata")?;
        check_evaluators(&environment)?;
        let environment = definition(environment);
        settled(|| self.set(&from, &id, &request, environment.clone())).await
    }

    async fn import_flags(
        &self,
        request: Request<ImportFlagsRequest>,
    ) -> Result<Response<ImportFlagsResponse>, Status> {
        let (from, request) = sent(request);
        let id = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?.to_owned();
        settled(|| self.import(&from, &id, &request)).await
    }

    async fn export_flags(
        &self,
        request: Request<ExportFlagsRequest>,
    ) -> Result<Response<ExportFlagsResponse>, Status> {
        let request = request.into_inner();
        let id = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?.to_owned();
        let replica = self.0.replica.clone();
        let written = self.0.beside(move || {
            let environment = replica.read(|state| state.environment(&id));
            let (mut flags, mut bytes) = (Vec::new(), 0);
            for_each_flag(&replica, &id, |flag| {
                bytes += flag.encoded_len();
                // Beyond the bound only the size is of interest.
                if bytes <= EXPORT_BYTES_MAX {
                    flags.push(flag);
                }
            });
            if bytes > EXPORT_BYTES_MAX {
                return Err(bytes);
            }
            // After the flags: what these ask about is among them.
            let segments = replica.read(|state| state.segments(&id, "", MAX_SEGMENTS));
            let document = flagd::export_with_segments(&flags, &environment, &segments);
            Ok((format!("{document:#}\n"), flagd::left_out(&flags, &environment, &segments)))
        });
        match written.await? {
            Ok((document, left_out)) => {
                let warnings = left_out.into_iter().map(warning_of).collect();
                Ok(Response::new(ExportFlagsResponse { document, warnings }))
            }
            Err(bytes) => Err(refusal::coded(
                ErrorCode::LimitReached,
                format!(
                    "the flags have {bytes} bytes, an export at most {EXPORT_BYTES_MAX}; read them page by page"
                ),
            )),
        }
    }

    async fn promote_flags(
        &self,
        request: Request<PromoteFlagsRequest>,
    ) -> Result<Response<PromoteFlagsResponse>, Status> {
        let (from, request) = sent(request);
        settled(|| promotion::promote(&self.0, &from, &request)).await
    }
}

/// What an import did, told to whoever asked for it.
///
/// `warnings`: those that are told, and how many were left out.
fn imported(
    done: &Done,
    (mut warnings, more): (Vec<ImportWarning>, usize),
    environment: Environment,
) -> ImportFlagsResponse {
    let told = done.imported.clone().unwrap_or_default();
    for id in &told.kept {
        let message = "not in the document, and kept: a trip, an experiment or a flag that rests on it holds it; resume, stop \
                       or change that, then prune";
        warnings.push(ImportWarning { path: format!("flags.{id}"), message: message.to_owned() });
    }
    let (named, changed) =
        (told.changed.len() + told.archived.len(), told.changed_count + told.archived_count);
    if (named as u64) < u64::from(changed) {
        let message =
            format!("repeated request: {changed} flags were written the first time, {named} are named here");
        warnings.push(ImportWarning { path: "request_id".to_owned(), message });
    }
    ImportFlagsResponse {
        changed_count: told.changed_count,
        archived_count: told.archived_count,
        changed: told.changed,
        archived: told.archived,
        unchanged: told.unchanged_count,
        warnings: flagd::bounded(warnings, more),
        environment: Some(environment),
    }
}

impl Environments {
    async fn set(
        &self,
        from: &Sent,
        id: &str,
        request: &SetEnvironmentRequest,
        environment: Environment,
    ) -> Result<Environment, Status> {
        let (environment, against) = self.keeps_compiling(id, environment, BTreeSet::new()).await?;
        let command = entry::Command::SetEnvironment(log::SetEnvironment {
            environment: Some(environment),
            etag: request.etag.clone(),
        });
        let write =
            Write { from, request_id: &request.request_id, validate_only: request.validate_only, command };
        let read = |state: &State, _: &Done| Some(state.environment(id));
        self.0.write_compiled(write, Some(against), read).await
    }

    async fn import(
        &self,
        from: &Sent,
        id: &str,
        request: &ImportFlagsRequest,
    ) -> Result<ImportFlagsResponse, Status> {
        let (present, definitions) =
            self.0.replica.read(|state| (state.environment(id), state.definitions(id)));
        let (document, into, replica) = (request.document.clone(), id.to_owned(), self.0.replica.clone());
        let version = present.environment_version;
        let read = self.0.beside(move || taken_in(&replica, &document, &into, &present)).await?;
        let (read, replaced) =
            read.map_err(|error| refusal::invalid(&error.path, &error.value, &error.message))?;
        let (environment, against) = self.keeps_compiling(id, definition(read.environment), replaced).await?;
        // The document was read with the environment and its flags as they were.
        let against =
            CompiledAgainst { environment_version: Some(version), definitions: Some(definitions), ..against };
        let command = entry::Command::ImportFlags(log::ImportFlags {
            parent: request.parent.clone(),
            environment: Some(environment),
            flags: read.flags,
            prune: request.prune,
            etag: String::new(),
            promoted_from: String::new(),
        });
        let write =
            Write { from, request_id: &request.request_id, validate_only: request.validate_only, command };
        let warnings = (read.warnings, read.more);
        let read = |state: &State, done: &Done| Some(imported(done, warnings, state.environment(id)));
        self.0.write_compiled(write, Some(against), read).await
    }

    /// The environment again, and of which flags that was found, if every native flag that rests on its shared rules and is not replaced compiles with it.
    async fn keeps_compiling(
        &self,
        id: &str,
        environment: Environment,
        replaced: BTreeSet<String>,
    ) -> Result<(Environment, CompiledAgainst), Status> {
        let (replica, id) = (self.0.replica.clone(), id.to_owned());
        let checked = self.0.beside(move || {
            // Before the first flag is read: a change between two pages moves it.
            let against = CompiledAgainst {
                environment: format!("environments/{id}"),
                environment_version: None,
                definitions: Some(replica.read(|state| state.definitions(&id))),
            };
            let mut stopped = None;
            for_each_flag(&replica, &id, |flag| {
                let rests = !flag.imported && flag.targeting.contains("$ref");
                if stopped.is_some() || !rests || replaced.contains(&flag.name) {
                    return;
                }
                if let Err(error) = featureops_evaluation::check(&flag, &environment) {
                    // What did not compile before is not stopped by this.
                    let was = replica.read(|state| state.environment(&id));
                    if featureops_evaluation::check(&flag, &was).is_ok() {
                        stopped = Some((flag.name.clone(), error));
                    }
                }
            });
            ((environment, against), stopped)
        });
        match checked.await? {
            (checked, None) => Ok(checked),
            (_, Some((name, error))) => Err(stops(&name, &error)),
        }
    }
}

/// A document read, and the names of the flags that it replaces. Flags of which it says what their own export says stand in it
/// as they are.
fn taken_in(
    replica: &Replica,
    document: &str,
    environment: &str,
    present: &Environment,
) -> Result<(flagd::Imported, BTreeSet<String>), CompileError> {
    let mut read = flagd::import(document, environment, present)?;
    let (mut warnings, more) = read.take_warnings();
    let mut held = BTreeMap::new();
    for some in read.flags.chunks(READ_MAX) {
        let found = replica.read(|state| {
            let flags =
                some.iter().filter_map(|flag| state.flag(environment, id_of(&flag.name, Collection::Flags)));
            let flags: Vec<Flag> = flags.collect();
            let mut all: Vec<Flag> = state.rested_on(environment, &flags).into_values().collect();
            all.extend(flags);
            all
        });
        held.extend(found.into_iter().map(|flag| (flag.name.clone(), flag)));
    }
    let flags: Vec<Flag> = held.values().cloned().collect();
    let segments = replica.read(|state| state.segments(environment, "", MAX_SEGMENTS));
    let again = flagd::again(&read.flags, &flags, present, &segments);
    let left_out = flagd::left_out_of(&flags, present, &segments);
    let mut replaced = BTreeSet::new();
    for flag in &mut read.flags {
        let path = format!("flags.{}", id_of(&flag.name, Collection::Flags));
        let held = held.remove(&flag.name).filter(|held| !held.archived);
        let (Some(held), again) = (held, again.get(&flag.name)) else {
            replaced.insert(flag.name.clone());
            continue;
        };
        if again.is_none() {
            replaced.insert(flag.name.clone());
            // Whoever changed an export and brings it back has this in it already.
            let lost = left_out(&held).into_iter().filter(|lost| lost.what == What::Prerequisite);
            warnings.extend(lost.map(warning_of));
            warnings.extend(goes(flag, &held, &read.environment, &path));
            continue;
        }
        if again == Some(&flagd::Again::OtherWeights) {
            let message = "its weights are those of a running experiment, which moves them itself: the flag stays as it is; \
                           `experiment set-allocation` gives others";
            warnings.push(ImportWarning { path, message: message.to_owned() });
        }
        *flag = held;
    }
    (read.warnings, read.more) = (warnings, more);
    Ok((read, replaced))
}

fn warning_of(left_out: LeftOut) -> ImportWarning {
    ImportWarning { path: format!("flags.{}", left_out.flag), message: left_out.message }
}

/// What of a flag a document replaces without a word for it. An export says prerequisites and forced units as targeting, and so
/// does whoever wrote the document, or means to do without.
fn goes(given: &Flag, held: &Flag, environment: &Environment, path: &str) -> Vec<ImportWarning> {
    let mut warnings = Vec::new();
    if !held.prerequisites.is_empty() || !held.forced.is_empty() {
        let message =
            "its prerequisites and forced units go; the document's targeting stands instead of them";
        warnings.push(ImportWarning { path: path.to_owned(), message: message.to_owned() });
    }
    if held.allocation.is_some() && flagd::always_decides(&given.targeting, environment) {
        let message = "decides for everybody, so that no unit enters the running experiment any more; stop that, or let \
                       targeting result in null for those whom it is to have";
        warnings.push(ImportWarning { path: format!("{path}.targeting"), message: message.to_owned() });
    }
    warnings
}

/// Hands over the flags of an environment that are not archived.
fn for_each_flag(replica: &Replica, environment: &str, take: impl FnMut(Flag)) {
    read_pages(
        replica,
        |state, after| state.flags(environment, after, READ_MAX, false),
        |flag| id_of(&flag.name, Collection::Flags).to_owned(),
        take,
    );
}

fn stops(flag: &str, error: &CompileError) -> Status {
    let field = format!("flags.{}.{}", id_of(flag, Collection::Flags), error.path);
    let way_out = format!("would no longer compile ({}); change or archive that flag first", error.message);
    refusal::invalid(&field, &error.value, way_out)
}

/// What a person defines of an environment; what the log adds is left out.
pub fn definition(environment: Environment) -> Environment {
    Environment { environment_version: 0, etag: String::new(), update_time: None, ..environment }
}

/// Fronts hand metadata to clients as flat key and value.
fn check_metadata(environment: &Environment, field: &str) -> Result<(), Status> {
    let fields = environment.metadata.iter().flat_map(|metadata| &metadata.fields);
    for (key, value) in fields {
        let kind = match value.kind {
            Some(Kind::ListValue(_)) => "a list",
            Some(Kind::StructValue(_)) => "an object",
            _ => continue,
        };
        let field = format!("{field}.{}", refusal::clip(key));
        return Err(refusal::invalid(&field, kind, "is no metadata; a string, a number or a boolean is"));
    }
    Ok(())
}

fn check_evaluators(environment: &Environment) -> Result<(), Status> {
    for (name, rule) in &environment.evaluators {
        let field = format!("environment.evaluators.{}", refusal::clip(name));
        let wraps = |rule: &serde_json::Value| rule.get(EVALUATORS).is_some();
        if name == EVALUATORS || serde_json::from_str(rule).is_ok_and(|rule| wraps(&rule)) {
            let way_out = "is how a flagd document wraps shared rules; give those in it, each by its name";
            return Err(refusal::invalid(&field, EVALUATORS, way_out));
        }
        if name.is_empty() {
            return Err(refusal::invalid(&field, "", "a shared rule needs a name, by which $ref finds it"));
        }
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(rule) {
            let way_out = format!("is not JSON ({error}); a shared rule is JsonLogic as JSON text");
            return Err(refusal::invalid(&field, rule, way_out));
        }
    }
    Ok(())
}
