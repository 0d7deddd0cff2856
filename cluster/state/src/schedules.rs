//! Schedules: which changes are still to come, in the order of their times, and the last of those that are over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use featureops_proto::log::ScheduleRecord;
use featureops_proto::v1::Schedule;
use featureops_proto::v1::schedule::State as Phase;
use featureops_proto::{Collection, Name, timestamp_if_set, unix_ms};
use prost::Message as _;

use crate::State;
use crate::flags::above;
use crate::state::{Key, key};

/// Schedules that are still to come, over all environments.
pub const MAX_PENDING: usize = 10_000;
/// Schedules of one flag that are still to come.
pub const MAX_PENDING_OF_FLAG: usize = 100;
/// Schedules that are over, over all environments.
pub const MAX_FINISHED: usize = 1_000;
/// Encoded bytes of one schedule.
pub const MAX_SCHEDULE_BYTES: usize = 512 << 10;
/// Encoded bytes of all schedules.
pub const MAX_SCHEDULES_BYTES: usize = 64 << 20;

/// All schedules. What it holds beside the records follows from them.
#[derive(Debug, Clone, Default)]
pub struct Schedules {
    records: BTreeMap<Key, Arc<ScheduleRecord>>,
    /// Those to come, by time.
    due: BTreeSet<(i64, Key)>,
    /// Those to come, counted by flag.
    of_flag: BTreeMap<Key, usize>,
    /// Those that are over, in the order in which they ended.
    finished: BTreeSet<(u64, Key)>,
    bytes: usize,
}

impl Schedules {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records, by name.
    pub fn all(&self) -> impl Iterator<Item = &ScheduleRecord> {
        self.records.values().map(AsRef::as_ref)
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<ScheduleRecord>> {
        self.records.get(key)
    }

    /// Those to come, over all environments.
    pub fn pending(&self) -> usize {
        self.due.len()
    }

    /// Those to come of one flag.
    pub fn pending_of(&self, flag: &Key) -> usize {
        self.of_flag.get(flag).copied().unwrap_or(0)
    }

    /// Encoded bytes of all.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores a record in the place of the one of its name.
    pub fn put(&mut self, record: Arc<ScheduleRecord>) {
        let key = key(&record.environment, &record.schedule);
        self.take(&key);
        self.bytes += record.encoded_len();
        if record.state() == Phase::Pending {
            self.due.insert((time_ms(&record), key.clone()));
            *self.of_flag.entry(flag_of(&record)).or_default() += 1;
        } else {
            self.finished.insert((record.finish_position, key.clone()));
        }
        self.records.insert(key, record);
    }

    /// Removes a record, if there is one.
    pub fn take(&mut self, key: &Key) -> Option<Arc<ScheduleRecord>> {
        let record = self.records.remove(key)?;
        self.bytes = self.bytes.saturating_sub(record.encoded_len());
        if record.state() == Phase::Pending {
            self.due.remove(&(time_ms(&record), key.clone()));
            let flag = flag_of(&record);
            if let Some(count) = self.of_flag.get_mut(&flag) {
                *count -= 1;
                if *count == 0 {
                    self.of_flag.remove(&flag);
                }
            }
        } else {
            self.finished.remove(&(record.finish_position, key.clone()));
        }
        Some(record)
    }

    /// Lets the oldest of those that are over go, until the rest may stay. Returns what is gone.
    pub fn forget_oldest(&mut self) -> Vec<Arc<ScheduleRecord>> {
        let mut gone = Vec::new();
        while self.finished.len() > MAX_FINISHED {
            let Some((_, key)) = self.finished.first().cloned() else { break };
            gone.extend(self.take(&key));
        }
        gone
    }

    /// Those whose time has come, in the order of their times.
    fn due(&self, now_ms: i64) -> impl Iterator<Item = &ScheduleRecord> {
        let come = self.due.iter().take_while(move |(time_ms, _)| *time_ms <= now_ms);
        come.filter_map(|(_, key)| self.records.get(key)).map(AsRef::as_ref)
    }

    /// Its bounds, for Q1.
    pub fn check(&self) -> Result<(), String> {
        let most = |name: &str, value: usize, bound: usize| {
            if value <= bound { Ok(()) } else { Err(format!("{name}: {value}, bound {bound}")) }
        };
        most("schedules to come", self.due.len(), MAX_PENDING)?;
        most("schedules that are over", self.finished.len(), MAX_FINISHED)?;
        // One that ends gets its reason, so a full table may exceed the bound by the reasons of those that are over.
        most("bytes of schedules", self.bytes, MAX_SCHEDULES_BYTES + (MAX_FINISHED + 1) * 4_096)?;
        most("schedules of a flag", self.of_flag.values().copied().max().unwrap_or(0), MAX_PENDING_OF_FLAG)
    }
}

/// Log time from which on it may happen.
pub fn time_ms(record: &ScheduleRecord) -> i64 {
    record.definition.as_ref().and_then(|d| d.time.as_ref()).map_or(0, unix_ms)
}

/// The flag that it changes.
pub fn flag_of(record: &ScheduleRecord) -> Key {
    key(&record.environment, record.definition.as_ref().map_or("", |d| d.flag.as_str()))
}

/// Changes with its state.
pub fn etag(record: &ScheduleRecord) -> String {
    format!("s{}", record.version)
}

impl State {
    /// A schedule with its output fields.
    #[must_use]
    pub fn schedule(&self, environment: &str, schedule: &str) -> Option<Schedule> {
        self.schedules.get(&key(environment, schedule)).map(|record| message(record))
    }

    /// Schedules of an environment whose id is above `after`, by id; of one flag only, if one is named.
    #[must_use]
    pub fn schedules(
        &self,
        environment: &str,
        after: &str,
        limit: usize,
        flag: &str,
        finished: bool,
    ) -> Vec<Schedule> {
        above(&self.schedules.records, environment, after)
            .filter(|record| finished || record.state() == Phase::Pending)
            .filter(|record| flag.is_empty() || record.definition.as_ref().is_some_and(|d| d.flag == flag))
            .take(limit)
            .map(|record| message(record))
            .collect()
    }

    /// Schedules whose time has come and whose environment is in no freeze window, in the order of their times.
    #[must_use]
    pub fn due_schedules(&self, limit: usize) -> Vec<Schedule> {
        let due = self.schedules.due(self.clock.now_ms());
        due.filter(|record| self.frozen_until(&record.environment).is_none())
            .take(limit)
            .map(message)
            .collect()
    }

    /// Whether the time of any schedule has come.
    #[must_use]
    pub fn is_schedule_due(&self) -> bool {
        self.schedules.due(self.clock.now_ms()).next().is_some()
    }
}

fn message(record: &ScheduleRecord) -> Schedule {
    Schedule {
        name: Name::format(&record.environment, Collection::Schedules, &record.schedule),
        state: record.state,
        reason: record.reason.clone(),
        author: record.author.clone(),
        flag_version: record.flag_version,
        create_time: timestamp_if_set(record.create_ms),
        finish_time: timestamp_if_set(record.finish_ms),
        etag: etag(record),
        ..record.definition.clone().unwrap_or_default()
    }
}
