//! The decision ledger: the last 1,000 records of every flag, and which of them wait for a person.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use featureops_proto::v1::Decision;
use featureops_proto::v1::decision::Status;

use crate::State;
use crate::state::{Key, key};

/// Records kept for a flag.
pub const MAX_PER_FLAG: usize = 1_000;
/// Of those, the newest that keep the moments they were made from; older ones can be read but not replayed.
pub const MAX_WITH_INPUTS: usize = 100;

impl State {
    /// A flag's records, newest first, lent and not copied.
    pub fn flag_decisions<'s>(
        &'s self,
        environment: &str,
        flag: &str,
    ) -> impl Iterator<Item = &'s Decision> + use<'s> {
        self.decisions.of_flag(&key(environment, flag)).map(|(_, decision)| decision)
    }

    /// The newest records of all environments, lent and not copied: for who only counts.
    pub fn newest_decisions(&self, limit: usize) -> impl Iterator<Item = &Decision> {
        self.decisions.newest(0).take(limit).map(|(_, decision)| decision)
    }
}

/// Decisions by flag, oldest first, with an index by number.
#[derive(Debug, Clone, Default)]
pub struct Decisions {
    by_flag: BTreeMap<Key, VecDeque<(u64, Arc<Decision>)>>,
    flag_of: BTreeMap<u64, Key>,
    last: u64,
}

impl Decisions {
    /// The newest number given.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Number of the next decision.
    pub fn next(&self) -> u64 {
        self.last + 1
    }

    /// Adds a record under the next number.
    pub fn add(&mut self, flag: &Key, decision: Decision) -> u64 {
        self.last += 1;
        self.put(flag, self.last, decision);
        self.last
    }

    fn put(&mut self, flag: &Key, number: u64, decision: Decision) {
        let records = self.by_flag.entry(flag.clone()).or_default();
        records.push_back((number, Arc::new(decision)));
        if records.len() > MAX_PER_FLAG
            && let Some((gone, _)) = records.pop_front()
        {
            self.flag_of.remove(&gone);
        }
        if let Some(at) = records.len().checked_sub(MAX_WITH_INPUTS + 1)
            && let Some((_, old)) = records.get_mut(at)
            && let Some(inputs) = &mut Arc::make_mut(old).inputs
        {
            inputs.strata.clear();
        }
        self.flag_of.insert(number, flag.clone());
    }

    /// The record of a number.
    pub fn get(&self, number: u64) -> Option<(&Key, &Decision)> {
        let flag = self.flag_of.get(&number)?;
        let records = self.by_flag.get(flag)?;
        let at = records.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        records.get(at).map(|(_, decision)| (flag, decision.as_ref()))
    }

    /// The record of a number, to be changed.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Decision> {
        let flag = self.flag_of.get(&number)?;
        let records = self.by_flag.get_mut(flag)?;
        let at = records.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        records.get_mut(at).map(|(_, decision)| Arc::make_mut(decision))
    }

    /// Records of a flag, newest first.
    pub fn of_flag<'s>(&'s self, flag: &Key) -> impl Iterator<Item = (u64, &'s Decision)> + use<'s> {
        self.by_flag.get(flag).into_iter().flatten().rev().map(|(number, d)| (*number, d.as_ref()))
    }

    /// All records, newest first, below `before` (0: from the newest).
    pub fn newest(&self, before: u64) -> impl Iterator<Item = (&Key, &Decision)> {
        let end = if before == 0 { u64::MAX } else { before };
        self.flag_of.range(..end).rev().filter_map(|(number, _)| self.get(*number))
    }

    /// Numbers of a flag's decisions that wait for a person.
    pub fn proposed(&self, flag: &Key) -> Vec<u64> {
        self.of_flag(flag).filter(|(_, d)| d.status() == Status::Proposed).map(|(number, _)| number).collect()
    }

    /// Every flag's records.
    pub fn all(&self) -> impl Iterator<Item = (&Key, u64, &Decision)> {
        self.by_flag.iter().flat_map(|(key, records)| records.iter().map(move |(n, d)| (key, *n, d.as_ref())))
    }

    /// Restores one record; they come by flag, oldest first.
    pub fn restore(&mut self, flag: &Key, number: u64, decision: Decision) {
        self.by_flag.entry(flag.clone()).or_default().push_back((number, Arc::new(decision)));
        self.flag_of.insert(number, flag.clone());
    }

    /// Restores the newest number given.
    pub fn set_last(&mut self, last: u64) {
        self.last = last;
    }

    /// The bounds of this ledger.
    pub fn check(&self) -> Result<(), String> {
        match self.by_flag.iter().find(|(_, records)| records.len() > MAX_PER_FLAG) {
            Some((key, records)) => Err(format!("decisions of flag {}/{}: {}", key.0, key.1, records.len())),
            None => Ok(()),
        }
    }
}
