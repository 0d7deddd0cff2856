//! Flags: versions, history, and the message a reader gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_proto::log::{FlagHistoryRecord, FlagRecord, Refusal};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Allocation, Flag, FlagVersionRecord};
use featureops_proto::{Collection, ErrorCode, Name, timestamp, timestamp_if_set};
use prost::Message as _;

use crate::State;
use crate::allocation::weights_of;
use crate::apply::Context;
use crate::experiments::DEFAULT_COOL_DOWN_SECONDS;
use crate::oversight::default_levels;
use crate::state::{Key, key};

/// Versions of a flag that are kept.
pub const MAX_HISTORY: usize = 100;
/// Bytes of a flag's history: beyond them its oldest versions go, also before there are [`MAX_HISTORY`]. The same on every replica.
pub const MAX_HISTORY_BYTES: usize = 1 << 20;
/// Versions that are kept however long they are: the present one, and one to go back to.
pub const LEAST_HISTORY: usize = 2;

/// Changes of a flag, as its history names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The definition was written.
    Set,
    /// Archived.
    Archive,
    /// An earlier definition was written again.
    Revert,
    /// The definition came with a whole set.
    Import,
    /// Anything else, by name; the definition stayed.
    Other(&'static str),
}

impl Change {
    const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Archive => "archive",
            Self::Revert => "revert",
            Self::Import => "import",
            Self::Other(name) => name,
        }
    }
}

impl State {
    /// The flag's key, if it exists and is not archived.
    pub(crate) fn live_flag(&self, name: &str) -> Result<Key, Refusal> {
        let key = parse(name, Collection::Flags)?;
        match self.flags.get(&key) {
            Some(record) if !record.archived => Ok(key),
            Some(_) => Err(Refusal::new(
                ErrorCode::WrongState,
                "name",
                name,
                "the flag is archived; set it again to bring it back",
            )),
            None => Err(Refusal::new(ErrorCode::NotFound, "name", name, "no such flag")),
        }
    }

    /// Counts a change of the flag and puts it in its history. Returns the new version.
    pub(crate) fn change_flag(&mut self, ctx: &Context, key: &Key, change: Change, decision: &str) -> u64 {
        let now = ctx.now_ms;
        let Some(record) = self.flag_mut(key) else { return 0 };
        record.flag_version += 1;
        record.update_ms = now;
        let defines = matches!(change, Change::Set | Change::Archive | Change::Revert | Change::Import);
        if defines {
            record.definition_version = record.flag_version;
        }
        let version = record.flag_version;
        // An owner whose decision was overtaken looks again, also when no fact comes.
        let held = record.experiment;
        let definition = if defines { record.definition.clone() } else { None };
        // Reallocations are many and have their own record, the decision.
        if change != Change::Other("reallocate") {
            let history = self.histories.entry(key.clone()).or_insert_with(|| {
                let (environment, flag) = key.clone();
                Arc::new(FlagHistoryRecord { environment, flag, ..FlagHistoryRecord::default() })
            });
            let history = Arc::make_mut(history);
            let record = FlagVersionRecord {
                flag_version: version,
                change: change.name().to_owned(),
                principal: Some(ctx.principal.clone()),
                time: Some(timestamp(now)),
                definition,
                decision: decision.to_owned(),
            };
            history.versions.push(record.encode_to_vec().into());
            shorten(history);
        }
        if let Some(ledger) = self.ledgers.get_mut(&held) {
            ledger.dirty = true;
        }
        version
    }

    /// Flags whose histories had too many bytes for as many versions as are kept, and how many versions went for it.
    #[must_use]
    pub fn shortened_histories(&self) -> (u64, u64) {
        let shortened = self.histories.values().map(|history| history.shortened).filter(|gone| *gone > 0);
        shortened.fold((0, 0), |(flags, all), gone| (flags + 1, all + gone))
    }

    /// A human command on a flag that an experiment holds keeps autonomous growth off for a while.
    pub(crate) fn cool_down(&mut self, ctx: &Context, key: &Key) {
        let held = self.flags.get(key).and_then(|f| self.experiments.get(&f.experiment));
        let Some(definition) = held.and_then(|e| e.definition.as_ref()) else { return };
        let seconds = definition.cool_down_seconds.unwrap_or(DEFAULT_COOL_DOWN_SECONDS);
        let until = ctx.now_ms.saturating_add(seconds.saturating_mul(1_000));
        if let Some(record) = self.flag_mut(key) {
            record.cool_down_until_ms = record.cool_down_until_ms.max(until);
        }
    }

    /// A flag with its output fields.
    #[must_use]
    pub fn flag(&self, environment: &str, flag: &str) -> Option<Flag> {
        self.flags.get(&key(environment, flag)).map(|record| self.flag_message(record))
    }

    pub(crate) fn flag_message(&self, record: &FlagRecord) -> Flag {
        let mut flag = record.definition.clone().unwrap_or_default();
        flag.name = Name::format(&record.environment, Collection::Flags, &record.flag);
        flag.flag_version = record.flag_version;
        flag.etag = etag(record);
        flag.archived = record.archived;
        flag.create_time = timestamp_if_set(record.create_ms);
        flag.update_time = timestamp_if_set(record.update_ms);
        flag.trip.clone_from(&record.trip);
        flag.autonomy = Some(record.autonomy.unwrap_or_else(default_levels));
        flag.allocation = self.allocation_of(record.experiment);
        flag
    }

    /// The allocation that an experiment serves: while it runs or is paused.
    pub(crate) fn allocation_of(&self, number: u32) -> Option<Allocation> {
        let record = self.experiments.get(&number)?;
        if !matches!(record.state(), Phase::Running | Phase::Paused) {
            return None;
        }
        let definition = record.definition.as_ref()?;
        Some(Allocation {
            generation: record.generations.len() as u32,
            allocation_version: record.allocation_version,
            runs: record.runs.clone(),
            weights_basis_points: weights_of(&record.runs, definition.arms.len()),
            variants: definition.arms.iter().map(|arm| arm.variant.clone()).collect(),
            experiment_number: number,
            layer: definition.layer.clone(),
            slots: record.layer_slots.clone(),
            holdouts: self.holdouts_of(record),
        })
    }

    /// Flags of an environment whose id is above `after`, by id.
    #[must_use]
    pub fn flags(&self, environment: &str, after: &str, limit: usize, archived: bool) -> Vec<Flag> {
        above(&self.flags, environment, after)
            .filter(|record| archived || !record.archived)
            .take(limit)
            .map(|record| self.flag_message(record))
            .collect()
    }

    /// Versions of a flag; none when there is no such flag.
    #[must_use]
    pub fn flag_history(&self, environment: &str, flag: &str) -> Option<History> {
        let key = key(environment, flag);
        self.flags.get(&key).map(|_| self.history(&key))
    }

    pub(crate) fn history(&self, key: &Key) -> History {
        History(self.histories.get(key).cloned())
    }
}

/// The kept versions of a flag, shared with State.
#[derive(Debug, Clone)]
pub struct History(Option<Arc<FlagHistoryRecord>>);

impl History {
    /// Newest first, decoded as they are asked for.
    pub fn newest_first(&self) -> impl Iterator<Item = FlagVersionRecord> {
        let versions = self.0.iter().flat_map(|history| history.versions.iter().rev());
        // The fold wrote them, and a snapshot's are decoded once when it is read.
        versions.filter_map(|bytes| FlagVersionRecord::decode(bytes.as_ref()).ok())
    }
}

/// Records of an environment above an id, by id.
pub fn above<'a, R>(
    map: &'a BTreeMap<Key, R>,
    environment: &'a str,
    after: &str,
) -> impl Iterator<Item = &'a R> {
    use std::ops::Bound::{Excluded, Unbounded};
    map.range((Excluded(key(environment, after)), Unbounded))
        .take_while(move |((e, _), _)| e == environment)
        .map(|(_, record)| record)
}

/// Changes when the definition does, not with every reallocation.
pub fn etag(record: &FlagRecord) -> String {
    format!("d{}", record.definition_version)
}

/// Parses a resource name.
pub fn parse(name: &str, collection: Collection) -> Result<Key, Refusal> {
    let parsed = Name::parse(name, collection).map_err(|error| {
        Refusal::new(ErrorCode::InvalidArgument, "name", name.chars().take(80).collect::<String>(), error)
    })?;
    Ok(key(parsed.environment, parsed.id))
}

/// Refuses another etag than the present one; an empty one is no check.
pub fn check_etag(given: &str, present: &str) -> Result<(), Refusal> {
    if given.is_empty() || given == present {
        return Ok(());
    }
    let message = format!("the present etag is {present}: read the resource again");
    Err(Refusal::new(ErrorCode::EtagMismatch, "etag", given, message))
}

/// Lets the oldest versions of a history go: those beyond the number that is kept, and those beyond its bytes.
fn shorten(history: &mut FlagHistoryRecord) {
    let versions = &mut history.versions;
    versions.drain(..versions.len().saturating_sub(MAX_HISTORY));
    let mut bytes: usize = versions.iter().map(|version| version.len()).sum();
    let mut gone = 0;
    for version in versions.iter().take(versions.len().saturating_sub(LEAST_HISTORY)) {
        if bytes <= MAX_HISTORY_BYTES {
            break;
        }
        bytes -= version.len();
        gone += 1;
    }
    versions.drain(..gone);
    history.shortened += gone as u64;
}
