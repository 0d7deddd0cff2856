//! The state: everything the log has said so far. Records are shared by `Arc`, so that a clone for a snapshot is cheap
//! and later changes copy only what they touch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use featureops_proto::log::{
    EnvironmentRecord, ExperimentRecord, FlagHistoryRecord, FlagRecord, HoldoutRecord, LayerRecord,
    MetricRecord, OversightRecord, ReceiptKey, ScheduleRecord, SegmentRecord,
};
use featureops_proto::v1::Budgets;

use crate::apply::budgets::Happened;
use crate::audit::Audit;
use crate::clock::LogClock;
use crate::decisions::Decisions;
use crate::layers::Occupants;
use crate::ledger::{Ledger, Strata, Waiting};
use crate::levels::Links;
use crate::prerequisites::links;
use crate::producers::Producers;
use crate::requests::Requests;
use crate::schedules::Schedules;
use crate::segments::{Units, User, links_of_flag, links_of_segment};
use crate::tokens::Tokens;

/// (environment, id).
pub type Key = (String, String);

/// Flags over all environments.
pub const MAX_FLAGS: usize = 100_000;
/// Environments with limits or freezes of their own.
pub const MAX_OVERSIGHTS: usize = 1_000;
/// Metrics over all environments.
pub const MAX_METRICS: usize = 100_000;
/// Experiments over all environments, ended ones among them.
pub const MAX_EXPERIMENTS: usize = 100_000;
/// Experiments that may use a metric at once.
pub const MAX_ROUTES: usize = 64;

/// Where a metric's outcomes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Number of the experiment.
    pub experiment: u32,
    /// Its slot.
    pub slot: usize,
}

/// The moments of an experiment as they stood at a tick.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// Position of the tick.
    pub position: u64,
    /// Log time at it.
    pub log_time_ms: i64,
    /// Shared with the ledger until it changes.
    pub strata: Arc<Strata>,
    /// Marked units by arm, as far as their marks are there to stay.
    pub marked: Vec<u64>,
    /// Units in two arms.
    pub crossed: u64,
    /// Exposures refused.
    pub lost: u64,
    /// Units recorded.
    pub rows: u64,
    /// Units against the weights they came under, once these changed.
    pub sample_ratio: Option<featureops_proto::v1::SampleRatio>,
    /// Of 256 parts of the hash space, those that are counted.
    pub kept: usize,
    /// Units that left when fewer were.
    pub thinned: u64,
}

/// The replicated state.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) position: u64,
    pub(crate) clock: LogClock,
    pub(crate) initialized: bool,
    pub(crate) cluster: String,
    pub(crate) unit_key_id: u64,
    pub(crate) receipt_keys: Vec<ReceiptKey>,
    /// Those that were ever set.
    pub(crate) environments: BTreeMap<String, Arc<EnvironmentRecord>>,
    pub(crate) flags: BTreeMap<Key, Arc<FlagRecord>>,
    /// Live flags by what they name. Derived from `flags`.
    pub(crate) dependents: Links<String>,
    pub(crate) segments: BTreeMap<Key, Arc<SegmentRecord>>,
    /// Lists that somebody is on.
    pub(crate) segment_units: BTreeMap<Key, Units>,
    /// Units on all of them.
    pub(crate) listed_units: u64,
    /// Live flags and segments by the segments that they ask about. Derived from `flags` and `segments`.
    pub(crate) segment_users: Links<User>,
    pub(crate) histories: BTreeMap<Key, Arc<FlagHistoryRecord>>,
    pub(crate) metrics: BTreeMap<Key, Arc<MetricRecord>>,
    /// Keys by number; numbers begin at 1.
    pub(crate) metric_keys: BTreeMap<u32, Key>,
    pub(crate) experiments: BTreeMap<u32, Arc<ExperimentRecord>>,
    pub(crate) experiment_numbers: BTreeMap<Key, u32>,
    pub(crate) ledgers: BTreeMap<u32, Ledger>,
    /// The last freezes, oldest first; a decision rests on one of them.
    pub(crate) frozen: BTreeMap<u32, VecDeque<Frozen>>,
    /// Running experiments by metric number.
    pub(crate) routes: BTreeMap<u32, Vec<Route>>,
    /// When routes of ended experiments close: (log time, metric, experiment).
    pub(crate) ended: BTreeSet<(i64, u32, u32)>,
    /// Rows over all ledgers.
    pub(crate) rows: u64,
    /// Sums of single units over all ledgers.
    pub(crate) entries: u64,
    /// Ledgers that hold more sums than an experiment may: they fold, one an entry.
    pub(crate) heavy: BTreeSet<u32>,
    /// Absent: none were ever set.
    pub(crate) budgets: Option<Budgets>,
    /// What the ledgers did by themselves in the entry in hand; empty between entries.
    pub(crate) happened: Vec<Happened>,
    pub(crate) producers: Producers,
    pub(crate) waiting: Waiting,
    pub(crate) requests: Requests,
    pub(crate) audit: Audit,
    pub(crate) decisions: Decisions,
    pub(crate) oversight: BTreeMap<String, Arc<OversightRecord>>,
    pub(crate) layers: BTreeMap<Key, Arc<LayerRecord>>,
    pub(crate) holdouts: BTreeMap<Key, Arc<HoldoutRecord>>,
    /// How many units were erased, and when.
    pub(crate) erasures: featureops_proto::log::ErasuresRecord,
    /// Derived from `experiments`.
    pub(crate) occupants: Occupants,
    pub(crate) schedules: Schedules,
    pub(crate) tokens: Tokens,
    /// As they were noted last.
    pub(crate) members: featureops_proto::log::MembersRecord,
    /// 0: the first.
    pub(crate) feature_level: u32,
    /// Below that of the build, where it stands for an older one. In no snapshot.
    pub(crate) level_max: Option<u32>,
    /// Why the fold stopped, if it met a level that it does not know. In no snapshot.
    pub(crate) stopped_at_level: Option<String>,
    /// Whence the cluster came, if it was restored.
    pub(crate) restored: Option<featureops_proto::log::RestoredRecord>,
    /// The one that was noted last.
    pub(crate) backup: Option<featureops_proto::v1::BackupRecord>,
    /// Of the members; empty: nothing was ever noted of any.
    pub(crate) liveness: BTreeMap<u64, featureops_proto::log::LivenessRecord>,
    /// What the command in hand has changed, as it was before: a violation puts it back.
    pub(crate) before: Vec<Before>,
}

/// A record as it was before the command in hand.
#[derive(Debug, Clone)]
pub enum Before {
    /// A flag.
    Flag(Key, Arc<FlagRecord>),
    /// An experiment.
    Experiment(u32, Arc<ExperimentRecord>),
    /// An environment; absent: it was never set.
    Environment(String, Option<Arc<EnvironmentRecord>>),
    /// A segment and its list; absent: it was not there.
    Segment(Key, Option<Arc<SegmentRecord>>, Option<Units>),
    /// A holdout; absent: it was not there.
    Holdout(Key, Option<Arc<HoldoutRecord>>),
    /// A schedule.
    Schedule(Arc<ScheduleRecord>),
}

impl State {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Position of the last applied entry.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Log time in unix milliseconds; 0 before the first tick.
    #[must_use]
    pub fn log_time_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The cluster has its identity.
    #[must_use]
    pub fn is_initialized(&self) -> bool {
        self.initialized
    }

    /// Id of the key units are hashed with.
    #[must_use]
    pub fn unit_key_id(&self) -> u64 {
        self.unit_key_id
    }

    /// The backup that was noted last.
    #[must_use]
    pub fn last_backup(&self) -> Option<&featureops_proto::v1::BackupRecord> {
        self.backup.as_ref()
    }

    /// Newest first, at most two.
    #[must_use]
    pub fn receipt_keys(&self) -> &[ReceiptKey] {
        &self.receipt_keys
    }

    pub(crate) fn flag_record(&self, environment: &str, flag: &str) -> Option<&FlagRecord> {
        self.flags.get(&key(environment, flag)).map(AsRef::as_ref)
    }

    /// A flag to be changed; how it was is kept until the command is through.
    pub(crate) fn flag_mut(&mut self, key: &Key) -> Option<&mut FlagRecord> {
        let record = self.flags.get_mut(key)?;
        self.before.push(Before::Flag(key.clone(), Arc::clone(record)));
        Some(Arc::make_mut(record))
    }

    /// An experiment to be changed; how it was is kept until the command is through.
    pub(crate) fn experiment_mut(&mut self, number: u32) -> Option<&mut ExperimentRecord> {
        let record = self.experiments.get_mut(&number)?;
        self.before.push(Before::Experiment(number, Arc::clone(record)));
        Some(Arc::make_mut(record))
    }

    pub(crate) fn experiment_record(&self, environment: &str, experiment: &str) -> Option<&ExperimentRecord> {
        let number = self.experiment_numbers.get(&key(environment, experiment))?;
        self.experiments.get(number).map(AsRef::as_ref)
    }

    /// Puts a segment and its list in place of what is there. A list without units is none.
    pub(crate) fn put_segment(
        &mut self,
        key: &Key,
        record: Option<Arc<SegmentRecord>>,
        units: Option<Units>,
    ) {
        let units = units.filter(|units| units.len() > 0);
        self.listed_units += units.as_ref().map_or(0, Units::len);
        let gone = match units {
            Some(units) => self.segment_units.insert(key.clone(), units),
            None => self.segment_units.remove(key),
        };
        self.listed_units -= gone.map_or(0, |gone| gone.len());
        let gone = match &record {
            Some(record) => self.segments.insert(key.clone(), Arc::clone(record)),
            None => self.segments.remove(key),
        };
        if let Some(gone) = gone {
            self.segment_users.remove(links_of_segment(&gone));
        }
        if let Some(record) = record {
            self.segment_users.insert(links_of_segment(&record));
        }
    }

    /// Puts back what the command in hand changed.
    pub(crate) fn restore_before(&mut self) {
        while let Some(before) = self.before.pop() {
            match before {
                Before::Flag(key, record) => {
                    if let Some(written) = self.flags.insert(key, Arc::clone(&record)) {
                        self.dependents.remove(links(&written));
                        self.segment_users.remove(links_of_flag(&written));
                    }
                    self.dependents.insert(links(&record));
                    self.segment_users.insert(links_of_flag(&record));
                }
                Before::Experiment(number, record) => {
                    self.experiments.insert(number, record);
                }
                Before::Environment(id, Some(record)) => {
                    self.environments.insert(id, record);
                }
                Before::Environment(id, None) => {
                    self.environments.remove(&id);
                }
                Before::Segment(key, record, units) => self.put_segment(&key, record, units),
                Before::Holdout(key, Some(record)) => {
                    self.holdouts.insert(key, record);
                }
                Before::Holdout(key, None) => {
                    self.holdouts.remove(&key);
                }
                Before::Schedule(record) => self.schedules.put(record),
            }
        }
    }
}

/// The map key of a resource.
pub fn key(environment: &str, id: &str) -> Key {
    (environment.to_owned(), id.to_owned())
}
