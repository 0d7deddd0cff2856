//! Which flags rest on which: what a write may not break, and who is to be looked at again when a flag changes.
//!
//! ```text
//!   checkout ── names ──> new-cart, served "on" ── names ──> payments, served "v2"
//!   Links: (environment, payments, new-cart), (environment, new-cart, checkout)
//! ```
//!
//! Wanted, after every write: no flag rests on itself, however far round; no chain has more than [`MAX_LEVELS`](crate::levels::MAX_LEVELS) links; what
//! a flag written by hand names is there, the variant too. Archived flags rest on nothing. The index is derived from the
//! definitions: it stands in no snapshot.

use std::collections::{BTreeMap, BTreeSet};

use featureops_proto::ErrorCode;
use featureops_proto::log::{FlagRecord, Refusal};
use featureops_proto::v1::Flag;

use crate::State;
use crate::apply::held::shown;
use crate::apply::refuse;
use crate::levels::check_levels;
use crate::segments::links_of_flag;
use crate::state::{Key, key};

/// Prerequisites of a flag.
pub const MAX_PREREQUISITES: usize = 16;
/// Flags that are looked up for one, as many as its evaluation looks at.
const MAX_FOLLOWED: usize = 256;

/// What a write of a definition is to those whom the flag serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serves {
    /// Its words, owner or tags may have changed.
    AsBefore,
    /// Somebody may be served something else.
    Otherwise,
}

/// What a live flag names.
pub fn links(record: &FlagRecord) -> impl Iterator<Item = (String, String, String)> + '_ {
    let live = record.definition.iter().filter(|_| !record.archived);
    live.flat_map(|definition| &definition.prerequisites)
        .map(|prerequisite| (record.environment.clone(), prerequisite.flag.clone(), record.flag.clone()))
}

/// An environment's flags as a write will leave them.
pub(crate) struct Written<'a> {
    state: &'a State,
    environment: &'a str,
    /// What is written; absent: archived.
    changed: BTreeMap<&'a str, Option<&'a Flag>>,
    /// What is named among it, and by which flag.
    named: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Written<'a> {
    pub(crate) fn new(
        state: &'a State,
        environment: &'a str,
        changed: impl IntoIterator<Item = (&'a str, Option<&'a Flag>)>,
    ) -> Self {
        let changed: BTreeMap<_, _> = changed.into_iter().collect();
        let links = |(flag, definition): (&&'a str, &Option<&'a Flag>)| {
            let (flag, prerequisites) = (*flag, definition.map(|d| d.prerequisites.iter()));
            prerequisites.into_iter().flatten().map(move |p| (p.flag.as_str(), flag))
        };
        let named = changed.iter().flat_map(links).collect();
        Self { state, environment, changed, named }
    }

    fn live(&self, flag: &str) -> Option<&'a Flag> {
        if let Some(changed) = self.changed.get(flag) {
            return *changed;
        }
        let record = self.state.flag_record(self.environment, flag).filter(|record| !record.archived)?;
        record.definition.as_ref()
    }

    /// The flags that will name this one.
    pub(crate) fn dependents(&self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        let held = self.state.dependents.of(self.environment, flag);
        let held = held.map(String::as_str).filter(|dependent| !self.changed.contains_key(dependent));
        let named = self.named.range((flag, "")..).take_while(move |(named, _)| *named == flag);
        held.chain(named.map(|(_, dependent)| *dependent))
    }

    /// Refuses a definition that rests on itself, on too much, or on what is not there; and one that takes away what
    /// another names.
    pub(crate) fn check(&self, flag: &'a str, definition: &'a Flag) -> Result<(), Refusal> {
        if !definition.prerequisites.is_empty() {
            self.check_named(definition)?;
            let below = |flag| self.live(flag).map(|flag| flag.prerequisites.iter().map(|p| p.flag.as_str()));
            let above = |flag| self.dependents(flag);
            check_levels(flag, below, above, "prerequisites", "flag.prerequisites")?;
        }
        for dependent in self.dependents(flag) {
            let named = self.live(dependent).into_iter().filter(|definition| !definition.imported);
            let named = named.flat_map(|definition| &definition.prerequisites).filter(|p| p.flag == flag);
            for variant in named.flat_map(|prerequisite| &prerequisite.variants) {
                if !definition.variants.contains_key(variant) {
                    let message =
                        format!("flag {dependent} names it as a prerequisite; change that flag first");
                    return refuse(ErrorCode::WrongState, "flag.variants", variant, message);
                }
            }
        }
        Ok(())
    }

    fn check_named(&self, definition: &Flag) -> Result<(), Refusal> {
        let count = definition.prerequisites.len();
        if count > MAX_PREREQUISITES {
            let message = format!("at most {MAX_PREREQUISITES} prerequisites");
            return refuse(ErrorCode::InvalidArgument, "flag.prerequisites", count, message);
        }
        // What came as a set is kept as it came: it holds for nobody.
        if definition.imported {
            return Ok(());
        }
        for (at, prerequisite) in definition.prerequisites.iter().enumerate() {
            let Some(other) = self.live(&prerequisite.flag) else {
                let message = "no such flag in this environment; create it first, or name another";
                let field = format!("flag.prerequisites[{at}].flag");
                return refuse(ErrorCode::InvalidArgument, &field, &prerequisite.flag, message);
            };
            for (nth, variant) in prerequisite.variants.iter().enumerate() {
                if !other.variants.contains_key(variant) {
                    let known: Vec<&str> = other.variants.keys().take(8).map(String::as_str).collect();
                    let message = format!("no such variant; {} has {}", prerequisite.flag, known.join(", "));
                    let field = format!("flag.prerequisites[{at}].variants[{nth}]");
                    return refuse(ErrorCode::InvalidArgument, &field, variant, message);
                }
            }
        }
        Ok(())
    }
}

impl State {
    /// Writes a definition, or archives the flag with the one it has, and says what that is to its clients.
    pub(crate) fn define(&mut self, key: &Key, definition: Option<Flag>) -> Serves {
        let live = self.flags.get(key).filter(|record| !record.archived);
        let before = live.and_then(|record| record.definition.as_ref());
        let serves = match (before, &definition) {
            (Some(before), Some(after)) if shown(before) == shown(after) => Serves::AsBefore,
            _ => Serves::Otherwise,
        };
        if let Some(record) = self.flags.get(key) {
            self.dependents.remove(links(record));
            self.segment_users.remove(links_of_flag(record));
        }
        if let Some(record) = self.flag_mut(key) {
            record.archived = definition.is_none();
            if definition.is_some() {
                record.definition = definition;
            }
        }
        if let Some(record) = self.flags.get(key) {
            self.dependents.insert(links(record));
            self.segment_users.insert(links_of_flag(record));
        }
        serves
    }

    /// Refuses what [`Written::check`] refuses, of one flag that is written, and segments that are not there.
    pub(crate) fn check_named(&self, key: &Key, definition: &Flag) -> Result<(), Refusal> {
        self.check_segments_of_flag(&key.0, definition)?;
        Written::new(self, &key.0, [(key.1.as_str(), Some(definition))]).check(&key.1, definition)
    }

    /// Refuses to let go of a flag that another rests on.
    pub(crate) fn check_unnamed(&self, key: &Key, name: &str) -> Result<(), Refusal> {
        match self.dependents.of(&key.0, &key.1).next() {
            None => Ok(()),
            Some(dependent) => {
                let message =
                    format!("flag {dependent} names it as a prerequisite; change or archive that flag first");
                refuse(ErrorCode::WrongState, "name", name, message)
            }
        }
    }

    /// The live flags that rest on this one, however far up, by id.
    #[must_use]
    pub fn resting_on(&self, environment: &str, flag: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![flag.to_owned()];
        while let Some(next) = waiting.pop() {
            for dependent in self.dependents.of(environment, &next) {
                if found.insert(dependent.to_owned()) {
                    waiting.push(dependent.to_owned());
                }
            }
        }
        found
    }

    /// The flags that these rest on, however far down, by id: as many as one evaluation looks at for each.
    #[must_use]
    pub fn rested_on(&self, environment: &str, flags: &[Flag]) -> BTreeMap<String, Flag> {
        let mut found = BTreeMap::new();
        for flag in flags.iter().filter(|flag| !flag.prerequisites.is_empty()) {
            let ids = |flag: &Flag| flag.prerequisites.iter().map(|p| p.flag.clone()).collect::<Vec<_>>();
            let (mut waiting, mut seen) = (ids(flag), BTreeSet::new());
            while let Some(next) = waiting.pop() {
                if seen.len() >= MAX_FOLLOWED || !seen.insert(next.clone()) {
                    continue;
                }
                let Some(record) = self.flags.get(&key(environment, &next)) else { continue };
                let other = found.entry(next).or_insert_with(|| self.flag_message(record));
                waiting.extend(ids(other));
            }
        }
        found
    }
}
