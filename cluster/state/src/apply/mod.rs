//! Applying one entry: clock and facts have their own paths; every other command is answered once, audited, and checked
//! against the invariants before it stands.

pub(crate) mod budgets;
mod decision;
mod environment;
mod experiment;
mod experiment_metrics;
mod flag;
pub(crate) mod held;
mod identity;
mod ingest;
mod joining;
mod layer;
mod level;
mod liveness;
mod members;
mod metric;
mod oversight;
mod owner;
mod schedule;
mod segment;
mod tick;
mod token;
mod trip;
mod unit;

use featureops_proto::log::{Done, OwnerStamp, Refusal, Reply, entry, reply};
use featureops_proto::v1::{AuditRecord, Principal, principal};
use featureops_proto::{Collection, ErrorCode, Name, timestamp};

pub(crate) use identity::checked_key;

use crate::command::{Command, MAX_REQUEST_ID_BYTES};
use crate::effect::Effect;
use crate::invariant::{Invariant, Violation};
use crate::state::{Key, State};

/// Bytes of the description of a layer, a holdout, a schedule or an environment.
const MAX_DESCRIPTION_BYTES: usize = 4_096;

/// What a command is applied with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Of the entry.
    pub position: u64,
    /// Log time.
    pub now_ms: i64,
    /// Who proposed it.
    pub principal: Principal,
    /// Present on an owner's command.
    pub owner: Option<OwnerStamp>,
}

impl Context {
    /// A person, not an agent and not the system.
    pub fn is_human(&self) -> bool {
        self.principal.kind() == principal::Kind::Human
    }

    /// Refuses what only a person may do.
    pub fn require_human(&self, what: &str) -> Result<(), Refusal> {
        if self.is_human() {
            return Ok(());
        }
        let message = format!("{what} takes a person; act as human:<id>");
        Err(Refusal::new(ErrorCode::NotPermitted, "principal", self.caller(), message))
    }

    /// Who proposed it, as callers name themselves.
    pub fn caller(&self) -> String {
        caller_of(&self.principal)
    }
}

/// A principal, as callers name themselves.
fn caller_of(principal: &Principal) -> String {
    let kind = principal.kind().as_str_name().to_ascii_lowercase();
    format!("{}:{}", kind.strip_prefix("kind_").unwrap_or(&kind), principal.id)
}

/// What a control command did: its reply, and how the audit tells it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The reply.
    pub done: Done,
    /// More than verb and name, for the audit.
    pub detail: String,
    /// Experiments that were touched, to be checked.
    pub touched: Vec<u32>,
}

impl From<Done> for Outcome {
    fn from(done: Done) -> Self {
        Self { done, ..Self::default() }
    }
}

/// What took effect, as it now stands.
fn done(name: &str, version: u64, etag: String) -> Done {
    Done { name: name.to_owned(), version, etag, took_effect: true, ..Done::default() }
}

impl State {
    /// Applies the entry at `position`, appending what it changed to `effects`.
    ///
    /// A refusal is a reply like any other. An entry that is not answered twice: the same request id, owner sequence or
    /// producer sequence gets its first reply.
    ///
    /// # Errors
    /// [`Violation`] when an entry cannot be read (nothing is changed) or an invariant would break (the flag and experiment
    /// it touched are put back, so that what is served stays good). The fold must stop either way.
    pub fn apply(
        &mut self,
        position: u64,
        entry: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Violation> {
        let stop = |invariant, detail| Violation { invariant, position, detail };
        if position <= self.position {
            return Err(stop(Invariant::L2Entry, format!("position {} is applied already", self.position)));
        }
        let command = Command::decode(entry).map_err(|error| stop(Invariant::L2Entry, error.to_string()))?;
        if let Some(why) = self.beyond(&command.kind) {
            self.stopped_at_level = Some(why.clone());
            return Err(stop(Invariant::L2Entry, why));
        }
        let first_effect = effects.len();
        self.before.clear();
        let reply = match command.kind {
            entry::Command::Tick(tick) => {
                self.position = position;
                self.tick(&tick, effects);
                self.fold_heaviest();
                self.record_happened(effects);
                answered(Done::default())
            }
            entry::Command::Ingest(ingest) => {
                self.position = position;
                let ingested = self.ingest(&ingest);
                self.fold_heaviest();
                self.record_happened(effects);
                Reply { result: Some(reply::Result::Ingested(ingested)) }
            }
            _ => {
                let content_hash = meant(&command);
                if let Some(answered) = self.answered(&command, content_hash) {
                    self.position = position;
                    return Ok(answered);
                }
                let earlier = std::mem::replace(&mut self.position, position);
                match self.control(&command, content_hash, effects) {
                    Ok(reply) => reply,
                    Err(violation) => {
                        self.restore_before();
                        self.position = earlier;
                        effects.truncate(first_effect);
                        return Err(violation);
                    }
                }
            }
        };
        self.before.clear();
        Ok(reply)
    }

    /// The refusal that an entry's request id gets because it was used for something else; `None`: it was not, or for the same.
    /// Nothing is applied: a rehearsal asks this, and then what would happen without an id.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub fn used_for_other(&self, entry: &[u8]) -> Result<Option<Refusal>, Violation> {
        let stop = |error: String| Violation {
            invariant: Invariant::L2Entry,
            position: self.position,
            detail: error,
        };
        let command = Command::decode(entry).map_err(|error| stop(error.to_string()))?;
        let reply = self.answered(&command, meant(&command)).and_then(|reply| reply.result);
        let mismatch = |refusal: &Refusal| refusal.code == ErrorCode::ContentMismatch.as_str();
        Ok(match reply {
            Some(reply::Result::Refusal(refusal)) if mismatch(&refusal) => Some(refusal),
            _ => None,
        })
    }

    fn answered(&self, command: &Command, content_hash: u64) -> Option<Reply> {
        if command.request_id.is_empty() {
            None
        } else {
            self.requests.find(&command.request_id, content_hash, command.sent_hash)
        }
    }

    fn control(
        &mut self,
        command: &Command,
        content_hash: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Violation> {
        let ctx = Context {
            position: self.position,
            now_ms: match &command.kind {
                // The first command may come before the first tick: it brings its own time, for the audit.
                entry::Command::Initialize(c) => self.clock.now_ms().max(c.now_ms),
                _ => self.clock.now_ms(),
            },
            principal: command.principal.clone(),
            owner: command.owner,
        };
        let (action, resource) = described(&command.kind);
        if command.request_id.len() > MAX_REQUEST_ID_BYTES {
            let length = command.request_id.len();
            let message = format!("at most {MAX_REQUEST_ID_BYTES} bytes");
            return Ok(refused(Refusal::new(ErrorCode::InvalidArgument, "request_id", length, message)));
        }
        // The door sends it again under the same request id, compiled against what is there by now. So this is no answer
        // to keep, and nobody's act.
        if let Some(against) = &command.compiled_against
            && let Err(refusal) = self.check_compiled(against)
        {
            return Ok(refused(refusal));
        }
        let result = self.dispatch(&ctx, &command.kind, effects);
        let (reply, detail, code) = match result {
            Ok(outcome) => {
                for number in &outcome.touched {
                    self.check_experiment(*number)?;
                }
                (answered(outcome.done), outcome.detail, String::new())
            }
            Err(refusal) => {
                let detail = format!("{}: {}", refusal.field, refusal.message);
                let code = refusal.code.clone();
                (refused(refusal), detail, code)
            }
        };
        let is_mismatch = code == ErrorCode::EtagMismatch.as_str();
        self.record(&ctx, action, resource, detail, code, effects);
        // Whoever read again comes with another etag under the same id: this is no answer to keep, either.
        if !is_mismatch {
            let kept = environment::kept_reply(&reply);
            self.requests.remember(&command.request_id, content_hash, command.sent_hash, &kept);
        }
        Ok(reply)
    }

    fn dispatch(
        &mut self,
        ctx: &Context,
        kind: &entry::Command,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        use entry::Command as C;
        if !self.initialized && !matches!(kind, C::Initialize(_)) {
            return Err(Refusal::new(
                ErrorCode::NotInitialized,
                "cluster",
                "",
                "the cluster has no identity yet",
            ));
        }
        self.check_verified(ctx)?;
        self.check_level(kind, described(kind).0)?;
        match kind {
            C::Initialize(c) => self.initialize(c, effects),
            C::RotateReceiptKey(c) => self.rotate_receipt_key(ctx, c, effects),
            C::SetBudgets(c) => self.set_budgets(ctx, c, effects),
            C::SetEnvironment(c) => self.set_environment(ctx, c, effects),
            C::ImportFlags(c) => self.import_flags(ctx, c, effects),
            C::SetFlag(c) => self.set_flag(ctx, c, effects),
            C::SetSegment(c) => self.set_segment(ctx, c, effects),
            C::DeleteSegment(c) => self.delete_segment(c, effects),
            C::UpdateSegmentUnits(c) => self.update_segment_units(ctx, c, effects),
            C::ArchiveFlag(c) => self.archive_flag(ctx, c, effects),
            C::RevertFlag(c) => self.revert_flag(ctx, c, effects),
            C::SetMetric(c) => self.set_metric(c, effects),
            C::CreateExperiment(c) => self.create_experiment(ctx, c, effects),
            C::StartExperiment(c) => self.start_experiment(ctx, c, effects),
            C::PauseExperiment(c) => self.pause_experiment(ctx, c, effects),
            C::StopExperiment(c) => self.stop_experiment(ctx, c, effects),
            C::SetAllocation(c) => self.set_allocation(ctx, c, effects),
            C::SetLayerShare(c) => self.set_layer_share(ctx, c, effects),
            C::SetLayer(c) => self.set_layer(ctx, c),
            C::DeleteLayer(c) => self.delete_layer(c),
            C::SetHoldout(c) => self.set_holdout(ctx, c, effects),
            C::DeleteHoldout(c) => self.delete_holdout(c),
            C::SubmitDecision(c) => self.submit_decision(ctx, c, effects),
            C::ResolveDecision(c) => self.resolve_decision(ctx, c, effects),
            C::TripFlag(c) => self.trip_command(ctx, c, effects),
            C::ResumeFlag(c) => self.resume_flag(ctx, c, effects),
            C::SetOversight(c) => self.set_oversight(ctx, c, effects),
            C::SetFlagAutonomy(c) => self.set_flag_autonomy(ctx, c, effects),
            C::AssignOwners(c) => self.assign_owners(ctx, c, effects),
            C::CreateSchedule(c) => self.create_schedule(ctx, c),
            C::CancelSchedule(c) => self.cancel_schedule(ctx, c),
            C::ExecuteSchedule(c) => self.execute_schedule(ctx, c, effects),
            C::EraseUnit(c) => self.erase_unit(ctx, c, effects),
            C::CreateToken(c) => self.create_token(ctx, c, effects),
            C::RevokeToken(c) => self.revoke_token(ctx, c, effects),
            C::NoteMembers(c) => self.note_members(ctx, c),
            C::RaiseLevel(c) => self.raise_level(ctx, c),
            C::NoteBackup(c) => self.note_backup(ctx, c),
            C::NoteLiveness(c) => self.note_liveness(ctx, c, effects),
            // These two never come here: `apply` took them out.
            C::Tick(_) | C::Ingest(_) => Ok(Outcome::default()),
        }
    }

    /// Appends to the audit chain.
    pub(crate) fn record(
        &mut self,
        ctx: &Context,
        action: &str,
        resource: String,
        detail: String,
        refused: String,
        effects: &mut Vec<Effect>,
    ) {
        let number = self.audit.append(AuditRecord {
            position: ctx.position,
            time: Some(timestamp(ctx.now_ms)),
            principal: Some(ctx.principal.clone()),
            action: action.to_owned(),
            resource,
            detail: detail.chars().take(1_000).collect(),
            refused,
            ..AuditRecord::default()
        });
        effects.push(Effect::AuditAppended { number });
    }
}

fn answered(done: Done) -> Reply {
    Reply { result: Some(reply::Result::Done(done)) }
}

fn refused(refusal: Refusal) -> Reply {
    Reply { result: Some(reply::Result::Refusal(refusal)) }
}

/// What a request id stands for: who does what to which resource. Not the content: the door completes a command (a mask
/// is merged, a seed drawn), and an honest repeat may be completed differently.
fn meant(command: &Command) -> u64 {
    let (action, resource) = described(&command.kind);
    let caller = &command.principal;
    let mut what = format!("{}\0{}\0{action}\0{resource}", caller.kind, caller.id).into_bytes();
    // Its resource is not named: another unit under a used id would be answered as erased, and be there still. Eight bits tell
    // nearly all others apart, and whoever has the key cannot tell from them that it was this one.
    if let entry::Command::EraseUnit(c) = &command.kind {
        what.push(c.unit_hash as u8);
    }
    xxhash_rust::xxh3::xxh3_64(&what)
}

/// A refusal about a field.
pub fn refuse<T>(
    code: ErrorCode,
    field: &str,
    value: impl ToString,
    message: impl ToString,
) -> Result<T, Refusal> {
    Err(Refusal::new(code, field, value, message))
}

/// Refuses a description that is too long.
fn check_description(description: &str, field: &str) -> Result<(), Refusal> {
    let bytes = description.len();
    if bytes > MAX_DESCRIPTION_BYTES {
        let message = format!("at most {MAX_DESCRIPTION_BYTES} bytes");
        return refuse(ErrorCode::InvalidArgument, field, format!("{bytes} bytes"), message);
    }
    Ok(())
}

/// The effect of a changed flag.
pub fn flag_changed(key: &Key) -> Effect {
    Effect::FlagChanged { environment: key.0.clone(), flag: key.1.clone() }
}

/// The name of a flag.
pub fn flag_name(key: &Key) -> String {
    Name::format(&key.0, Collection::Flags, &key.1)
}

/// Verb and object, as the audit names them.
fn described(kind: &entry::Command) -> (&'static str, String) {
    use entry::Command as C;
    match kind {
        C::Initialize(c) => ("cluster.initialize", c.cluster.clone()),
        C::RotateReceiptKey(_) => ("cluster.rotate_receipt_key", String::new()),
        C::SetBudgets(_) => ("cluster.set_budgets", String::new()),
        C::SetEnvironment(c) => {
            ("environment.set", c.environment.as_ref().map(|e| e.name.clone()).unwrap_or_default())
        }
        C::ImportFlags(c) if !c.promoted_from.is_empty() => ("flag.promote", c.parent.clone()),
        C::ImportFlags(c) => ("flag.import", c.parent.clone()),
        C::SetFlag(c) => ("flag.set", c.flag.as_ref().map(|f| f.name.clone()).unwrap_or_default()),
        C::ArchiveFlag(c) => ("flag.archive", c.name.clone()),
        C::SetSegment(c) => ("segment.set", c.segment.as_ref().map(|s| s.name.clone()).unwrap_or_default()),
        C::DeleteSegment(c) => ("segment.delete", c.name.clone()),
        C::UpdateSegmentUnits(c) => {
            let action = match (c.add.is_empty(), c.remove.is_empty()) {
                (false, true) => "segment.add_units",
                (true, false) => "segment.remove_units",
                _ => "segment.update_units",
            };
            (action, c.name.clone())
        }
        C::RevertFlag(c) => ("flag.revert", c.name.clone()),
        C::SetMetric(c) => ("metric.set", c.metric.as_ref().map(|m| m.name.clone()).unwrap_or_default()),
        C::CreateExperiment(c) => {
            ("experiment.create", c.experiment.as_ref().map(|e| e.name.clone()).unwrap_or_default())
        }
        C::StartExperiment(c) => ("experiment.start", c.name.clone()),
        C::PauseExperiment(c) => ("experiment.pause", c.name.clone()),
        C::StopExperiment(c) => ("experiment.stop", c.name.clone()),
        C::SetAllocation(c) => ("experiment.set_allocation", c.name.clone()),
        C::SetLayerShare(c) => ("experiment.set_layer_share", c.name.clone()),
        C::SetLayer(c) => ("layer.set", c.layer.as_ref().map(|l| l.name.clone()).unwrap_or_default()),
        C::DeleteLayer(c) => ("layer.delete", c.name.clone()),
        C::SetHoldout(c) => ("holdout.set", c.holdout.as_ref().map(|h| h.name.clone()).unwrap_or_default()),
        C::DeleteHoldout(c) => ("holdout.delete", c.name.clone()),
        C::SubmitDecision(c) => {
            ("decision.submit", c.decision.as_ref().map(|d| d.flag.clone()).unwrap_or_default())
        }
        C::ResolveDecision(c) => ("decision.resolve", c.name.clone()),
        C::TripFlag(c) => (if c.alarm { "flag.alarm" } else { "flag.trip" }, c.name.clone()),
        C::ResumeFlag(c) => ("flag.resume", c.name.clone()),
        C::SetOversight(c) => {
            ("oversight.set", c.oversight.as_ref().map(|o| o.name.clone()).unwrap_or_default())
        }
        C::SetFlagAutonomy(c) => ("flag.set_autonomy", c.name.clone()),
        C::AssignOwners(_) => ("cluster.assign_owners", String::new()),
        C::CreateSchedule(c) => {
            ("schedule.create", c.schedule.as_ref().map(|s| s.name.clone()).unwrap_or_default())
        }
        C::CancelSchedule(c) => ("schedule.cancel", c.name.clone()),
        C::ExecuteSchedule(c) => ("schedule.execute", c.name.clone()),
        C::EraseUnit(c) => ("unit.erase", c.parent.clone()),
        C::CreateToken(c) => ("token.create", token::resource_of(c)),
        C::RevokeToken(c) => ("token.revoke", c.name.clone()),
        C::NoteMembers(_) => ("cluster.members", String::new()),
        C::RaiseLevel(c) => ("cluster.raise_level", c.feature_level.to_string()),
        C::NoteBackup(_) => ("cluster.note_backup", String::new()),
        C::NoteLiveness(_) => ("cluster.liveness", String::new()),
        C::Tick(_) => ("tick", String::new()),
        C::Ingest(_) => ("ingest", String::new()),
    }
}
